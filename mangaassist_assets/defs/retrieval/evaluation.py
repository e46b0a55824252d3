"""How well the store's documents are found."""

import dagster as dg
import pyarrow as pa

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.retrieval import catalog, pairs
from mangaassist_assets.defs.retrieval.adapter import adapter_of
from mangaassist_assets.defs.retrieval.embeddings import encoder_of, vectors_of
from mangaassist_assets.defs.retrieval.index import retriever_of
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.retrieval.evaluation import compare, evaluate_retrieval, rank_documents, retrieval_gates
from mangaassist_assets.lib.retrieval.plots import recall_plot, separation_plot
from mangaassist_assets.lib.retrieval.separation import separation
from mangaassist_assets.lib.retrieval.splits import of_split
from mangaassist_assets.lib.verdicts import Verdict, combine
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().retrieval
TABLE = "retrieval/retrieval_evaluation"
DEPTH = 100


@dg.asset(
    deps=["catalog_chunks", "chunk_embeddings", "retrieval_pairs", "embedding_adapter", "chunk_index"],
    group_name="retrieval",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("2", SETTINGS.limits, SETTINGS.seed),
    automation_condition=when_inputs_change(),
)
def retrieval_evaluation(house: HouseResource) -> dg.MaterializeResult:
    """One row per embedding space or channel, slice and metric, on test queries that nothing has learned from."""
    store = house.open()
    chunks, adapter = store.read_table(catalog.TABLE), adapter_of(store)
    owners, vectors = chunks["document_id"].to_pylist(), vectors_of(store, chunks)
    everything = store.read_table(pairs.TABLE, part="queries")
    test = of_split(everything, "test")
    ids, asked = test["query_id"].to_pylist(), pairs.vectors_of_queries(test)
    retriever, encoder = retriever_of(store), encoder_of(store)
    base, adapted = encoder.space, encoder.space.adapted(adapter.digest, adapter.dimension)
    typed = encoder.encode(test["query"].to_pylist(), queries=True)
    ranked = {
        base.name: rank_documents(typed @ vectors.T, owners, DEPTH),
        f"{base.name}, reworded": rank_documents(asked @ vectors.T, owners, DEPTH),
        adapted.name: rank_documents(adapter.apply(asked) @ adapter.apply(vectors).T, owners, DEPTH),
    }
    channels = retriever.rank(test["query"].to_pylist(), DEPTH)
    ranked |= {f"{adapted.name} through the index": channels["dense"], "channel: words": channels["words"]}
    ranked |= {"channel: names": channels["names"], "fused": channels["fused"]}
    rankings = {name: dict(zip(ids, found, strict=True)) for name, found in ranked.items()}
    tables = [evaluate_retrieval(found, test, space=name, seed=SETTINGS.seed) for name, found in rankings.items()]
    metrics = pa.concat_tables(tables)
    changes = compare(rankings[base.name], rankings[adapted.name], test, names=(base.name, adapted.name), seed=SETTINGS.seed)
    gates = retrieval_gates(changes, SETTINGS.limits)
    split = separation(
        store.read_table(pairs.TABLE),
        query_ids=everything["query_id"].to_pylist(),
        query_vectors=pairs.vectors_of_queries(everything),
        chunk_ids=chunks["chunk_id"].to_pylist(),
        chunk_vectors=vectors,
        adapter=adapter,
    )
    digests = [store.write_table(TABLE, metrics), store.write_table(TABLE, changes, part="changes")]
    verdict = pa.Table.from_pylist([{"metric": j.metric, "verdict": j.verdict.value, "reason": j.reason} for j in gates])
    store.write_table(TABLE, verdict, part="gates")
    fused = next(row for row in tables[-1].to_pylist() if row["slice"] == "all" and row["metric"] == "recall_at_3")
    return materialised(
        digest_of(digests),
        metrics,
        show=metrics.filter(pa.compute.equal(metrics["metric"], "recall_at_3")),
        rows=80,
        figures={"recall_at_3": fused["value"], "n": fused["n"], "verdict": combine([j.verdict for j in gates]).value},
        plots={"Recall by slice": recall_plot(metrics), "Separation": separation_plot(split)},
    )


@dg.asset_check(asset="retrieval_evaluation")
def the_adapter_keeps_its_promise(house: HouseResource) -> dg.AssetCheckResult:
    """The adapter finds more of the store's documents, and loses no general query."""
    found = house.open().read_table(TABLE, part="gates").to_pylist()
    words = "; ".join(f"{row['metric']}: {row['verdict']} ({row['reason']})" for row in found)
    passed = combine([Verdict(row["verdict"]) for row in found]) is Verdict.PASS
    return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, description=words)
