"""A day's sums equal those of its rows, and sums of days add up."""

import datetime as dt
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.counts import COUNTS, DAY, KEYS, LATENCY_EDGES_MS, SUMS, count_day, latency_quantile, merge
from mangaassist_assets.lib.drift.interactions import INGESTED, INTERACTIONS
from mangaassist_assets.lib.errors import BadInput

TODAY = dt.date(2026, 11, 24)
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
EMPTY = INTERACTIONS.empty_table()


def interactions(n=400, seed=0):
    """Rows with every combination of null and value that counts."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        failed = rng.random() < 0.1
        told = rng.random() < 0.3
        rows.append({
            "request_id": f"20261124-a-{i}", "occurred_at": NOW + dt.timedelta(seconds=int(rng.integers(0, 600))), "text": f"text {i % 7}",
            "session": None if rng.random() < 0.2 else f"{rng.integers(0, 50):016x}", "language": ("en", "ja")[rng.integers(2)],
            "intent": None if failed else ("faq", "chitchat")[rng.integers(2)], "confidence": None if failed else float(rng.random()),
            "route": ("rules", "student")[rng.integers(2)], "model_digest": ("a" * 64, None)[rng.integers(2)], "arm": "champion",
            "latency_ms": float(rng.lognormal(0, 2)), "input_tokens": int(rng.integers(0, 5)), "output_tokens": 1, "cost_usd": 0.5,
            "flags": [[], ["probe"], ["odd"], ["odd", "probe"]][rng.choice(4, p=[0.8, 0.1, 0.05, 0.05])],
            "error": "deadline" if failed else None,
            "thumbs_up": [True, False, None][rng.integers(3)] if told else None, "escalated": bool(rng.integers(2)) if told else None,
            "converted": None, "feedback_at": NOW if told else None,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, INTERACTIONS)


def test_counts_equal_what_a_loop_over_the_rows_finds():
    table = interactions()
    counts, _ = count_day(table, TODAY, probe_labels={})
    assert counts.schema == COUNTS
    expected: dict[tuple, Counter] = {}
    for row in table.to_pylist():
        if "probe" in row["flags"]:
            continue
        sums = expected.setdefault(tuple(row[key] for key in KEYS), Counter())
        sums.update({
            "n": 1, "confidence_sum": row["confidence"] or 0, "confidence_square_sum": (row["confidence"] or 0) ** 2,
            "feedback": row["feedback_at"] is not None, "thumbs_up": row["thumbs_up"] is True, "thumbs_down": row["thumbs_up"] is False,
            "escalated": row["escalated"] is True, "converted": row["converted"] is True, "errors": row["error"] is not None,
            "input_tokens": row["input_tokens"], "output_tokens": row["output_tokens"], "cost_usd": row["cost_usd"],
        })  # fmt: skip
    found = {tuple(row[key] for key in KEYS): row for row in counts.to_pylist()}
    assert found.keys() == expected.keys()
    for key, sums in expected.items():
        assert {name: found[key][name] or 0 for name in SUMS} == pytest.approx(dict(sums))
        assert sum(found[key]["latency_buckets"]) == sums["n"]
        assert found[key]["day"] == TODAY


def test_answers_that_failed_have_no_confidence_rather_than_none_of_it():
    counts, _ = count_day(interactions(), TODAY, probe_labels={})
    for row in counts.to_pylist():
        assert (row["confidence_sum"] is None) == (row["intent"] is None) == (row["confidence_square_sum"] is None)


def test_the_day_is_summed_up_in_one_row():
    table = interactions()
    ingested = pa.Table.from_pylist([{"duplicates": 1, "quarantined": 2, "late": 3}], INGESTED)
    _, day = count_day(table, TODAY, probe_labels={"text 1": "faq"}, ingested=ingested)
    assert day.schema == DAY
    (row,) = day.to_pylist()
    rows = table.to_pylist()
    answers, probes = ([r for r in rows if ("probe" in r["flags"]) is wanted] for wanted in (False, True))
    known = [r for r in probes if r["text"] == "text 1"]
    latency = np.array([r["latency_ms"] for r in answers], np.float32)
    assert row == {
        "day": TODAY,
        "requests": len(answers),
        "sessions": len({r["session"] for r in answers} - {None}),
        "busiest_minute": max(Counter(r["occurred_at"].replace(second=0) for r in answers).values()),
        "probes": len(known),
        "probes_right": sum(r["intent"] == "faq" for r in known),
        "duplicates": 1,
        "quarantined": 2,
        "late": 3,
        "flagged": sum(bool(r["flags"]) for r in answers),
        "latency_ms_p50": pytest.approx(np.quantile(latency, 0.5)),
        "latency_ms_p99": pytest.approx(np.quantile(latency, 0.99)),
    }


def test_what_was_not_seen_is_null_and_not_zero():
    counts, day = count_day(EMPTY, TODAY, probe_labels={})
    assert (counts.schema, counts.num_rows) == (COUNTS, 0)
    (row,) = day.to_pylist()
    assert [name for name, value in row.items() if value is None] == [
        "probes_right", "duplicates", "quarantined", "late", "latency_ms_p50", "latency_ms_p99"
    ]  # fmt: skip
    assert (row["requests"], row["sessions"], row["busiest_minute"], row["flagged"]) == (0, 0, 0, 0)


def test_counting_days_apart_and_adding_up_equals_counting_them_together():
    first, second = interactions(seed=1), interactions(seed=2)
    apart = pa.concat_tables([count_day(table, TODAY, probe_labels={})[0] for table in (first, second)])
    together, _ = count_day(pa.concat_tables([first, second]), TODAY, probe_labels={})
    for by in (KEYS, ("language",), ("intent", "generator")):
        for row, other in zip(merge(apart, by).to_pylist(), merge(together, by).to_pylist(), strict=True):
            assert row.pop("latency_buckets") == other.pop("latency_buckets")
            assert row == pytest.approx(other)


def test_adding_up_nothing_is_nothing():
    assert merge(COUNTS.empty_table(), ["intent"]).num_rows == 0


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99])
def test_a_quantile_of_latency_lies_within_a_bucket_of_the_true_one(q):
    latency = np.random.default_rng(3).lognormal(1, 1.5, 5000)
    buckets = np.bincount(np.searchsorted(LATENCY_EDGES_MS, latency), minlength=len(LATENCY_EDGES_MS) + 1)
    found = latency_quantile(buckets.tolist(), q)
    assert abs(np.log10(found / np.quantile(latency, q))) <= 0.1


def test_quantiles_at_the_ends_are_the_edges_and_of_nothing_there_is_none():
    width = len(LATENCY_EDGES_MS) + 1
    fast, slow = [0] * width, [0] * width
    fast[0] = slow[-1] = 5
    assert (latency_quantile(fast, 0.5), latency_quantile(slow, 0.0)) == (0.01, 10_000.0)
    assert latency_quantile([0] * width, 0.5) is None
    for wrong in (([0] * width, 1.5), ([1, 2], 0.5), ([0] * width, float("nan"))):
        with pytest.raises(BadInput):
            latency_quantile(*wrong)
