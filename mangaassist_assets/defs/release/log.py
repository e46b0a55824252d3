"""The release log, which people and gates write, and the table that it folds to."""

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.release.log import current as fold
from mangaassist_assets.lib.release.log import rollout as rollout_table
from mangaassist_assets.outside import RELEASE_LOG, digest_of_releases, sighting
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current

OWNERS = ["team:ml-platform"]

release_log = dg.AssetSpec(
    RELEASE_LOG,
    group_name="release",
    owners=OWNERS,
    kinds={"json"},
    description="One row per decision on a release, appended by the gates and by `mangaassist approve`, `reject`, `rollback`.",
)


@dg.asset(
    deps=[RELEASE_LOG, "champion"],
    group_name="release",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
def rollout(house: HouseResource) -> dg.MaterializeResult:
    """One row per change of a release's stage, in the order in which they happened."""
    store = house.open()
    state = fold(store.home / "releases")
    table = rollout_table(state)
    return materialised(
        store.write_table("release/rollout", table),
        table,
        rows=25,
        figures={"champions": sum(change.to_state == "champion" for change in state.history), "champion": state.champion},
    )


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sees decisions that people wrote into the release log, so that the tables follow.",
)
def release_log_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Records each new state of the log once; the graph's own rule does the rest."""
    digest = digest_of_releases(current())
    if context.cursor == digest:
        return dg.SkipReason("nothing changed")
    return dg.SensorResult(asset_events=[sighting(RELEASE_LOG, digest)], cursor=digest)
