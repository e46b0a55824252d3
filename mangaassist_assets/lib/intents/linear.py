"""Multinomial logistic regression over n-grams: the simplest learnt candidate, and the encoder's second opinion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.intents.features import Ngrams

Floats = NDArray[np.float32]


class LinearModel:
    """Logits of n-gram rows.

    Args:
        ngrams: the vocabulary.
        weight: (V, K).
        bias: (K,).
    """

    def __init__(self, ngrams: Ngrams, weight: Floats, bias: Floats) -> None:
        self.ngrams, self.weight, self.bias = ngrams, np.ascontiguousarray(weight, np.float32), bias.astype(np.float32)

    def logits(self, texts: Sequence[str]) -> Floats:
        """(n, K) logits of the primary intent."""
        return self.ngrams.times(texts, self.weight) + self.bias

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores; weights in float16, as training leaves them."""
        return self.ngrams.tensors() | {"linear_weight": self.weight.astype(np.float16), "linear_bias": self.bias}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> "LinearModel":
        return cls(Ngrams.from_tensors(tensors), tensors["linear_weight"].astype(np.float32), tensors["linear_bias"])


def train_linear(
    texts: Sequence[str], primary: NDArray[np.int64], weights: Floats, *, classes: int, inverse_penalty: float = 10.0
) -> LinearModel:
    """Fits by L-BFGS under an L2 penalty; convex, so the result does not depend on a seed.

    Args:
        texts: n messages.
        primary: (n,) class of each; every class occurs.
        weights: (n,) row weights.
        classes: K.
        inverse_penalty: scikit-learn's C; on validation 10 and 30 did alike, 3 worse.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    ngrams = Ngrams.fit(texts)
    model = LogisticRegression(C=inverse_penalty, max_iter=60, tol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 60 steps bound the time
        model.fit(ngrams.matrix(texts), primary, sample_weight=weights)
    weight, bias = model.coef_, model.intercept_
    if classes == 2:  # scikit-learn keeps one row for two classes
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return LinearModel(ngrams, weight.T.astype(np.float16), bias)  # as it is stored, so that calibration sees what is served
