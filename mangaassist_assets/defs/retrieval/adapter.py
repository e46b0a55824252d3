"""The map that brings the store's queries nearer to their documents."""

import dagster as dg
import pyarrow as pa

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.retrieval import catalog, pairs
from mangaassist_assets.defs.retrieval.embeddings import encoder_of, vectors_of
from mangaassist_assets.lib.artifacts import House, digest_of
from mangaassist_assets.lib.retrieval.adapter import FILE, Adapter
from mangaassist_assets.lib.retrieval.adapter_fitting import TrainingData
from mangaassist_assets.lib.retrieval.adapter_training import train_adapter
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().retrieval
TABLE, KIND = "retrieval/embedding_adapter", "embedding_adapter"


@dg.asset(
    deps=["retrieval_pairs", "catalog_chunks", "chunk_embeddings"],
    group_name="retrieval",
    owners=["team:data-science"],
    kinds={"torch", "numpy"},
    code_version=version("1", SETTINGS.adapter),
    pool="training",
    automation_condition=when_inputs_change(),
)
def embedding_adapter(house: HouseResource) -> dg.MaterializeResult:
    """One row per adapter that was tried, with its gain on validation and what general queries lose; the chosen one becomes a bundle."""
    store = house.open()
    chunks, queries = store.read_table(catalog.TABLE), store.read_table(pairs.TABLE, part="queries")
    vectors = pairs.vectors_of_queries(queries)
    data = TrainingData(queries, vectors, chunks, vectors_of(store, chunks), store.read_table(pairs.TABLE))
    trained = train_adapter(data, SETTINGS.adapter)
    space = encoder_of(store).space
    facts = {"space": space.to_json(), "adapter": trained.adapter.digest, "kind": trained.adapter.kind}
    bundle = store.write_bundle(KIND, {FILE: trained.adapter.to_bytes()}, facts)
    store.write_table(TABLE, trained.report)
    store.write_table(TABLE, pa.Table.from_pylist([{"bundle_digest": bundle.digest}]), part="bundle")
    chosen = trained.report.filter(trained.report["chosen"]).to_pylist()[0]
    return materialised(
        digest_of([bundle.digest]),
        trained.report,
        show=trained.report.drop_columns(["pull", "share"]),
        rows=40,
        figures={name: chosen[name] for name in ("candidate", "gain", "general_change", "ndcg_at_10", "recall_at_3")},
    )


def adapter_of(store: House) -> Adapter:
    """The adapter that was chosen last."""
    made = store.read_table(TABLE, part="bundle").to_pylist()[0]
    return Adapter.from_bytes(store.bundle(made["bundle_digest"], KIND).file(FILE).read_bytes())
