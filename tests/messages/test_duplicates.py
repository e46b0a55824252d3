import itertools
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.messages.duplicates import (
    connect,
    fold,
    jaccard,
    near_duplicate_groups,
    near_duplicate_pairs,
    near_duplicates_of,
)

WORDS = (
    "where is my order of berserk deluxe volume three please help a refund 注文 まだ 届きません 返品 したい です コミック 最新刊".split()
)


def a_corpus(n: int, seed: int) -> list[str]:
    """Sentences, a third of them variations of others, in two scripts."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(2 * n // 3)]
    while len(texts) < n:
        words = rng.choice(texts).split()
        words[rng.randrange(len(words))] = rng.choice(WORDS)
        texts.append(" ".join(words) + rng.choice(["", "!", "??", " 🥺"]))
    return texts


def by_brute_force(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    scored = {(i, j): jaccard(texts[i], texts[j]) for i, j in itertools.combinations(range(len(texts)), 2)}
    return {pair: score for pair, score in scored.items() if score >= threshold}


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9, 1.0])
def test_the_join_finds_exactly_the_pairs_that_brute_force_finds(threshold: float) -> None:
    texts = a_corpus(240, seed=3)
    pairs = near_duplicate_pairs(texts, threshold)
    found = dict(zip(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True), pairs.jaccard.tolist(), strict=True))
    wanted = by_brute_force(texts, threshold)
    assert found.keys() == wanted.keys()
    assert all(found[pair] == pytest.approx(wanted[pair]) for pair in wanted)
    assert len(wanted) > 10


@settings(max_examples=50)
@given(st.lists(st.text("ab c日本!", max_size=24), max_size=12), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_join_agrees_with_brute_force_on_any_text(texts: list[str], threshold: float) -> None:
    pairs = near_duplicate_pairs(texts, threshold)
    assert set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == set(by_brute_force(texts, threshold))


def test_groups_are_connected_components_named_by_their_first_member() -> None:
    texts = a_corpus(240, seed=4)
    groups = near_duplicate_groups(texts, 0.8)
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, j in by_brute_force(texts, 0.8):
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    assert groups.tolist() == [root(i) for i in range(len(texts))]


def test_a_long_chain_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(2000)
    assert set(connect(2000, order[:-1], order[1:]).tolist()) == {0}


def test_case_punctuation_and_emoji_do_not_count() -> None:
    assert fold("Don't WORRY!! 🥺") == "dont worry"
    assert near_duplicate_groups(["Where is my order?", "where is my order 🥺", "WHERE, is my order!!"]).tolist() == [0, 0, 0]


def test_short_texts_are_duplicates_only_when_equal() -> None:
    assert near_duplicate_groups(["thanks", "thank", "Thanks!", "返品したい", "返品したいです"]).tolist() == [0, 1, 0, 3, 4]


def test_texts_of_symbols_alone_are_told_apart() -> None:
    assert near_duplicate_groups(["🥺", "!!!", "🥺", ""]).tolist() == [0, 1, 0, 3]


def test_the_most_similar_reference_is_named_and_the_first_of_equals() -> None:
    references = [
        "where is my order of berserk deluxe",
        "I would like a refund for volume three please",
        "I would like a refund for volume three, please!",
        "I would like a refund for volume four please",
    ]
    texts = [
        "I would like a refund for volume three please??",
        "I would like my refund for volume three please",
        "something else entirely",
        "ok",
    ]
    assert near_duplicates_of(texts, references, 0.7) == [1, 1, None, None]
    assert near_duplicates_of(texts, [], 0.7) == [None] * 4
    assert near_duplicates_of([], references) == []


def test_references_are_found_as_brute_force_finds_them() -> None:
    corpus = a_corpus(300, seed=5)
    texts, references = corpus[200:], corpus[:200]
    found = near_duplicates_of(texts, references, 0.75)
    for text, index in zip(texts, found, strict=True):
        scores = [jaccard(text, reference) for reference in references]
        assert index == (scores.index(max(scores)) if max(scores) >= 0.75 else None)


def test_twenty_thousand_texts_take_seconds() -> None:
    texts = a_corpus(20_000, seed=6)
    started = time.process_time()
    near_duplicate_groups(texts)
    assert time.process_time() - started < 10
