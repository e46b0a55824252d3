"""A house whose retriever can be served anywhere: the shop's documents, a tiny real encoder, a folded index on its base."""

import numpy as np

from mangaassist_assets.lib.retrieval.adapter import FILE, Adapter
from mangaassist_assets.lib.retrieval.embedding import embed_chunks
from mangaassist_assets.lib.retrieval.encoders import EncoderSettings, open_encoder, write_encoder
from mangaassist_assets.lib.retrieval.fusion import UNTRAINED
from mangaassist_assets.lib.retrieval.lexical import LexicalIndex
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings
from mangaassist_assets.lib.retrieval.retriever import write_retriever
from mangaassist_assets.lib.retrieval.searching import AdaptedEncoder
from mangaassist_assets.lib.retrieval.served import INDEXES, announce
from mangaassist_assets.lib.retrieval.sources import ShardSource
from mangaassist_assets.lib.retrieval.swapping import swap_index

from .shop import GLOSSARY, chunks
from .test_encoders import tiny_folder

ONE_THREAD = EncoderSettings(threads=1)


def furnish(house, folder, seed=1):
    """Lets a retriever serve in `house`, its encoder made in `folder`; another seed is another adapter and another index."""
    table = chunks()
    weights = folder / "tiny-encoder"
    stored = write_encoder(house, str(weights if weights.exists() else tiny_folder(weights)), ONE_THREAD)
    encoder = open_encoder(stored, ONE_THREAD)
    embed_chunks(table, encoder, house.home / "vectors", shards=1)
    d = encoder.space.dimension
    change = np.random.default_rng(seed).standard_normal((d, d)).astype(np.float32)
    adapter = Adapter("linear", d, {"weight": np.eye(d, dtype=np.float32) + 0.01 * change})
    asked = encoder.encode(["iron sword", "return a volume"], queries=True)
    found = swap_index(ShardSource(house.home / "vectors", 1), adapter, asked, house.home / INDEXES, IndexSettings(), recall=0.0)
    learned = house.write_bundle("embedding_adapter", {FILE: adapter.to_bytes()}, {"kind": adapter.kind})
    facts = {"encoder_bundle": stored.digest, "adapter_bundle": learned.digest, "index": found.digest}
    space = AdaptedEncoder(encoder, adapter).space
    bundle = write_retriever(house, table, LexicalIndex.build(table), GLOSSARY, UNTRAINED, space=space, facts=facts)
    announce(house.home, found.digest, bundle.digest)
    return found.digest
