"""Kana into the romaji that people type, and hiragana into katakana and back."""

import re
from typing import Final, Literal

RomajiStyle = Literal["macron", "doubled", "plain"]
ROMAJI_STYLES: Final[tuple[RomajiStyle, ...]] = ("macron", "doubled", "plain")

_ROWS: Final = {  # a i u e o; the gaps are spelt otherwise
    "": "あいうえお",
    "k": "かきくけこ",
    "g": "がぎぐげご",
    "s": "さ すせそ",
    "z": "ざ ずぜぞ",
    "t": "た  てと",
    "d": "だ  でど",
    "n": "なにぬねの",
    "h": "はひ へほ",
    "b": "ばびぶべぼ",
    "p": "ぱぴぷぺぽ",
    "m": "まみむめも",
    "y": "や ゆ よ",
    "r": "らりるれろ",
    "w": "わ   を",
}
_BESIDE_ROWS: Final = (
    "し shi じ ji ち chi ぢ ji つ tsu づ zu ふ fu ん n ゔ vu ふぁ fa ふぃ fi ふぇ fe ふぉ fo てぃ ti でぃ di とぅ tu どぅ du でゅ dyu "
    "うぃ wi うぇ we うぉ wo ゔぁ va ゔぃ vi ゔぇ ve ゔぉ vo しぇ she じぇ je ちぇ che"
).split()
_BEFORE_SMALL_Y: Final = dict(zip("きぎしじちにひびぴみり", "k g sh j ch n h b p m r".split(), strict=True))
_MORAE: Final = {
    **{kana: row + vowel for row, cells in _ROWS.items() for kana, vowel in zip(cells, "aiueo", strict=True) if kana != " "},
    **dict(zip(_BESIDE_ROWS[::2], _BESIDE_ROWS[1::2], strict=True)),
    **{
        kana + small: (row if row in ("sh", "ch", "j") else row + "y") + vowel
        for kana, row in _BEFORE_SMALL_Y.items()
        for small, vowel in zip("ゃゅょ", "auo", strict=True)
    },
}
_LONG = ":"  # after a vowel that is held
_MACRONS: Final = {"a": "ā", "i": "ī", "u": "ū", "e": "ē", "o": "ō"}
_TO_KATAKANA: Final = {code: code + 0x60 for code in range(0x3041, 0x3097)}
_TO_HIRAGANA: Final = {upper: code for code, upper in _TO_KATAKANA.items()}
_HELD = re.compile("([aiueo]):(u?)")


def katakana(text: str) -> str:
    """Hiragana as katakana; every other character stays."""
    return text.translate(_TO_KATAKANA)


def hiragana(text: str) -> str:
    """Katakana as hiragana; the long mark and every other character stay."""
    return text.translate(_TO_HIRAGANA)


def romaji(kana: str, style: RomajiStyle = "doubled") -> str:
    """Hepburn romanisation of kana; spaces and other characters stay.

    Args:
        kana: hiragana or katakana; an apostrophe between two vowels keeps them apart (ちが'う is chigau).
        style: long vowels as `macron` (chūmon), `doubled` as on a keyboard (chuumon), or `plain` (chumon).
    """
    return _written(_morae(hiragana(kana)), style)


def spellings(doubled: str) -> tuple[str, ...]:
    """The ways to write a word that is given in the doubled style: shounen gives shōnen, shounen, shonen."""
    held = re.sub("ou", "o:u", doubled)
    held = re.sub("([aueo])\\1", "\\1:", held)
    return tuple(dict.fromkeys(_written(held, style) for style in ROMAJI_STYLES))


def _morae(kana: str) -> str:
    """Romaji in which a held vowel is followed by a colon, and by u where the kana say ou."""
    out: list[str] = []
    doubled = False
    i = 0
    while i < len(kana):
        mora = _MORAE.get(kana[i : i + 2])
        size = 2 if mora is not None and len(kana) > i + 1 else 1
        mora = mora or _MORAE.get(kana[i])
        last = out[-1][-1] if out and out[-1] else ""
        if kana[i] == "ー" and last in _MACRONS:
            out.append(_LONG)
        elif kana[i] == "っ":
            doubled = True
            i += 1
            continue
        elif mora is None:
            out.append("" if kana[i] == "'" else kana[i])
        elif mora == "u" and last == "o":
            out.append(_LONG + "u")
        elif mora in ("a", "u", "o", "e") and last == mora:
            out.append(_LONG)
        else:
            out.append(("t" if mora.startswith("ch") else mora[0]) + mora if doubled else mora)
        doubled = False
        i += size
    return "".join(out)


def _written(held: str, style: RomajiStyle) -> str:
    if style == "macron":
        return _HELD.sub(lambda match: _MACRONS[match[1]], held)
    if style == "plain":
        return _HELD.sub(lambda match: match[1], held)
    return _HELD.sub(lambda match: match[1] + (match[2] or match[1]), held)
