"""A query's words in those of the catalogue, and the parts of it that may name a series."""

from pathlib import Path

import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.glossary import Glossary, read_glossary, without
from tests.retrieval.shop import GLOSSARY

LEXICA = Path(__file__).parents[2] / "data" / "lexica"


def test_japanese_is_said_in_english_and_english_stays():
    assert GLOSSARY.say("魔女の話 seinen").english == "witches seinen"
    assert GLOSSARY.say("cheap hoops").english == "cheap hoops"
    assert GLOSSARY.say("知らない").english == ""


def test_of_overlapping_words_the_longest_counts():
    glossary = Glossary(japanese={"魔": "magic", "魔女": "witches", "少女": "girl"})
    assert glossary.say("魔女少女").added == ("witches", "girl")


def test_phrases_add_their_meaning_once():
    assert GLOSSARY.say("Slice-of-Life hoops").added == ("everyday", "basketball")


@pytest.mark.parametrize(
    ("query", "mention"),
    [
        ("dark fantasy like Iron Sword, please", "iron sword"),
        ("something similar to night hounds but funny", "night hounds"),
        ("Iron Sword vibes", "iron sword"),
        ("鋼の剣みたいな漫画", "鋼の剣"),
        ("コートの王様っぽいスポーツ", "コートの王様"),
    ],
)
def test_a_name_beside_a_phrase_is_mentioned(query, mention):
    assert mention in GLOSSARY.mentions(query)
    assert mention not in without(query, mention)


def test_without_such_a_phrase_nothing_is_mentioned():
    assert GLOSSARY.mentions("iron sword box set") == []
    assert GLOSSARY.mentions("likely dislikes") == []
    assert Glossary().mentions("like Iron Sword") == []


def test_json_gives_the_same_glossary_back():
    assert Glossary.from_json(GLOSSARY.to_json()) == GLOSSARY


def test_the_bundled_glossary_knows_the_store():
    glossary = read_glossary(LEXICA)
    assert "return" in glossary.say("返品はできますか").english
    assert "isekai" in glossary.say("異世界").english
    assert "Mitsuru Adachi" in glossary.say("あだち充の野球漫画").english
    assert "ベルセルク" in glossary.mentions("ベルセルクみたいなダークファンタジー")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "japanese.toml").write_text("words = []", "utf-8")
    with pytest.raises(BadInput, match="search.toml"):
        read_glossary(tmp_path)
    (tmp_path / "search.toml").write_text("[japanese]\n", "utf-8")
    with pytest.raises(BadInput, match="another form"):
        read_glossary(tmp_path)
