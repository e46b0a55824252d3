"""What a release must show before it may serve: agreed limits on accuracy, each class, each class's change, latency and throughput."""

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.intents.evaluation import HELD_OUT, f1_drop, f1_estimate
from mangaassist_assets.lib.statistics import Estimate, finite_or_none, proportion
from mangaassist_assets.lib.verdicts import Gate, Judgement, Verdict, combine, judge

GATES = pa.schema(
    [
        ("release", pa.string()),
        ("metric", pa.string()),
        ("owner", pa.string()),
        ("threshold", pa.float64()),
        ("observed", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),
        ("verdict", pa.string()),
        ("measured_at", pa.timestamp("us", "UTC")),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class GateLimits:
    """The limits agreed on for a release; the defaults are those that data science and engineering agreed on.

    Attributes:
        accuracy: least share of held-out messages answered right.
        class_f1: least F1 of every class.
        class_f1_drop: most that the F1 of any class may fall against the champion, on the same messages.
        latency_ms_p99: most milliseconds within which 99 of 100 requests are answered.
        throughput_per_s: least messages per second on one instance, in batches.
    """

    accuracy: float = 0.90
    class_f1: float = 0.85
    class_f1_drop: float = 0.02
    latency_ms_p99: float = 50.0
    throughput_per_s: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("accuracy", "class_f1", "class_f1_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(
                    f"{getattr(self, name)} is no ratio", where=f"gates.{name}", remedy="Give a number from 0 to 1, such as 0.9."
                )
        for name in ("latency_ms_p99", "throughput_per_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"{getattr(self, name)} is no limit", where=f"gates.{name}", remedy="Give a number above 0.")


@dataclass(frozen=True)
class OfflineGates:
    """The judgements of one release, and what they amount to: FAIL if any fails, else INCONCLUSIVE if any is, else PASS."""

    release: str
    judgements: tuple[Judgement, ...]

    @property
    def verdict(self) -> Verdict:
        return combine([judgement.verdict for judgement in self.judgements])

    @property
    def reason(self) -> str:
        """One line: the gates that did not pass, failures first, or that all did."""
        failed, unsure = ([j for j in self.judgements if j.verdict is v] for v in (Verdict.FAIL, Verdict.INCONCLUSIVE))
        if not failed and not unsure:
            return f"all {len(self.judgements)} gates pass"
        named = [f"{j.metric} {_short(j.observed)}" for j in (*failed, *unsure)]
        more = f" and {len(named) - 4} more" if len(named) > 4 else ""
        return f"{len(failed)} of {len(self.judgements)} gates fail, {len(unsure)} cannot be decided: {', '.join(named[:4])}{more}"

    def table(self, measured_at: dt.datetime) -> pa.Table:
        """One row per metric, columns GATES."""
        return gates_table(self.release, self.judgements, measured_at)


def gates_table(release: str, judgements: Sequence[Judgement], measured_at: dt.datetime) -> pa.Table:
    """One row per metric, columns GATES; a bound that the data cannot give is null."""
    rows = [
        {
            "release": release,
            "metric": judgement.metric,
            "owner": judgement.owner,
            "threshold": judgement.threshold,
            "observed": judgement.observed,
            "ci_low": None if judgement.ci_low is None else finite_or_none(judgement.ci_low),
            "ci_high": None if judgement.ci_high is None else finite_or_none(judgement.ci_high),
            "n": judgement.n,
            "verdict": judgement.verdict.value,
            "measured_at": measured_at,
            "reason": judgement.reason,
        }
        for judgement in judgements
    ]
    return pa.Table.from_pylist(rows, GATES)


def offline_gates(
    release: str,
    predictions: pa.Table,
    *,
    labels: Sequence[str],
    champion: pa.Table | None,
    latency_ms_p99: Estimate | None,
    throughput_per_s: Estimate | None,
    limits: GateLimits,
    seed: int,
    splits: Sequence[str] = HELD_OUT,
) -> OfflineGates:
    """Holds a release against the limits.

    Args:
        release: digest of its bundle.
        predictions: its answers, columns message_id, split, intent (true), predicted.
        labels: every label that it can answer; each has its own gates, whether or not a message shows it.
        champion: answers of the serving model to the same messages, columns message_id and predicted; None where none serves, and then
            only the absolute gates are asked.
        latency_ms_p99: measured; None where it was not, which fails.
        throughput_per_s: measured; None where it was not, which fails.
        limits: the thresholds.
        seed: of the intervals.
        splits: of the messages that count.

    A drop of a class passes only if its whole interval is at most the limit. Every class has to pass, so no correction for their number
    is due: the chance to pass wrongly is largest where a single class is bad, and there it is that of one test.
    """
    held_out = predictions.filter(pc.is_in(predictions["split"], pa.array(splits, pa.string())))
    true, given = _column(held_out, "intent"), _column(held_out, "predicted")
    gates: list[tuple[Gate, Estimate | None]] = [
        (Gate("accuracy", "data_science", "at_least", limits.accuracy), proportion(int((true == given).sum()), len(true)))
    ]
    for label in labels:
        right, answered, meant = _class_counts(true, given, label)
        gate = Gate(f"f1:{label}", "data_science", "at_least", limits.class_f1)
        gates.append((gate, f1_estimate(right, answered - right, meant - right)))
    if champion is not None:
        earlier = dict(zip(champion["message_id"].to_pylist(), champion["predicted"].to_pylist(), strict=True))
        before = np.array([earlier.get(message_id) for message_id in held_out["message_id"].to_pylist()], object)
        shared = np.array([answer is not None for answer in before], bool)
        for label in labels:
            gate = Gate(f"f1_drop:{label}", "data_science", "at_most", limits.class_f1_drop)
            is_class, said, says = true[shared] == label, before[shared] == label, given[shared] == label
            gates.append((gate, f1_drop(is_class, said, says, seed=seed)))
    gates.append((Gate("latency_ms_p99", "engineering", "at_most", limits.latency_ms_p99), latency_ms_p99))
    gates.append((Gate("throughput_per_s", "engineering", "at_least", limits.throughput_per_s), throughput_per_s))
    return OfflineGates(release, tuple(judge(gate, estimate) for gate, estimate in gates))


def _column(table: pa.Table, name: str) -> NDArray[np.object_]:
    return np.array(table[name].to_pylist(), object)


def _class_counts(true: NDArray[np.object_], given: NDArray[np.object_], label: str) -> tuple[int, int, int]:
    """Messages of a class that were answered so, messages answered so, messages of the class."""
    meant, answered = true == label, given == label
    return int((meant & answered).sum()), int(answered.sum()), int(meant.sum())


def _short(observed: float | None) -> str:
    return "not measured" if observed is None else f"{observed:.4g}"
