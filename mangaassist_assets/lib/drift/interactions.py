"""What the service answered on a day, joined with what people said of it; every line of a segment ends here or in quarantine."""

import datetime as dt
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.drift.segments import segments_of
from mangaassist_assets.lib.messages.redaction import redact

INTERACTIONS = pa.schema(
    [
        ("request_id", pa.string()),
        ("occurred_at", pa.timestamp("us", "UTC")),
        ("session", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("intent", pa.string()),
        ("confidence", pa.float32()),
        ("secondary_intent", pa.string()),
        ("route", pa.string()),
        ("model_digest", pa.string()),
        ("arm", pa.string()),
        ("index_digest", pa.string()),
        ("latency_ms", pa.float32()),
        ("input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("cost_usd", pa.float64()),
        ("retrieved", pa.list_(pa.string())),
        ("prompt_variant", pa.string()),
        ("response", pa.string()),
        ("generator", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("sampling_probability", pa.float32()),
        ("shadow_digest", pa.string()),
        ("shadow_intent", pa.string()),
        ("shadow_confidence", pa.float32()),
        ("shadow_latency_ms", pa.float32()),
        ("error", pa.string()),
        ("thumbs_up", pa.bool_()),
        ("escalated", pa.bool_()),
        ("converted", pa.bool_()),
        ("feedback_at", pa.timestamp("us", "UTC")),
    ]
)
RETRIEVALS = pa.schema(
    [
        ("request_id", pa.string()),
        ("occurred_at", pa.timestamp("us", "UTC")),
        ("query", pa.string()),
        ("language", pa.string()),
        ("shown", pa.list_(pa.string())),
        ("index_digest", pa.string()),
        ("latency_ms", pa.float32()),
        ("clicked", pa.list_(pa.string())),
        ("thumbs_up", pa.bool_()),
        ("feedback_at", pa.timestamp("us", "UTC")),
    ]
)
QUARANTINED = pa.schema([("segment", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("preview", pa.string())])
INGESTED = pa.schema(
    [
        ("answers", pa.int64()),
        ("retrievals", pa.int64()),
        ("feedback", pa.int64()),
        ("shadows", pa.int64()),
        ("duplicates", pa.int64()),
        ("quarantined", pa.int64()),
        ("late", pa.int64()),
    ]
)
PREVIEW_CHARS = 80
PREVIEWED_BYTES = 2_000
BATCH_ROWS = 20_000
PROBE = "probe"
_ORDER = [("occurred_at", "ascending"), ("request_id", "ascending")]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Moment = Annotated[dt.datetime, msgspec.Meta(tz=True)]
RequestId = Annotated[str, msgspec.Meta(max_length=80)]


# ── records, one JSON object a line ─────────────────────────────────────────────────────────────────────────────────


class Answer(msgspec.Struct, tag_field="kind", tag="answer", gc=False, kw_only=True):
    """One text, and what the service said to it. Fields that it does not know are left unread, so that a writer may be newer.

    Attributes:
        request_id: `<YYYYMMDD>-<writer>-<number>`, the UTC day first.
        occurred_at: when it was answered.
        text: normalised and redacted.
        language: en, ja or mixed.
        route: stage of the cascade that answered: rules, student or classifier.
        latency_ms: from the request's arrival to its answer.
        session: 16 hex digits, a salted hash; null where the request named none.
        intent, confidence: null together, where the answer failed.
        secondary_intent: null where there is none.
        model_digest, index_digest: bundles that answered.
        arm: champion or canary.
        input_tokens, output_tokens, cost_usd: of a language model, 0 where none was asked.
        retrieved: ids of the documents that were found, best first.
        prompt_variant, response, generator: prompt, its outcome, and the fingerprint of the model behind it.
        flags: machine words; `probe` marks a golden message that the service was asked to test itself.
        sampling_probability: with which answers like this one are written.
        shadow_digest, shadow_intent, shadow_confidence, shadow_latency_ms: what the candidate said, where one ran beside.
        error: a machine word, null where it was answered.
    """

    request_id: RequestId
    occurred_at: Moment
    text: str
    language: str
    route: str
    latency_ms: Amount
    session: str | None = None
    intent: str | None = None
    confidence: Ratio | None = None
    secondary_intent: str | None = None
    model_digest: str | None = None
    arm: str = "champion"
    index_digest: str | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: Amount = 0.0
    retrieved: list[str] = []
    prompt_variant: str | None = None
    response: str | None = None
    generator: str | None = None
    flags: list[str] = []
    sampling_probability: Ratio = 1.0
    shadow_digest: str | None = None
    shadow_intent: str | None = None
    shadow_confidence: Ratio | None = None
    shadow_latency_ms: Amount | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.intent is None) != (self.confidence is None):
            raise ValueError("intent and confidence come together")
        if self.intent is None and self.error is None:
            raise ValueError("neither an intent nor an error")


class Retrieve(msgspec.Struct, tag_field="kind", tag="retrieve", gc=False, kw_only=True):
    """A query and the documents that it was answered with, best first; fields as in Answer."""

    request_id: RequestId
    occurred_at: Moment
    query: str
    language: str
    retrieved: list[str]
    index_digest: str
    latency_ms: Amount


class Shadow(msgspec.Struct, tag_field="kind", tag="shadow", gc=False, kw_only=True):
    """What the candidate said to a text that was answered already; fields as in Answer, null where it failed."""

    request_id: RequestId
    shadow_digest: str
    shadow_intent: str | None = None
    shadow_confidence: Ratio | None = None
    shadow_latency_ms: Amount | None = None


class Feedback(msgspec.Struct, tag_field="kind", tag="feedback", gc=False, kw_only=True):
    """What became of an answer. Null says nothing, and leaves standing what was said before.

    Attributes:
        at: when it was given.
        thumbs_up: False for a thumb down.
        escalated: handed to a person.
        converted: bought something.
        clicked: ids of the documents that were opened, of those that a query found.
    """

    request_id: RequestId
    at: Moment
    thumbs_up: bool | None = None
    escalated: bool | None = None
    converted: bool | None = None
    clicked: list[str] | None = None


Record = Answer | Retrieve | Shadow | Feedback
Word = TypeVar("Word", Shadow, Feedback)
_SAYINGS = ("thumbs_up", "escalated", "converted", "clicked")
_DECODER = msgspec.json.Decoder(Record)
_ENCODER = msgspec.json.Encoder()


def line_of(record: Record) -> bytes:
    """A record as the line that `Journal.append` takes."""
    return _ENCODER.encode(record) + b"\n"


# ── one day ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Ingested:
    """What a day's segments hold.

    Attributes:
        table: INTERACTIONS, one row per answer, in order of occurred_at and request_id.
        retrievals: RETRIEVALS, one row per query that documents were found for, in the same order.
        quarantined: QUARANTINED, one row per line that is no record of this day, with a preview that is redacted.
        counts: INGESTED, one row: answers, retrievals, feedback and shadows taken; duplicates of any of them; lines in quarantine; late
            ones, whose own time is past the end of the day: feedback that came later, or a clock that jumped.
    """

    table: pa.Table
    retrievals: pa.Table
    quarantined: pa.Table
    counts: pa.Table


_Place = tuple[str, int, bytes]  # segment, number of the line, the line


def read_day(folder: Path, day: dt.date) -> Ingested:
    """Reads a day's segments; a day without any has no rows. In how many segments the records stand, and in which order, changes nothing.

    An answer that stands there twice counts once. Of feedback, the last word on each of its fields holds. Feedback and shadow results
    for answers that are not there are in quarantine until a segment brings the answer.
    """
    prefix, end_of_day = f"{day:%Y%m%d}-", dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC)
    ids: dict[str, None] = {}
    batches: list[pa.RecordBatch] = []
    answers: list[Answer] = []
    queries: dict[str, Retrieve] = {}
    feedback: list[tuple[Feedback, _Place]] = []
    shadows: list[tuple[Shadow, _Place]] = []
    bad: list[dict[str, Any]] = []
    late = duplicates = 0
    for place in _lines(folder, day):
        try:
            record = _DECODER.decode(place[2])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            bad.append(_quarantine(place, _reason(place[2], error)))
            continue
        if not record.request_id.startswith(prefix):
            bad.append(_quarantine(place, "its request_id is not of this day"))
        elif isinstance(record, Feedback):
            feedback.append((record, place))
        elif isinstance(record, Shadow):
            shadows.append((record, place))
        elif record.request_id in ids or record.request_id in queries:
            duplicates += 1
        elif isinstance(record, Retrieve):
            queries[record.request_id] = record
            late += record.occurred_at >= end_of_day
        else:
            ids[record.request_id] = None
            late += record.occurred_at >= end_of_day
            answers.append(record)
            if len(answers) == BATCH_ROWS:
                batches.append(_batch(answers))
                answers.clear()
    batches.append(_batch(answers))

    words = _with_answers(feedback, ids.keys() | queries.keys(), bad)
    results = _with_answers(shadows, ids.keys(), bad)
    late += sum(word.at >= end_of_day for word in words)
    said, distinct = _last_words(words)
    beside = {result.request_id: result for result in reversed(results)}
    duplicates += len(words) - distinct + len(results) - len(beside)
    table = _joined(pa.Table.from_batches(batches), list(ids), said, beside)
    counts = {
        "answers": len(ids),
        "retrievals": len(queries),
        "feedback": distinct,
        "shadows": len(beside),
        "duplicates": duplicates,
        "quarantined": len(bad),
        "late": late,
    }
    quarantined = pa.Table.from_pylist(bad, QUARANTINED).sort_by([("segment", "ascending"), ("line", "ascending")])
    return Ingested(table, _retrievals(queries, said), quarantined, pa.Table.from_pylist([counts], INGESTED))


def _lines(folder: Path, day: dt.date) -> Iterator[_Place]:
    for path in segments_of(folder, day):
        segment = path.name
        for number, content in enumerate(path.read_bytes().split(b"\n"), 1):
            if content and not content.isspace():
                yield segment, number, content


def _batch(answers: list[Answer]) -> pa.RecordBatch:
    schema = pa.schema([INTERACTIONS.field(name) for name in Answer.__struct_fields__])
    columns = zip(*map(msgspec.structs.astuple, answers), strict=True) if answers else [()] * len(schema)
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


# ── joining ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_answers(records: list[tuple[Word, _Place]], ids: Set[str], bad: list[dict[str, Any]]) -> list[Word]:
    bad += [
        _quarantine(place, f"{type(record).__name__.lower()} for an answer that is not there")
        for record, place in records
        if record.request_id not in ids
    ]
    return [record for record, _ in records if record.request_id in ids]


def _last_words(words: list[Feedback]) -> tuple[dict[str, Feedback], int]:
    """Feedback by request id, the last word on each field of it; and how many pieces of it differ."""
    said: dict[str, Feedback] = {}
    distinct = {_ENCODER.encode(word): word for word in words}
    for word in sorted(distinct.values(), key=lambda word: word.at):
        before = said.get(word.request_id)
        if before is not None:
            kept = {name: getattr(before, name) for name in _SAYINGS if getattr(word, name) is None}
            word = msgspec.structs.replace(word, **kept)
        said[word.request_id] = word
    return said, len(distinct)


def _joined(answers: pa.Table, ids: list[str], said: dict[str, Feedback], beside: dict[str, Shadow]) -> pa.Table:
    columns = dict(zip(answers.column_names, answers.columns, strict=True))
    for name in ("thumbs_up", "escalated", "converted", "feedback_at"):
        source = name.removeprefix("feedback_")
        values = [getattr(word, source) if (word := said.get(i)) is not None else None for i in ids]
        columns[name] = pa.array(values, INTERACTIONS.field(name).type)
    if beside:
        results = [beside.get(i) for i in ids]
        for name in Shadow.__struct_fields__[1:]:
            values = [None if result is None else getattr(result, name) for result in results]
            columns[name] = pc.coalesce(columns[name], pa.array(values, INTERACTIONS.field(name).type))
    table = pa.table([columns[name] for name in INTERACTIONS.names], schema=INTERACTIONS)
    return table.sort_by(_ORDER)


def _retrievals(queries: dict[str, Retrieve], said: dict[str, Feedback]) -> pa.Table:
    rows = []
    for query in queries.values():
        word = said.get(query.request_id)
        row = msgspec.structs.asdict(query) | {"shown": query.retrieved}
        if word is not None:
            row |= {"clicked": word.clicked, "thumbs_up": word.thumbs_up, "feedback_at": word.at}
        rows.append(row)
    return pa.Table.from_pylist(rows, RETRIEVALS).sort_by(_ORDER)


# ── quarantine ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _quarantine(place: _Place, reason: str) -> dict[str, Any]:
    segment, line, content = place
    return {"segment": segment, "line": line, "reason": reason, "preview": _preview(content)}


def _preview(content: bytes) -> str:
    text = content[:PREVIEWED_BYTES].decode("utf-8", "replace")
    return redact(" ".join(_CONTROL.sub(" ", text).split()))[:PREVIEW_CHARS]


def _reason(content: bytes, error: Exception) -> str:
    if b"\0" in content:
        return "NUL bytes: it never reached the disk whole"
    try:
        content.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    if isinstance(error, msgspec.ValidationError):
        return "not a record: " + redact(_CONTROL.sub(" ", str(error)))[:200]
    return "not whole JSON"
