"""What a generator of training messages is, and the gate that its messages pass before they may be trained on."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.duplicates import near_duplicates_of
from mangaassist_assets.lib.messages.labelling import PREVIEW_CHARS, message_id
from mangaassist_assets.lib.messages.normalising import is_well_formed, language_of, normalise
from mangaassist_assets.lib.messages.reading import MAX_CHARS
from mangaassist_assets.lib.messages.redaction import redact
from mangaassist_assets.lib.messages.splitting import bucket

AUGMENTED_SCHEMA: Final = pa.schema(
    [
        ("message_id", pa.string()),
        ("text", pa.string()),
        ("intent", pa.string()),
        ("secondary_intent", pa.string()),
        ("slices", pa.list_(pa.string())),
        ("split", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("synthetic", pa.bool_()),
        ("group_id", pa.string()),
        ("language", pa.string()),
        ("parent_id", pa.string()),
        ("second_parent_id", pa.string()),
        ("recipe", pa.string()),
        ("generator", pa.string()),
        ("review", pa.string()),
        ("cost_usd", pa.float64()),
    ]
)
REFUSED_SCHEMA: Final = pa.schema(
    [
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("intent", pa.string()),
        ("parent_id", pa.string()),
        ("second_parent_id", pa.string()),
        ("recipe", pa.string()),
        ("generator", pa.string()),
        ("text_sha256", pa.string()),
        ("text_preview", pa.string()),
        ("cost_usd", pa.float64()),
    ]
)
PROTECTED_SPLITS: Final = ("golden", "test", "validation")


@dataclass(frozen=True)
class GeneratedMessage:
    """One new message.

    Attributes:
        text: as a person would type it.
        intent, secondary_intent: labels; the second None where there is one intent.
        slices: of the text, `plain` alone or others.
        parent_id, second_parent_id: message_id of the rows it was made from; the second None where there is one.
        recipe: how it was made.
        cost_usd: what it cost to make, in US dollars.
    """

    text: str
    intent: str
    secondary_intent: str | None
    slices: tuple[str, ...]
    parent_id: str
    second_parent_id: str | None
    recipe: str
    cost_usd: float


class Generator(Protocol):
    """Makes new training messages from labelled ones."""

    @property
    def name(self) -> str:
        """As it stands in the column `generator`."""
        ...

    def generate(self, parents: pa.Table, *, count: int, seed: int) -> list[GeneratedMessage]:
        """Up to `count` messages, balanced over the intents of `parents`.

        Args:
            parents: rows of labeled_messages, split train only.
            count: how many are wanted.
            seed: decides all choices that are the generator's own.
        """
        ...


@dataclass(frozen=True)
class AugmentationSettings:
    """How much is made, and what the gate lets through.

    Attributes:
        count: messages to ask the generator for.
        seed: of the generator's choices.
        near_duplicate: Jaccard similarity of character 4-grams to a validation, test or golden row from which a message is refused.
        required_review_share: share of the messages, of each recipe alike, that a person has to accept before training takes them.
        max_chars: longest text, in characters.
    """

    count: int = 1200
    seed: int = 7
    near_duplicate: float = 0.8
    required_review_share: float = 0.0
    max_chars: int = MAX_CHARS

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("count", self.count, 0, 1_000_000),
            ("near_duplicate", self.near_duplicate, 0.5, 1.0),
            ("required_review_share", self.required_review_share, 0.0, 1.0),
            ("max_chars", self.max_chars, 1, 1_000_000),
        ):
            if not (math.isfinite(value) and low <= value <= high):
                raise BadInput(
                    f"{value} is not from {low:g} to {high:g}",
                    where=f"messages.augmentation.{name}",
                    remedy="Correct it in mangaassist.toml.",
                )


def augment(labeled: pa.Table, generator: Generator, settings: AugmentationSettings = AugmentationSettings()) -> tuple[pa.Table, pa.Table]:
    """Asks the generator for messages made from train rows, and holds each against every row that measures.

    Refused are texts that are empty, malformed or too long, equal their parent (`unchanged`), a train row or an earlier
    message (`duplicate`), or are near-duplicates of a row that measures (`near_duplicate_of_golden`, `_test`,
    `_validation`). A row made from two parents has the source of the first and the licences of both.

    Every row's `review` is `unreviewed`, or `required` in the sample that a person has to see first.

    Returns:
        Rows of AUGMENTED_SCHEMA and of REFUSED_SCHEMA, in the generator's order. What both cost is in `cost_usd`.

    Raises:
        BadInput: there is no train row, or the generator names a parent that is none.
    """
    rows = labeled.to_pylist()
    train = {row["message_id"]: row for row in rows if row["split"] == "train"}
    if not train:
        raise BadInput("no row has split train", where="labeled_messages", remedy="Give it a source with training rows.")
    parents = labeled.filter(pa.array([row["split"] == "train" for row in rows]))
    messages = generator.generate(parents, count=settings.count, seed=settings.seed)
    for message in messages:
        missing = {message.parent_id, message.second_parent_id} - {None} - train.keys()
        if missing:
            raise BadInput(
                f"{generator.name} names the parent {missing.pop()}", where="labeled_messages", remedy="Only train rows may be parents."
            )
    texts = [redact(normalise(message.text)) if is_well_formed(message.text) else "" for message in messages]
    refusals = _refusals(messages, texts, rows, settings)
    required = _sample(messages, texts, refusals, settings.required_review_share)
    augmented = [
        _augmented_row(message, texts[i], train, generator.name, "required" if i in required else "unreviewed")
        for i, message in enumerate(messages)
        if i not in refusals
    ]
    refused = [_refused_row(messages[i], texts[i], generator.name, *refusals[i]) for i in sorted(refusals)]
    return pa.Table.from_pylist(augmented, schema=AUGMENTED_SCHEMA), pa.Table.from_pylist(refused, schema=REFUSED_SCHEMA)


def _refusals(
    messages: Sequence[GeneratedMessage], texts: Sequence[str], rows: Sequence[Mapping[str, Any]], settings: AugmentationSettings
) -> dict[int, tuple[str, str]]:
    """By index, reason and detail of the messages that do not pass."""
    protected = sorted((row for row in rows if row["split"] in PROTECTED_SPLITS), key=lambda row: PROTECTED_SPLITS.index(row["split"]))
    nearest = near_duplicates_of(texts, [row["text"] for row in protected], settings.near_duplicate)
    seen = {row["message_id"]: f"the {row['split']} row {row['message_id']}" for row in rows}
    refusals: dict[int, tuple[str, str]] = {}
    for i, (message, text, near) in enumerate(zip(messages, texts, nearest, strict=True)):
        identity = message_id(text)
        if not text:
            refusals[i] = "empty_text", "nothing but white space, invisible characters or lone surrogates"
        elif len(text) > settings.max_chars:
            refusals[i] = "too_long", f"{len(text):,} characters, at most {settings.max_chars:,} are taken"
        elif near is not None:
            refusals[i] = f"near_duplicate_of_{protected[near]['split']}", f"row {protected[near]['message_id']}"
        elif identity in (message.parent_id, message.second_parent_id):
            refusals[i] = "unchanged", f"the text of its parent {identity}"
        elif identity in seen:
            refusals[i] = "duplicate", f"the text of {seen[identity]}"
        else:
            seen[identity] = f"an earlier message, {identity}"
    return refusals


def _sample(messages: Sequence[GeneratedMessage], texts: Sequence[str], refusals: Mapping[int, object], share: float) -> set[int]:
    """Indices of the share of each recipe, rounded up, whose texts have the smallest hashes: more rows never change who is drawn first."""
    by_recipe: dict[str, list[int]] = defaultdict(list)
    for i, message in enumerate(messages):
        if i not in refusals:
            by_recipe[message.recipe].append(i)
    return {
        i
        for indices in by_recipe.values()
        for i in sorted(indices, key=lambda i: bucket(texts[i], "review"))[: math.ceil(share * len(indices))]
    }


def _augmented_row(
    message: GeneratedMessage, text: str, train: Mapping[str, Mapping[str, Any]], generator: str, review: str
) -> dict[str, Any]:
    parent = train[message.parent_id]
    both = (parent, train[message.second_parent_id]) if message.second_parent_id else (parent,)
    return {
        "message_id": message_id(text),
        "text": text,
        "intent": message.intent,
        "secondary_intent": message.secondary_intent,
        "slices": list(message.slices),
        "split": "train",
        "source": parent["source"],
        "licence": " AND ".join(sorted({row["licence"] for row in both})),
        "synthetic": True,
        "group_id": parent["group_id"],
        "language": language_of(text),
        "parent_id": message.parent_id,
        "second_parent_id": message.second_parent_id,
        "recipe": message.recipe,
        "generator": generator,
        "review": review,
        "cost_usd": message.cost_usd,
    }


def _refused_row(message: GeneratedMessage, text: str, generator: str, reason: str, detail: str) -> dict[str, Any]:
    """The text is shown only where it does not resemble a row that measures: nobody learns those from what was refused."""
    return {
        "reason": reason,
        "detail": detail,
        "intent": message.intent,
        "parent_id": message.parent_id,
        "second_parent_id": message.second_parent_id,
        "recipe": message.recipe,
        "generator": generator,
        "text_sha256": digest_of(text),
        "text_preview": None if reason.startswith("near_duplicate_of_") else text[:PREVIEW_CHARS],
        "cost_usd": message.cost_usd,
    }


def counts_of(augmented: pa.Table, refused: pa.Table) -> dict[str, Any]:
    """Rows kept and refused, cost, and rows by recipe, intent, slice, review state and reason of refusal."""
    slices = Counter(name for names in augmented["slices"].to_pylist() for name in names)
    by = {name: dict(sorted(Counter(augmented[name].to_pylist()).items())) for name in ("recipe", "intent", "review", "language")}
    cost = sum(augmented["cost_usd"].to_pylist()) + sum(refused["cost_usd"].to_pylist())
    reasons = dict(sorted(Counter(refused["reason"].to_pylist()).items()))
    return {
        "rows": len(augmented),
        "refused": len(refused),
        "cost_usd": cost,
        **by,
        "slices": dict(sorted(slices.items())),
        "refused_by": reasons,
    }
