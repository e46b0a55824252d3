"""Messages whose true intent is known, and what each model answers to them.

Traffic is drawn from messages that no model here was trained on: the validation and test rows of `labeled_messages`, a part of them
written once more in new slang, and questions about events. Golden rows are the probes. Each distinct text is classified once a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon
from mangaassist_assets.lib.messages.normalising import language_of, normalise
from mangaassist_assets.simulation.wording import EVENT_INTENT, event_messages, in_new_slang

LABELLED: Final = "messages/labeled_messages"
LANGUAGES: Final = ("en", "ja", "mixed")
ROUTES: Final = ("rules", "student", "classifier")
CASUAL: Final = frozenset({"slang", "typo", "emoji"})
EVENT_TEXTS, SLANG_TEXTS, KNOWN_TEXTS = 600, 800, 4_000  # distinct texts, at most
CUT_CHARS = 30  # what a broken step before the model leaves of a text
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Style(IntEnum):
    """How a message is written, or what it is for; each message has one."""

    STOCK = 0  # plain, of a source without slices: the usual questions of any shop
    PLAIN = 1
    CASUAL = 2  # slang, typos or emoji
    JAPANESE = 3  # some or all of it
    NEW_SLANG = 4
    EVENT = 5
    PROBE = 6


class Model(Protocol):
    """What answers messages: a loaded cascade, or a stand-in of tests."""

    @property
    def digest(self) -> str: ...

    def classify(self, texts: Sequence[str]) -> list[Prediction]: ...


@dataclass(frozen=True)
class Renamed:
    """A model under another digest: a release that answers as another one does."""

    digest: str
    model: Model

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        return self.model.classify(texts)


@dataclass(frozen=True)
class Answers:
    """What one model answers to each message of a pool; arrays of length n.

    Attributes:
        digest: of the model's bundle.
        intent, second: positions in `Pool.intents`; second is -1 for none.
        confidence: of the first intent.
        route: positions in ROUTES; -1 for messages that it was not asked about.
    """

    digest: str
    intent: Ints
    confidence: Floats
    second: Ints
    route: Ints


@dataclass(frozen=True)
class Pool:
    """Messages to draw from; arrays of length n.

    Attributes:
        intents: names of intents, true and answered; the arrays hold positions in it. Intents that only a model knows are added at its end.
        texts: normalised, redacted and distinct.
        truth: the true intent.
        also: the true second intent, -1 for none: an answer that names it is not right, but the message is harder.
        style: a Style each.
        language: positions in LANGUAGES.
        known: texts of training rows, at most KNOWN_TEXTS: what a drift space is fitted on.
        embed: texts -> unit vectors (n, D).
    """

    intents: list[str]
    texts: list[str]
    truth: Ints
    also: Ints
    style: Ints
    language: Ints
    known: list[str] = field(repr=False)
    embed: Callable[[Sequence[str]], Floats] = field(repr=False)
    _answers: dict[tuple[str, bool], Answers] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    def answers(self, model: Model, rows: Ints | None = None, *, cut: bool = False) -> Answers:
        """What the model answers to the messages `rows`, all by default; each is asked once, and other rows mean nothing.

        With `cut` it is what the model answers where texts reach it cut to CUT_CHARS characters.
        """
        key = (model.digest, cut)
        if key not in self._answers:
            empty = [np.full(len(self), -1) for _ in range(3)]
            self._answers[key] = Answers(model.digest, empty[0], np.zeros(len(self), np.float32), empty[1], empty[2])
        known = self._answers[key]
        asked = np.arange(len(self)) if rows is None else np.unique(rows)
        missing = asked[known.route[asked] < 0]
        if len(missing):
            texts = [self.texts[row][:CUT_CHARS] if cut else self.texts[row] for row in missing.tolist()]
            found = model.classify(texts)
            known.intent[missing] = [self.position(p.intent) for p in found]
            known.confidence[missing] = [p.confidence for p in found]
            known.second[missing] = [-1 if p.secondary_intent is None else self.position(p.secondary_intent) for p in found]
            known.route[missing] = [ROUTES.index(p.route) for p in found]
        return known

    def position(self, intent: str) -> int:
        if intent not in self.intents:
            self.intents.append(intent)
        return self.intents.index(intent)

    @cached_property
    def vectors(self) -> Floats:
        """(n, D) unit vectors of the texts, embedded once."""
        return self.embed(self.texts)

    @property
    def probe_labels(self) -> Mapping[str, str]:
        """True intent by text of the golden probes."""
        return {self.texts[i]: self.intents[self.truth[i]] for i in np.flatnonzero(self.style == Style.PROBE)}

    @cached_property
    def true_intents(self) -> Mapping[str, tuple[str, str | None]]:
        """True first and second intent by text."""
        return {
            text: (self.intents[first], self.intents[second] if second >= 0 else None)
            for text, first, second in zip(self.texts, self.truth.tolist(), self.also.tolist(), strict=True)
        }


def pool_of(labelled: pa.Table, lexica: Path, *, embed: Callable[[Sequence[str]], Floats], seed: int = 20) -> Pool:
    """The pool of a table `labeled_messages`.

    Args:
        labelled: columns text, intent, secondary_intent, slices, split, language; rows for training only tell what is known.
        lexica: folder of the lexicon that new slang is written with.
        embed: texts -> unit vectors (n, D).
        seed: of the wording of new slang and of the choice of questions about events.

    Raises:
        MissingEvidence: no row of the table was kept from training.
    """
    everything = labelled.to_pylist()
    rows = [row for row in everything if row["split"] != "train"]
    if not any(row["split"] != "golden" for row in rows):
        raise MissingEvidence("labeled_messages has no row in validation or test, so there is no traffic to draw. Name a split column.")
    found: dict[str, tuple[str, str | None, Style]] = {}
    for row in rows:
        found.setdefault(row["text"], (row["intent"], row["secondary_intent"], _style(row)))
    lexicon, rng = Lexicon(lexica), Random(f"slang {seed}")
    plain = [row for row in rows if row["split"] != "golden" and row["language"] == "en" and row["secondary_intent"] is None]
    rng.shuffle(plain)
    rewritten = 0
    for row in plain:
        text = in_new_slang(row["text"], lexicon, rng)
        if text is not None and rewritten < SLANG_TEXTS and normalise(text) not in found:
            found[normalise(text)] = (row["intent"], None, Style.NEW_SLANG)
            rewritten += 1
    for text in event_messages(EVENT_TEXTS, seed=seed):
        found.setdefault(normalise(text), (EVENT_INTENT, None, Style.EVENT))
    intents = sorted({first for first, _, _ in found.values()} | {second for _, second, _ in found.values() if second})
    number = {intent: i for i, intent in enumerate(intents)}
    return Pool(
        intents,
        list(found),
        np.array([number[first] for first, _, _ in found.values()]),
        np.array([-1 if second is None else number[second] for _, second, _ in found.values()]),
        np.array([style for _, _, style in found.values()]),
        np.array([LANGUAGES.index(language_of(text)) for text in found]),
        _some([row["text"] for row in everything if row["split"] == "train"], KNOWN_TEXTS, rng),
        embed,
    )


def read_pool(house: House, lexica: Path, *, seed: int = 20) -> Pool:
    """The pool of an installation.

    Raises:
        MissingEvidence: `labeled_messages` has not been materialised.
    """
    return pool_of(house.read_table(LABELLED), lexica, embed=embed, seed=seed)


def _some(texts: list[str], most: int, rng: Random) -> list[str]:
    return texts if len(texts) <= most else rng.sample(texts, most)


def _style(row: Mapping[str, object]) -> Style:
    slices = row["slices"] or ()
    assert isinstance(slices, (list, tuple))
    if row["split"] == "golden":
        return Style.PROBE
    if row["language"] != "en":
        return Style.JAPANESE
    if CASUAL & set(slices):
        return Style.CASUAL
    return Style.PLAIN if slices else Style.STOCK


def embed(texts: Sequence[str]) -> Floats:
    """(n, D) unit vectors of the embedded encoder, in which the graph compares messages as well."""
    from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER
    from mangaassist_assets.lib.retrieval.encoders import EncoderSettings, load_encoder

    return load_encoder(EMBEDDED_ENCODER, EncoderSettings(hub="never", threads=1)).encode(texts, queries=True)
