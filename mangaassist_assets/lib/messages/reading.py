"""Labelled messages out of files that people have: CSV, JSON lines or Parquet, gzipped or not, local or on S3.

A `Source` says where the files lie and what their columns mean. What is wrong with a file as a whole (missing, empty,
truncated, in another encoding, without the column) is BadInput. What is wrong with one row makes a `Rejection` that says
where and why; the row goes no further and the rest is read.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.files import FileSet, cell, contents, rows
from mangaassist_assets.lib.messages.normalising import is_well_formed

Split = Literal["train", "validation", "test", "golden"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test", "golden")
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "golden": "golden",
}
MAX_CHARS = 4_000
TABLE = "sources.labeled_messages"


@dataclass(frozen=True)
class Source:
    """Where labelled messages lie and what their columns mean.

    Attributes:
        name: as it will stand in the column `source`.
        paths: files or patterns (`*`, `?`, `**`), relative to `folder`, absolute, or `s3://bucket/...`. The format is told
            by the name: .csv, .tsv, .jsonl, .ndjson, .parquet; all but Parquet also with .gz.
        text, intent: columns of the message and of its label.
        secondary_intent, slices, split: columns that may be missing from the file's meaning; None where it has none.
        split_map: value of the split column -> train, validation, test or golden ("" leaves the row out). Without it those
            four names, val, valid and dev are understood. Without a split column, or where it is empty, a hash decides.
        label_map: TOML file, label of the source -> intent ("" leaves the row out on purpose). Without it labels are intents.
        labels: the intents that are accepted; None accepts every label of the file, or of the map.
        out_of_scope: the label of messages that belong to no intent; it is kept as it stands.
        licence: of the rows, as an SPDX identifier where there is one.
        synthetic: True where no customer wrote the messages.
        limit_per_intent: at most so many messages of each label of the file, chosen by content hash.
        keep: column -> values; rows with another value there are not part of this source.
        encoding: of CSV and JSON lines.
        folder: where relative paths start.
    """

    name: str
    paths: tuple[str, ...]
    text: str = "text"
    intent: str = "intent"
    secondary_intent: str | None = None
    slices: str | None = None
    split: str | None = None
    split_map: Mapping[str, str] | None = None
    label_map: str | None = None
    labels: tuple[str, ...] | None = None
    out_of_scope: str | None = None
    licence: str = "not stated"
    synthetic: bool = False
    limit_per_intent: int | None = None
    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    encoding: str = "utf-8"
    folder: Path = Path()

    @property
    def files(self) -> FileSet:
        return FileSet(self.paths, self.folder, self.encoding, self.name, TABLE)

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Setting and name of every column that the files must have."""
        keys = ("text", "intent", "secondary_intent", "slices", "split")
        return [(key, getattr(self, key)) for key in keys if getattr(self, key) is not None] + [("keep", c) for c in self.keep]


@dataclass(frozen=True, slots=True)
class Message:
    """One labelled message as its file has it, labels mapped; `split` is None where the source names none."""

    source: Source
    file: str
    row: int
    text: str
    label: str
    intent: str
    secondary_intent: str | None
    slices: tuple[str, ...]
    split: Split | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row that goes no further: `reason` is a machine word, `detail` tells a person."""

    source: str
    file: str
    row: int
    reason: str
    detail: str
    text: str


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_sources(path: Path) -> tuple[Source, ...]:
    """Sources of a TOML file: one `[sources.labeled_messages]` or any number of `[[sources.labeled_messages]]`.

    Raises:
        BadInput: the file is not TOML, has no such table, or an entry is wrong.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BadInput("there is no such file", where=str(path), remedy="Create it, or correct the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"not TOML ({error})", where=str(path), remedy="Correct that line.") from error
    entries = document.get("sources", {}).get("labeled_messages")
    if entries is None:
        raise BadInput(
            f"no [{TABLE}] in it", where=str(path), remedy=f'Add [{TABLE}] with paths = ["...csv"], text = "..." and intent = "...".'
        )
    return parse_sources(entries, folder=path.parent, where=str(path))


def parse_sources(entries: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, folder: Path, where: str) -> tuple[Source, ...]:
    """Sources from parsed TOML, one table or an array of them; relative paths start at `folder`.

    Raises:
        BadInput: an unknown key, a value of another type, two sources of one name, or none at all.
    """
    tables = [entries] if isinstance(entries, Mapping) else list(entries)
    if not tables:
        raise BadInput("no source in it", where=f"{where} [{TABLE}]", remedy='Add one with paths = ["...csv"].')
    sources = tuple(_parse_source(table, number, folder, where) for number, table in enumerate(tables, 1))
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"two sources are named {name!r}", where=f"{where} [{TABLE}]", remedy="Give each its own name.")
    return sources


def _parse_source(table: Any, number: int, folder: Path, where: str) -> Source:
    where = f"{where} [{TABLE}] {number}"
    if not isinstance(table, Mapping):
        raise BadInput("not a table", where=where, remedy='Write name = "...", paths = ["..."] and so on below it.')
    known = {f.name: f.type for f in fields(Source) if f.name != "folder"}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise BadInput(
                f"unknown key {key!r}", where=where, remedy=f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(known)}."
            )
        values[key] = _checked(key, value, where)
    if not values.get("paths"):
        raise BadInput("no paths", where=where, remedy='Add paths = ["tickets/*.csv"].')
    return Source(**{"name": "own" if number == 1 else f"own_{number}", **values, "folder": folder})


def _checked(key: str, value: Any, where: str) -> Any:
    if key in ("paths", "labels"):
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and all(isinstance(v, str) and v for v in value):
            return tuple(value)
        expected = "a list of strings"
    elif key == "split_map":
        if isinstance(value, dict) and all(v in (*SPLITS, "") for v in value.values()):
            return value
        expected = f'a table of "value" = one of {", ".join(SPLITS)} or ""'
    elif key == "keep":
        if isinstance(value, dict):
            return {column: tuple(map(cell, values if isinstance(values, list) else [values])) for column, values in value.items()}
        expected = 'a table of column = ["value", ...]'
    elif key == "synthetic":
        if isinstance(value, bool):
            return value
        expected = "true or false"
    elif key == "limit_per_intent":
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        expected = "a whole number above 0"
    else:
        if isinstance(value, str) and value:
            return value
        expected = "a string"
    raise BadInput(f"{key} = {value!r} is not {expected}", where=where, remedy=f"Set {key} to {expected}.")


def digest_of_sources(sources: Sequence[Source]) -> str:
    """SHA-256 over the settings and the bytes of every file and label map: equal digests give equal tables."""
    parts: list[Any] = []
    for source in sources:
        settings = {f.name: getattr(source, f.name) for f in fields(Source) if f.name != "folder"}
        parts.append([settings, _read_label_map(source), [[name, digest_of(content)] for name, content in contents(source.files)]])
    return digest_of(parts)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_messages(source: Source, *, max_chars: int = MAX_CHARS) -> tuple[list[Message], list[Rejection]]:
    """Reads every row of a source, files in order of name.

    Raises:
        BadInput: a file cannot be read as a whole, or not a single row of the source could be used.
    """
    labels = _read_label_map(source)
    messages: list[Message] = []
    rejections: list[Rejection] = []
    for name, content in contents(source.files):
        count = 0
        for row, cells in rows(source.files, name, content, source.columns):
            count += 1
            if isinstance(cells, str):
                rejections.append(Rejection(source.name, name, row, "malformed_row", cells, ""))
            elif all(cell(cells.get(column)) in values for column, values in source.keep.items()):
                outcome = _message(source, labels, name, row, cells, max_chars)
                messages.append(outcome) if isinstance(outcome, Message) else rejections.append(outcome)
        if count == 0:
            raise BadInput("it holds no rows", where=name, remedy="Put the messages in it, or take it out of paths.")
    if not messages:
        raise _nothing_left(source, rejections)
    return messages, rejections


def _message(
    source: Source, labels: Mapping[str, str] | None, file: str, row: int, cells: Mapping[str, Any], max_chars: int
) -> Message | Rejection:
    raw = cells.get(source.text)
    text = raw if isinstance(raw, str) else ""

    def reject(reason: str, detail: str) -> Rejection:
        return Rejection(source.name, file, row, reason, detail, text)

    if raw is None or raw != raw or isinstance(raw, str) and not raw.strip():
        return reject("empty_text", f"column {source.text!r} is empty")
    if not isinstance(raw, str):
        return reject("not_text", f"column {source.text!r} holds a {type(raw).__name__}, not text")
    if "\0" in text:
        return reject("nul_character", f"a NUL at character {text.index(chr(0)) + 1}")
    if len(text) > max_chars:
        return reject("too_long", f"{len(text):,} characters, at most {max_chars:,} are taken")
    if not is_well_formed(text):
        return reject("lone_surrogate", "half of a UTF-16 pair without its other half")

    label = cell(cells.get(source.intent))
    secondary = cell(cells.get(source.secondary_intent)) if source.secondary_intent else ""
    slices = _slices(cells.get(source.slices)) if source.slices else ()
    if not label:
        return reject("empty_label", f"column {source.intent!r} is empty")
    if not all(map(is_well_formed, (label, secondary, *slices))):
        return reject("lone_surrogate", "a label or slice holds half of a UTF-16 pair without its other half")
    intent = _intent_of(source, labels, label)
    if intent is None:
        return reject(
            "unknown_label", f"{label!r} is not in {source.label_map if labels is not None and label not in labels else 'labels'}"
        )
    if intent == "":
        return reject("left_out", f"{label!r} is mapped to nothing in {source.label_map}")

    second: str | None = None
    if secondary:
        second = _intent_of(source, labels, secondary)
        if second is None:
            return reject("unknown_label", f"secondary label {secondary!r} is not in {source.label_map or 'labels'}")

    word = cell(cells.get(source.split)) if source.split else ""
    split = ""
    if word:
        found = source.split_map.get(word) if source.split_map is not None else SPLIT_WORDS.get(word.lower())
        if found is None:
            return reject("unknown_split", f"{word!r} is none of {', '.join(source.split_map or SPLIT_WORDS)}")
        if not found:
            return reject("left_out", f"split {word!r} is mapped to nothing")
        split = found
    return Message(
        source,
        file,
        row,
        text,
        label,
        intent,
        second if second and second != intent else None,
        slices,
        cast(Split, split) if split else None,
    )


def _intent_of(source: Source, labels: Mapping[str, str] | None, label: str) -> str | None:
    """The intent of a source's label, "" where it is left out on purpose, None where it is unknown."""
    if label == source.out_of_scope:
        return label
    intent = label if labels is None else labels.get(label)
    return None if intent and source.labels is not None and intent not in source.labels else intent


def _slices(value: Any) -> tuple[str, ...]:
    parts = re.split(r"[;,|]", value) if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ()
    return tuple(word for part in parts if (word := cell(part)))


def _read_label_map(source: Source) -> dict[str, str] | None:
    if source.label_map is None:
        return None
    path = source.folder / source.label_map
    try:
        labels = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BadInput(
            "there is no such label map", where=str(path), remedy=f"Create it, or correct label_map of source {source.name!r}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"not TOML ({error})", where=str(path), remedy='Write one line per label: "their label" = "your intent".') from error
    for label, intent in labels.items():
        if not isinstance(intent, str):
            raise BadInput(
                f"label {label!r} is not mapped to a string",
                where=str(path),
                remedy=f'Write {json.dumps(label)} = "intent"; quote labels that hold a dot.',
            )
    return labels


def _nothing_left(source: Source, rejections: Sequence[Rejection]) -> BadInput:
    where = f"source {source.name!r} ({', '.join(source.paths)})"
    if not rejections:
        return BadInput(
            f"no row has the values that keep asks for ({dict(source.keep)})", where=where, remedy="Correct keep, or leave it out."
        )
    reasons: dict[str, int] = {}
    for rejection in rejections:
        reasons[rejection.reason] = reasons.get(rejection.reason, 0) + 1
    reason, count = max(reasons.items(), key=lambda item: item[1])
    first = next(r for r in rejections if r.reason == reason)
    return BadInput(
        f"none of its {len(rejections):,} rows can be used; {count:,} for {reason}, "
        f"the first at {first.file} row {first.row}: {first.detail}",
        where=where,
        remedy="Correct text, intent or label_map of the source, or the file.",
    )
