"""The index that serves, and everything else an answer needs."""

from dataclasses import asdict

import dagster as dg
import pyarrow as pa

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.retrieval import catalog, embeddings, pairs
from mangaassist_assets.defs.retrieval.adapter import adapter_of
from mangaassist_assets.defs.retrieval.embeddings import encoder_of, vectors_of
from mangaassist_assets.lib.artifacts import House, digest_of
from mangaassist_assets.lib.retrieval.fusion import UNTRAINED, learn
from mangaassist_assets.lib.retrieval.glossary import digests_of_glossary, read_glossary
from mangaassist_assets.lib.retrieval.lexical import LexicalIndex
from mangaassist_assets.lib.retrieval.opensearch_cluster import Cluster
from mangaassist_assets.lib.retrieval.opensearch_publish import describe_from, prune, publish
from mangaassist_assets.lib.retrieval.pointer import Pointer
from mangaassist_assets.lib.retrieval.retriever import Retriever, write_retriever
from mangaassist_assets.lib.retrieval.searching import AdaptedEncoder, ExactSearch
from mangaassist_assets.lib.retrieval.segments import ChangeLog
from mangaassist_assets.lib.retrieval.served import INDEXES, announce, load_retriever, served_retriever
from mangaassist_assets.lib.retrieval.sources import ShardSource
from mangaassist_assets.lib.retrieval.splits import of_split
from mangaassist_assets.lib.retrieval.swapping import RECALL_QUERIES, swap_index
from mangaassist_assets.reporting import materialised, started
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

LEXICA, SETTINGS, WORKERS = current().messages.lexica, current().retrieval, current().workers
TABLE = "retrieval/chunk_index"
SCHEMA = pa.schema(
    [
        ("digest", pa.string()),
        ("strategy", pa.string()),
        ("recall_at_10", pa.float64()),
        ("n", pa.int64()),
        ("refused", pa.string()),
        ("rows", pa.int64()),
        ("changed", pa.int64()),
        ("changes_upto", pa.int64()),
        ("bundle_digest", pa.string()),
        ("embedding_space", pa.string()),
    ]
)


@dg.asset(
    deps=["catalog_chunks", "chunk_embeddings", "retrieval_pairs", "embedding_adapter"],
    group_name="retrieval",
    owners=["team:ml-platform"],
    kinds={"faiss", "numpy"},
    code_version=version("4", SETTINGS.index, digests_of_glossary(LEXICA), bool(SETTINGS.opensearch.url), SETTINGS.opensearch.alias),
    pool="training",
    automation_condition=when_inputs_change(),
)
def chunk_index(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per index that began to serve: how it came about, its recall against exact search, and the retriever bundle around it."""
    store = house.open()
    chunks, adapter, encoder = store.read_table(catalog.TABLE), adapter_of(store), encoder_of(store)
    queries = store.read_table(pairs.TABLE, part="queries")
    vectors = pairs.vectors_of_queries(queries)
    source = ShardSource(store.home / "vectors", SETTINGS.shards)
    log = ChangeLog.of(store.home / INDEXES, source.space)
    found = swap_index(source, adapter, vectors, store.home / INDEXES, SETTINGS.index, workers=WORKERS)
    if SETTINGS.opensearch.url:
        with Cluster(SETTINGS.opensearch) as cluster:
            mapped, asked = (None, vectors) if adapter.kind == "identity" else (adapter, adapter.apply(vectors))
            publish(
                cluster,
                source,
                describe_from(chunks),
                mapped,
                log,
                asked[:RECALL_QUERIES],
                now=started(context),
                changes_upto=found.changes_upto,
            )
            prune(cluster, now=started(context))

    lexical, glossary = LexicalIndex.build(chunks), read_glossary(LEXICA)
    adapted = AdaptedEncoder(encoder, adapter) if adapter.kind != "identity" else encoder
    # The adapter has learned these queries by heart: weights learned with it would trust it more than a new query can.
    exact = ExactSearch(encoder.space, chunks["chunk_id"].to_pylist(), vectors_of(store, chunks))
    judged = of_split(queries, "train", "validation")
    judged = judged.filter(pa.compute.invert(pa.compute.starts_with(judged["source"], "catalogue:")))
    draft = Retriever(chunks, lexical, glossary, UNTRAINED, encoder, exact)
    fusion = learn(draft.judged(judged["query"].to_pylist(), judged["relevant"].to_pylist()))
    made = store.read_table("retrieval/embedding_adapter", part="bundle").to_pylist()[0]["bundle_digest"]
    encoder_digest = store.read_partitions(embeddings.TABLE).to_pylist()[0]["bundle_digest"]
    facts = {"adapter_bundle": made, "encoder_bundle": encoder_digest, "index": found.digest, "changes_upto": found.changes_upto}
    bundle = write_retriever(store, chunks, lexical, glossary, fusion, space=adapted.space, facts=facts)
    announce(store.home, found.digest, bundle.digest)
    Pointer(store.home / INDEXES).sweep(log)
    table = pa.Table.from_pylist([asdict(found) | {"bundle_digest": bundle.digest, "embedding_space": adapted.space.name}], SCHEMA)
    store.write_table(TABLE, table)
    figures = {
        "chunks": found.rows,
        "changed": found.changed,
        "recall_at_10": found.recall_at_10,
        "strategy": found.strategy,
        "queries_learned_from": judged.num_rows,
    }
    return materialised(digest_of([found.digest, bundle.digest]), table, figures=figures)


def retriever_of(store: House) -> Retriever:
    """What the service answers with."""
    return load_retriever(store, served_retriever(store.home), SETTINGS.encoding, SETTINGS.opensearch, verify=False)
