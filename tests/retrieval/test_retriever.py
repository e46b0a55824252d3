"""The retriever answers as a shop assistant would, within the filters, and refuses what it cannot search."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.fusion import UNTRAINED, learn
from mangaassist_assets.lib.retrieval.index import build_flat, open_index
from mangaassist_assets.lib.retrieval.lexical import LexicalIndex
from mangaassist_assets.lib.retrieval.retriever import Retriever, open_retriever, write_retriever
from mangaassist_assets.lib.retrieval.searching import AdaptedEncoder, ExactSearch, LocalSearch, passing
from mangaassist_assets.lib.retrieval.space import SpaceMismatch
from tests.retrieval.shop import DOCUMENTS, GLOSSARY, SPACE, WordEncoder, chunks, exact_search

TABLE = chunks()


@pytest.fixture(scope="module")
def retriever():
    return Retriever(TABLE, LexicalIndex.build(TABLE), GLOSSARY, UNTRAINED, WordEncoder(), exact_search(TABLE))


def documents(hits):
    return [hit.document_id for hit in hits]


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("iron sowrd", "s1"),
        ("鋼の剣", "s1"),
        ("返品はできますか", "p1"),
        ("how much is shipping", "p2"),
        ("魔女 漫画", "s6"),
        ("like Iron Sword", "s2"),
    ],
)
def test_the_best_document_comes_first(retriever, query, document):
    assert documents(retriever.retrieve(query, 3))[0] == document


def test_each_document_comes_once_unless_more_of_its_chunks_are_asked_for(retriever):
    once = documents(retriever.retrieve("iron sword box set", 8))
    assert len(once) == len(set(once)) == len(DOCUMENTS)
    twice = retriever.retrieve("iron sword box set", 3, per_document=2)
    assert [hit.chunk_id for hit in twice[:2]] == ["s1#1", "s1#0"]


def test_the_chunk_that_answers_is_shown(retriever):
    assert retriever.retrieve("iron sword box set", 1)[0].chunk_id == "s1#1"
    assert retriever.retrieve("iron sword mercenary", 1)[0].chunk_id == "s1#0"


def test_scores_are_chances_and_fall(retriever):
    scores = [hit.score for hit in retriever.retrieve("witches", 8)]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"in_stock": True}, {"s1", "s3", "s4", "s5", "s6"}),
        ({"in_stock": False}, {"s2"}),
        ({"language": "ja"}, {"s2", "s3"}),
        ({"format": "paperback", "in_stock": True}, {"s4", "s5"}),
        ({"kind": "policy", "language": None}, {"p1", "p2"}),
        ({"format": "scroll"}, set()),
    ],
)
def test_only_what_passes_all_filters_is_found(retriever, filters, found):
    assert set(documents(retriever.retrieve("sword", 10, filters))) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("  ",), "empty"),
        (("x" * 5000,), "5,000 characters"),
        (("\ud800",), "Unicode"),
        (("sword", 0), "k is 0"),
        (("sword", 1000), "k is 1000"),
        (("sword", True), "k is True"),
        (("sword", 3, {"instock": True}), "Did you mean 'in_stock'"),
        (("sword", 3, {"in_stock": "yes"}), "true or false"),
        (("sword", 3, {"language": ["en"]}), "a text"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_a_remedy(retriever, arguments, message):
    with pytest.raises(BadInput, match=message):
        retriever.retrieve(*arguments)


@pytest.mark.parametrize("query", ["!!!", "😀", "ー", "の", "sword\n" * 300, "0"])
def test_odd_queries_are_answered(retriever, query):
    assert len(retriever.retrieve(query, 3)) == 3


def test_another_space_is_refused():
    lexical = LexicalIndex.build(TABLE)
    adapted = AdaptedEncoder(WordEncoder(), Adapter.identity(SPACE.dimension))
    with pytest.raises(SpaceMismatch):
        Retriever(TABLE, lexical, GLOSSARY, UNTRAINED, adapted, exact_search(TABLE))


def test_an_adapter_in_front_of_the_index_changes_the_space_and_is_served():
    adapter = Adapter.identity(SPACE.dimension)
    encoder = AdaptedEncoder(WordEncoder(), adapter)
    vectors = encoder.encode(TABLE["text"].to_pylist())
    search = ExactSearch(encoder.space, TABLE["chunk_id"].to_pylist(), vectors)
    found = Retriever(TABLE, LexicalIndex.build(TABLE), GLOSSARY, UNTRAINED, encoder, search)
    assert found.space.adapter == adapter.digest
    assert documents(found.retrieve("basketball", 1)) == ["s4"]


def test_a_lexical_index_of_another_table_is_refused():
    with pytest.raises(DamagedArtifact, match="another table"):
        Retriever(TABLE, LexicalIndex.build(chunks(DOCUMENTS[:3])), GLOSSARY, UNTRAINED, WordEncoder(), exact_search(TABLE))


class Stored:
    """Base vectors of the shop as an index is built from them."""

    space, digest = SPACE, "d" * 64

    def __init__(self, table):
        self.ids = table["chunk_id"].combine_chunks()
        self._vectors = exact_search(table)._vectors

    def __len__(self):
        return len(self.ids)

    def chunk_ids(self, start, stop):
        return self.ids[start:stop]

    def vectors(self, start, stop):
        return self._vectors[start:stop]


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return open_index(build_flat(Stored(TABLE), None, tmp_path_factory.mktemp("indexes")))


def test_a_bundle_answers_as_what_was_written(tmp_path, retriever, flat):
    house = House(tmp_path)
    arguments = (TABLE, retriever.lexical, GLOSSARY, UNTRAINED)
    bundle = write_retriever(house, *arguments, space=SPACE, facts={"chunk_index": flat.digest})
    assert write_retriever(house, *arguments, space=SPACE, facts={"chunk_index": flat.digest}).digest == bundle.digest
    opened = open_retriever(bundle, WordEncoder(), flat)
    assert opened.index_digest == flat.digest and opened.space == SPACE
    for query in ("like Iron Sword", "返品はできますか"):
        mine, theirs = opened.retrieve(query, 5), retriever.retrieve(query, 5)
        assert [hit.chunk_id for hit in mine] == [hit.chunk_id for hit in theirs]
        assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in theirs], abs=1e-4)


def test_a_bundle_of_another_kind_or_space_is_refused(tmp_path, retriever, flat):
    house = House(tmp_path)
    with pytest.raises(DamagedArtifact, match="retriever"):
        open_retriever(house.write_bundle("other", {}, {}), WordEncoder(), flat)
    bundle = write_retriever(house, TABLE, retriever.lexical, GLOSSARY, UNTRAINED, space=SPACE.adapted("a" * 64), facts={})
    with pytest.raises(SpaceMismatch):
        open_retriever(bundle, WordEncoder(), flat)


def test_a_local_index_finds_only_chunks_that_pass(flat):
    [found] = LocalSearch(flat, TABLE).find(WordEncoder().encode(["sword"]), 10, SPACE, {"language": "ja", "in_stock": True})
    assert [chunk_id for chunk_id, _ in found] == ["s3#0"]


def test_lists_and_missing_values_are_filtered_row_by_row():
    assert passing(TABLE.slice(2), {"language": "en"}).tolist() == [True, False, True, True, True, False, False]
    assert not passing(TABLE, {"in_stock": True})[-1]


def test_threads_share_a_retriever(retriever):
    queries = ["iron sword", "返品はできますか", "hoops", "like Iron Sword"] * 10
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: documents(retriever.retrieve(query, 3)), queries))
    assert found == [documents(retriever.retrieve(query, 3)) for query in queries]


def test_channels_are_ranked_alone_and_fused(retriever):
    ranked = retriever.rank(["返品", "iron sowrd"], 2)
    assert set(ranked) == {"dense", "words", "names", "fused"}
    assert [order[0] for order in ranked["fused"]] == ["p1", "s1"]
    assert all(len(order) == 2 for orders in ranked.values() for order in orders)


def test_judged_queries_leave_out_those_without_a_known_document(retriever):
    queries = retriever.judged(["hoops", "nothing"], [["s4", "gone"], ["gone"]])
    assert [query.relevant.tolist() for query in queries] == [[retriever.lexical.documents.index("s4")]]
    assert np.isfinite(list(learn(queries).weights.values())).all()
