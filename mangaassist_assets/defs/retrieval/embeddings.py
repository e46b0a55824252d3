"""Base vectors of the chunks, shard by shard."""

import dagster as dg
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.retrieval import catalog
from mangaassist_assets.lib.artifacts import House, digest_of
from mangaassist_assets.lib.retrieval.embedding import embed_shard
from mangaassist_assets.lib.retrieval.encoders import TextEncoder, open_encoder, unit_rows, write_encoder
from mangaassist_assets.lib.retrieval.vectors import open_shards
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().retrieval
SHARDS = dg.StaticPartitionsDefinition([f"{shard:05d}" for shard in range(SETTINGS.shards)])
TABLE = "retrieval/chunk_embeddings"
SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("n", pa.int64()),
        ("embedding_space", pa.string()),
        ("dimension", pa.int32()),
        ("bundle_digest", pa.string()),
        ("size_bytes", pa.int64()),
        ("digest", pa.string()),
    ]
)


@dg.asset(
    partitions_def=SHARDS,
    deps=["catalog_chunks"],
    group_name="retrieval",
    owners=["team:data-science"],
    kinds={"onnx", "numpy"},
    code_version=version("1", SETTINGS.encoder, SETTINGS.encoding, SETTINGS.shards),
    pool="training",
    automation_condition=when_inputs_change(),
)
def chunk_embeddings(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per shard of base vectors: how many, in which embedding space, by which encoder; only new chunks are encoded."""
    store, shard = house.open(), int(context.partition_key)
    bundle = write_encoder(store, SETTINGS.encoder, SETTINGS.encoding)
    encoder = open_encoder(bundle, SETTINGS.encoding)
    encoded: list[int] = [0]
    written = embed_shard(
        store.read_table(catalog.TABLE),
        encoder,
        store.home / "vectors",
        shard,
        SETTINGS.shards,
        progress=lambda done, missing: encoded.append(done),
    )
    row = {
        "shard": shard,
        "n": written.n,
        "embedding_space": written.space.name,
        "dimension": written.space.dimension,
        "bundle_digest": bundle.digest,
        "size_bytes": sum(entry["bytes"] for entry in written.files.values()),
        "digest": written.digest,
    }
    table = pa.Table.from_pylist([row], SCHEMA)
    store.write_table(TABLE, table, partition=context.partition_key)
    figures = {"vectors": written.n, "encoded_now": encoded[-1], "embedding_space": written.space.name}
    return materialised(digest_of([written.digest, bundle.digest]), table, figures=figures)


def encoder_of(store: House) -> TextEncoder:
    """The encoder that made the stored vectors."""
    made = store.read_partitions(TABLE).to_pylist()[0]
    return open_encoder(store.bundle(made["bundle_digest"]), SETTINGS.encoding)


def vectors_of(store: House, chunks: pa.Table) -> NDArray[np.float32]:
    """Base vectors of CHUNKS in their order, (n, D) of length 1."""
    found = open_shards(store.home / "vectors", SETTINGS.shards)
    rows = found.lookup(chunks["chunk_id"].to_pylist())
    return unit_rows(np.asarray(found.vectors(0, len(found))[rows], np.float32))
