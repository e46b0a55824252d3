"""A day of traffic straight to the rows that drift is computed from, in milliseconds and without writing a text down.

The rows are those that `lib/drift/counts.py` makes of the same day's table of interactions, and `lib/drift/moments.py` of its vectors.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.counts import COUNTS, DAY, LATENCY_EDGES_MS
from mangaassist_assets.lib.drift.moments import MOMENTS, DriftSpace, Located, moments_of
from mangaassist_assets.lib.drift.triage import EVENTS
from mangaassist_assets.lib.messages.production_accuracy import PRODUCTION_ACCURACY
from mangaassist_assets.lib.statistics import expected_calibration_error, proportion
from mangaassist_assets.simulation.pool import LANGUAGES, ROUTES, Ints
from mangaassist_assets.simulation.records import ARMS
from mangaassist_assets.simulation.traffic import DayOfTraffic


@dataclass(frozen=True)
class Observed:
    """What the graph would know of some days.

    Attributes:
        traffic: COUNTS. days: DAY. moments: MOMENTS. accuracy: PRODUCTION_ACCURACY, from a random slice of each whole week. events: EVENTS.
    """

    traffic: pa.Table
    days: pa.Table
    moments: pa.Table
    accuracy: pa.Table
    events: pa.Table


def observe(
    days: Iterable[DayOfTraffic], space: DriftSpace, located: Located, *, embedded_per_day: int, control_per_week: int, seed: int
) -> Observed:
    """Counts days as they come.

    Args:
        days: from `traffic`, in order.
        space: where messages are compared.
        located: where the messages of the pool lie in it.
        embedded_per_day: distinct messages of each day that enter the moments.
        control_per_week: answers of each week, Monday to Sunday, drawn at random and labelled with the truth.
        seed: of both draws.
    """
    counts, rows, moments, accuracy, events = [], [], [], [], []
    week: list[DayOfTraffic] = []
    served: str | None = None
    for day in days:
        rng = np.random.default_rng([seed, day.day.toordinal()])
        counts.append(count(day))
        rows.append(day_row(day))
        moments.append(moments_of_day(day, space, located, embedded_per_day, rng))
        if served not in (None, day.champion):
            events.append({"at": dt.datetime.combine(day.day, dt.time(), dt.UTC), "kind": "release", "detail": day.champion})
        served = day.champion
        week.append(day)
        if day.day.weekday() == 6:
            accuracy += accuracy_rows(week, control_per_week, rng)
            week = []
    return Observed(
        pa.concat_tables(counts).combine_chunks(),
        pa.Table.from_pylist(rows, DAY),
        pa.concat_tables(moments).combine_chunks(),
        pa.Table.from_pylist(accuracy, PRODUCTION_ACCURACY),
        pa.Table.from_pylist(events, EVENTS),
    )


def count(day: DayOfTraffic) -> pa.Table:
    """Columns COUNTS; one row per combination of intent, language, route, model and arm that occurs, probes left out."""
    kept = ~day.probe
    message, failed, canary = day.message[kept], day.failed[kept], day.canary[kept].astype(np.int64)
    intents = len(day.pool.intents)
    intent = np.where(failed, intents, day.intent[kept])
    parts = (canary, day.route[kept], day.pool.language[message])
    sizes = (len(ARMS), len(ROUTES), len(LANGUAGES))
    key = intent
    for part, size in zip(parts, sizes, strict=True):
        key = key * size + part
    distinct, group = np.unique(key, return_inverse=True)
    found = []
    for size in reversed(sizes):
        distinct, part = np.divmod(distinct, size)
        found.append(part)
    language, route, arm = found
    width, n = len(LATENCY_EDGES_MS) + 1, len(distinct)

    def total(values: NDArray[np.generic]) -> NDArray[np.float64]:
        return np.bincount(group, values.astype(np.float64), n).astype(np.float64)

    confidence = np.where(failed, 0.0, day.confidence[kept].astype(np.float64))
    bucket = np.searchsorted(LATENCY_EDGES_MS, day.latency_ms[kept].astype(np.float64))
    histograms = np.bincount(group * width + bucket, minlength=width * n)
    thumb, said = day.thumb[kept], day.feedback_us[kept] >= 0
    zeros = np.zeros(n, np.int64)
    silent = total(~failed) == 0  # no answer, no confidence
    columns = {
        "day": pa.array([day.day] * n, pa.date32()),
        "intent": _named([*day.pool.intents, None], distinct),
        "language": _named(LANGUAGES, language),
        "route": _named(ROUTES, route),
        "model_digest": _named([day.champion, day.canary_digest], arm),
        "arm": _named(ARMS, arm),
        "generator": _named([day.generator], zeros),
        "n": np.bincount(group, minlength=n),
        "confidence_sum": pa.array(total(confidence), mask=silent),
        "confidence_square_sum": pa.array(total(confidence**2), mask=silent),
        "feedback": total(said),
        "thumbs_up": total(thumb == 1),
        "thumbs_down": total(thumb == 0),
        "escalated": total(day.escalated[kept]),
        "converted": total(day.converted[kept]),
        "errors": total(failed),
        "input_tokens": zeros,
        "output_tokens": zeros,
        "cost_usd": np.zeros(n),
        "latency_buckets": pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32) * width, histograms),
    }
    return pa.table({name: _cast(columns[name], COUNTS.field(name).type) for name in COUNTS.names}, COUNTS)


def day_row(day: DayOfTraffic) -> dict[str, object]:
    """One row of DAY; nothing arrives late, twice or damaged here."""
    kept = ~day.probe
    latency = day.latency_ms[kept]
    return {
        "day": day.day,
        "requests": int(kept.sum()),
        "sessions": len(np.unique(day.session[kept])),
        "busiest_minute": int(np.bincount(day.at_us[kept] // 60_000_000).max(initial=0)),
        "probes": int(day.probe.sum()),
        "probes_right": int(day.right[day.probe].sum()) if day.probe.any() else None,
        "duplicates": None,
        "quarantined": None,
        "late": None,
        "flagged": 0,
        "latency_ms_p50": float(np.quantile(latency, 0.5)) if len(latency) else None,
        "latency_ms_p99": float(np.quantile(latency, 0.99)) if len(latency) else None,
    }


def moments_of_day(day: DayOfTraffic, space: DriftSpace, located: Located, most: int, rng: np.random.Generator) -> pa.Table:
    """Columns MOMENTS, of at most `most` distinct messages of the day, each with the mean confidence it was answered with."""
    answered = ~day.probe & ~day.failed
    texts, place, times = np.unique(day.message[answered], return_inverse=True, return_counts=True)
    confidence = np.bincount(place, day.confidence[answered].astype(np.float64)) / times if len(texts) else np.zeros(0)
    drawn = rng.permutation(len(texts))[:most]
    return moments_of(space, located.take(texts[drawn]), confidence[drawn], day.day) if len(drawn) else MOMENTS.empty_table()


def accuracy_rows(week: list[DayOfTraffic], control: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """Rows of PRODUCTION_ACCURACY for days of one week: `control` answers drawn at random, held against the truth, by model."""
    right, confidence, digest = [], [], []
    for day in week:
        answered = ~day.probe & ~day.failed
        right.append(day.right[answered])
        confidence.append(day.confidence[answered])
        digest.append(np.where(day.canary[answered], day.canary_digest or "", day.champion))
    hit, sure, models = np.concatenate(right), np.concatenate(confidence), np.concatenate(digest)
    drawn: Ints = rng.permutation(len(hit))[:control]
    monday = week[-1].day - dt.timedelta(week[-1].day.weekday())
    rows: list[dict[str, object]] = []
    for model in np.unique(models[drawn]).tolist():
        of_it = drawn[models[drawn] == model]
        found = proportion(int(hit[of_it].sum()), len(of_it))
        rows.append(
            {
                "week": monday,
                "model_digest": model,
                "n": found.n,
                "accuracy": found.value,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
                "expected_calibration_error": expected_calibration_error(sure[of_it], hit[of_it]),
            }
        )
    return rows


def _named(names: list[str | None] | list[str] | tuple[str, ...], rows: Ints) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(rows))


def _cast(column: pa.Array | NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    return (column if isinstance(column, pa.Array) else pa.array(column)).cast(kind)
