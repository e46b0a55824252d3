"""One form of a text for every reader of it: training, duplicates, rules and service see the same characters."""

import re
import unicodedata
from typing import Literal

Language = Literal["en", "ja", "mixed"]

# Control characters that are not white space, soft hyphen, zero-width space, bidirectional controls, word joiner, BOM,
# interlinear and tag characters. Zero-width joiner and variation selectors stay: emoji are spelt with them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0001]+"
)
_PLACEHOLDER = re.compile(r"<(?:EMAIL|PHONE|CARD|ORDER|ADDRESS)>")
_JAPANESE = re.compile("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f\u3005]")
_LATIN_WORD = re.compile("[A-Za-z\u00c0-\u024f]{2,}")


def normalise(text: str) -> str:
    """NFKC, no invisible characters, white space collapsed to single spaces and trimmed.

    Full-width letters and digits become ASCII, half-width kana full-width; case, punctuation and emoji stay.
    Applying it twice changes nothing. Lone surrogates pass through: refusing them is the reader's job.
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", text)  # before NFKC as well: a letter and its mark may stand on either side of one
        text = unicodedata.normalize("NFKC", text)
    return " ".join(_INVISIBLE.sub("", text).split())


def language_of(text: str) -> Language:
    """By script alone: `ja` has Japanese script, `mixed` has also a Latin word, everything else is `en`.

    Romanised Japanese is `en`; one Latin letter ("N3", "Tシャツ") does not make a Japanese text mixed; placeholders of
    the redaction do not count.
    """
    if text.isascii() or not _JAPANESE.search(text):
        return "en"
    return "mixed" if _LATIN_WORD.search(_PLACEHOLDER.sub("", text)) else "ja"


def is_well_formed(text: str) -> bool:
    """False where a lone surrogate makes the text impossible to encode."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
