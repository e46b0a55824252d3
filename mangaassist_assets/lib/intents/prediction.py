"""What a classifier says about one message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Route = Literal["rules", "student", "classifier"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one message.

    Attributes:
        intent: what to serve first.
        confidence: calibrated probability that `intent` is right.
        secondary_intent: a second request in the same message, if one was found.
        route: which part of the cascade answered.
    """

    intent: str
    confidence: float
    secondary_intent: str | None
    route: Route


class Scores(NamedTuple):
    """Per message and label: `primary` sums to 1 over labels; `presence` is each label's own probability of being present."""

    primary: NDArray[np.float32]  # (n, K)
    presence: NDArray[np.float32]  # (n, K)


class Classifier(Protocol):
    """Anything that scores messages: a candidate, or a part of the cascade."""

    labels: tuple[str, ...]

    def scores(self, texts: Sequence[str]) -> Scores: ...


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row-wise softmax of (n, K) logits."""
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Elementwise logistic function, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)
