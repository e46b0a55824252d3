"""A text as search sees it: folded characters, stemmed words, character n-grams.

Japanese has no spaces, so a run of Japanese script becomes its bigrams; katakana is read as hiragana, because shoppers type either.
"""

import re
import threading
import unicodedata
from collections.abc import Iterable
from typing import Any

_ACCENTS = re.compile("[\u0300-\u036f]")  # of Latin letters; the marks of kana are others
_LONG_OR_DOT = re.compile("[\u30fc\u30fb\uff70]")
_KATAKANA = {code: code - 0x60 for code in range(0x30A1, 0x30F7)}
JAPANESE = "\u3041-\u3096\u309d\u309e\u3400-\u4dbf\u4e00-\u9fff\u3005"
_PIECE = re.compile(f"[{JAPANESE}]+|[^\\W_{JAPANESE}]+")
_YEAR = re.compile("(?:19|20)[0-9]{2}")
_APOSTROPHE = re.compile("(?<=[a-z])['\u2019\u02bc](?=[a-z])")
_PER_THREAD = threading.local()


def fold(text: str) -> str:
    """NFKC, lower case, no accents and macrons, katakana as hiragana, no long-vowel mark, no apostrophe inside a word."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))
        text = _LONG_OR_DOT.sub("", text).translate(_KATAKANA)
    return _APOSTROPHE.sub("", text)


def pieces(folded: str) -> list[str]:
    """Words, and runs of Japanese script, in order."""
    return _PIECE.findall(folded)


def is_japanese(piece: str) -> bool:
    """Whether a piece of `pieces` is a run of Japanese script."""
    return not piece.isascii() and re.match(f"[{JAPANESE}]", piece) is not None


def stems(folded: str) -> list[str]:
    """What BM25 counts: stems of words (Porter's second English stemmer), bigrams of Japanese runs, and the decade of a year."""
    found: list[str] = []
    for piece in pieces(folded):
        if not is_japanese(piece):
            found.append(_stemmer().stemWord(piece))
            if _YEAR.fullmatch(piece):
                found.append(f"{piece[:3]}0s")
        elif len(piece) == 1:
            found.append(piece)
        else:
            found += [piece[i : i + 2] for i in range(len(piece) - 1)]
    return found


def grams(pieces: Iterable[str]) -> set[str]:
    """Character 2- to 4-grams of each piece between two spaces; of Japanese runs also single characters."""
    found: set[str] = set()
    for piece in pieces:
        padded = f" {piece} "
        for n in (2, 3, 4):
            found.update(padded[i : i + n] for i in range(len(padded) - n + 1))
        if is_japanese(piece):
            found.update(piece)
    return found


def _stemmer() -> Any:
    """One for each thread: it keeps a cache that must not be shared."""
    import Stemmer

    if not hasattr(_PER_THREAD, "stemmer"):
        _PER_THREAD.stemmer = Stemmer.Stemmer("english")
    return _PER_THREAD.stemmer
