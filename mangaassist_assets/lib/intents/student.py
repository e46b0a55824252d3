"""The fast path: n-gram embeddings and filters over word pieces, with one hidden layer, taught by the classifier.

A message costs about a tenth of a millisecond: its n-grams' embeddings are averaged, its word pieces convolved (`windows.py`), and two
small matrices do the rest. N-grams read Japanese, slang and typos, of which the pieces know little; pieces know words that no training
message had, and their order. What the student knows it learns from the soft answers of a teacher (Hinton et al. 2015) on many texts,
labelled or not.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.intents import windows
from mangaassist_assets.lib.intents.encoder import length_batches, pad, tokenize
from mangaassist_assets.lib.intents.features import Ngrams
from mangaassist_assets.lib.intents.windows import WordWindows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Distillation:
    """How a student is taught.

    Attributes:
        width: size of an n-gram embedding.
        most_terms: n-grams kept, the commonest first.
        piece_width: size of a word piece's embedding.
        filters: of each width of windows of pieces.
        hidden: size of the hidden layer.
        epochs, batch_rows, learning_rate: of Adam; n-gram embeddings learn at twice the rate.
        presence_weight: weight of the multi-label loss, a mean over labels, beside the primary intent's cross-entropy.
        dropout: before the hidden layer; half of it on the pieces' embeddings.
        seed: of initialisation, shuffling and dropout.
    """

    width: int = 64
    most_terms: int = 30_000
    piece_width: int = 96
    filters: int = 64
    hidden: int = 128
    epochs: int = 8
    batch_rows: int = 128
    learning_rate: float = 3e-3
    presence_weight: float = 4.0
    dropout: float = 0.3
    seed: int = 20


class Student:
    """N-gram embeddings (V, D) beside W features of word pieces, then hidden (D + W, H) and output (H, 2K) layers."""

    def __init__(
        self,
        ngrams: Ngrams,
        words: WordWindows,
        embedding: Floats,
        hidden: Floats,
        hidden_bias: Floats,
        output: Floats,
        output_bias: Floats,
    ) -> None:
        self.ngrams, self.words = ngrams, words
        self.embedding, self.hidden, self.output = (np.ascontiguousarray(a, np.float32) for a in (embedding, hidden, output))
        self.hidden_bias, self.output_bias = hidden_bias.astype(np.float32), output_bias.astype(np.float32)

    def logits(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Primary and presence logits, each (n, K)."""
        seen = np.hstack([self.ngrams.times(texts, self.embedding), self.words.features(texts)])
        out = np.maximum(seen @ self.hidden + self.hidden_bias, 0) @ self.output + self.output_bias
        k = out.shape[1] // 2
        return out[:, :k], out[:, k:]

    def tensors(self) -> dict[str, NDArray[Any]]:
        return self.ngrams.tensors() | self.words.tensors() | {
            "embedding": self.embedding.astype(np.float16),
            "hidden": self.hidden,
            "hidden_bias": self.hidden_bias,
            "output": self.output,
            "output_bias": self.output_bias,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]], tokenizer: "Tokenizer") -> "Student":
        names = ("embedding", "hidden", "hidden_bias", "output", "output_bias")
        return cls(Ngrams.from_tensors(tensors), WordWindows.from_tensors(tokenizer, tensors), *(tensors[name].astype(np.float32) for name in names))


def distil(texts: Sequence[str], primary: Floats, presence: Floats, weights: Floats, settings: Distillation) -> Student:
    """Teaches a student.

    Args:
        texts: n messages.
        primary: (n, K) probabilities to match: a teacher's, or one-hot labels.
        presence: (n, K) probabilities that each intent is present.
        weights: (n,) row weights.
        settings: widths, epochs and rates.

    Raises:
        Unavailable: the embedded encoder, whose word pieces are read, cannot be had.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(settings.seed)
    ngrams = Ngrams.fit(texts, most_terms=settings.most_terms)
    rows = ngrams.matrix(texts)
    tokenizer, pieces = windows.start(settings.piece_width)
    ids = tokenize(tokenizer, texts, windows.MAX_PIECES)
    lengths = np.array([len(i) for i in ids])
    used, places = np.unique([windows.PAD, *itertools.chain(*ids)], return_inverse=True)  # the others keep their embeddings
    ids = [part.tolist() for part in np.split(places[1:], np.cumsum(lengths)[:-1])]
    k, features = primary.shape[1], settings.width + 3 * settings.filters + 1
    terms = nn.Parameter(torch.randn(len(ngrams), settings.width) / 2)
    words = nn.Parameter(pieces[used])
    convolutions = nn.ModuleList(nn.Conv1d(settings.piece_width, settings.filters, width, bias=False) for width in windows.WIDTHS)
    hidden, output = nn.Linear(features, settings.hidden), nn.Linear(settings.hidden, 2 * k)
    sizes = torch.from_numpy(windows.log_length(lengths))
    y, z, w = (torch.tensor(a, dtype=torch.float32) for a in (primary, presence, weights))
    rate = settings.learning_rate
    optimiser = torch.optim.Adam(
        [
            {"params": [words, *convolutions.parameters(), *hidden.parameters(), *output.parameters()], "lr": rate},
            {"params": [terms], "lr": 2 * rate},
        ],
        fused=True,
    )
    rng = np.random.default_rng(settings.seed)
    steps = settings.epochs * -(-len(texts) // settings.batch_rows)
    rise = max(0.1, min(2 / steps, 0.75))  # at least to the second step: torch divides by zero where it ends on the first
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [rate, 2 * rate], total_steps=steps, pct_start=rise)
    for _ in range(settings.epochs):
        for batch in length_batches(lengths, settings.batch_rows, rng):
            part = rows[batch]
            bag = functional.embedding_bag(
                torch.from_numpy(part.indices.astype(np.int64)),
                terms,
                torch.from_numpy(part.indptr[:-1].astype(np.int64)),
                mode="sum",
                per_sample_weights=torch.from_numpy(part.data),
            )
            padded, _ = pad([[*ids[i], windows.PAD, windows.PAD] for i in batch], windows.PAD, "cpu")
            read = functional.dropout(functional.embedding(padded, words, padding_idx=windows.PAD), settings.dropout / 2).mT
            found = [convolution(read).amax(2).relu() for convolution in convolutions]
            index = torch.from_numpy(batch)
            seen = torch.cat([functional.dropout(torch.cat([bag, *found], 1), settings.dropout), sizes[index]], 1)
            scores = output(functional.relu(hidden(seen)))
            loss = -(y[index] * functional.log_softmax(scores[:, :k], 1)).sum(1)
            present = functional.binary_cross_entropy_with_logits(scores[:, k:], z[index], reduction="none")
            loss = loss + settings.presence_weight * present.mean(1)
            loss = (loss * w[index]).sum() / w[index].sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    pieces[used] = words.detach()
    # tables as they are stored, so that calibration sees what is served
    reader = WordWindows(tokenizer, pieces.half().numpy(), [c.weight.detach().numpy() for c in convolutions])
    tensors = [p.detach().numpy() for p in (terms.half(), hidden.weight.T, hidden.bias, output.weight.T, output.bias)]
    return Student(ngrams, reader, *tensors)
