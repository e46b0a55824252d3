"""Queries whose answers are known, and the pairs an adapter learns from."""

import dagster as dg
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.retrieval import catalog, feedback
from mangaassist_assets.defs.retrieval.embeddings import encoder_of, vectors_of
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.retrieval.catalogue_queries import catalogue_queries
from mangaassist_assets.lib.retrieval.glossary import digests_of_glossary, read_glossary
from mangaassist_assets.lib.retrieval.mining import mine_pairs
from mangaassist_assets.lib.retrieval.pairs import digest_of_queries, read_queries
from mangaassist_assets.lib.retrieval.splits import of_split, with_held_out
from mangaassist_assets.lib.retrieval.wording import Wording
from mangaassist_assets.outside import QUERY_SOURCES, changed
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

OWNERS = ["team:data-science"]
SOURCES, SETTINGS, LEXICA = current().sources, current().retrieval, current().messages.lexica
TABLE = "retrieval/retrieval_pairs"

query_sources = dg.AssetSpec(
    QUERY_SOURCES,
    group_name="retrieval",
    owners=OWNERS,
    kinds={"file"},
    description="One row per query of the configured files with the documents that answer it. Data version: the digest of their bytes.",
)


@dg.asset(
    deps=[QUERY_SOURCES, "feedback_queries", "catalog_chunks", "chunk_embeddings"],
    group_name="retrieval",
    owners=OWNERS,
    kinds={"python", "onnx"},
    code_version=version("3", SETTINGS.catalogue_queries, SETTINGS.mining, SETTINGS.seed, digests_of_glossary(LEXICA)),
    pool="training",
    automation_condition=when_inputs_change().ignore(dg.AssetSelection.assets(QUERY_SOURCES)),  # its sensor asks for this one
)
def retrieval_pairs(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per pair of a query and a chunk that answers it, with chunks that look alike and do not; held-out queries give none."""
    store = house.open()
    chunks = store.read_table(catalog.TABLE)
    judged, rejected = read_queries(SOURCES.retrieval_pairs, set(chunks["document_id"].to_pylist()))
    for row in rejected[:20]:
        context.log.warning("%s row %d is left out (%s): %s", row.file, row.row, row.reason, row.detail)
    judged = with_held_out(judged, seed=SETTINGS.seed)
    by_shoppers = store.read_table(feedback.TABLE)
    queries = pa.concat_tables([judged, by_shoppers, catalogue_queries(chunks, SETTINGS.catalogue_queries)])
    wording = Wording(read_glossary(LEXICA), chunks)
    encoded = encoder_of(store).encode([wording(query) for query in queries["query"].to_pylist()], queries=True)
    chunk_vectors = vectors_of(store, chunks)
    held_out = of_split(judged, "validation", "test")
    pairs = mine_pairs(queries, encoded, chunks, chunk_vectors, SETTINGS.mining, held_out=held_out)
    with_vectors = queries.append_column("vector", pa.FixedSizeListArray.from_arrays(pa.array(encoded.ravel()), encoded.shape[1]))
    digests = [store.write_table(TABLE, pairs), store.write_table(TABLE, with_vectors, part="queries")]
    counts = {f"{split}_queries": of_split(judged, split).num_rows for split in ("train", "validation", "test")}
    return materialised(
        digest_of(digests),
        pairs,
        show=pairs.select(["query", "positive", "negatives", "source", "split"]),
        figures=counts
        | {
            "feedback_queries": by_shoppers.num_rows,
            "catalogue_queries": queries.num_rows - judged.num_rows - by_shoppers.num_rows,
            "queries_rejected": len(rejected),
        },
    )


def vectors_of_queries(queries: pa.Table) -> NDArray[np.float32]:
    """The column `vector` of the part `queries`, (n, D): what the encoder makes of each query in the catalogue's words."""
    column = queries["vector"].combine_chunks()
    return np.asarray(column.flatten(), np.float32).reshape(len(column), column.type.list_size)


@dg.sensor(
    target=["retrieval_pairs"],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reads the judged queries anew when a file or a source's settings changed.",
)
def query_sources_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """See `outside.changed`."""
    return changed(context, QUERY_SOURCES, digest_of_queries(SOURCES.retrieval_pairs), "retrieval_pairs")
