"""The data files that the embedded generator works from, read and checked once.

Everything that a recipe says stands in `data/lexica/`: words, titles, sentence patterns, habits of writing, shares. A file
that cannot be used is named with its key and what to do.
"""

import csv
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from mangaassist_assets.lib.artifacts import digest_of, digest_of_file
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.augmentation.phrases import JAPANESE, PhraseBook, SignBook, key_of, tokens
from mangaassist_assets.lib.messages.augmentation.transliteration import ROMAJI_STYLES, RomajiStyle, romaji, spellings

FILES: Final = ("composition", "emoji", "grammar", "japanese", "manga", "recipes", "slang", "typos")
TITLES_FILE: Final = "titles.csv"
TITLE_COLUMNS: Final = ("title", "title_ja", "romaji", "also_written", "common_word")
TYPO_KINDS: Final = ("neighbour", "dropped", "doubled", "transposed", "phonetic", "misspelt", "merged")
LONGEST_SPOKEN_TITLE = 32


class Section:
    """One table of a data file; each reading names file and key when the value is not what it should be."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def _get(self, key: str, kind: Callable[[Any], bool], wanted: str) -> Any:
        if key not in self.values:
            raise BadInput(f"no {key}", where=self.where, remedy=f"Add {key} = {wanted}.")
        if not kind(self.values[key]):
            raise BadInput(f"{key} is not {wanted}", where=self.where, remedy="Compare it with the file that came with the project.")
        return self.values[key]

    def table(self, key: str) -> "Section":
        return Section(self._get(key, lambda value: isinstance(value, dict), "a table"), f"{self.where}, {key}")

    def tables(self, key: str) -> list["Section"]:
        rows = self._get(key, lambda value: isinstance(value, list) and all(isinstance(row, dict) for row in value), "a list of tables")
        return [Section(row, f"{self.where}, {key} {n}") for n, row in enumerate(rows, 1)]

    def text(self, key: str) -> str:
        return str(self._get(key, lambda value: isinstance(value, str) and bool(value), "a text"))

    def texts(self, key: str, *, least: int = 0) -> tuple[str, ...]:
        return tuple(self._get(key, lambda value: _is_texts(value) and len(value) >= least, f"a list of texts, {least} or more"))

    def groups(self, key: str) -> tuple[tuple[str, ...], ...]:
        wanted = "a list of lists of two texts or more"
        return tuple(
            map(tuple, self._get(key, lambda value: isinstance(value, list) and all(_is_texts(g) and len(g) > 1 for g in value), wanted))
        )

    def number(self, key: str, low: float, high: float) -> float:
        return float(self._get(key, lambda value: _is_number(value) and low <= value <= high, f"a number from {low:g} to {high:g}"))

    def shares(self, key: str, known: Iterable[str]) -> dict[str, float]:
        """Non-negative numbers by name, some above zero, every name known."""
        section, names = self.table(key), set(known)
        for name, share in section.values.items():
            if name not in names:
                raise BadInput(f"{name!r} is not known", where=section.where, remedy=f"Known are {', '.join(sorted(names))}.")
            if not _is_number(share) or share < 0:
                raise BadInput(f"{name} = {share!r} is not a share", where=section.where, remedy="Give a number, zero or more.")
        if not any(section.values.values()):
            raise BadInput("all shares are zero", where=section.where, remedy="Give one of them more.")
        return {name: float(share) for name, share in section.values.items() if share > 0}

    def replies(self, key: str) -> dict[str, tuple[str, ...]]:
        """Lists of texts by text."""
        section = self.table(key)
        return {name: section.texts(name, least=1) for name in section.values}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ── what the files hold ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Word:
    """A word of the store in English and Japanese; `romaji` by style of writing long vowels."""

    english: tuple[str, ...]
    japanese: tuple[str, ...]
    romaji: Mapping[RomajiStyle, str]


@dataclass(frozen=True)
class Title:
    """A series: how it is called in English, in Japanese script and in romaji, and by its readers.

    Attributes:
        common: the English title is also a common word, so that only its capital tells.
    """

    title: str
    japanese: str
    romaji: str
    also: tuple[str, ...]
    common: bool

    @cached_property
    def spoken(self) -> tuple[str, ...]:
        """English names short enough to be said in a message."""
        names = (self.title, *self.also)
        return tuple(name for name in names if len(name) <= LONGEST_SPOKEN_TITLE and ": " not in name) or (self.title,)


@dataclass(frozen=True)
class Pattern:
    """An English sentence with one open place, as a regular expression over keys, and its Japanese replies."""

    regex: re.Pattern[str]
    first: frozenset[str]
    japanese: tuple[str, ...]
    romaji: tuple[str, ...]


@dataclass(frozen=True)
class Community:
    """Who talks how: openings, closings, and words beyond those that all share."""

    name: str
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    words: PhraseBook[tuple[str, ...]]


@dataclass(frozen=True)
class Synonyms:
    """Ways to write the same thing; a match is replaced by one of `terms`."""

    terms: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """Emoji for messages with one of the words; Latin words by key, others as they are."""

    keys: frozenset[str]
    signs: tuple[str, ...]
    emoji: tuple[str, ...]


@dataclass(frozen=True)
class Typos:
    """How people mistype; see typos.toml."""

    words_per_typo: float
    most: int
    shortest_word: int
    keep: frozenset[str]
    kinds: Mapping[str, float]
    neighbours: Mapping[str, str]
    phonetic: Mapping[str, tuple[str, ...]]
    misspellings: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Composition:
    """How two messages become one; see composition.toml."""

    leads: Mapping[str, tuple[str, ...]]
    small_talk: frozenset[str]
    small_talk_least_words: int
    least_words: int
    most_words: int
    most_signs: int
    connectors: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Readings:
    """How Japanese is read aloud; see the end of japanese.toml."""

    words: SignBook[str]
    stems: SignBook[str]
    endings: SignBook[str]
    hiragana: SignBook[str]
    suffixes: frozenset[str]


class Lexicon:
    """All data files of one folder.

    Args:
        folder: with composition, emoji, grammar, japanese, manga, recipes, slang and typos (.toml), and titles.csv.

    Raises:
        BadInput: a file is missing, is not TOML or CSV, or lacks something.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = {name: _read_toml(folder / f"{name}.toml") for name in FILES}
        self._recipes = files["recipes"]
        self._read_titles(folder / TITLES_FILE)
        self._read_japanese(files["japanese"])
        self._read_grammar(files["grammar"])
        self._read_manga(files["manga"])
        self._read_slang(files["slang"])
        self._read_emoji(files["emoji"])
        self.typos = _typos(files["typos"])
        self.composition = _composition(files["composition"])
        dictation = self._recipes.table("dictation")
        self.spoken_numbers = dictation.texts("numbers", least=1)
        said = dictation.table("said")
        self.said = {key: said.text(key) for key in said.values}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files: what is made from equal files and equal parents is equal."""
        return digest_of({name: digest_of_file(self.folder / name) for name in (*(f"{name}.toml" for name in FILES), TITLES_FILE)})

    def shares(self, recipes: Iterable[str]) -> dict[str, float]:
        """Shares of recipes.toml, each of them one of `recipes`."""
        return self._recipes.shares("shares", recipes)

    def second_channel(self, channels: Iterable[str]) -> tuple[float, dict[str, float]]:
        """The share of messages that go through a second channel, and the channels' own shares."""
        section = self._recipes.table("second_channel")
        return section.number("share", 0, 1), section.shares("shares", channels)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_titles(self, path: Path) -> None:
        rows: list[Title] = []
        try:
            with path.open(encoding="utf-8", newline="") as stream:
                reader = csv.DictReader(stream)
                if tuple(reader.fieldnames or ()) != TITLE_COLUMNS:
                    raise BadInput("other columns than expected", where=str(path), remedy=f"The first line is {','.join(TITLE_COLUMNS)}.")
                for line, row in enumerate(reader, 2):
                    if not (row["title"] and row["title_ja"] and row["romaji"]):
                        raise BadInput("a title lacks a language", where=f"{path}, line {line}", remedy="Fill title, title_ja and romaji.")
                    also = tuple(filter(None, (row["also_written"] or "").split("|")))
                    rows.append(Title(row["title"], row["title_ja"], row["romaji"], also, row["common_word"] == "yes"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot be read ({type(error).__name__})", where=str(path), remedy="Restore it from the project.") from error
        self.titles = tuple(rows)
        self.titles_by_word = PhraseBook(
            [(name, title) for title in rows for name in (title.title, *title.also, title.romaji)], titles=True
        )
        self.titles_by_sign = SignBook([(title.japanese, title) for title in rows if JAPANESE.search(title.japanese)])

    def _read_japanese(self, file: Section) -> None:
        words = [_word(section) for section in file.tables("words")]
        pronouns = [_word(section) for section in file.table("pronouns").tables("words")]
        self.words_by_english = PhraseBook([(english, word) for word in words for english in word.english])
        self.pronouns = {key_of(english): word for word in pronouns for english in word.english}
        self.words_by_romaji = PhraseBook([(word.romaji[style], word) for word in words for style in ROMAJI_STYLES])
        self.words_by_sign = SignBook([(spelling, word) for word in words for spelling in word.japanese])
        counters = file.table("counters")
        self.counters = [(counters.table(name).texts("english", least=1), counters.table(name)) for name in counters.values]
        self.counter_of = {
            key_of(english): (section.text("japanese"), section.text("romaji")) for names, section in self.counters for english in names
        }
        frame = file.table("frame")
        self.japanese_openings = [(section.text("japanese"), section.text("romaji")) for section in frame.tables("openings")]
        self.japanese_closings = [(section.text("japanese"), section.text("romaji")) for section in frame.tables("closings")]
        self.endings = SignBook([(member, group) for group in file.table("endings").groups("groups") for member in group])
        self.japanese_spellings = SignBook([(member, group) for group in file.table("spellings").groups("groups") for member in group])
        self.readings = self._readings(file.table("readings"), words)

    def _readings(self, section: Section, words: Iterable[Word]) -> Readings:
        given = section.table("words")
        nouns = [(spelling, word.romaji["doubled"]) for word in words for spelling in word.japanese[:1]]
        nouns += [(title.japanese, title.spoken[0]) for title in self.titles if JAPANESE.search(title.japanese)]
        nouns += [(signs, romaji(given.text(signs))) for signs in given.values]
        stems, endings, kana = section.table("stems"), section.table("endings"), section.table("hiragana")
        return Readings(
            words=SignBook(nouns, whole_words=False),
            stems=SignBook([(signs, stems.text(signs)) for signs in stems.values], whole_words=False),
            endings=SignBook([(signs, endings.text(signs)) for signs in endings.values], whole_words=False),
            hiragana=SignBook([(signs, kana.text(signs)) for signs in kana.values], whole_words=False),
            suffixes=frozenset(section.texts("suffixes")),
        )

    def _read_grammar(self, file: Section) -> None:
        self.not_in_slot = frozenset(file.texts("not_in_x"))
        self.dropped_before_slot = frozenset(file.texts("dropped_before_x"))
        self.sentence_openings = _key_sequences(file.texts("openings"))
        self.sentence_endings = _key_sequences(file.texts("endings"))
        self.patterns: dict[str, list[Pattern]] = defaultdict(list)
        for section in file.tables("patterns"):
            pattern = _pattern(section)
            for first in sorted(pattern.first):
                self.patterns[first].append(pattern)

    def _read_manga(self, file: Section) -> None:
        entries: list[tuple[str, Synonyms]] = []
        section = file.table("spellings")
        for group in (*map(spellings, section.texts("long_vowels")), *section.groups("groups")):
            if len(group) > 1:
                entries += [(member, Synonyms(group)) for member in group]
        self.manga_spellings = PhraseBook(entries)
        synonyms = file.table("synonyms").tables("groups")
        self.manga_synonyms = PhraseBook([(e, Synonyms(s.texts("terms", least=1))) for s in synonyms for e in s.texts("english", least=1)])
        terms = [*(member for member, _ in entries), *file.table("terms").texts("words")]
        self.manga_terms = PhraseBook([(term, term) for term in terms if not JAPANESE.search(term)])
        self.manga_terms_by_sign = SignBook([(term, term) for term in terms if JAPANESE.search(term)], whole_words=False)

    def _read_slang(self, file: Section) -> None:
        shared = file.replies("words")
        self.slang_words = frozenset(map(key_of, file.table("telltale").texts("words")))
        self.communities = []
        for section in file.tables("community"):
            own = section.replies("words")
            book = PhraseBook([(phrase, forms) for phrase, forms in ({**shared, **own}).items()])
            self.communities.append(
                Community(section.text("name"), section.texts("openings", least=1), section.texts("closings", least=1), book)
            )
        if not self.communities:
            raise BadInput("no community", where=file.where, remedy="Add one [[community]].")

    def _read_emoji(self, file: Section) -> None:
        self.topics = []
        for section in file.tables("topic"):
            words = section.texts("words", least=1)
            keys = frozenset(key_of(word) for word in words if not JAPANESE.search(word))
            self.topics.append(Topic(keys, tuple(word for word in words if JAPANESE.search(word)), section.texts("emoji", least=1)))
        self.neutral_emoji = file.table("neutral").texts("emoji", least=1)
        habit = file.table("habit")
        self.emoji_habit = {key: habit.number(key, 0, 1) for key in ("second_share", "repeat_share", "inside_share")}


def _read_toml(path: Path) -> Section:
    try:
        return Section(tomllib.loads(path.read_text("utf-8")), str(path))
    except OSError as error:
        raise BadInput(f"cannot be read ({type(error).__name__})", where=str(path), remedy="Restore it from the project.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"is not TOML: {error}", where=str(path), remedy="Mend that line.") from error


def _word(section: Section) -> Word:
    kana = section.text("kana")
    given = section.values.get("romaji")
    by_style = {style: given or romaji(kana, style) for style in ROMAJI_STYLES}
    also = section.texts("also") if "also" in section.values else ()
    return Word(section.texts("english", least=1), (section.text("japanese"), *also), by_style)


def _typos(file: Section) -> Typos:
    rate, neighbours = file.table("rate"), file.table("neighbours")
    return Typos(
        words_per_typo=rate.number("words_per_typo", 1, 1000),
        most=int(rate.number("most", 1, 100)),
        shortest_word=int(rate.number("shortest_word", 2, 100)),
        keep=frozenset(rate.texts("keep")),
        kinds=file.shares("kinds", TYPO_KINDS),
        neighbours={key: neighbours.text(key) for key in neighbours.values},
        phonetic=file.replies("phonetic"),
        misspellings={key_of(word): forms for word, forms in file.replies("misspellings").items()},
    )


def _composition(file: Section) -> Composition:
    leads, small_talk, parts = file.table("leads"), file.table("small_talk"), file.table("parts")
    connectors = file.replies("connectors")
    for manner in ("plain", "casual", "japanese", "mixed"):
        for connector in connectors.get(manner, ("",)):
            if len(re.findall(r"\{[aA]\}", connector)) != 1 or len(re.findall(r"\{[bB]\}", connector)) != 1:
                where = f"{file.where}, connectors, {manner}"
                raise BadInput(f"{connector!r} does not hold {{a}} and {{b}} once each", where=where, remedy="Write both into it.")
    return Composition(
        leads={intent: leads.texts(intent, least=1) for intent in leads.values},
        small_talk=frozenset(small_talk.texts("intents")),
        small_talk_least_words=int(small_talk.number("least_words", 0, 100)),
        least_words=int(parts.number("least_words", 1, 100)),
        most_words=int(parts.number("most_words", 1, 1000)),
        most_signs=int(parts.number("most_signs", 1, 1000)),
        connectors=connectors,
    )


def _key_sequences(phrases: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Phrases as sequences of keys, long ones first."""
    return tuple(sorted((tuple(token.key for token in tokens(phrase)) for phrase in phrases), key=len, reverse=True))


def _pattern(section: Section) -> Pattern:
    """Compiles "do you [still] (have|carry) {x}" into a regular expression over keys joined by spaces."""
    english = section.text("english")
    pieces = re.findall(r"\([^()\[\]]*\)|\[[^()\[\]]*\]|\{x\}|[^()\[\]{}\s]+", english)
    without_space = "".join(pieces).replace(" ", "")
    if without_space != english.replace(" ", "") or english.count("{x}") > 1:
        raise BadInput(f"{english!r} is not a pattern", where=section.where, remedy="Use words, (a|b), [a|b] and at most one {x}.")
    regex, first, may_start = "", set[str](), True
    for piece in pieces:
        if piece == "{x}":
            regex += r"(?P<x>\S+(?: \S+){0,5}?) "
            may_start = False
            continue
        optional = piece[0] == "["
        alternatives = piece[1:-1].split("|") if piece[0] in "([" else [piece]
        slot_inside = "{x}" in alternatives
        keys = [" ".join(token.key for token in tokens(alternative)) for alternative in alternatives if alternative != "{x}"]
        if slot_inside or not all(keys):
            raise BadInput(f"{piece!r} holds {{x}} or nothing", where=section.where, remedy="Put {x} outside of brackets.")
        regex += "(?:" + "|".join(f"{re.escape(key)} " for key in sorted(keys, key=len, reverse=True)) + ")" + ("?" if optional else "")
        if may_start:
            first |= {key.split()[0] for key in keys}
            may_start = optional
    if may_start or not first:
        raise BadInput(f"{english!r} has to start with a word", where=section.where, remedy="Begin with what the sentence begins with.")
    return Pattern(re.compile(regex), frozenset(first), section.texts("japanese", least=1), section.texts("romaji", least=1))
