"""Channels are weighed by what judged queries teach, and a name after "like" is not what is wanted."""

import numpy as np
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.fusion import FEATURES, MOST_JUDGED, UNTRAINED, Fusion, JudgedQuery, features, gather, judge, learn
from mangaassist_assets.lib.retrieval.lexical import LexicalIndex
from tests.retrieval.shop import GLOSSARY, chunks


@pytest.fixture(scope="module")
def index():
    return LexicalIndex.build(chunks())


def evidence_of(index, query):
    nothing = np.zeros(len(index.documents), np.float32)
    return gather(query, GLOSSARY.say(query), index, GLOSSARY, nothing, nothing)


def ranked(index, query):
    scores = UNTRAINED.scores(features(evidence_of(index, query), index))
    return [index.documents[i] for i in np.argsort(-scores, kind="stable")]


def row(name, found):
    return found[FEATURES.index(name)]


@pytest.mark.parametrize("query", ["something like Iron Sword", "iron sword vibes", "鋼の剣みたいな漫画", "similar to iron sowrd, please"])
def test_what_the_catalogue_calls_similar_comes_before_the_series_itself(index, query):
    order = ranked(index, query)
    assert set(order[:2]) == {"s2", "s3"}
    assert order[0] == "s2"  # each names the other


def test_a_title_alone_asks_for_the_series_itself(index):
    assert ranked(index, "iron sword")[0] == "s1"
    assert not evidence_of(index, "iron sword").named.any()


def test_a_mention_that_is_no_name_changes_nothing(index):
    found = evidence_of(index, "a boy who runs like the wind")
    assert not found.named.any()
    assert found.words.max() > 0


def test_what_is_said_beside_a_name_still_counts(index):
    found = evidence_of(index, "like Iron Sword but with demons")
    assert index.documents[int(np.argmax(found.words))] == "s3"
    assert found.within[index.documents.index("s1")] == 0


def test_the_glossary_adds_what_the_catalogue_calls_it(index):
    assert ranked(index, "hoops manga")[0] == "s4"
    assert ranked(index, "返品")[0] == "p1"
    found = evidence_of(index, "返品")
    assert found.japanese and not evidence_of(index, "return").japanese


def test_features_have_a_row_for_each_name_and_are_finite_for_any_query(index):
    for query in ("iron sword", "!!!", "😀", "ー", "x" * 500):
        found = features(evidence_of(index, query), index)
        assert found.shape == (len(FEATURES), len(index.documents))
        assert np.isfinite(found).all()


def judged(seed, *, telling="words", n=60, documents=12):
    """Queries of which one feature alone tells the relevant document."""
    random = np.random.default_rng(seed)
    queries = []
    for _ in range(n):
        found = random.random((len(FEATURES), documents)).astype(np.float32)
        right = int(random.integers(documents))
        row(telling, found)[right] += 1
        queries.append(JudgedQuery(found, np.array([right])))
    return queries


def share_first(fusion, queries):
    return np.mean([np.argmax(fusion.scores(q.features)) in q.relevant for q in queries])


def test_learning_finds_the_channel_that_tells():
    fusion = learn(judged(1), start=Fusion({}))
    assert max(fusion.weights, key=lambda name: fusion.weights[name]) == "words"
    assert share_first(fusion, judged(2)) > 0.9


def test_the_same_queries_give_the_same_weights():
    assert learn(judged(1)) == learn(judged(1))


def test_few_queries_move_the_weights_little():
    def moved(fusion):
        return sum((weight - UNTRAINED.weights.get(name, 0)) ** 2 for name, weight in fusion.weights.items())

    assert moved(learn(judged(1, telling="itself", n=2))) < moved(learn(judged(1, telling="itself", n=60)))
    assert learn([]) == UNTRAINED


def test_a_query_without_a_relevant_document_is_refused():
    query = judged(1, n=1)[0]
    with pytest.raises(BadInput, match="no relevant document"):
        learn([JudgedQuery(query.features, np.array([], np.intp))])


def test_of_a_large_catalogue_only_rivals_and_relevant_documents_are_compared():
    found = np.random.default_rng(0).random((len(FEATURES), 5 * MOST_JUDGED)).astype(np.float32)
    query = judge(found, [17, 4321])
    assert query.features.shape[1] <= MOST_JUDGED + 2
    assert np.array_equal(query.features[:, query.relevant], found[:, [17, 4321]])
