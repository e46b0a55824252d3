"""A new adapter is folded where that finds enough, else the index is rebuilt; what serves changes only at the end."""

import numpy as np
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.embedding import embed_chunks
from mangaassist_assets.lib.retrieval.pointer import Pointer
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings
from mangaassist_assets.lib.retrieval.served import announce, served_retriever
from mangaassist_assets.lib.retrieval.sources import ShardSource
from mangaassist_assets.lib.retrieval.swapping import swap_index

from .shop import SPACE, WordEncoder, chunks


@pytest.fixture
def source(tmp_path):
    embed_chunks(chunks(), WordEncoder(), tmp_path / "vectors", shards=2)
    return ShardSource(tmp_path / "vectors", 2)


def queries():
    return WordEncoder().encode(["iron sword", "witches bake", "return a volume", "basketball"])


def linear(strength):
    change = np.random.default_rng(1).standard_normal((SPACE.dimension, SPACE.dimension)).astype(np.float32)
    return Adapter("linear", SPACE.dimension, {"weight": np.eye(SPACE.dimension, dtype=np.float32) + strength * change})


def mlp():
    draw = np.random.default_rng(2)
    d = SPACE.dimension
    tensors = {"out": (d, 4), "into": (4, d), "bias": (4,)}
    return Adapter("mlp", d, {name: draw.standard_normal(shape).astype(np.float32) * 0.05 for name, shape in tensors.items()})


def swapped(source, adapter, home):
    return swap_index(source, adapter, queries(), home, IndexSettings())


def test_the_identity_serves_the_base_index(source, tmp_path):
    found = swapped(source, Adapter.identity(SPACE.dimension), tmp_path / "indexes")
    assert (found.strategy, found.refused, found.recall_at_10, found.rows) == ("flat", "", 1.0, chunks().num_rows)
    assert Pointer(tmp_path / "indexes").read().current == found.digest


def test_a_linear_adapter_is_folded_and_the_index_before_it_is_kept(source, tmp_path):
    first = swapped(source, Adapter.identity(SPACE.dimension), tmp_path / "indexes")
    second = swapped(source, linear(0.01), tmp_path / "indexes")
    assert (second.strategy, second.refused) == ("folded", "")
    pointed = Pointer(tmp_path / "indexes").read()
    assert (pointed.current, pointed.previous) == (second.digest, first.digest)


def test_what_cannot_be_folded_is_rebuilt_and_the_reason_is_kept(source, tmp_path):
    found = swapped(source, mlp(), tmp_path / "indexes")
    assert found.strategy == "flat"
    assert "not linear" in found.refused


def test_the_same_input_again_changes_nothing(source, tmp_path):
    first = swapped(source, linear(0.01), tmp_path / "indexes")
    assert swapped(source, linear(0.01), tmp_path / "indexes") == first


def test_a_recall_that_nothing_reaches_leaves_the_old_index_serving(source, tmp_path):
    first = swapped(source, Adapter.identity(SPACE.dimension), tmp_path / "indexes")
    with pytest.raises(BadInput, match="recall@10"):
        swap_index(source, linear(0.01), queries(), tmp_path / "indexes", IndexSettings(), recall=1.1)
    assert Pointer(tmp_path / "indexes").read().current == first.digest


def test_until_a_retriever_is_announced_the_one_before_it_serves(source, tmp_path):
    first = swapped(source, Adapter.identity(SPACE.dimension), tmp_path / "indexes")
    announce(tmp_path, first.digest, "bundle-one")
    second = swapped(source, linear(0.01), tmp_path / "indexes")
    assert served_retriever(tmp_path).bundle == "bundle-one"
    announce(tmp_path, second.digest, "bundle-two")
    assert served_retriever(tmp_path).bundle == "bundle-two"
    announce(tmp_path, second.digest, "bundle-three")
    assert served_retriever(tmp_path).bundle == "bundle-three", "such as one with changes"
    Pointer(tmp_path / "indexes").rollback()
    assert served_retriever(tmp_path).bundle == "bundle-one"
