"""Which candidate serves: hard limits first, then what a point of accuracy costs.

A candidate is eligible if it was measured and keeps the limits on P99 and accuracy. Eligible candidates on the Pareto front of
accuracy, P99 and cost are walked from the cheapest up. The next one replaces the best so far only if it is more accurate beyond the
paired interval, on the same messages, and if a point of that gain costs less than the limit at the stated volume.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from mangaassist_assets.lib.errors import BadInput, MissingEvidence
from mangaassist_assets.lib.statistics import Estimate, finite_or_none, paired_difference

DAYS_PER_MONTH = 30
DIMENSIONS = ("accuracy", "latency_ms_p99", "usd_per_million")

MODEL_SELECTION = pa.schema(
    [
        ("candidate", pa.string()),
        ("chosen", pa.bool_()),
        ("reason", pa.string()),
        ("usd_per_marginal_accuracy_point", pa.float64()),
        ("dominated_by", pa.string()),
        ("eligible", pa.bool_()),
        ("usd_per_month", pa.float64()),
        ("compared_with", pa.string()),
        *((name, pa.float64()) for name in ("accuracy_gain", "accuracy_gain_low", "accuracy_gain_high")),
    ]
)


@dataclass(frozen=True)
class SelectionRules:
    """What a classifier must keep to be chosen.

    Attributes:
        latency_ms_p99: most milliseconds within which 99 of 100 requests are answered.
        accuracy: least share of held-out messages answered right, the floor.
        usd_per_point: US dollars a month that one more point of accuracy may cost.
        messages_per_day: volume that those dollars are reckoned at.
    """

    latency_ms_p99: float = 50.0
    accuracy: float = 0.90
    usd_per_point: float = 3000.0
    messages_per_day: float = 500_000

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise BadInput(f"{self.accuracy} is no ratio", where="selection.accuracy", remedy="Give a number from 0 to 1, such as 0.9.")
        for name in ("latency_ms_p99", "usd_per_point", "messages_per_day"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"{getattr(self, name)} is no limit", where=f"selection.{name}", remedy="Give a number above 0.")


@dataclass(frozen=True)
class Selection:
    """The choice.

    Attributes:
        chosen: name of the candidate, None where none is eligible.
        reason: why it, or why nobody.
        table: one row per candidate, columns MODEL_SELECTION.
    """

    chosen: str | None
    reason: str
    table: pa.Table


@dataclass
class _Row:
    candidate: str
    reason: str = ""
    eligible: bool = False
    dominated_by: str | None = None
    usd_per_month: float | None = None
    compared_with: str | None = None
    usd_per_point: float | None = None
    gain: Estimate | None = None


def select(benchmark: pa.Table, answers: Mapping[str, pa.Table], rules: SelectionRules, *, seed: int) -> Selection:
    """Chooses among the candidates of a benchmark.

    Args:
        benchmark: one row per candidate: candidate, status (measured | skipped), reason, accuracy, latency_ms_p99, usd_per_million.
        answers: of each measured candidate, its answers to the held-out messages: message_id, intent (true), predicted.
        rules: the limits.
        seed: of the paired intervals.

    In the table, `usd_per_marginal_accuracy_point` is US dollars a month per point (1/100) of accuracy, at the rules' volume, against
    `compared_with`: the best eligible candidate that is cheaper. It is null for candidates without a cheaper eligible one, without a
    gain, or not eligible. `accuracy_gain` is that gain as a ratio, with its paired interval.

    Raises:
        MissingEvidence: two candidates that have to be compared answered no message in common.
    """
    found = {str(row["candidate"]): row for row in benchmark.to_pylist()}
    rows = {name: _judge(name, figures, rules) for name, figures in found.items()}
    measured = [name for name in found if all(_figure(found[name], dimension) is not None for dimension in DIMENSIONS)]
    for name in measured:
        dominators = [other for other in measured if _dominates(found[other], found[name])]
        if dominators:
            rows[name].dominated_by = min(dominators, key=lambda other: (-found[other]["accuracy"], found[other]["usd_per_million"]))
            if rows[name].eligible:
                rows[name].reason = f"dominated by {rows[name].dominated_by}, which is as accurate, as fast and as cheap or better"
    front = [name for name in measured if rows[name].eligible and rows[name].dominated_by is None]
    front.sort(key=lambda name: (found[name]["usd_per_million"], -found[name]["accuracy"]))
    chosen = _walk(front, rows, answers, rules, seed) if front else None
    if chosen is not None:
        reason = rows[chosen].reason
    else:
        reason = "no candidate is eligible: " + ("; ".join(f"{row.candidate}: {row.reason}" for row in rows.values()) or "there is none")
    return Selection(chosen, reason, _table(rows.values(), chosen))


def _walk(front: list[str], rows: Mapping[str, _Row], answers: Mapping[str, pa.Table], rules: SelectionRules, seed: int) -> str:
    best = front[0]
    rows[best].reason = "the only eligible candidate that none dominates" if len(front) == 1 else "the cheapest eligible candidate"
    for name in front[1:]:
        row, gain = rows[name], _gain(answers[best], answers[name], seed)
        row.compared_with, row.gain = best, gain
        extra_usd = (row.usd_per_month or 0.0) - (rows[best].usd_per_month or 0.0)
        per_point = extra_usd / (100 * gain.value) if gain.value > 0 else None
        row.usd_per_point = per_point
        points = f"{100 * gain.value:+.1f} points [{100 * gain.ci_low:+.1f}, {100 * gain.ci_high:+.1f}]"
        if per_point is None:
            row.reason = f"no more accurate than {best}, which is cheaper: {points}"
        elif gain.ci_low <= 0:
            row.reason = f"ties with {best} within the paired interval, and {best} is cheaper: {points}"
        elif per_point >= rules.usd_per_point:
            row.reason = f"{_usd(per_point)} a month per point over {best} >= {_usd(rules.usd_per_point)}: {points}"
        else:
            row.reason = f"{points} over {best} at {_usd(per_point)} a month per point < {_usd(rules.usd_per_point)}"
            rows[best].reason = f"{name} is worth its price: {points} at {_usd(per_point)} a month per point"
            best = name
    return best


def _judge(name: str, figures: Mapping[str, object], rules: SelectionRules) -> _Row:
    """A candidate held against the hard limits alone."""
    if figures["status"] != "measured":
        return _Row(name, f"skipped: {figures['reason']}")
    accuracy, p99, usd = (_figure(figures, dimension) for dimension in DIMENSIONS)
    problems = []
    if accuracy is None:
        problems.append("accuracy was not measured")
    elif accuracy < rules.accuracy:
        problems.append(f"accuracy {accuracy:.1%} is below the accuracy floor of {rules.accuracy:.1%}")
    if p99 is None:
        problems.append("P99 was not measured")
    elif p99 > rules.latency_ms_p99:
        problems.append(f"P99 {p99:.3g} ms > {rules.latency_ms_p99:g} ms")
    if usd is None:
        problems.append("its cost is not known")
    month = None if usd is None else usd * rules.messages_per_day * DAYS_PER_MONTH / 1e6
    return _Row(name, "; ".join(problems), eligible=not problems, usd_per_month=month)


def _figure(figures: Mapping[str, object], name: str) -> float | None:
    value = figures[name]
    return value if figures["status"] == "measured" and isinstance(value, float) and math.isfinite(value) else None


def _dominates(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Nowhere worse and somewhere better: more accurate, faster, cheaper."""
    mine, theirs = ((-figures["accuracy"], figures["latency_ms_p99"], figures["usd_per_million"]) for figures in (one, other))
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _gain(before: pa.Table, after: pa.Table, seed: int) -> Estimate:
    right = [
        {
            message: said == true
            for message, said, true in zip(*(table[c].to_pylist() for c in ("message_id", "predicted", "intent")), strict=True)
        }
        for table in (before, after)
    ]
    shared = sorted(right[0].keys() & right[1].keys())
    if not shared:
        raise MissingEvidence("two candidates answered no message in common; materialise intent_candidates again for both.")
    return paired_difference([right[0][m] for m in shared], [right[1][m] for m in shared], seed=seed)


def _table(rows: Iterable[_Row], chosen: str | None) -> pa.Table:
    content = [
        {
            "candidate": row.candidate,
            "chosen": row.candidate == chosen,
            "reason": row.reason,
            "usd_per_marginal_accuracy_point": row.usd_per_point,
            "dominated_by": row.dominated_by,
            "eligible": row.eligible,
            "usd_per_month": row.usd_per_month,
            "compared_with": row.compared_with,
            "accuracy_gain": None if row.gain is None else finite_or_none(row.gain.value),
            "accuracy_gain_low": None if row.gain is None else finite_or_none(row.gain.ci_low),
            "accuracy_gain_high": None if row.gain is None else finite_or_none(row.gain.ci_high),
        }
        for row in rows
    ]
    return pa.Table.from_pylist(content, MODEL_SELECTION)


def _usd(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"
