"""Gates: an agreed threshold, what was observed, and a verdict of three values.

A gate compares the whole interval with the threshold, not the point alone: PASS where every plausible value satisfies
it, FAIL where none does, INCONCLUSIVE between. Missing, empty or NaN evidence is FAIL. An infinite bound is honest evidence of
too few items, so it can only hold a release or fail it.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.statistics import Estimate


class Verdict(StrEnum):
    """What a gate says; INCONCLUSIVE holds, it neither promotes nor rolls back."""

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
        threshold: in the metric's own unit; BadInput unless it is a finite number.
    """

    metric: str
    owner: Literal["data_science", "engineering", "joint"]
    direction: Literal["at_least", "at_most"]
    threshold: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise BadInput(f"{self.threshold} is no threshold", where=f"gate {self.metric}", remedy="Set it to a finite number.")


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
    """Holds `estimate` against `gate`; None, n = 0, a value that is not finite, or a NaN bound is FAIL with its reason."""
    if estimate is None or not estimate.is_measured:
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
    return Judgement(
        gate.metric, gate.owner, gate.threshold, estimate.value, estimate.ci_low, estimate.ci_high, estimate.n, verdict, reason
    )


def combine(verdicts: list[Verdict]) -> Verdict:
    """FAIL if any fails or there is none, else INCONCLUSIVE if any is, else PASS."""
    if not verdicts or Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else Verdict.PASS
