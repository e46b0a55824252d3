"""Variations are other messages made of the same and of neighbouring words, the same each time."""

import re

import pytest

from mangaassist_assets.lib.intents.variations import neighbours, varied

TEXTS = [
    "where is my order",
    "do you have the second book",
    "おすすめの漫画は?",
    "hi",
    "",
    "can i return a book that I bought last week",
] * 20


@pytest.fixture(scope="module")
def made():
    return varied(TEXTS, seed=1)


def test_there_is_one_for_each_the_same_each_time_and_others_for_another_seed(made):
    assert len(made) == len(TEXTS)
    assert varied(TEXTS, seed=1) == made
    assert varied(TEXTS, seed=2) != made


def test_most_differ_from_what_they_were_made_of(made):
    assert sum(new != old for new, old in zip(made, TEXTS, strict=True)) > len(TEXTS) / 2


def test_some_are_two_messages_in_their_order(made):
    joined = [new for new, old in zip(made, TEXTS, strict=True) if old and new.startswith(f"{old} ") and new[len(old) + 1 :] in TEXTS]
    assert 0.15 < len(joined) / len(TEXTS) < 0.45


def test_no_message_becomes_empty_that_was_not(made):
    assert all(new for new, old in zip(made, TEXTS, strict=True) if old)


def test_every_new_word_is_a_neighbour_of_one_that_was_there(made):
    words = {word for text in TEXTS for word in re.findall("[a-z]+", text.lower())}
    near = {word for choice in neighbours(words).values() for word in choice}
    assert {word for text in made for word in re.findall("[a-z]+", text.lower())} <= words | near


def test_neighbours_are_near_in_meaning_and_never_the_word_itself():
    found = neighbours({"book", "monday", "zzqx"})
    assert {"books", "novel"} & set(found["book"])
    assert {"tuesday", "friday"} & set(found["monday"])
    assert "book" not in found["book"]
    assert "zzqx" not in found
