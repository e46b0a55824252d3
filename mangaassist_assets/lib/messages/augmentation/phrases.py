"""Finding the words and phrases of a lexicon in a text, in time that grows with the text and not with the lexicon."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")
Span = tuple[int, int]

PLACEHOLDER: Final = re.compile(r"<[A-Z]+>|\{\{[^{}]*\}\}|https?://\S+")
TOKEN: Final = re.compile(rf"{PLACEHOLDER.pattern}|[A-Za-z0-9\u00c0-\u024f]+(?:['\u2019][A-Za-z\u00c0-\u024f]+)*")
JAPANESE: Final = re.compile("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\u3005]")
_KATAKANA: Final = re.compile("[\u30a1-\u30fa\u30fc]")
_KANJI: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\u3005]")
_ONLY_HIRAGANA: Final = re.compile("[\u3041-\u3096\u30fc]+")
_WORD_GAP: Final = re.compile(r"[ -]?")
_TITLE_GAP: Final = re.compile(r"[^\w\n]{0,3}")
_TITLE_END: Final = re.compile(r"[!?&.]+")
SHORTEST_HIRAGANA = 4


def key_of(word: str) -> str:
    """The form in which words are compared: no case, no apostrophes, no accents."""
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c)).replace("\u2019", "'")
    return word.lower().replace("'", "")


@dataclass(frozen=True)
class Token:
    """A Latin word, number or placeholder at text[start:end], and the key that it is compared by."""

    start: int
    end: int
    key: str


def tokens(text: str) -> list[Token]:
    """Latin words, numbers and placeholders of a text, in order."""
    return [Token(match.start(), match.end(), key_of(match.group())) for match in TOKEN.finditer(text)]


def overlaps(span: Span, spans: Iterable[Span]) -> bool:
    """Whether a span shares a character with any of `spans`."""
    return any(span[0] < end and start < span[1] for start, end in spans)


@dataclass(frozen=True)
class Match(Generic[T]):
    """`value` was found at text[start:end]."""

    start: int
    end: int
    value: T

    @property
    def span(self) -> Span:
        return self.start, self.end


class PhraseBook(Generic[T]):
    """Phrases of Latin words; the longest is found, from left to right, whatever its case and accents.

    Args:
        titles: words may be joined by any three signs, and the signs that a title ends with belong to it (Yotsuba&!).
    """

    def __init__(self, entries: Iterable[tuple[str, T]], *, titles: bool = False) -> None:
        self._gap = _TITLE_GAP if titles else _WORD_GAP
        self._titles = titles
        self._by_first: dict[str, list[tuple[tuple[str, ...], T, str]]] = defaultdict(list)
        seen: set[tuple[str, ...]] = set()
        for phrase, value in entries:
            keys = tuple(token.key for token in tokens(phrase))
            if keys and keys not in seen:
                seen.add(keys)
                ending = re.search(r"[!?&.]+$", phrase) if titles else None
                self._by_first[keys[0]].append((keys, value, ending.group() if ending else ""))
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: -len(candidate[0]))

    def find(self, text: str, words: list[Token] | None = None) -> list[Match[T]]:
        """Matches in order; `words` are the text's tokens where they are known already."""
        words = tokens(text) if words is None else words
        found: list[Match[T]] = []
        i = 0
        while i < len(words):
            for keys, value, ending in self._by_first.get(words[i].key, ()):
                size = len(keys)
                if size > 1 and not self._continues(text, words, i, keys):
                    continue
                end = words[i + size - 1].end
                if ending and (signs := _TITLE_END.match(text, end)):
                    end += len(ending) if signs.group().startswith(ending) else 0
                found.append(Match(words[i].start, end, value))
                i += size
                break
            else:
                i += 1
        return found

    def _continues(self, text: str, words: list[Token], i: int, keys: tuple[str, ...]) -> bool:
        if i + len(keys) > len(words):
            return False
        return all(
            words[i + n].key == key and self._gap.fullmatch(text, words[i + n - 1].end, words[i + n].start)
            for n, key in enumerate(keys)
            if n > 0
        )


class SignBook(Generic[T]):
    """Words in Japanese script, which stand in a text without spaces; the longest is found, from left to right.

    A word in kanji or katakana is found only where it does not run on in its own script, and one of fewer than four
    hiragana not at all: it would be a part of something else.
    """

    def __init__(self, entries: Iterable[tuple[str, T]], *, whole_words: bool = True) -> None:
        self._by_first: dict[str, list[tuple[str, T]]] = defaultdict(list)
        self._whole_words = whole_words
        seen: set[str] = set()
        for word, value in entries:
            too_short = whole_words and bool(_ONLY_HIRAGANA.fullmatch(word)) and len(word) < SHORTEST_HIRAGANA
            if word and not too_short and word not in seen:
                seen.add(word)
                self._by_first[word[0]].append((word, value))
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: -len(candidate[0]))

    def all_at(self, text: str, i: int) -> list[Match[T]]:
        """The words that start at i, the longest first."""
        return [
            Match(i, i + len(word), value)
            for word, value in self._by_first.get(text[i], ())
            if text.startswith(word, i) and (not self._whole_words or _stands_alone(text, i, i + len(word)))
        ]

    def find(self, text: str) -> list[Match[T]]:
        """Matches in order."""
        found: list[Match[T]] = []
        i = 0
        while i < len(text):
            matches = self.all_at(text, i)
            found += matches[:1]
            i = matches[0].end if matches else i + 1
        return found

    def ending(self, text: str) -> Match[T] | None:
        """The longest word that `text` ends with."""
        for start in range(len(text)):
            for word, value in self._by_first.get(text[start], ()):
                if len(word) == len(text) - start and text.endswith(word):
                    return Match(start, len(text), value)
        return None


def _stands_alone(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    for script in (_KATAKANA, _KANJI):
        if before and script.match(before) and script.match(text[start]):
            return False
        if after and script.match(after) and script.match(text[end - 1]):
            return False
    return True


def replaced(text: str, changes: Iterable[tuple[Span, str]]) -> str:
    """`text` with each span replaced; spans do not overlap."""
    out: list[str] = []
    at = 0
    for (start, end), new in sorted(changes):
        out += [text[at:start], new]
        at = end
    return "".join(out) + text[at:]
