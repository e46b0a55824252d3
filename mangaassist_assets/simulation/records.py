"""A day of traffic as the table of interactions, and as the segments that a service would have written."""

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import write_atomic
from mangaassist_assets.lib.drift.interactions import INTERACTIONS
from mangaassist_assets.simulation.pool import LANGUAGES, ROUTES
from mangaassist_assets.simulation.traffic import ERROR, DayOfTraffic

ARMS = ("champion", "canary")
SEGMENT_LINES = 20_000


def interactions_of(day: DayOfTraffic) -> pa.Table:
    """Columns INTERACTIONS, in order of time."""
    pool, n, answered = day.pool, len(day), ~day.failed
    midnight = (day.day - dt.date(1970, 1, 1)).days * 86_400_000_000
    at = midnight + day.at_us
    said = day.feedback_us >= 0
    shadow = day.shadow
    message = day.message
    columns: dict[str, pa.Array] = {
        "request_id": pa.array(_request_ids(day)),
        "occurred_at": pa.array(at).cast(pa.timestamp("us", "UTC")),
        "session": pa.array([f"{s:016x}" if s else None for s in day.session.tolist()], pa.string()),
        "text": _taken(pool.texts, message),
        "language": _taken(LANGUAGES, pool.language[message]),
        "intent": _taken(pool.intents, day.intent, answered),
        "confidence": pa.array(day.confidence, mask=day.failed),
        "secondary_intent": _taken(pool.intents, day.second, answered & (day.second >= 0)),
        "route": _taken(ROUTES, day.route),
        "model_digest": _taken([day.champion, day.canary_digest or ""], day.canary.astype(np.int64)),
        "arm": _taken(ARMS, day.canary.astype(np.int64)),
        "latency_ms": pa.array(day.latency_ms),
        "generator": pa.repeat(day.generator, n),
        "retrieved": pa.array([[]] * n, pa.list_(pa.string())),
        "flags": pa.array([["probe"] if probe else [] for probe in day.probe.tolist()], pa.list_(pa.string())),
        "sampling_probability": pa.repeat(pa.scalar(1.0, pa.float32()), n),
        "error": _taken([ERROR], np.zeros(n, np.int64), day.failed),
        "input_tokens": pa.repeat(pa.scalar(0, pa.int32()), n),
        "output_tokens": pa.repeat(pa.scalar(0, pa.int32()), n),
        "cost_usd": pa.repeat(0.0, n),
        "thumbs_up": pa.array(day.thumb == 1, mask=day.thumb < 0),
        "escalated": pa.array(day.escalated, mask=~said),
        "converted": pa.array(day.converted, mask=~said),
        "feedback_at": pa.array(at + np.maximum(day.feedback_us, 0), mask=~said).cast(pa.timestamp("us", "UTC")),
    }
    if shadow is not None:
        columns |= {
            "shadow_digest": pa.repeat(shadow.digest, n),
            "shadow_intent": _taken(pool.intents, shadow.intent[message]),
            "shadow_confidence": pa.array(shadow.confidence[message]),
            "shadow_latency_ms": pa.array(day.shadow_latency_ms),
        }
    columns |= {field.name: pa.nulls(n, field.type) for field in INTERACTIONS if field.name not in columns}
    return pa.table({name: columns[name] for name in INTERACTIONS.names}).cast(INTERACTIONS)


def lines_of(day: DayOfTraffic) -> list[bytes]:
    """The day's records, one line of JSON each: an answer, and after all answers what people said of them."""
    table = day.to_interactions()
    answers, feedback = [], []
    for row in table.to_pylist():
        said = {name: row.pop(name) for name in ("thumbs_up", "escalated", "converted")}
        at = row.pop("feedback_at")
        answers.append(_line({"kind": "answer"} | row | {"occurred_at": row["occurred_at"].isoformat(timespec="microseconds")}))
        if at is not None:
            feedback.append(
                _line({"kind": "feedback", "request_id": row["request_id"], "at": at.isoformat(timespec="microseconds")} | said)
            )
    return answers + feedback


def write_segments(folder: Path, day: DayOfTraffic) -> list[Path]:
    """Writes a day into `folder` of all interactions and returns the segments; writing the same day again changes nothing."""
    lines, place = lines_of(day), folder / day.day.isoformat()
    paths = []
    for number, start in enumerate(range(0, len(lines), SEGMENT_LINES), 1):
        paths.append(place / f"simulation-{day.run}-{number:06d}.jsonl")
        if not paths[-1].exists():
            write_atomic(paths[-1], b"".join(lines[start : start + SEGMENT_LINES]))
    return paths


def _request_ids(day: DayOfTraffic) -> list[str]:
    prefix = f"{day.day:%Y%m%d}-{day.run}-"
    return [f"{prefix}{number:x}" for number in range(len(day))]


def _taken(names: Sequence[str], rows: NDArray[np.int64], there: NDArray[np.bool_] | None = None) -> pa.Array:
    """Strings by position, null where not `there`."""
    index = pa.array(np.maximum(rows, 0), mask=None if there is None else ~there)
    return pa.array(list(names), pa.string()).take(index)


def _line(record: dict[str, Any]) -> bytes:
    """One line; what is null, zero or empty is left out, as readers take it for that anyway."""
    record = {name: value for name, value in record.items() if value or value is False}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
