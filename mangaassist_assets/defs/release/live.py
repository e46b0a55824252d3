"""What live traffic says of the release in shadow and of the one in canary."""

import datetime as dt
from collections.abc import Iterator, Sequence

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import House, digest_of, digest_of_table
from mangaassist_assets.lib.release import canary, shadow
from mangaassist_assets.lib.release.gates import GATES, gates_table
from mangaassist_assets.lib.release.log import Change, Stage
from mangaassist_assets.lib.release.log import current as fold
from mangaassist_assets.lib.release.progress import VERDICT, Judged, verdict_row
from mangaassist_assets.outside import RELEASE_LOG
from mangaassist_assets.reporting import materialised, started
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

RULES, LATENCY_MS_P99, SEED = current().release, current().gates.latency_ms_p99, current().intents.seed
OWNERS = ["team:ml-platform"]
INTERACTIONS = "drift/interactions"
BASE_DAYS = 7
SHADOW = {"data": shadow.REPORT, "cohorts": shadow.COHORTS, "verdict": VERDICT}
CANARY = {"data": canary.REPORT, "base": canary.BASE, "verdict": VERDICT}


def specs_of(stage: str, description: str, gates: str, deps: Sequence[dg.AssetKey | str]) -> list[dg.AssetSpec]:
    """A report and its gates, made by one step."""
    return [
        dg.AssetSpec(
            name,
            deps=deps,
            group_name="release",
            owners=OWNERS,
            kinds={"python", "parquet"},
            code_version=version("1", RULES, LATENCY_MS_P99, SEED),
            automation_condition=when_inputs_change(),
            description=said,
        )
        for name, said in ((f"{stage}_report", description), (f"{stage}_gates", gates))
    ]


@dg.multi_asset(
    name="shadow",
    specs=specs_of(
        "shadow",
        "One row per release in shadow: how often it agrees with the champion and how fast it answers; where they disagree lies beside.",
        "One row per metric of the release in shadow: threshold, observed value, interval and verdict.",
        ["traffic", "label_queue", RELEASE_LOG],
    ),
)
def shadow_comparison(context: dg.AssetExecutionContext, house: HouseResource) -> Iterator[dg.MaterializeResult]:
    """Compares the release in shadow with the champion; keeps the last report where none is in shadow."""
    store, state = house.open(), fold(house.open().home / "releases")
    for release in state.at_stage(Stage.SHADOW):
        change, champion = state.releases[release], str(state.champion)
        days = [
            shadow.pairs_of(day, release=release, champion=champion, since=change.at) for day in days_of(store, from_day=change.at.date())
        ]
        found = shadow.judge_shadow(
            release,
            days,
            labels=labels_of(store),
            latency_ms=LATENCY_MS_P99,
            elapsed=elapsed(change, [latest(day, "occurred_at") for day in days]),
            rules=RULES,
            seed=SEED,
        )
        judged = Judged(release, change.event, found.verdict, found.reason, "shadow_report")
        write(store, "shadow", {"data": found.table(), "cohorts": found.cohorts, "verdict": verdict_row(judged)})
        store.write_table("release/shadow_gates", gates_table(release, found.judgements, started(context)))
    yield from results(store, "shadow", SHADOW)


@dg.multi_asset(
    name="canary",
    specs=specs_of(
        "canary",
        "One row per metric of the release in canary against the champion meanwhile, with how many sessions it needs and for how long.",
        "One row per metric of the release in canary: threshold, change, interval and verdict.",
        ["traffic", RELEASE_LOG],
    ),
)
def canary_comparison(context: dg.AssetExecutionContext, house: HouseResource) -> Iterator[dg.MaterializeResult]:
    """Compares the release in canary with the champion; keeps the last report where none is in canary."""
    store, state = house.open(), fold(house.open().home / "releases")
    for release in state.at_stage(Stage.CANARY):
        change, champion = state.releases[release], str(state.champion)
        seen = [
            canary.sessions_of(day, release=release, champion=champion, since=change.at)
            for day in days_of(store, from_day=change.at.date())
        ]
        sessions = canary.merge(seen)
        base = base_of(store, change, champion)
        hours = elapsed(change, [latest(sessions, "last_at")]) / dt.timedelta(hours=1)
        found = canary.judge_canary(release, *canary.arms(sessions), base=base, hours=hours, rules=RULES)
        judged = Judged(release, change.event, found.verdict, found.reason, "canary_report")
        write(store, "canary", {"data": found.table(started(context)), "base": base.table(change.event), "verdict": verdict_row(judged)})
        store.write_table("release/canary_gates", gates_table(release, found.judgements, started(context)))
    yield from results(store, "canary", CANARY)


def days_of(store: House, *, from_day: dt.date, to_day: dt.date | None = None) -> Iterator[pa.Table]:
    """Interactions of each day from `from_day` on, before `to_day`, one at a time."""
    for day in store.partitions(INTERACTIONS):
        if from_day.isoformat() <= day and (to_day is None or day < to_day.isoformat()):
            yield store.read_table(INTERACTIONS, partition=day)


def base_of(store: House, change: Change, champion: str) -> canary.Base:
    """What the champion showed in the days before the canary began, as it was when that was first asked."""
    if store.has_table("release/canary_report", part="base"):
        kept = store.read_table("release/canary_report", part="base")
        if len(kept) and kept["event"][0].as_py() == change.event:
            return canary.Base.of_table(kept)
    began = change.at - dt.timedelta(days=BASE_DAYS)
    days = days_of(store, from_day=began.date(), to_day=change.at.date())
    return canary.base_of(canary.merge([canary.sessions_of(day, release=change.release, champion=champion, since=began) for day in days]))


def labels_of(store: House) -> dict[str, str]:
    """True intent by request_id, of the labelled part of the control slice: a random sample of traffic."""
    if not store.has_table("messages/label_queue"):
        return {}
    queue = store.read_table("messages/label_queue")
    labelled = dict(zip(queue["message_id"].to_pylist(), queue["intent"].to_pylist(), strict=True))
    found = {}
    for week in store.partitions("messages/low_confidence_sample"):
        sample = store.read_table("messages/low_confidence_sample", partition=week)
        control = sample.filter(pc.equal(sample["stratum"], "control"))
        for request_id, message_id in zip(control["request_id"].to_pylist(), control["message_id"].to_pylist(), strict=True):
            if labelled.get(message_id) is not None:
                found[request_id] = labelled[message_id]
    return found


def latest(table: pa.Table, column: str) -> dt.datetime | None:
    """The last point in time of a column; None where it has none."""
    found: dt.datetime | None = pc.max(table[column]).as_py()
    return found


def elapsed(change: Change, seen: Sequence[dt.datetime | None]) -> dt.timedelta:
    """How long traffic has been seen since a release entered its stage."""
    return max([at - change.at for at in seen if at is not None], default=dt.timedelta(0))


def write(store: House, stage: str, parts: dict[str, pa.Table]) -> None:
    """Writes the parts of a report, its verdict last: who reads that finds the rest in place."""
    for part, table in parts.items():
        store.write_table(f"release/{stage}_report", table, part=part)


def results(store: House, stage: str, schemas: dict[str, pa.Schema]) -> Iterator[dg.MaterializeResult]:
    """What Dagster is told of a report and its gates as they lie in the lake; empty ones are written where none was made yet."""
    name, gates_name = f"{stage}_report", f"{stage}_gates"
    for part, schema in schemas.items():
        if not store.has_table(f"release/{name}", part=part):
            store.write_table(f"release/{name}", schema.empty_table(), part=part)
    if not store.has_table(f"release/{gates_name}"):
        store.write_table(f"release/{gates_name}", GATES.empty_table())
    parts = [store.read_table(f"release/{name}", part=part) for part in schemas]
    verdict = next(iter(parts[-1].to_pylist()), {"verdict": "none", "reason": f"no release has been in {stage} yet"})
    digest = digest_of([digest_of_table(table.drop_columns([c for c in ("measured_at",) if c in table.column_names])) for table in parts])
    yield materialised(digest, parts[0], asset=name, figures={"verdict": verdict["verdict"], "reason": verdict["reason"]})
    gates = store.read_table(f"release/{gates_name}")
    yield materialised(digest_of_table(gates.drop_columns(["measured_at"])), gates, asset=gates_name, show=gates.drop_columns(["release"]))
