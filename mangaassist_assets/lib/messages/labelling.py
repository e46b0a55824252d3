"""From sources to one table of labelled messages and one of what was refused and why.

Every row that belongs to a source ends in exactly one of the two tables.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.normalising import language_of, normalise
from mangaassist_assets.lib.messages.reading import MAX_CHARS, Message, Rejection, Source, Split, read_messages
from mangaassist_assets.lib.messages.redaction import redact
from mangaassist_assets.lib.messages.splitting import PROTECTION, bucket, place

LABELLED_SCHEMA = pa.schema(
    [
        ("message_id", pa.string()),
        ("text", pa.string()),
        ("intent", pa.string()),
        ("secondary_intent", pa.string()),
        ("slices", pa.list_(pa.string())),
        ("split", pa.string()),
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("licence", pa.string()),
        ("synthetic", pa.bool_()),
        ("group_id", pa.string()),
        ("language", pa.string()),
    ]
)
REJECTED_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("text_sha256", pa.string()),
        ("text_preview", pa.string()),
    ]
)
PREVIEW_CHARS = 80


@dataclass(frozen=True)
class Limits:
    """What a message and a table must keep to.

    Attributes:
        max_chars: longest text that is taken, in characters.
        near_duplicate: Jaccard similarity of character 4-grams from which two texts may not lie in different splits.
        train_near_duplicate: similarity from which only the first of two training texts is kept; None keeps both.
        validation_share, test_share: of rows whose source names no split.
        min_train_rows: rows that each class needs for training.
    """

    max_chars: int = MAX_CHARS
    near_duplicate: float = 0.8
    train_near_duplicate: float | None = 0.9
    validation_share: float = 0.1
    test_share: float = 0.1
    min_train_rows: int = 2


@dataclass(frozen=True)
class LabelledMessages:
    """The two tables, in the order of sources, files and rows.

    Attributes:
        table: LABELLED_SCHEMA, one row per labelled message.
        rejected: REJECTED_SCHEMA, one row per refused row.
        counts: rows read, kept and rejected; kept by source, split, intent and language; rejected by reason.
        out_of_scope_label: the label of messages that belong to no intent, None where no source names one.
    """

    table: pa.Table
    rejected: pa.Table
    counts: dict[str, Any]
    out_of_scope_label: str | None


def label_messages(sources: Sequence[Source], limits: Limits = Limits()) -> LabelledMessages:
    """Reads, normalises, redacts, removes duplicates, splits.

    Raises:
        BadInput: a source cannot be read, or two sources name different labels as out of scope.
    """
    out_of_scope = out_of_scope_label(sources)
    rejections: list[Rejection] = []
    messages: list[tuple[Message, str]] = []
    for source in sources:
        read, refused = read_messages(source, max_chars=limits.max_chars)
        rejections += refused
        cleaned, refused = _cleaned(read, limits)
        rejections += refused
        messages += cleaned
    texts = _by_text(messages)
    rejections += [rejection for same in texts for rejection in same.refused]
    over = _over_limit(texts)
    rejections += [over[i] for i in sorted(over)]

    placements = place(
        [same.text for same in texts],
        [same.kept.split for same in texts],
        [same.age for same in texts],
        absent={*over, *(i for i, same in enumerate(texts) if same.conflicting)},
        near_duplicate=limits.near_duplicate,
        train_near_duplicate=limits.train_near_duplicate,
        validation_share=limits.validation_share,
        test_share=limits.test_share,
    )
    ids = [message_id(same.text) for same in texts]
    kept: list[tuple[Any, ...]] = []
    for i, (same, placement) in enumerate(zip(texts, placements, strict=True)):
        if same.conflicting or i in over:
            continue
        if placement.refusal is None:
            kept.append(_labelled_row(same.kept, same.text, placement.split, ids[i], ids[placement.group]))
        else:
            other, similarity = texts[placement.refusal.because_of].kept, placement.refusal.similarity
            detail = f"similarity {similarity:.2f} with {other.file} row {other.row}"
            rejections.append(_rejection(same.kept, placement.refusal.reason, detail))
    table = _table(kept, LABELLED_SCHEMA)
    rejected = _table(map(_rejected_row, _in_order(rejections, sources)), REJECTED_SCHEMA)
    return LabelledMessages(table, rejected, _counts(table, rejected), out_of_scope)


def message_id(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a normalised, redacted text."""
    return digest_of(text)[:16]


def out_of_scope_label(sources: Sequence[Source]) -> str | None:
    """The one label that sources mark as out of scope, or None.

    Raises:
        BadInput: they mark different ones.
    """
    labels = sorted({source.out_of_scope for source in sources if source.out_of_scope})
    if len(labels) > 1:
        raise BadInput(
            f"sources name different labels as out of scope: {', '.join(labels)}",
            where="out_of_scope",
            remedy="Agree on one; rename the others in the files.",
        )
    return labels[0] if labels else None


def check_trainable(table: pa.Table, *, out_of_scope: str | None = None, min_train_rows: int = 2) -> None:
    """Refuses a table that no classifier can learn from.

    The out-of-scope label may be without training rows: it can be told by low confidence alone.

    Raises:
        BadInput: fewer than two classes, or a class with fewer than `min_train_rows` in train.
    """
    intents, splits = table["intent"].to_pylist(), table["split"].to_pylist()
    in_all = Counter(intents)
    in_train = Counter(intent for intent, split in zip(intents, splits, strict=True) if split == "train")
    classes = sorted(in_all.keys() - {out_of_scope})
    if len(classes) < 2:
        seen = ", ".join(f"{intent} ({in_all[intent]} rows)" for intent in classes) or "none"
        raise BadInput(
            f"a classifier needs two intents, found: {seen}",
            where="labeled_messages",
            remedy="Add messages of another intent, or correct label_map.",
        )
    poor = [intent for intent in classes if in_train[intent] < min_train_rows]
    if poor:
        seen = ", ".join(f"{intent} ({in_train[intent]} of {in_all[intent]})" for intent in poor)
        raise BadInput(
            f"each intent needs {min_train_rows} rows in train, these have fewer: {seen}",
            where="labeled_messages",
            remedy="Add messages of these intents, or map their labels to another in label_map; rejected_messages has what was refused.",
        )


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _SameText:
    """All rows with one text: the one to keep and its rank, the refused ones, the rank of the first that names no split."""

    text: str
    kept: Message
    rank: int
    refused: list[Rejection]
    conflicting: bool
    age: int | None


def _cleaned(messages: Iterable[Message], limits: Limits) -> tuple[list[tuple[Message, str]], list[Rejection]]:
    """Messages with their normalised, redacted text."""
    kept: list[tuple[Message, str]] = []
    refused: list[Rejection] = []
    for message in messages:
        text = redact(normalise(message.text))
        if not text:
            refused.append(_rejection(message, "empty_text", "nothing but white space and invisible characters"))
        elif len(text) > limits.max_chars:
            refused.append(_rejection(message, "too_long", f"{len(text):,} characters after NFKC, at most {limits.max_chars:,} are taken"))
        else:
            kept.append((message, text))
    return kept, refused


def _by_text(messages: Sequence[tuple[Message, str]]) -> list[_SameText]:
    """Rows with the same text together, in the order of the rows that are kept."""
    by_text: dict[str, list[int]] = defaultdict(list)
    for index, (_, text) in enumerate(messages):
        by_text[text].append(index)
    found = [_same_text(text, {index: messages[index][0] for index in indices}) for text, indices in by_text.items()]
    return sorted(found, key=lambda same: same.rank)


def _same_text(text: str, rows: Mapping[int, Message]) -> _SameText:
    """Keeps the first row of the most protected split; where the rows of that split disagree on the intent, none."""
    level = max(_protection(message) for message in rows.values())
    strongest = {rank: message for rank, message in rows.items() if _protection(message) == level}
    rank, kept = next(iter(strongest.items()))
    intents = sorted({message.intent for message in strongest.values()})
    age = next((index for index, message in rows.items() if message.split is None), None)
    refused = []
    for message in rows.values():
        if len(intents) > 1:
            refused.append(_rejection(message, "conflicting_label", f"the same text is labelled {' and '.join(intents)}"))
        elif message is not kept:
            reason = "duplicate" if _protection(message) == level else f"near_duplicate_of_{kept.split}"
            refused.append(_rejection(message, reason, f"the same text as {kept.file} row {kept.row}"))
    return _SameText(text, kept, rank, refused, len(intents) > 1, age)


def _protection(message: Message) -> int:
    """A row that a hash will place ranks with train: a split that a source names goes first."""
    return PROTECTION[message.split] if message.split else PROTECTION["train"]


def _over_limit(texts: Sequence[_SameText]) -> dict[int, Rejection]:
    """By index, the texts beyond `limit_per_intent` of their source: of each label those with the smallest hashes stay."""
    by_label: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for index, same in enumerate(texts):
        if same.kept.source.limit_per_intent is not None and not same.conflicting:
            by_label[same.kept.source.name, same.kept.label].append((bucket(same.text, "limit"), index))
    over: dict[int, Rejection] = {}
    for ranked in by_label.values():
        limit = texts[ranked[0][1]].kept.source.limit_per_intent
        for _, index in sorted(ranked)[limit:]:
            message = texts[index].kept
            over[index] = _rejection(message, "over_limit", f"limit_per_intent = {limit} of {message.label!r} is reached")
    return over


def _rejection(message: Message, reason: str, detail: str) -> Rejection:
    return Rejection(message.source.name, message.file, message.row, reason, detail, message.text)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _labelled_row(message: Message, text: str, split: Split, identifier: str, group: str) -> tuple[Any, ...]:
    source = message.source
    return (
        identifier,
        text,
        message.intent,
        message.secondary_intent,
        list(message.slices),
        split,
        source.name,
        message.file,
        message.row,
        source.licence,
        source.synthetic,
        group,
        language_of(text),
    )


def _rejected_row(rejection: Rejection) -> tuple[Any, ...]:
    text = redact(normalise(rejection.text))
    preview = text[:PREVIEW_CHARS].encode("utf-8", "replace").decode()
    digest = digest_of(text.encode("utf-8", "surrogatepass"))
    return rejection.source, rejection.file, rejection.row, rejection.reason, redact(rejection.detail), digest, preview


def _in_order(rejections: list[Rejection], sources: Sequence[Source]) -> list[Rejection]:
    rank = {source.name: index for index, source in enumerate(sources)}
    return sorted(rejections, key=lambda rejection: (rank[rejection.source], rejection.file, rejection.row))


def _table(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(column, f.type) for column, f in zip(columns, schema, strict=True)], schema=schema)


def _counts(table: pa.Table, rejected: pa.Table) -> dict[str, Any]:
    def by(column: str, of: pa.Table = table) -> dict[str, int]:
        return dict(sorted(Counter(of[column].to_pylist()).items()))

    return {
        "read": len(table) + len(rejected),
        "kept": len(table),
        "rejected": len(rejected),
        "by_source": by("source"),
        "by_split": by("split"),
        "by_intent": by("intent"),
        "by_language": by("language"),
        "rejected_by_reason": by("reason", rejected),
    }
