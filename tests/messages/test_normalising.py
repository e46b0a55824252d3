import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mangaassist_assets.lib.messages.normalising import is_well_formed, language_of, normalise


@pytest.mark.parametrize(
    ("given_text", "wanted"),
    [
        ("  two   words\n\tand more ", "two words and more"),
        ("\uff34\uff22\uff32 \uff13\uff10\uff11", "TBR 301"),
        ("\uff8f\uff9d\uff76\uff9e", "マンガ"),
        ("a\u200bb\ufeffc\u202ed\x07e", "abcde"),
        ("e\u200b\u0301", "é"),
        ("全角\u3000スペース", "全角 スペース"),
        ("👩\u200d🚀 ❤\ufe0f", "👩\u200d🚀 ❤\ufe0f"),
        ("Case, and punctuation: stay!", "Case, and punctuation: stay!"),
    ],
)
def test_width_white_space_and_invisible_characters_are_made_one(given_text: str, wanted: str) -> None:
    assert normalise(given_text) == wanted


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFKC", once)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("where is my box", "en"),
        ("Nimotsu ga mada todokimasen", "en"),
        ("", "en"),
        ("日本語の原書は売っていますか?", "ja"),
        ("N3向けの本はありますか", "ja"),
        ("注文番号<ORDER>はまだですか", "ja"),
        ("is 鬼滅 in stock", "mixed"),
        ("ONE PIECEの最新刊", "mixed"),
        ("ｱﾆﾒ", "ja"),
    ],
)
def test_the_language_is_told_by_script(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_lone_surrogate_is_not_well_formed_and_an_emoji_is() -> None:
    assert not is_well_formed("broken \ud83d here")
    assert is_well_formed("whole 🥺 here")
