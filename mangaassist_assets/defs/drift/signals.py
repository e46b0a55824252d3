"""What changes in the traffic, week against week and month against month, and what that means."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import House, digest_of, digest_of_table
from mangaassist_assets.lib.drift.calendar import read_calendar
from mangaassist_assets.lib.drift.confidence import confidence_by_day
from mangaassist_assets.lib.drift.counts import COUNTS, DAY
from mangaassist_assets.lib.drift.embedding import EMBEDDING_DRIFT
from mangaassist_assets.lib.drift.embedding import embedding_drift as divergence
from mangaassist_assets.lib.drift.ingestion import gather
from mangaassist_assets.lib.drift.moments import MOMENTS
from mangaassist_assets.lib.drift.plots import confidence_plot, divergence_plot, shares_plot
from mangaassist_assets.lib.drift.shares import intent_share as shares_by_week
from mangaassist_assets.lib.drift.triage import EVENTS, triage
from mangaassist_assets.lib.release.log import Stage
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

OWNERS = ["team:data-science"]
SETTINGS, LIMITS = current().ingestion, current().drift
CALENDAR = read_calendar(current().calendar)
TRAFFIC, DIVERGENCE = "drift/traffic", "drift/embedding_drift"
ACCURACY, ROLLOUT = "messages/production_accuracy", "release/rollout"


@dg.asset(
    deps=["interaction_counts"],
    group_name="drift",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version="1",
    automation_condition=when_inputs_change(at_rest=False),
)
def traffic(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per day and kind of answer, of all days; days that have not changed are kept, not read again."""
    store, versions = house.open(), versions_of(context.instance, "interaction_counts")
    counts = gather(store, "drift/interaction_counts", TRAFFIC, COUNTS, versions)
    days = gather(store, "drift/interaction_counts", TRAFFIC, DAY, versions, part="day")
    return materialised(
        digest_of([digest_of_table(counts), digest_of_table(days)]),
        counts,
        show=days.take(pa.array(range(len(days))[::-1], pa.int64())),
        figures={"days": len(days), "answers": pc.sum(counts["n"]).as_py(), "last_day": str(days["day"][-1]) if len(days) else None},
    )


@dg.asset(
    deps=["traffic"],
    group_name="drift",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=version("1", LIMITS, digest_of(repr(CALENDAR))),
    automation_condition=when_inputs_change(),
)
def intent_share(house: HouseResource) -> dg.MaterializeResult:
    """One row per week and intent: its share, against the week before and against what the season lets expect."""
    store = house.open()
    table = shares_by_week(store.read_table(TRAFFIC), LIMITS, CALENDAR)
    return materialised(
        store.write_table("drift/intent_share", table),
        table,
        show=latest_first(table, "week"),
        rows=30,
        figures={"alerts": pc.sum(table["alerting"]).as_py()},
        plots={"Shares of intents": shares_plot(table)} if len(table) else None,
    )


@dg.asset(
    deps=["traffic", "production_accuracy"],
    group_name="drift",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=version("2", LIMITS),
    automation_condition=when_inputs_change(),
)
def confidence(house: HouseResource) -> dg.MaterializeResult:
    """One row per day: mean calibrated confidence with its interval, and the calibration error on the labelled control slice."""
    store = house.open()
    table = confidence_by_day(store.read_table(TRAFFIC), store.read_table(ACCURACY), LIMITS)
    return materialised(
        store.write_table("drift/confidence", table),
        table,
        show=latest_first(table, "day"),
        rows=30,
        figures={
            "alerts": pc.sum(table["alerting"]).as_py(),
            "mean_confidence": table["mean_confidence"][-1].as_py() if len(table) else None,
        },
        plots={"Confidence": confidence_plot(table, LIMITS)} if len(table) else None,
    )


@dg.asset(
    deps=["message_moments"],
    group_name="drift",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=version("2", LIMITS, SETTINGS.seed, digest_of(repr(CALENDAR))),
    automation_condition=when_inputs_change(at_rest=False),
)
def embedding_drift(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per month: how far its messages lie from those of the month before, in nats."""
    store = house.open()
    versions = versions_of(context.instance, "message_moments")
    moments = gather(store, "drift/message_moments", DIVERGENCE, MOMENTS, versions, into_part="moments")
    earlier = store.read_table(DIVERGENCE) if store.has_table(DIVERGENCE) else None
    usable = earlier if earlier is not None and earlier.schema.equals(EMBEDDING_DRIFT) else None
    table = divergence(moments, LIMITS, SETTINGS.seed, calendar=CALENDAR, earlier=usable)
    return materialised(
        digest_of([store.write_table(DIVERGENCE, table), digest_of_table(moments)]),
        table,
        show=latest_first(table, "month"),
        figures={"alerts": pc.sum(table["alerting"]).as_py(), "days": len(moments)},
        plots={"Drift of messages": divergence_plot(table)} if len(table) else None,
    )


@dg.asset(
    deps=["traffic", "intent_share", "confidence", "embedding_drift", "production_accuracy", "rollout"],
    group_name="drift",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=version("2", LIMITS, digest_of(repr(CALENDAR))),
    automation_condition=when_inputs_change(),
)
def drift_triage(house: HouseResource) -> dg.MaterializeResult:
    """One row per week and signal, and one for the verdict: model problem or data problem, by which evidence, and what to do."""
    store = house.open()
    table = triage(
        traffic=store.read_table(TRAFFIC),
        days=store.read_table(TRAFFIC, part="day"),
        shares=store.read_table("drift/intent_share"),
        confidence=store.read_table("drift/confidence"),
        embedding=store.read_table(DIVERGENCE),
        moments=store.read_table(DIVERGENCE, part="moments"),
        accuracy=store.read_table(ACCURACY),
        events=events_of(store),
        calendar=CALENDAR,
        limits=LIMITS,
    )
    verdicts = latest_first(table.filter(pc.equal(table["signal"], "verdict")), "period")
    last = verdicts.to_pylist()[0] if len(verdicts) else {}
    return materialised(
        store.write_table("drift/drift_triage", table),
        table,
        show=verdicts,
        rows=26,
        figures={name: last.get(name) for name in ("cause", "action", "reason")} | {"retrain": str(last.get("retrain", False))},
    )


@dg.asset_check(asset="drift_triage")
def the_latest_week_is_quiet(house: HouseResource) -> dg.AssetCheckResult:
    """No cause was found in the latest whole week, or the season is the cause."""
    table = house.open().read_table("drift/drift_triage")
    verdicts = latest_first(table.filter(pc.equal(table["signal"], "verdict")), "period").to_pylist()
    row = verdicts[0] if verdicts else {"period": None, "cause": "none", "evidence": "no whole week of traffic yet", "reason": ""}
    passed = row["cause"] in ("none", "seasonal")
    words = f"{row['period'] or 'no week'}: {row['cause']}. {row['reason']} {row['evidence']}"
    return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, description=words)


def versions_of(instance: dg.DagsterInstance, asset: str) -> dict[str, str]:
    """Data version of each day of a table that was built."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {day: tags[DATA_VERSION_TAG] for day, tags in found.items()}


def events_of(store: House) -> pa.Table:
    """Changes of champion, columns EVENTS."""
    changes = store.read_table(ROLLOUT)
    champions = changes.filter(pc.equal(changes["to_state"], Stage.CHAMPION.value))
    kind = pa.array(["release"] * len(champions), pa.string())
    return pa.table([champions["at"], kind, champions["release"]], names=EVENTS.names).cast(EVENTS)


def latest_first(table: pa.Table, column: str) -> pa.Table:
    """Rows in falling order of a date."""
    return table.sort_by([(column, "descending")])
