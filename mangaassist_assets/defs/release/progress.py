"""The sensors that move releases on: what people approve, and what is due and was not done."""

import datetime as dt

import dagster as dg

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.release.approvals import evidence_of, settle, waiting
from mangaassist_assets.lib.release.log import current as fold
from mangaassist_assets.lib.release.progress import next_move, read_verdicts
from mangaassist_assets.outside import MOST_ATTEMPTS, RELEASE_LOG, digest_of_releases, sighting
from mangaassist_assets.settings import current


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Enters approvals that lie in inbox/approvals into the release log, or puts them aside with the reason.",
)
def approvals_arrived(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Settles what waits; the log's new state is recorded, so that what reads it follows."""
    settings = current()
    if not waiting(settings.home):
        return dg.SkipReason("no approval waits")
    settled = settle(House(settings.home, settings.store), now=dt.datetime.now(dt.UTC))
    for found in settled:
        context.log.info(f"{found.name}: {found.refused or 'entered'}")
    if all(found.refused for found in settled):
        return dg.SkipReason("; ".join(f"{found.name}: {found.refused}" for found in settled) or "another process settled it")
    return dg.SensorResult(asset_events=[sighting(RELEASE_LOG, digest_of_releases(settings))])


@dg.sensor(
    target=["champion", "rollout"],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Moves releases on whose stage is decided: after a killed run, or once the canary is free.",
)
def release_progress(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Asks once for each state of the log in which a move is due, and again up to MOST_ATTEMPTS where that run failed."""
    settings, now = current(), dt.datetime.now(dt.UTC)
    house, state = House(settings.home, settings.store), fold(settings.home / "releases")
    move = next_move(state, read_verdicts(house), (), lambda release: evidence_of(house, release), rules=settings.release, now=now)
    if move is None:
        return dg.SkipReason("no move is due")
    key = f"{state.tip[:16]}-{move.to_state}"
    tags = {"mangaassist/move": key}
    failed = context.instance.get_runs_count(dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.FAILURE]))
    if failed >= MOST_ATTEMPTS:
        return dg.SkipReason(f"{failed} runs to move {move.release[:12]} to {move.to_state} failed; look at the last of them.")
    return dg.RunRequest(run_key=f"{key}-{failed}", tags=tags)
