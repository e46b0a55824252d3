"""A gate passes only on evidence: whole intervals, never missing, empty or NaN figures."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.statistics import Estimate
from mangaassist_assets.lib.verdicts import Gate, Verdict, combine, judge

FLOOR = Gate("accuracy", "data_science", "at_least", 0.9)
CEILING = Gate("latency_ms_p99", "engineering", "at_most", 50.0)


@pytest.mark.parametrize(
    ("gate", "interval", "verdict"),
    [
        (FLOOR, (0.9, 0.95), Verdict.PASS),
        (FLOOR, (0.89, 0.95), Verdict.INCONCLUSIVE),
        (FLOOR, (0.80, 0.899), Verdict.FAIL),
        (CEILING, (40.0, 50.0), Verdict.PASS),
        (CEILING, (40.0, 51.0), Verdict.INCONCLUSIVE),
        (CEILING, (51.0, 60.0), Verdict.FAIL),
        (CEILING, (40.0, math.inf), Verdict.INCONCLUSIVE),
        (CEILING, (51.0, math.inf), Verdict.FAIL),
    ],
)
def test_a_gate_looks_at_the_whole_interval(gate, interval, verdict):
    assert judge(gate, Estimate(sum(min(x, 100.0) for x in interval) / 2, *interval, 100)).verdict is verdict


@pytest.mark.parametrize("gate", [FLOOR, CEILING])
@pytest.mark.parametrize(
    "estimate",
    [
        None,
        Estimate(0.99, 0.98, 1.0, 0),
        Estimate(math.nan, 0.98, 1.0, 9),
        Estimate(0.99, math.nan, 1.0, 9),
        Estimate(0.99, 0.98, math.nan, 9),
        Estimate(math.inf, 0.98, math.inf, 9),
    ],
)
def test_missing_evidence_fails_and_shows_no_figures(gate, estimate):
    judgement = judge(gate, estimate)
    assert (judgement.verdict, judgement.observed, judgement.ci_low, judgement.ci_high, judgement.n) == (Verdict.FAIL, None, None, None, 0)
    assert judgement.reason == "not measured"


@given(
    numbers=st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 3),
    n=st.integers(-1, 5),
    gate=st.sampled_from([FLOOR, CEILING]),
)
def test_nothing_but_a_measured_interval_within_the_limit_ever_passes(numbers, n, gate):
    verdict = judge(gate, Estimate(*numbers, n)).verdict
    if verdict is Verdict.PASS:
        value, low, high = numbers
        assert n > 0 and math.isfinite(value) and not math.isnan(low) and not math.isnan(high)
        assert min(low, high) >= gate.threshold if gate is FLOOR else max(low, high) <= gate.threshold


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_gate_without_a_threshold_is_refused(threshold):
    with pytest.raises(BadInput, match="gate accuracy"):
        Gate("accuracy", "data_science", "at_least", threshold)


@given(st.lists(st.sampled_from(list(Verdict)), max_size=6))
def test_a_release_passes_only_if_every_gate_does_and_there_is_one(verdicts):
    assert (combine(verdicts) is Verdict.PASS) == (bool(verdicts) and set(verdicts) == {Verdict.PASS})
    assert (combine(verdicts) is Verdict.FAIL) == (not verdicts or Verdict.FAIL in verdicts)
