"""What a shopper's words mean to a catalogue in English: terms of manga, Japanese, and phrases that ask for something like a series.

The glossary is read from `data/lexica/search.toml`, which says what its tables mean, and the words of `data/lexica/japanese.toml`.
"""

import functools
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mangaassist_assets.lib.artifacts import digest_of_file
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.words import JAPANESE, fold, pieces

_RUN = re.compile(f"[{JAPANESE}\u30a1-\u30fc]+")
_CLAUSE = re.compile(r"[,.;:!?()\[\]/、。！？・「」『』]|\bbut\b|\band\b|\bor\b|\bwith\b|\bexcept\b", re.IGNORECASE)
MENTION_WORDS = 6
MENTION_CHARS = 12
GLOSSARY_FILES = ("search.toml", "japanese.toml")


@dataclass(frozen=True)
class Said:
    """A query in the catalogue's words.

    Attributes:
        english: the query with each Japanese run replaced by what the glossary knows of it; equal to the query where it has none.
        added: what the glossary adds to the query's own words.
    """

    english: str
    added: tuple[str, ...]


@dataclass(frozen=True)
class Glossary:
    """Words and phrases, ready to be looked up.

    Attributes:
        japanese: English by Japanese (NFKC, lower case).
        english: further words by folded word or phrase.
        after, before: phrases that a series is named after, or before.
        ignored: folded words that say nothing about what is wanted.
    """

    japanese: Mapping[str, str] = field(default_factory=dict)
    english: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()

    @functools.cached_property
    def _longest_run(self) -> int:
        return max(map(len, self.japanese), default=0)

    @functools.cached_property
    def _longest_phrase(self) -> int:
        return max((len(key.split()) for key in self.english), default=0)

    @functools.cached_property
    def _cues(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return _cues(self.after, self.before)

    def say(self, query: str) -> Said:
        """The query in the catalogue's words."""
        text = unicodedata.normalize("NFKC", query)
        added: list[str] = []

        def in_english(run: re.Match[str]) -> str:
            found = self._look_up(run.group().casefold())
            added.extend(found)
            return f" {' '.join(found)} "

        english = " ".join(_RUN.sub(in_english, text).split())
        words = pieces(fold(query))
        for i in range(len(words)):
            for n in range(min(self._longest_phrase, len(words) - i), 0, -1):
                if (meaning := self.english.get(" ".join(words[i : i + n]))) is not None:
                    added.append(meaning)
                    break
        return Said(english, tuple(added))

    def _look_up(self, run: str) -> list[str]:
        found: list[str] = []
        at = 0
        while at < len(run):
            for n in range(min(self._longest_run, len(run) - at), 0, -1):
                if (meaning := self.japanese.get(run[at : at + n])) is not None:
                    found.append(meaning)
                    at += n
                    break
            else:
                at += 1
        return found

    def mentions(self, query: str) -> list[str]:
        """Parts of the query that may name the series which something like is wanted; none where nothing like it is asked."""
        text = unicodedata.normalize("NFKC", query).casefold()
        found: dict[str, None] = {}
        after, before = self._cues
        for cue in after.finditer(text):
            words = _CLAUSE.split(text[cue.end() :].strip())[0].split()
            found.update((" ".join(words[:n]), None) for n in range(1, min(MENTION_WORDS, len(words)) + 1))
        for cue in before.finditer(text):
            clause = _CLAUSE.split(text[: cue.start()])[-1].strip(" -~")
            words = clause.split()
            found.update((" ".join(words[-n:]), None) for n in range(1, min(MENTION_WORDS, len(words)) + 1))
            run = words[-1] if words else ""
            if not run.isascii():  # no spaces say where a name begins
                found.update((run[-n:], None) for n in range(2, min(MENTION_CHARS, len(run)) + 1))
        return list(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "japanese": dict(self.japanese),
            "english": dict(self.english),
            "after": list(self.after),
            "before": list(self.before),
            "ignored": sorted(self.ignored),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Glossary":
        return cls(
            content["japanese"], content["english"], tuple(content["after"]), tuple(content["before"]), frozenset(content["ignored"])
        )


def _cues(after: Sequence[str], before: Sequence[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    def either(phrases: Sequence[str], *, wholly: str) -> re.Pattern[str]:
        spelt = sorted((p.casefold() for p in phrases), key=len, reverse=True)
        return re.compile("|".join((wholly % re.escape(p)) if p.isascii() else re.escape(p) for p in spelt) or r"(?!)")

    return either(after, wholly=r"\b%s\b"), either(before, wholly=r"(?:\b|(?<=\w)-)%s\b")


def without(query: str, mention: str) -> str:
    """The query without a part that `Glossary.mentions` found in it."""
    text = unicodedata.normalize("NFKC", query).casefold()
    return " ".join(text.replace(mention, " ", 1).split())


def read_glossary(folder: Path) -> Glossary:
    """Reads `search.toml` and `japanese.toml` of a folder of lexica.

    Raises:
        BadInput: a file is missing, is not TOML, or has other tables.
    """
    search, store = (_read(folder / name) for name in GLOSSARY_FILES)
    try:
        japanese: dict[str, dict[str, None]] = {}  # words of every meaning, each once, in order
        meanings = [(entry["english"][0], [entry["japanese"], *entry.get("also", [])]) for entry in store["words"]]
        for english, spellings in [*meanings, *search["authors"].items(), *search["japanese"].items()]:
            for spelling in spellings:
                japanese.setdefault(unicodedata.normalize("NFKC", spelling).casefold(), {}).update(dict.fromkeys(english.split()))
        return Glossary(
            {spelling: " ".join(words) for spelling, words in japanese.items()},
            {" ".join(pieces(fold(key))): meaning for key, meaning in search["english"].items()},
            tuple(search["similar"]["after"]),
            tuple(search["similar"]["before"]),
            frozenset(piece for word in search["ignored"]["words"] for piece in pieces(fold(word))),
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadInput(
            f"a table is missing or has another form ({error!r})",
            where=str(folder / "search.toml"),
            remedy="Compare it with the one that the project brings.",
        ) from error


def digests_of_glossary(folder: Path) -> list[str]:
    """SHA-256 of each file that `read_glossary` reads; empty where there is none, as in a built Bento."""
    return [digest_of_file(folder / name) for name in GLOSSARY_FILES if (folder / name).is_file()]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read ({error})", where=str(path), remedy="Restore the file that the project brings.") from error
