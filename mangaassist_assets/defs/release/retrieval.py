"""What a new adapter of retrieval must keep to, as rows of the same kind as a release's gates."""

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.retrieval.adapter import adapter_of
from mangaassist_assets.lib.artifacts import digest_of_table
from mangaassist_assets.lib.release.gates import gates_table
from mangaassist_assets.lib.retrieval.evaluation import retrieval_gates as judge
from mangaassist_assets.reporting import materialised, started
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

LIMITS = current().retrieval.limits


@dg.asset(
    deps=["retrieval_evaluation", "embedding_adapter"],
    group_name="release",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("1", LIMITS),
    automation_condition=when_inputs_change(),
)
def retrieval_gates(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per gate of the embedding adapter, whose digest stands for the release."""
    store = house.open()
    judgements = judge(store.read_table("retrieval/retrieval_evaluation", part="changes"), LIMITS)
    table = gates_table(adapter_of(store).digest, judgements, started(context))
    store.write_table("release/retrieval_gates", table)
    return materialised(digest_of_table(table.drop_columns(["measured_at"])), table, show=table.drop_columns(["release", "measured_at"]))
