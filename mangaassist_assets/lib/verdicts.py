"""Gates: an agreed threshold, what was observed, and a verdict of three values.

A gate compares the whole interval with the threshold, not the point alone: PASS where every plausible value satisfies
it, FAIL where none does, INCONCLUSIVE between. Missing, empty or NaN evidence is FAIL.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mangaassist_assets.lib.statistics import Estimate


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Gate:
    """An agreed limit on one metric.

    Attributes:
        metric: name with its unit, such as `latency_ms_p99`.
        owner: who agreed to it: `data_science`, `engineering` or `joint`.
        direction: `at_least` or `at_most` the threshold.
        threshold: in the metric's own unit.
    """

    metric: str
    owner: Literal["data_science", "engineering", "joint"]
    direction: Literal["at_least", "at_most"]
    threshold: float


@dataclass(frozen=True)
class Judgement:
    """One gate held against one estimate; observed and interval are None where nothing was measured."""

    metric: str
    owner: str
    threshold: float
    observed: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    verdict: Verdict
    reason: str


def judge(gate: Gate, estimate: Estimate | None) -> Judgement:
    """Holds `estimate` against `gate`; None, n = 0 or a NaN anywhere is FAIL with its reason."""
    if estimate is None or estimate.n == 0 or any(map(math.isnan, (estimate.value, estimate.ci_low, estimate.ci_high))):
        return Judgement(gate.metric, gate.owner, gate.threshold, None, None, None, 0, Verdict.FAIL, "not measured")
    sign, word = (1.0, ">=") if gate.direction == "at_least" else (-1.0, "<=")
    best, worst = sorted((sign * estimate.ci_low, sign * estimate.ci_high), reverse=True)
    limit = sign * gate.threshold
    if worst >= limit:
        verdict, reason = Verdict.PASS, f"the whole interval is {word} {gate.threshold:g}"
    elif best < limit:
        verdict, reason = Verdict.FAIL, f"no part of the interval is {word} {gate.threshold:g}"
    else:
        verdict, reason = Verdict.INCONCLUSIVE, f"the interval straddles {gate.threshold:g}: n = {estimate.n} cannot decide"
    return Judgement(gate.metric, gate.owner, gate.threshold, estimate.value, estimate.ci_low, estimate.ci_high, estimate.n, verdict, reason)


def combine(verdicts: list[Verdict]) -> Verdict:
    """FAIL if any fails or there is none, else INCONCLUSIVE if any is, else PASS."""
    if not verdicts or Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else Verdict.PASS
