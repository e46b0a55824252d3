"""Turning logits into probabilities that mean what they say, all fitted on the validation split.

- `fit_scales`: one factor for each expert's logits, so that their weighted sum is the best joint probability. With one
  expert this is temperature scaling (Guo et al. 2017); with two it is a product of experts (Hinton 2002).
- `Presence`: Platt scaling (Platt 1999) of the multi-label logits, and a threshold for each label.
- `fit_out_of_scope_shift`: how far the out-of-scope logit is raised for a stated share of false alarms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.intents.prediction import sigmoid, softmax

Floats = NDArray[np.float32]
LEAST_POSITIVES = 20  # a label with fewer second intents on validation takes the pooled threshold


def fit_scales(experts: Sequence[Floats], primary: NDArray[np.int64]) -> list[float]:
    """Non-negative factors that minimise the negative log-likelihood of sum(factor * logits).

    Args:
        experts: each (n, K) logits on validation.
        primary: (n,) true classes.
    """
    from scipy.optimize import minimize

    rows = np.arange(len(primary))

    def loss(log_scales: NDArray[np.float64]) -> float:
        logits = np.sum([math.exp(s) * e for s, e in zip(log_scales, experts, strict=True)], axis=0)
        shifted = logits - logits.max(1, keepdims=True)
        return float(-(shifted[rows, primary] - np.log(np.exp(shifted).sum(1))).mean())

    start = np.log([1.0] + [0.3] * (len(experts) - 1))
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6, "maxiter": 400})
    return [math.exp(s) for s in np.clip(found.x, -7, 4)]


@dataclass(frozen=True)
class Presence:
    """Which intents a message contains, from presence logits.

    Attributes:
        slope, offset: of Platt's sigmoid, shared by all labels: a label alone has too few second intents to fit its own.
        thresholds: (K,) least probability at which a label counts as the second intent.
    """

    slope: float
    offset: float
    thresholds: tuple[float, ...]

    def probabilities(self, logits: Floats) -> Floats:
        """(n, K) calibrated probabilities that each label is present."""
        return sigmoid(self.slope * logits + self.offset)

    def second(self, presence: Floats, first: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) the most probable label besides `first` that passes its threshold, or -1."""
        rest = presence.copy()
        rest[np.arange(len(first)), first] = 0.0
        passing = np.where(rest >= np.asarray(self.thresholds, np.float32), rest, 0.0)
        return np.where(passing.max(1) > 0, passing.argmax(1), -1)

    def to_json(self) -> dict[str, Any]:
        return {"slope": self.slope, "offset": self.offset, "thresholds": list(self.thresholds)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Presence":
        return cls(value["slope"], value["offset"], tuple(value["thresholds"]))


def fit_presence(logits: Floats, primary_probability: Floats, second: NDArray[np.int64]) -> Presence:
    """Fits Platt's sigmoid and thresholds that maximise F1 of finding the second intent.

    Args:
        logits: (n, K) presence logits on validation.
        primary_probability: (n, K), whose argmax is the first intent.
        second: (n,) true second intent, -1 for none.
    """
    from scipy.optimize import minimize

    n, k = logits.shape
    first = primary_probability.argmax(1)
    others = np.ones((n, k), bool)
    others[np.arange(n), first] = False
    truth = np.zeros((n, k), bool)
    truth[np.arange(n)[second >= 0], second[second >= 0]] = True
    if not (truth & others).any():
        return Presence(1.0, 0.0, (1.01,) * k)  # nobody has shown a message with two intents: none is claimed
    x, y = logits[others].astype(np.float64), truth[others].astype(np.float64)

    def loss(p: NDArray[np.float64]) -> float:
        z = p[0] * x + p[1]
        return float((np.logaddexp(0, z) - y * z).mean())

    slope, offset = minimize(loss, [1.0, 0.0], method="Nelder-Mead").x
    probability = sigmoid(slope * logits + offset)
    candidate = np.where(others, probability, 0.0)
    guess, strength = candidate.argmax(1), candidate.max(1)

    def best_threshold(rows: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
        """The threshold over `strength[rows]` that maximises F1 against `wanted` second intents."""
        grid = np.linspace(0.1, 0.9, 81)
        scores = []
        for t in grid:
            claimed = rows & (strength >= t)
            hits = int((claimed & (guess == second)).sum())
            scores.append(2 * hits / max(1, int(claimed.sum()) + int(wanted.sum())))
        best = np.flatnonzero(np.asarray(scores) >= max(scores) - 1e-12)
        return float(grid[best[len(best) // 2]])

    pooled = best_threshold(np.ones(n, bool), second >= 0)
    thresholds = []
    for label in range(k):
        positives = int((second == label).sum())
        own = best_threshold(guess == label, second == label) if positives >= LEAST_POSITIVES else pooled
        trust = positives / (positives + LEAST_POSITIVES) if positives >= LEAST_POSITIVES else 0.0
        thresholds.append(trust * own + (1 - trust) * pooled)
    return Presence(float(slope), float(offset), tuple(round(t, 4) for t in thresholds))


def fit_out_of_scope_shift(logits: Floats, primary: NDArray[np.int64], out_of_scope: int, false_alarms: float) -> float:
    """What to add to the out-of-scope logit so that at most `false_alarms` of in-scope messages are turned away.

    Args:
        logits: (n, K) fused logits on validation.
        primary: (n,) true classes.
        out_of_scope: column of the out-of-scope label.
        false_alarms: share of in-scope validation messages, 0..1.
    """
    inside = primary != out_of_scope
    rest = np.delete(logits, out_of_scope, axis=1).max(1)
    margin = (rest - logits[:, out_of_scope])[inside]  # the shift that would turn this message away
    if len(margin) == 0:
        return 0.0
    return float(np.quantile(margin, false_alarms, method="lower")) - 1e-4  # a hair less: the message at the bound itself stays


def fused(experts: Sequence[Floats], scales: Sequence[float], out_of_scope: int | None = None, shift: float = 0.0) -> Floats:
    """(n, K) probabilities of the weighted sum of the experts' logits, the out-of-scope logit shifted."""
    logits = np.zeros_like(experts[0])
    for scale, expert in zip(scales, experts, strict=True):
        logits = logits + np.float32(scale) * expert
    if out_of_scope is not None:
        logits[:, out_of_scope] += np.float32(shift)
    return softmax(logits)
