"""How often drift would cry wolf."""

import dagster as dg

from mangaassist_assets.automation import every_week
from mangaassist_assets.defs.drift.signals import ACCURACY, LIMITS, TRAFFIC
from mangaassist_assets.lib.drift.backtest import backtest, steady_weeks
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SEED = current().ingestion.seed


@dg.asset(
    deps=["traffic", "embedding_drift", "production_accuracy", "drift_triage"],
    group_name="drift",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("1", LIMITS, SEED),
    automation_condition=every_week(),
)
def drift_backtest(house: HouseResource) -> dg.MaterializeResult:
    """One row per signal: how often a year it would alarm though nothing happens, by years drawn from the steady weeks there were."""
    store = house.open()
    traffic = store.read_table(TRAFFIC)
    table = backtest(
        traffic=traffic,
        days=store.read_table(TRAFFIC, part="day"),
        moments=store.read_table("drift/embedding_drift", part="moments"),
        accuracy=store.read_table(ACCURACY),
        steady=steady_weeks(store.read_table("drift/drift_triage"), traffic),
        limits=LIMITS,
        seed=SEED,
    )
    rows = {row["signal"]: row for row in table.to_pylist()}
    verdict = rows.get("verdict", {})
    return materialised(
        store.write_table("drift/drift_backtest", table),
        table,
        show=table.select(["signal", "reason"] if verdict.get("reason") else ["signal", "alarms_per_year", "ci_low", "ci_high", "alarms"]),
        figures={name: verdict.get(name) for name in ("alarms_per_year", "ci_low", "ci_high", "steady_weeks")},
    )
