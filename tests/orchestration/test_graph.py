"""The graph as people see it: a change of keys, groups, owners, conditions or checks shows in review."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

SNAPSHOT = Path(__file__).with_name("graph.json")
UPDATE = "python tests/orchestration/test_graph.py"
HEAVY = tuple(
    "torch transformers great_expectations sklearn onnxruntime matplotlib boto3 pandas faiss bm25s opensearchpy ray cleanlab".split()
)


def loaded() -> dg.Definitions:
    from mangaassist_assets.definitions import definitions

    return definitions()


def snapshot(definitions: dg.Definitions) -> dict:
    graph = definitions.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        condition, checks = node.automation_condition, graph.get_check_keys_for_assets({key})
        assets[key.to_user_string()] = {
            "group": node.group_name,
            "owners": list(node.owners),
            "kinds": sorted(node.kinds),
            "reads": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": partitions(node.partitions_def),
            "condition": condition.get_label() or condition.name if condition else None,
            "checks": sorted(f"{check.name}{' (blocking)' if graph.get(check).blocking else ''}" for check in checks),
        }
    sensors = {sensor.name: sensor.default_status.value for sensor in definitions.sensors or []}
    return {"assets": assets, "sensors": sensors}


def partitions(found: dg.PartitionsDefinition | None) -> list[str] | str | None:
    """The partitions of an asset: all of them, or the name of those that come into being with traffic."""
    if isinstance(found, dg.DynamicPartitionsDefinition):
        return f"one a {found.name}"
    return list(found.get_partition_keys()) if found else None


@pytest.fixture(scope="module")
def definitions():
    return loaded()


def test_the_graph_is_the_one_that_was_reviewed(definitions):
    reviewed = json.loads(SNAPSHOT.read_text())
    assert snapshot(definitions) == reviewed, f"The graph changed. If it should: `{UPDATE}`, and commit {SNAPSHOT.name}."


def test_every_asset_says_what_it_is_whose_it_is_and_what_one_row_of_it_means(definitions):
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node, name = graph.get(key), key.to_user_string()
        assert node.description and node.description.startswith("One row per "), name
        assert node.owners and all(owner.startswith("team:") for owner in node.owners), name
        assert node.kinds, name
        assert node.group_name and node.group_name != "default", name
        if node.is_materializable:
            assert node.code_version, name
            assert node.automation_condition, name


def test_everything_is_reached_from_what_people_bring(definitions):
    graph = definitions.resolve_asset_graph()
    reached = (
        dg.AssetSelection.assets("message_sources", "catalog_sources", "query_sources", "interaction_segments", "label_inbox")
        .downstream()
        .resolve(graph)
    )
    assert {key.to_user_string() for key in graph.get_all_asset_keys() - reached} == {"release_log"}, "people write that one"


def test_definitions_load_in_seconds_and_without_the_heavy_packages():
    script = (
        "import sys, time; began = time.perf_counter(); import mangaassist_assets.definitions as d; d.definitions();"
        f"print(time.perf_counter() - began); print([m for m in {HEAVY} if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, heavy = answer.stdout.strip().splitlines()
    assert heavy == "[]"
    assert float(seconds) < 10, "loaded for many processes, on machines busier than this one"


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(snapshot(loaded()), indent=1, sort_keys=True) + "\n")
