"""The array operations find the n-grams that a plain loop finds, and nothing else."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.intents import features
from mangaassist_assets.lib.intents.features import CHARACTER_LENGTHS, MAX_CHARACTERS, Ngrams, fold, ngram_hashes

BITS = 2**64
ANY_TEXT = st.text(st.characters(), max_size=30)  # lone surrogates and control characters too
MESSAGE = st.text(st.sampled_from("abé ōか゛がー漢\n\t!ＡＺ９😀\ud83d"), max_size=24)


def mixed(value):
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % BITS
    value = (value ^ value >> 27) * 0x94D049BB133111EB % BITS
    return value ^ value >> 31


def polynomial(span):
    return sum((ord(c) + 1) * pow(features._BASE, i, BITS) for i, c in enumerate(span)) % BITS


def slow_hashes(text):
    """The hash of each n-gram of one text, span by span."""
    padded = f" {fold(text)} "
    spans = [padded[i : i + n] for n in CHARACTER_LENGTHS for i in range(len(padded) - n + 1)]
    words = padded.split(" ")[1:-1] if padded.strip(" ") else []
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
    return (
        [mixed((polynomial(s) + len(s)) % BITS) for s in spans]
        + [mixed(polynomial(w) ^ int(features._WORD)) for w in words]
        + [mixed(polynomial(p) ^ int(features._PAIR)) for p in pairs]
    )


@settings(deadline=None)
@given(texts=st.lists(MESSAGE | ANY_TEXT, max_size=5))
def test_hashes_are_those_of_a_plain_loop_over_each_text(texts):
    hashes, owners = ngram_hashes(texts)
    for i, text in enumerate(texts):
        assert Counter(hashes[owners == i].tolist()) == Counter(slow_hashes(text)), text
    assert len(hashes) == sum(len(slow_hashes(text)) for text in texts)


def test_hashes_are_those_of_a_plain_loop_beyond_the_prepared_powers():
    texts = ["long message " * 40] * 12
    hashes, owners = ngram_hashes(texts)
    assert len(features._POWERS[0]) > 4096
    expected = Counter(slow_hashes(texts[0]))
    assert all(Counter(hashes[owners == i].tolist()) == expected for i in (0, 5, 11))


def test_threads_with_batches_of_different_sizes_do_not_disturb_each_other(monkeypatch):
    sizes = [13, 30, 80, 14]
    texts = {size: ["abcde " * 60] * size for size in sizes}
    expected = {size: ngram_hashes(texts[size])[0] for size in sizes}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(sizes)) as pool:
            for _ in range(15):
                short = features._powers(4096, features._BASE), features._powers(4096, features._INVERSE)
                monkeypatch.setattr(features, "_POWERS", short)
                for size, (hashes, _) in zip(sizes, pool.map(lambda size: ngram_hashes(texts[size]), sizes), strict=True):
                    np.testing.assert_array_equal(hashes, expected[size])
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("Shōnen", "shonen"),
        ("ＳＨＯＮＥＮ", "shonen"),
        ("  SHONEN\n\tjump ", "shonen jump"),
        ("café Ñandú", "cafe nandu"),
        ("cafe\u0301", "cafe"),
        ("Straße", "strasse"),
        ("１２３", "123"),
        ("ｶﾞﾝﾀﾞﾑ", "ガンダム"),
        ("ありか", "ありか"),
        ("ありが", "ありが"),
        ("は\u3099", "ば"),
        ("ぱ", "ぱ"),
        ("", ""),
        ("\ud83d", "\ud83d"),
    ],
)
def test_folding_joins_spellings_and_keeps_letters_apart(written, folded):
    assert fold(written) == folded


@given(MESSAGE)
def test_folding_twice_is_folding_once(text):
    assert fold(fold(text)) == fold(text)


def test_texts_are_read_up_to_a_limit():
    assert fold("a" * MAX_CHARACTERS + " secret") == "a" * MAX_CHARACTERS


def test_no_ngram_crosses_from_one_text_into_the_next():
    hashes, _ = ngram_hashes(["my order", "is late"])
    joined = set(slow_hashes("my order is late"))
    apart = set(slow_hashes("my order")) | set(slow_hashes("is late"))
    assert set(hashes.tolist()) == apart
    assert joined - apart  # so the check above could have failed


def test_a_word_is_not_its_characters():
    hashes, _ = ngram_hashes(["in"])
    assert len(set(hashes.tolist())) == len(hashes) - 1  # only the two spaces agree


VOCABULARY = ["where is my order", "where is my parcel", "refund my order", "送料はいくらですか", "送料は無料ですか"]


@pytest.fixture(scope="module")
def ngrams():
    return Ngrams.fit(VOCABULARY)


def test_the_vocabulary_is_the_ngrams_of_two_texts_or_more(ngrams):
    documents = Counter(h for text in VOCABULARY for h in set(slow_hashes(text)))
    assert set(ngrams.hashes.tolist()) == {h for h, n in documents.items() if n >= 2}
    for h, idf in zip(ngrams.hashes.tolist(), ngrams.idf, strict=True):
        assert idf == pytest.approx(np.log(6 / (1 + documents[h])) + 1)


def test_a_limited_vocabulary_keeps_the_commonest(ngrams):
    few = Ngrams.fit(VOCABULARY, most_terms=10)
    assert len(few) == 10
    assert sorted(few.idf.tolist()) == sorted(ngrams.idf.tolist())[:10]


def test_unknown_ngrams_are_dropped(ngrams):
    columns, starts = ngrams.lookup(["order", "zzzz", "order zzzz"])
    known = set(ngrams.hashes.tolist())
    for i, text in enumerate(["order", "zzzz", "order zzzz"]):
        found = ngrams.hashes[columns[starts[i] : starts[i + 1]]].tolist()
        assert Counter(found) == Counter(h for h in slow_hashes(text) if h in known)


def test_a_hash_that_only_shares_a_table_slot_is_unknown(ngrams):
    others = ngrams.hashes ^ np.uint64(1 << 40)
    columns, _ = Ngrams(others, ngrams.idf).lookup(VOCABULARY)
    assert len(columns) == 0


@settings(deadline=None)
@given(texts=st.lists(MESSAGE | ANY_TEXT, min_size=1, max_size=6))
def test_the_occurrences_of_a_row_have_unit_norm(texts):
    rows = Ngrams.fit([*VOCABULARY, "", ""]).matrix(texts)
    parts = np.split(rows.data, rows.indptr[1:-1])  # an n-gram that occurs twice is stored twice
    np.testing.assert_allclose([np.sqrt((part**2).sum()) for part in parts], 1, atol=1e-5)


def test_a_text_without_known_ngrams_is_a_row_of_zeros():
    rows = Ngrams.fit(["aaa", "aaa"], most_terms=1).matrix(["aaa", "漢"])
    assert rows.shape == (2, 1)
    assert rows.toarray()[1].tolist() in ([0.0], [1.0])


def test_entries_are_inverse_document_frequencies_of_each_occurrence(ngrams):
    dense = ngrams.matrix(["my order my order"]).toarray()[0]
    counts = Counter(slow_hashes("my order my order"))
    raw = np.array([counts[h] * idf for h, idf in zip(ngrams.hashes.tolist(), ngrams.idf, strict=True)])
    occurrences = np.sqrt(sum(counts[h] * idf**2 for h, idf in zip(ngrams.hashes.tolist(), ngrams.idf, strict=True)))
    np.testing.assert_allclose(dense, raw / occurrences, atol=1e-6)


@settings(deadline=None)
@given(texts=st.lists(MESSAGE, max_size=6), order=st.randoms(use_true_random=False))
def test_a_row_depends_on_neither_order_nor_company(texts, order):
    ngrams = Ngrams.fit(VOCABULARY)
    shuffled = list(range(len(texts)))
    order.shuffle(shuffled)
    together = ngrams.matrix(texts).toarray()
    np.testing.assert_array_equal(ngrams.matrix([texts[i] for i in shuffled]).toarray(), together[shuffled])
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(ngrams.matrix([text]).toarray()[0], together[i])


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["\ud83d"], ["\n"], ["a\u2028b"], ["\x00"]])
def test_odd_texts_are_safe(texts, ngrams):
    assert ngrams.matrix(texts).shape == (len(texts), len(ngrams))


def test_a_vocabulary_survives_its_tensors(ngrams):
    again = Ngrams.from_tensors(ngrams.tensors())
    assert ngrams.tensors()["ngram_hashes"].dtype == np.int64
    np.testing.assert_array_equal(again.hashes, ngrams.hashes)
    assert (again.matrix(VOCABULARY) != ngrams.matrix(VOCABULARY)).nnz == 0


@pytest.mark.parametrize("text", ["where is my order", "おすすめの漫画は?", "unheard", "", "a" * 500])
def test_one_text_times_a_table_is_its_row_of_the_matrix_times_the_table(text):
    known = ["where is my order", "where is the order", "おすすめの漫画は?", "おすすめは?"]
    ngrams = Ngrams.fit(known)
    table = np.random.default_rng(1).normal(size=(len(ngrams), 8)).astype(np.float32)
    alone = ngrams.times([text], table)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(alone, ngrams.matrix([text]) @ table, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone[0], ngrams.times([text, known[0]], table)[0], rtol=1e-5, atol=1e-6)
