"""A day's interactions as sums, so that months are added up and never read again."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.interactions import PROBE
from mangaassist_assets.lib.errors import BadInput

KEYS = ("intent", "language", "route", "model_digest", "arm", "generator")
SUMS = (
    "n",
    "confidence_sum",
    "confidence_square_sum",
    "feedback",
    "thumbs_up",
    "thumbs_down",
    "escalated",
    "converted",
    "errors",
    "input_tokens",
    "output_tokens",
    "cost_usd",
)
_FLOATS = {"confidence_sum", "confidence_square_sum", "cost_usd"}
COUNTS = pa.schema(
    [
        ("day", pa.date32()),
        *((name, pa.string()) for name in KEYS),
        *((name, pa.float64() if name in _FLOATS else pa.int64()) for name in SUMS),
        ("latency_buckets", pa.list_(pa.int64())),
    ]
)
DAY = pa.schema(
    [
        ("day", pa.date32()),
        ("requests", pa.int64()),
        ("sessions", pa.int64()),
        ("busiest_minute", pa.int64()),
        ("probes", pa.int64()),
        ("probes_right", pa.int64()),
        ("duplicates", pa.int64()),
        ("quarantined", pa.int64()),
        ("late", pa.int64()),
        ("flagged", pa.int64()),
        ("latency_ms_p50", pa.float64()),
        ("latency_ms_p99", pa.float64()),
    ]
)
LATENCY_EDGES_MS: tuple[float, ...] = tuple(float(f"{10 ** (step / 10):.3g}") for step in range(-20, 41))
"""Upper edges of all latency buckets but the last: 0.01 ms to 10 s, ten to a decade, so that a quantile is known within 26%."""
BUCKETS = len(LATENCY_EDGES_MS) + 1


def count_day(
    interactions: pa.Table, day: dt.date, *, probe_labels: Mapping[str, str], ingested: pa.Table | None = None
) -> tuple[pa.Table, pa.Table]:
    """What a day comes to: COUNTS, one row per combination of KEYS that occurs, and DAY, one row.

    Golden probes are in no count but their own.

    Args:
        interactions: INTERACTIONS of the day.
        day: their day.
        probe_labels: right intent by text; a probe whose text is not there is no evidence and not counted.
        ingested: INGESTED, one row; without it duplicates, quarantined and late are null.
    """
    flags = interactions["flags"]
    is_probe = _rows_with(flags, PROBE)
    answers, probes = interactions.filter(pc.invert(is_probe)), interactions.filter(is_probe)
    labels = [
        (probe_labels.get(text), intent) for text, intent in zip(probes["text"].to_pylist(), probes["intent"].to_pylist(), strict=True)
    ]
    right = [label == intent for label, intent in labels if label is not None]
    latency = answers["latency_ms"].drop_null().to_numpy()
    found = ingested.to_pylist()[0] if ingested is not None else {}
    row = {
        "day": day,
        "requests": answers.num_rows,
        "sessions": pc.count_distinct(answers["session"], mode="only_valid").as_py(),
        "busiest_minute": _busiest_minute(answers["occurred_at"]),
        "probes": len(right),
        "probes_right": sum(right) if right else None,
        **{name: found.get(name) for name in ("duplicates", "quarantined", "late")},
        "flagged": pc.sum(pc.greater(pc.list_value_length(answers["flags"]), 0), min_count=0).as_py(),
        "latency_ms_p50": float(np.quantile(latency, 0.5)) if len(latency) else None,
        "latency_ms_p99": float(np.quantile(latency, 0.99)) if len(latency) else None,
    }
    return _counts(answers, day), pa.Table.from_pylist([row], DAY)


def _rows_with(flags: pa.ChunkedArray, flag: str) -> pa.Array:
    """(n,) booleans: whether the flag is among a row's flags."""
    flags = flags.combine_chunks()
    found = np.zeros(len(flags), bool)
    found[pc.list_parent_indices(flags).filter(pc.equal(pc.list_flatten(flags), flag)).to_numpy()] = True
    return pa.array(found)


def _busiest_minute(occurred_at: pa.ChunkedArray) -> int:
    minutes = occurred_at.cast(pa.int64()).to_numpy() // 60_000_000
    return int(np.unique(minutes, return_counts=True)[1].max(initial=0))


def _counts(answers: pa.Table, day: dt.date) -> pa.Table:
    group, first = _groups(answers, KEYS)
    confidence = pc.cast(answers["confidence"], pa.float64())
    values = {
        "n": pc.is_valid(answers["request_id"]),
        "confidence_sum": confidence,  # null where no answer of the group has any: nothing to sum is not a sum of 0
        "confidence_square_sum": pc.multiply(confidence, confidence),
        "feedback": pc.is_valid(answers["feedback_at"]),
        "thumbs_up": pc.fill_null(answers["thumbs_up"], False),
        "thumbs_down": pc.fill_null(pc.invert(answers["thumbs_up"]), False),
        "escalated": pc.fill_null(answers["escalated"], False),
        "converted": pc.fill_null(answers["converted"], False),
        "errors": pc.is_valid(answers["error"]),
        **{name: pc.fill_null(answers[name], 0) for name in ("input_tokens", "output_tokens", "cost_usd")},
    }
    columns: dict[str, Any] = {"day": pa.array([day] * len(first), pa.date32())}
    columns |= {name: answers[name].take(first) for name in KEYS}
    columns |= {name: _summed(values[name], group, len(first), COUNTS.field(name).type) for name in SUMS}
    measured = answers["latency_ms"].is_valid().to_numpy()
    bucket = np.searchsorted(LATENCY_EDGES_MS, answers["latency_ms"].drop_null().to_numpy().astype(np.float64))
    histograms = np.bincount(group[measured] * BUCKETS + bucket, minlength=BUCKETS * len(first))
    columns["latency_buckets"] = _lists(histograms)
    return pa.table([columns[name] for name in COUNTS.names], schema=COUNTS).sort_by([(name, "ascending") for name in KEYS])


def _summed(column: pa.ChunkedArray, group: NDArray[np.int64], groups: int, kind: pa.DataType) -> pa.Array:
    """(groups,) sums of a column, null where all of a group is."""
    values = pc.fill_null(column.cast(pa.float64()), 0).to_numpy()
    known = np.bincount(group, column.is_valid().to_numpy(), groups)
    return pa.array(np.bincount(group, values, groups), mask=known == 0).cast(kind)


def _lists(histograms: NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.arange(0, histograms.size + 1, BUCKETS, dtype=np.int32), histograms.ravel())


def _groups(table: pa.Table, keys: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) number of each row's combination of keys, null being a value like any other; (groups,) first row of each."""
    code = np.zeros(len(table), np.int64)
    for name in keys:
        encoded = pc.dictionary_encode(table[name].combine_chunks(), null_encoding="encode")
        code = code * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
        _, code = np.unique(code, return_inverse=True)
    _, first, group = np.unique(code, return_index=True, return_inverse=True)
    return group, first


# ── adding up ───────────────────────────────────────────────────────────────────────────────────────────────────────


def merge(counts: pa.Table, by: Sequence[str]) -> pa.Table:
    """COUNTS added up to one row per combination of `by`: those columns, SUMS and latency_buckets."""
    group, first = _groups(counts, by)
    columns = {name: counts[name].take(first) for name in by}
    columns |= {name: _summed(counts[name], group, len(first), COUNTS.field(name).type) for name in SUMS}
    histograms = np.zeros((len(first), BUCKETS), np.int64)
    np.add.at(histograms, group, pc.list_flatten(counts["latency_buckets"]).to_numpy().reshape(-1, BUCKETS))
    columns["latency_buckets"] = _lists(histograms)
    return pa.table(columns).sort_by([(name, "ascending") for name in by])


def latency_quantile(buckets: Sequence[int], q: float) -> float | None:
    """Milliseconds within which a share `q` of answers came, from their histogram; None where there are none.

    Inside a bucket latencies are taken as spread evenly on the log scale; below the first edge and above the last it is that edge.
    """
    if not 0 <= q <= 1:
        raise BadInput(f"{q} is no share", where="quantile", remedy="Give a number from 0 to 1.")
    if len(buckets) != BUCKETS:
        raise BadInput(f"{len(buckets)} buckets", where="latency_buckets", remedy=f"Give {BUCKETS}.")
    below = np.cumsum(buckets)
    if not below[-1]:
        return None
    place = q * below[-1]
    bucket = int(np.searchsorted(below, max(place, 1e-9)))
    if bucket in (0, BUCKETS - 1):
        return LATENCY_EDGES_MS[0 if bucket == 0 else -1]
    part = (place - (below[bucket] - buckets[bucket])) / buckets[bucket]
    low, high = LATENCY_EDGES_MS[bucket - 1], LATENCY_EDGES_MS[bucket]
    return float(low * (high / low) ** part)
