"""A packed retriever answers as the home's does, without the home; a home that has one is followed instead."""

import shutil

import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.retrieval.opensearch_cluster import OpenSearchSettings
from mangaassist_assets.lib.retrieval.packing import RetrieverLookout, pack_retriever
from mangaassist_assets.lib.retrieval.served import load_retriever

from .packable import ONE_THREAD, furnish

MOST = 1 << 30


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("furnished")
    house = House(folder / "home")
    furnish(house, folder)
    return house


@pytest.fixture
def house(furnished, tmp_path):
    """A copy to break."""
    return House(shutil.copytree(furnished.home, tmp_path / "home"))


def answers(found):
    retriever = load_retriever(found.house, found, ONE_THREAD, OpenSearchSettings())
    return [retriever.retrieve(query, 3) for query in ("witches bake bread", "返品はできますか", "IS box set")]


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_was_packed_answers_as_the_home_does_when_the_home_is_gone(house, tmp_path):
    expected = answers(RetrieverLookout(house, tmp_path / "none")())
    (house.home / "indexes" / "changes").mkdir()
    (house.home / "indexes" / "changes" / "0000000001.parquet").write_bytes(b"a change")
    packed = tmp_path / "packed"
    assert pack_retriever(house, packed, most_bytes=MOST) == ""
    assert (packed / "indexes" / "changes" / "0000000001.parquet").read_bytes() == b"a change"
    shutil.rmtree(packed / "indexes" / "changes")  # it was none
    shutil.rmtree(house.home)
    found = RetrieverLookout(House(tmp_path / "elsewhere"), packed)()
    assert found.house.home == packed and answers(found) == expected
    assert len(list((packed / "indexes").glob("sha256-*"))) == 2, "the folded index and its base"
    assert len(list((packed / "bundles").iterdir())) == 3


def test_a_retriever_that_is_too_large_stays_and_the_bento_says_how_to_have_it(house, tmp_path):
    packed = tmp_path / "packed"
    why = pack_retriever(house, packed, most_bytes=1)
    assert "service.most_packed_bytes" in why and names(packed) == {"absent.json"}
    with pytest.raises(MissingEvidence, match="carries none. Mount a home and name it in MANGAASSIST_HOME"):
        RetrieverLookout(House(tmp_path / "elsewhere"), packed)()
    assert RetrieverLookout(house, packed)().house is house


def test_a_home_without_an_index_packs_nothing_and_the_bento_says_so(tmp_path):
    assert "no index served" in pack_retriever(House(tmp_path / "home"), tmp_path / "packed", most_bytes=MOST)
    with pytest.raises(MissingEvidence, match="built where no index served"):
        RetrieverLookout(House(tmp_path / "elsewhere"), tmp_path / "packed")()
    with pytest.raises(MissingEvidence, match="mangaassist run"):
        RetrieverLookout(House(tmp_path / "elsewhere"), tmp_path / "a source tree has none")()


def test_the_packed_one_serves_until_the_home_has_one_and_not_again(house, tmp_path):
    packed, home = tmp_path / "packed", House(tmp_path / "late")
    pack_retriever(house, packed, most_bytes=MOST)
    look = RetrieverLookout(home, packed)
    first = look()
    assert (first.house.home, look()) == (packed, first)
    shutil.copytree(house.home, home.home)
    assert look().house is home and look() == first, "the same index is not loaded twice"
    digest = furnish(home, tmp_path, seed=2)
    assert look().index == digest != first.index
    shutil.rmtree(home.home)
    with pytest.raises(MissingEvidence):
        look()


def test_where_opensearch_is_searched_the_index_stays(house, tmp_path):
    packed = tmp_path / "packed"
    assert pack_retriever(house, packed, most_bytes=MOST, with_index=False) == ""
    assert {path.name.partition("-")[0] for path in (packed / "indexes").iterdir()} == {"current.json", "retriever"}
    assert RetrieverLookout(House(tmp_path / "elsewhere"), packed)().house.home == packed


@pytest.mark.parametrize("pattern", ["bundles/*/encoder.onnx", "bundles/*/chunks.parquet", "indexes/*/vectors.f32", "indexes/*/matrix.*"])
def test_what_is_damaged_is_not_packed(house, tmp_path, pattern):
    (path,) = house.home.glob(pattern)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DamagedArtifact):
        pack_retriever(house, tmp_path / "packed", most_bytes=MOST)
    assert not (tmp_path / "packed" / "indexes" / "current.json").exists()
