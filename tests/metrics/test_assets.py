"""The metrics as Dagster runs them, on a tiny lake whose own assets are stood in for."""

import dagster as dg
import pyarrow as pa
import pytest

from mangaassist_assets.defs.metrics import published, tables
from mangaassist_assets.lib.metrics.warehouse import query
from mangaassist_assets.resources import HouseResource

METRICS = [tables.metric_tables, published.metrics_warehouse, published.decision_report]


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def materialize(house, instance):
    def materialize(selection=None, *, raise_on_error=True):
        resources = {"house": HouseResource(home=str(house.home))}
        return dg.materialize(METRICS, instance=instance, resources=resources, selection=selection, raise_on_error=raise_on_error)

    return materialize


STAGES = ("offline", "shadow", "canary", "retrieval")
GATES = [
    *(dg.AssetKey(["raw", f"{stage}_gates"]) for stage in STAGES), dg.AssetKey(["model", "gate_history"]), dg.AssetKey(["main", "gates"]),
]  # fmt: skip


def status(instance, key):
    from dagster._core.definitions.data_version import CachingStaleStatusResolver
    from dagster._core.loader import LoadingContextForTest

    graph = dg.Definitions(assets=METRICS, resources={"house": HouseResource(home="x")}).resolve_asset_graph()
    return CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance)).get_status(key).value


def test_one_run_makes_and_describes_every_table_the_database_and_the_report(house, instance, materialize):
    result = materialize()
    assert result.success
    keys = {event.asset_key for event in result.get_asset_materialization_events()}
    assert keys == {tables.key_of(file.name) for file in tables.FILES} | {published.metrics_warehouse.key, published.decision_report.key}
    assert query(house.home / "warehouse" / "metrics.duckdb", "SELECT count(*) FROM gates").rows == ((7,),)
    assert (house.home / "report" / "index.html").exists()
    assert {status(instance, key) for key in keys} == {"FRESH"}
    (rollout,) = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(["main", "rollout"])]
    metadata = rollout.materialization.metadata
    assert metadata["dagster/row_count"].value == 2
    assert {column.name: column.type for column in metadata["dagster/column_schema"].schema.columns}["at"] == "timestamp[us, tz=UTC]"
    assert metadata["dagster/column_lineage"].value.deps_by_column["by"] == [dg.TableColumnDep(dg.AssetKey(["raw", "rollout"]), "by")]
    assert metadata["preview"].value.startswith("| release | from_state |")


def test_every_claim_becomes_a_check_and_those_on_main_block():
    specs = {(spec.asset_key, spec.name): spec.blocking for spec in tables.metric_tables.check_specs}
    assert len(specs) == sum(len(file.tests) for file in tables.FILES)
    assert all(blocking == (key.path[0] == "main") for (key, _), blocking in specs.items())


def test_tables_depend_on_the_assets_that_they_read():
    specs = {spec.key: spec for spec in tables.metric_tables.specs}
    confusion = specs[dg.AssetKey(["raw", "intent_confusion"])]
    assert [dep.asset_key for dep in confusion.deps] == [dg.AssetKey("intent_evaluation")]
    assert [dep.asset_key for dep in specs[dg.AssetKey(["main", "model_selection"])].deps] == [dg.AssetKey(["model", "candidates"])]


def test_every_asset_says_its_grain_its_owner_and_how_it_is_kept_up():
    specs = [spec for asset in METRICS for spec in asset.specs]
    assert all(spec.description.startswith("One row per ") for spec in specs)
    assert all(spec.owners == ["team:data-platform"] and spec.group_name == "metrics" for spec in specs)
    assert all(spec.kinds and spec.code_version and spec.automation_condition for spec in specs)


def test_the_data_version_is_that_of_the_content(house, materialize):
    def version():
        (event,) = [e for e in materialize(GATES).get_asset_materialization_events() if e.asset_key == GATES[-1]]
        return event.materialization.tags["dagster/data_version"]

    first = version()
    assert version() == first
    house.write_table("release/offline_gates", house.read_table("release/offline_gates").slice(0, 1))
    assert version() != first


def test_a_subset_runs_alone_on_what_the_lake_holds(house, run_all, materialize):
    run_all(house)
    result = materialize(GATES[-1:])
    assert [event.asset_key for event in result.get_asset_materialization_events()] == GATES[-1:]


def test_a_wrong_main_table_is_neither_stored_nor_published_and_the_last_one_stays(house, publish, materialize):
    publish(house)
    gates = house.read_table("release/offline_gates")
    verdicts = pa.array(["MAYBE", *gates["verdict"].to_pylist()[1:]])
    house.write_table("release/offline_gates", gates.set_column(gates.column_names.index("verdict"), "verdict", verdicts))
    result = materialize(raise_on_error=False)
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert {(check.asset_key.path[0], check.check_name, check.severity) for check in failed} == {
        ("raw", "verdict_is_a_known_word", dg.AssetCheckSeverity.WARN),
        ("main", "verdict_is_a_known_word", dg.AssetCheckSeverity.ERROR),
    }
    made = {event.asset_key for event in result.get_asset_materialization_events()}
    assert dg.AssetKey(["main", "gates"]) not in made
    assert dg.AssetKey(["main", "confusion"]) in made
    assert published.metrics_warehouse.key not in made
    found = query(house.home / "warehouse" / "metrics.duckdb", "SELECT DISTINCT verdict FROM gates ORDER BY ALL").rows
    assert found == (("FAIL",), ("INCONCLUSIVE",), ("PASS",))


def test_a_lake_table_that_was_never_made_stops_the_run_with_its_name(house, materialize):
    (house.home / "lake" / "intents" / "augmentation_lift" / "data.parquet").unlink()
    result = materialize(raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "materialise `augmentation_lift`" in failure.step_failure_data.error.to_string()
