"""The fast path: a bag of n-gram embeddings and one hidden layer, taught by the classifier.

A message costs some tens of microseconds: look up its n-grams, average their embeddings, one small matrix. What it knows it
learns from the soft answers of a teacher (Hinton et al. 2015) on many texts, labelled or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.intents.features import Ngrams

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Distillation:
    """How a student is taught.

    Attributes:
        width: size of an n-gram embedding.
        most_terms: n-grams kept, the commonest first.
        epochs, batch_rows, learning_rate: of Adam.
        dropout: on the averaged embedding.
        seed: of initialisation, shuffling and dropout.
    """

    width: int = 64
    most_terms: int = 60_000
    epochs: int = 12
    batch_rows: int = 128
    learning_rate: float = 4e-3
    dropout: float = 0.2
    seed: int = 20


class Student:
    """Static n-gram embeddings (V, D), then hidden (D, D) and output (D, 2K) layers."""

    def __init__(self, ngrams: Ngrams, embedding: Floats, hidden: Floats, hidden_bias: Floats, output: Floats, output_bias: Floats) -> None:
        self.ngrams = ngrams
        self.embedding, self.hidden, self.output = (np.ascontiguousarray(a, np.float32) for a in (embedding, hidden, output))
        self.hidden_bias, self.output_bias = hidden_bias.astype(np.float32), output_bias.astype(np.float32)

    def logits(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Primary and presence logits, each (n, K)."""
        mean = self.ngrams.times(texts, self.embedding)
        out = np.maximum(mean @ self.hidden + self.hidden_bias, 0) @ self.output + self.output_bias
        k = out.shape[1] // 2
        return out[:, :k], out[:, k:]

    def tensors(self) -> dict[str, NDArray[Any]]:
        return self.ngrams.tensors() | {
            "embedding": self.embedding.astype(np.float16),
            "hidden": self.hidden,
            "hidden_bias": self.hidden_bias,
            "output": self.output,
            "output_bias": self.output_bias,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> "Student":
        names = ("embedding", "hidden", "hidden_bias", "output", "output_bias")
        return cls(Ngrams.from_tensors(tensors), *(tensors[name].astype(np.float32) for name in names))


def distil(texts: Sequence[str], primary: Floats, presence: Floats, weights: Floats, settings: Distillation) -> Student:
    """Teaches a student.

    Args:
        texts: n messages.
        primary: (n, K) probabilities to match: a teacher's, or one-hot labels.
        presence: (n, K) probabilities that each intent is present.
        weights: (n,) row weights.
        settings: widths, epochs and rates.
    """
    import torch
    from torch.nn import functional

    torch.manual_seed(settings.seed)
    ngrams = Ngrams.fit(texts, most_terms=settings.most_terms)
    rows = ngrams.matrix(texts)
    k, d = primary.shape[1], settings.width
    embedding = torch.nn.Embedding(len(ngrams), d, sparse=True)  # a batch touches a fraction of the table; only that is updated
    hidden, output = torch.nn.Linear(d, d), torch.nn.Linear(d, 2 * k)
    torch.nn.init.normal_(embedding.weight, std=0.5)
    y, z, w = (torch.tensor(a, dtype=torch.float32) for a in (primary, presence, weights))
    dense = torch.optim.Adam([*hidden.parameters(), *output.parameters()], lr=settings.learning_rate)
    table = torch.optim.SparseAdam(embedding.parameters(), lr=settings.learning_rate)
    rng = np.random.default_rng(settings.seed)
    steps = settings.epochs * -(-len(texts) // settings.batch_rows)
    rise = max(0.1, min(2 / steps, 0.75))  # at least to the second step: torch divides by zero where it ends on the first
    schedules = [torch.optim.lr_scheduler.OneCycleLR(o, settings.learning_rate, total_steps=steps, pct_start=rise) for o in (dense, table)]
    for _ in range(settings.epochs):
        order = rng.permutation(len(texts))
        for batch in (order[i : i + settings.batch_rows] for i in range(0, len(order), settings.batch_rows)):
            part = rows[batch]
            mean = functional.embedding_bag(
                torch.from_numpy(part.indices.astype(np.int64)),
                embedding.weight,
                torch.from_numpy(part.indptr[:-1].astype(np.int64)),
                mode="sum",
                sparse=True,
                per_sample_weights=torch.from_numpy(part.data),
            )
            scores = output(functional.relu(hidden(functional.dropout(mean, settings.dropout))))
            index = torch.from_numpy(batch)
            loss = -(y[index] * functional.log_softmax(scores[:, :k], 1)).sum(1)
            loss = loss + functional.binary_cross_entropy_with_logits(scores[:, k:], z[index], reduction="none").mean(1)
            loss = (loss * w[index]).sum() / w[index].sum()
            for optimiser in (dense, table):
                optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimiser in (dense, table):
                optimiser.step()
            for schedule in schedules:
                schedule.step()
    stored = embedding.weight.detach().half()  # as it is stored, so that calibration sees what is served
    tensors = [p.detach().numpy() for p in (stored, hidden.weight.T, hidden.bias, output.weight.T, output.bias)]
    return Student(ngrams, *tensors)
