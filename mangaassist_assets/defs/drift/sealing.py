"""The sensor that sees days of traffic whose segments the service has sealed."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.drift.ingestion import digests_of_days, weeks_over
from mangaassist_assets.outside import INTERACTION_SEGMENTS, MOST_ATTEMPTS, sighting
from mangaassist_assets.partitions import DAYS, WEEKS
from mangaassist_assets.settings import current

OUTPUTS = ("interactions", "interaction_counts", "message_moments")
TAG = "mangaassist/segments"
DIGITS = 20  # of a digest in the cursor, which holds every day
LOST_AFTER_S = 300.0  # a request without a run after so long was lost between two writes of the daemon


@dataclass(frozen=True)
class Asked:
    """What was asked for a day.

    Attributes:
        digest: beginning of that of the day's segments then.
        run: key of the run that reads them; empty where that is over.
        attempt: counts runs on that digest, from 0.
        at: seconds since 1970.
        state: asked, done or given_up.
    """

    digest: str
    run: str = ""
    attempt: int = 0
    at: float = 0.0
    state: str = "asked"


@dg.sensor(
    target=list(OUTPUTS),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reads a day of traffic when the service has sealed new segments of it.",
)
def segments_sealed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Asks once for each new content of a day, a day at most every `ingestion.every_s`, and up to MOST_ATTEMPTS where its run failed."""
    settings, instance = current(), context.instance
    if instance.get_latest_materialization_event(dg.AssetKey("drift_space")) is None:
        return dg.SkipReason("drift_space was never built. Build it once: `mangaassist run`.")
    past = {day: Asked(*entry) for day, entry in json.loads(context.cursor or "{}").items()}
    whole = digests_of_days(settings.home / "interactions")
    found = {day: digest[:DIGITS] for day, digest in whole.items()}
    now = dt.datetime.now(dt.UTC).timestamp()
    past = after_runs(past, instance, now) | by_others(past, whole, instance)
    due = [day for day, digest in found.items() if is_due(past.get(day), digest, now, settings.ingestion.every_s)]
    given_up = [day for day, digest in found.items() if day in past and (past[day].digest, past[day].state) == (digest, "given_up")]
    weeks = new_weeks(past, found, instance)
    additions = [WEEKS.build_add_request(weeks)] if weeks else []
    if not due:
        tried = f"; {len(given_up)} days could not be read in {MOST_ATTEMPTS} runs, the last is {given_up[-1]}" if given_up else ""
        words = f"nothing to read of {len(found)} days{tried}"
        return dg.SensorResult(skip_reason=words, dynamic_partitions_requests=additions, cursor=as_cursor(past))
    known = instance.get_dynamic_partitions(DAYS.name or "")
    new = sorted(set(due) - set(known))
    requests = []
    for days in ranges(due, [*known, *new]):
        attempts = [past[day].attempt if day in past and past[day].digest == found[day] else 0 for day in days]
        key = f"{digest_of([[day, whole[day]] for day in days])[:40]}-{max(attempts)}"
        requests.append(request_of(days, key))
        past |= {day: Asked(found[day], key, attempt, now) for day, attempt in zip(days, attempts, strict=True)}
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[*additions, *([DAYS.build_add_request(new)] if new else [])],
        asset_events=[sighting(INTERACTION_SEGMENTS, whole[day], day) for day in due],
        cursor=as_cursor(past),
    )


def new_weeks(past: Mapping[str, Asked], found: Mapping[str, str], instance: dg.DagsterInstance) -> list[str]:
    """Weeks that are over and read as far as they can be, and that no partition stands for yet."""
    over = set(weeks_over(found)) - set(instance.get_dynamic_partitions(WEEKS.name or ""))
    waiting = {day for day in found if day not in past or past[day].state not in ("done", "given_up")}
    return sorted(over - set(weeks_over([*waiting, "9999-12-31"])))


def is_due(past: Asked | None, digest: str, now: float, every_s: float) -> bool:
    """Whether a day has to be read: new content, no run under way, and the last one long enough ago; or a run that failed."""
    if past is None:
        return True
    if past.digest == digest:
        return past.state == "failed"
    return past.state != "asked" and now - past.at >= every_s


def after_runs(past: Mapping[str, Asked], instance: dg.DagsterInstance, now: float) -> dict[str, Asked]:
    """What was asked, with what became of it."""
    waiting = {asked.run for asked in past.values() if asked.state == "asked"}
    statuses = {run: [r.status for r in instance.get_runs(dg.RunsFilter(tags={TAG: run}))] for run in waiting}
    return {day: _after(asked, statuses[asked.run], now) if asked.state == "asked" else asked for day, asked in past.items()}


def _after(asked: Asked, statuses: Sequence[dg.DagsterRunStatus], now: float) -> Asked:
    if dg.DagsterRunStatus.SUCCESS in statuses:
        return replace(asked, state="done", run="")
    if not statuses:
        return asked if now - asked.at < LOST_AFTER_S else replace(asked, state="failed")
    if any(status not in FINISHED_STATUSES for status in statuses):
        return asked
    if asked.attempt + 1 >= MOST_ATTEMPTS:
        return replace(asked, state="given_up", run="")
    return replace(asked, state="failed", attempt=asked.attempt + 1)


def by_others(past: Mapping[str, Asked], found: Mapping[str, str], instance: dg.DagsterInstance) -> dict[str, Asked]:
    """Days that `mangaassist run` has read: their content is recorded, and they were built after it was."""
    unknown = [day for day, digest in found.items() if day not in past or past[day].digest != digest[:DIGITS]]
    if not unknown:
        return {}
    log, made = instance.event_log_storage, dg.DagsterEventType.ASSET_MATERIALIZATION
    recorded = log.get_latest_tags_by_partition(INTERACTION_SEGMENTS, made, [DATA_VERSION_TAG], asset_partitions=unknown)
    same = [day for day in unknown if recorded.get(day, {}).get(DATA_VERSION_TAG) == found[day]]
    seen = log.get_latest_storage_id_by_partition(INTERACTION_SEGMENTS, made, set(same))
    built = log.get_latest_storage_id_by_partition(dg.AssetKey(OUTPUTS[0]), made, set(same))
    return {day: Asked(found[day][:DIGITS], state="done") for day in same if built.get(day, 0) > seen[day]}


def ranges(days: Sequence[str], order: Sequence[str]) -> list[list[str]]:
    """`days` as unbroken ranges of `order`, which is how Dagster knows the partitions."""
    wanted, found, unbroken = set(days), list[list[str]](), False
    for day in order:
        if day in wanted and unbroken:
            found[-1].append(day)
        elif day in wanted:
            found.append([day])
        unbroken = day in wanted
    return found


def request_of(days: Sequence[str], key: str) -> dg.RunRequest:
    """One run for an unbroken range of days."""
    of_days = {PARTITION_NAME_TAG: days[0]}
    if len(days) > 1:
        of_days = {ASSET_PARTITION_RANGE_START_TAG: days[0], ASSET_PARTITION_RANGE_END_TAG: days[-1]}
    return dg.RunRequest(run_key=key, tags={TAG: key, **of_days})


def as_cursor(past: Mapping[str, Asked]) -> str:
    """What was asked, as the sensor's cursor."""
    return json.dumps({day: astuple(asked) for day, asked in past.items()}, separators=(",", ":"))
