"""Which of two intents in a message is served first: its two halves are asked.

What is mentioned first is usually served first, unless the other is urgent (docs/labelling-guide.md). A model that pools a whole message
knows which intents are in it, and often has their order wrong. So a cheap expert reads each half alone, and a logistic regression, fitted
on validation, weighs what the halves say against what the whole message said.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.intents.prediction import Scores, sigmoid, softmax

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
LEAST_MESSAGES = 50  # with two intents on validation; fewer teach no order
INVERSE_PENALTY = 0.1  # scikit-learn's C; 1 does alike
LEAST_PROBABILITY = 1e-4
_BOUNDARY = re.compile(
    r"(?<=[.!?;,\n\u3002\uff01\uff1f\uff1b\u3001\uff0c])\s*"  # behind what ends a sentence or a clause, in Japanese too
    r"|\s+(?=(?:and|but|also|plus|then|or|n|btw|oh|[-—–&])(?:\s|$))",  # before what joins two
    re.IGNORECASE,
)


def halves(text: str) -> tuple[str, str]:
    """A message cut in two at the boundary of clauses nearest to its middle, in the middle where it has none."""
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    cuts = [match.end() for match in _BOUNDARY.finditer(text) if begin < match.start() and match.end() < end]
    cut = min(cuts, key=lambda at: abs(2 * at - len(text)), default=len(text) // 2)
    return text[:cut].strip(), text[cut:].strip()


def leads(texts: Sequence[str], scores: Scores, first: Ints, second: Ints, expert: Callable[[Sequence[str]], Floats]) -> Floats:
    """How far the first intent leads the second, in log odds (n, 4): by the whole message, its first half, its second half, its presence.

    Args:
        texts: n messages.
        scores: of the whole messages.
        first: (n,) columns of the one served first by the whole message.
        second: (n,) of the other.
        expert: logits (m, K) of texts; asked for all halves.
    """
    begins, ends = zip(*map(halves, texts), strict=True)
    judged = softmax(expert([*begins, *ends]))
    rows, n = np.arange(len(texts)), len(texts)
    views = (scores.primary, judged[:n], judged[n:], scores.presence)
    logs = [np.log(np.maximum(view, LEAST_PROBABILITY)) for view in views]
    return np.stack([log[rows, first] - log[rows, second] for log in logs], 1).astype(np.float32)


@dataclass(frozen=True)
class Order:
    """The probability that the second intent goes first: a sigmoid of weighted leads.

    Attributes:
        weights: (4,) of the leads.
        offset: added to their sum.
    """

    weights: tuple[float, ...]
    offset: float

    def divide(self, primary: Floats, first: Ints, second: Ints, leads: Floats) -> Floats:
        """Primary probabilities (n, K) in which the two intents share anew what they had together."""
        rows = np.arange(len(primary))
        swapped = sigmoid((leads @ np.asarray(self.weights, np.float32) + np.float32(self.offset))[:, None])[:, 0]
        both = primary[rows, first] + primary[rows, second]
        divided = primary.copy()
        divided[rows, first], divided[rows, second] = both * (1 - swapped), both * swapped
        return divided

    def to_json(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "offset": self.offset}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Order":
        return cls(tuple(value["weights"]), value["offset"])


def fit_order(leads: Floats, swapped: NDArray[np.bool_]) -> Order | None:
    """Fits the weights; None where there are too few messages, or all in one order.

    Args:
        leads: (m, 4) of messages whose true first intent is one of the two.
        swapped: (m,) whether it is the second.
    """
    if len(leads) < LEAST_MESSAGES or swapped.all() or not swapped.any():
        return None
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=INVERSE_PENALTY).fit(leads, swapped)
    return Order(tuple(round(float(w), 4) for w in model.coef_[0]), round(float(model.intercept_[0]), 4))
