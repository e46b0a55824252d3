"""Words, names and short forms find documents whatever script and however carelessly they are typed."""

import dataclasses

import numpy as np
import pytest

from mangaassist_assets.lib.errors import DamagedArtifact
from mangaassist_assets.lib.retrieval.lexical import ARRAYS, STRINGS, LexicalIndex, names_of
from mangaassist_assets.lib.retrieval.postings import Postings, bm25, share_weights
from mangaassist_assets.lib.retrieval.words import fold, grams, stems
from tests.retrieval.shop import DOCUMENTS, chunks


@pytest.fixture(scope="module")
def index():
    return LexicalIndex.build(chunks())


def best(index, scores):
    return index.documents[int(np.argmax(scores))]


def by_words(index, text):
    return best(index, index.best_chunk(index.match_words(fold(text))))


def by_name(index, text):
    return best(index, index.match_names(text).alike)


def test_spellings_of_the_same_word_fold_together():
    assert fold("Shōnen") == fold("ＳＨＯＮＥＮ") == "shonen"
    assert fold("フリーレン") == fold("ふりれん")
    assert fold("Fruits Basket’s") == "fruits baskets"
    assert fold("が") == "が"  # its mark is no accent


def test_inflected_words_share_a_stem_japanese_runs_become_bigrams_and_years_their_decade():
    assert stems("hunting hunters")[0] == "hunt"
    assert stems("少女漫画") == ["少女", "女漫", "漫画"]
    assert stems("in 1974") == ["in", "1974", "1970s"]


def test_grams_see_word_boundaries():
    assert " ab" in grams(["ab"]) and "ab " in grams(["ab"])
    assert grams(["ab", "cd"]) == grams(["ab"]) | grams(["cd"])


@pytest.mark.parametrize(
    ("query", "document"),
    [("mercenaries", "s1"), ("bread baking", "s6"), ("baseballl pitchr", "s5"), ("1970s", "s3"), ("墓場", "s3"), ("return a volume", "p1")],
)
def test_words_are_found_by_stem_slip_decade_and_script(index, query, document):
    assert by_words(index, query) == document


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("iron sowrd", "s1"),
        ("ironsword", "s1"),
        ("コートの王", "s4"),
        ("こーとのおうさま コート", "s4"),
        ("墓場のゆり", "s3"),
        ("九回", "s5"),
    ],
)
def test_names_are_found_with_slips_and_in_either_kana(index, query, document):
    assert by_name(index, query) == document


def test_a_name_inside_a_long_query_is_there_whole(index):
    within = index.match_names("do you have night hounds in paperback").within
    assert best(index, within) == "s2"
    assert within.max() == pytest.approx(1)


def test_readers_short_forms_of_japanese_names_are_found(index):
    assert best(index, index.match_names("墓ユリ").within) == "s3"
    assert index.match_names("ユリ墓").within.max() < 1  # the order of the characters counts


def test_names_include_the_part_before_a_subtitle_and_initials():
    assert names_of("Ash: The Long Road", []) == ["Ash: The Long Road", "Ash", "atlr"]
    assert names_of("", ["鋼"]) == ["鋼"]


def test_ignored_words_do_not_count(index):
    assert index.match_words("volume", frozenset({"volume"})).max() == 0


def test_neighbours_are_what_the_catalogue_says(index):
    one = np.eye(len(index.documents), dtype=np.float32)[index.documents.index("s1")]
    named_by, names = index.sum_over_neighbours(one)
    assert [d for d, w in zip(index.documents, named_by, strict=True) if w] == ["s2", "s3"]
    assert [d for d, w in zip(index.documents, names, strict=True) if w] == ["s2"]
    near = dict(zip(index.documents, index.mean_of_neighbours(one), strict=True))
    assert near["s3"] == near["s2"] == 1 and near["s4"] == near["p1"] == 0


def test_a_document_that_is_named_but_missing_is_no_neighbour():
    index = LexicalIndex.build(chunks([row for row in DOCUMENTS if row[0] != "s3"]))
    assert index.edges.max() < len(index.documents)


def test_files_give_the_same_index_back_and_do_not_depend_on_hashes(index):
    again = LexicalIndex.from_files(index.to_files())
    assert again.to_files() == index.to_files() == LexicalIndex.build(chunks()).to_files()
    for field in dataclasses.fields(index):
        if field.name in ("chunk_ids", "documents", "vocabulary", "japanese_names"):
            assert getattr(again, field.name) == getattr(index, field.name)
    assert np.array_equal(again.match_names("iron").alike, index.match_names("iron").alike)


@pytest.mark.parametrize("name", [ARRAYS, STRINGS])
def test_damaged_files_are_refused(index, name):
    with pytest.raises(DamagedArtifact):
        LexicalIndex.from_files(index.to_files() | {name: b"{}"})


def test_bm25_prefers_rare_words_and_short_texts():
    found = bm25([["a", "b"], ["a", "c", "c", "d"], ["a"]])
    assert found.sums({"b": 1})[0] > found.sums({"a": 1})[0] > 0
    assert np.argmax(found.sums({"a": 1})) == 2
    assert bm25([[], []]).sums({"a": 1}).tolist() == [0, 0]


def test_shares_of_a_whole_name_add_up_to_one():
    found = Postings.of([{"x", "y"}, {"y"}], share_weights)
    assert found.sums({"x": 1, "y": 1, "z": 1}) == pytest.approx([1, 1])
    assert found.sums({"y": 1})[0] < 0.5  # what other names have too says less
