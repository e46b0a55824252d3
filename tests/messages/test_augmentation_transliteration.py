import pytest
from hypothesis import given
from hypothesis import strategies as st

from mangaassist_assets.lib.messages.augmentation.transliteration import ROMAJI_STYLES, hiragana, katakana, romaji, spellings


@pytest.mark.parametrize(
    ("kana", "macron", "doubled", "plain"),
    [
        ("ちゅうもん", "chūmon", "chuumon", "chumon"),
        ("りょうしゅうしょ", "ryōshūsho", "ryoushuusho", "ryoshusho"),
        ("クレジット カード", "kurejitto kādo", "kurejitto kaado", "kurejitto kado"),
        ("おおさか", "ōsaka", "oosaka", "osaka"),
        ("おかあさん", "okāsan", "okaasan", "okasan"),
        ("まっちゃ", "matcha", "matcha", "matcha"),
        ("えいご", "eigo", "eigo", "eigo"),
        ("ちが'う", "chigau", "chigau", "chigau"),
        ("パーティー", "pātī", "paatii", "pati"),
        ("しんじゅく 3", "shinjuku 3", "shinjuku 3", "shinjuku 3"),
    ],
)
def test_kana_are_romanised_by_hepburn_in_three_ways_of_writing_long_vowels(kana, macron, doubled, plain):
    assert [romaji(kana, style) for style in ROMAJI_STYLES] == [macron, doubled, plain]


@pytest.mark.parametrize(
    ("doubled", "forms"),
    [("tankoubon", ("tankōbon", "tankoubon", "tankobon")), ("shoujo ai", ("shōjo ai", "shoujo ai", "shojo ai")), ("manga", ("manga",))],
)
def test_a_doubled_spelling_gives_the_others(doubled, forms):
    assert spellings(doubled) == forms


@given(st.text(alphabet=[chr(code) for code in range(0x3041, 0x3097)]))
def test_hiragana_become_katakana_and_come_back(text):
    assert hiragana(katakana(text)) == text


@given(st.text(max_size=20))
def test_any_text_can_be_romanised(text):
    assert romaji(text).isascii() or not text.isascii()
