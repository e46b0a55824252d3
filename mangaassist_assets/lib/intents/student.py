"""The fast path: n-gram embeddings and filters over word pieces, with one hidden layer, taught by the classifier.

A message costs about a tenth of a millisecond in a batch: its n-grams' embeddings are averaged, its word pieces convolved
(`windows.py`), and two small matrices do the rest. N-grams read Japanese, slang and typos, of which the pieces know little; pieces know
words that no training message had, and their order. What the student knows it learns from the soft answers of a teacher (Hinton et al.
2015) on many texts, labelled or not.
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
from mangaassist_assets.lib.threads import one_torch_thread

if TYPE_CHECKING:
    import torch
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
    epochs: int = 10
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
        return (
            self.ngrams.tensors()
            | self.words.tensors()
            | {
                "embedding": self.embedding.astype(np.float16),
                "hidden": self.hidden,
                "hidden_bias": self.hidden_bias,
                "output": self.output,
                "output_bias": self.output_bias,
            }
        )

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]], tokenizer: "Tokenizer") -> "Student":
        ngrams, words = Ngrams.from_tensors(tensors), WordWindows.from_tensors(tokenizer, tensors)
        names = ("embedding", "hidden", "hidden_bias", "output", "output_bias")
        return cls(ngrams, words, *(tensors[name].astype(np.float32) for name in names))


def _network(settings: Distillation, terms: int, pieces: "torch.Tensor", classes: int) -> "torch.nn.Module":
    """The student while it learns: `forward` gives (B, 2K) logits of rows of n-grams, padded pieces (B, T) and lengths (B, 1)."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.terms = nn.Parameter(torch.randn(terms, settings.width) / 2)
            self.pieces = nn.Parameter(pieces)
            self.convolutions = nn.ModuleList(
                nn.Conv1d(settings.piece_width, settings.filters, width, bias=False) for width in windows.WIDTHS
            )
            self.hidden = nn.Linear(settings.width + windows.feature_count(settings.filters), settings.hidden)
            self.output = nn.Linear(settings.hidden, 2 * classes)

        def forward(self, rows: Any, padded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            columns, starts = (torch.from_numpy(a.astype(np.int64)) for a in (rows.indices, rows.indptr[:-1]))
            mean = functional.embedding_bag(columns, self.terms, starts, mode="sum", per_sample_weights=torch.from_numpy(rows.data))
            read = functional.embedding(padded, self.pieces, padding_idx=windows.PAD)
            read = functional.dropout(read, settings.dropout / 2).transpose(1, 2)  # (B, E, T)
            found = [convolution(read).amax(2).relu() for convolution in self.convolutions]
            seen = functional.dropout(torch.cat([mean, *found], 1), settings.dropout)
            scores: torch.Tensor = self.output(self.hidden(torch.cat([seen, lengths], 1)).relu())
            return scores

    return Network()


@one_torch_thread()
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
    from torch.nn import functional

    torch.manual_seed(settings.seed)
    k, rate = primary.shape[1], settings.learning_rate
    ngrams = Ngrams.fit(texts, most_terms=settings.most_terms)
    rows = ngrams.matrix(texts)
    tokenizer, pieces = windows.first_pieces(settings.piece_width)
    ids = tokenize(tokenizer, texts, windows.MAX_PIECES)
    lengths = np.array([len(i) for i in ids])
    used, places = np.unique([windows.PAD, *itertools.chain(*ids)], return_inverse=True)  # the others keep their embeddings
    ids = [[*part.tolist(), windows.PAD, windows.PAD] for part in np.split(places[1:], np.cumsum(lengths)[:-1])]
    sizes = torch.from_numpy(windows.log_length(lengths))
    network = _network(settings, len(ngrams), pieces[used], k)
    tensors = dict(network.named_parameters())
    y, z, w = (torch.tensor(a, dtype=torch.float32) for a in (primary, presence, weights))
    groups = [
        {"params": [parameter for name, parameter in tensors.items() if name != "terms"], "lr": rate},
        {"params": [tensors["terms"]], "lr": 2 * rate},
    ]
    optimiser = torch.optim.Adam(groups, fused=True)
    rng = np.random.default_rng(settings.seed)
    steps = settings.epochs * -(-len(texts) // settings.batch_rows)
    rise = max(0.1, min(2 / steps, 0.75))  # at least to the second step: torch divides by zero where it ends on the first
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [rate, 2 * rate], total_steps=steps, pct_start=rise)
    for _ in range(settings.epochs):
        for batch in length_batches(lengths, settings.batch_rows, rng):
            index = torch.from_numpy(batch)
            padded, _ = pad([ids[i] for i in batch], windows.PAD, "cpu")
            scores = network(rows[batch], padded, sizes[index])
            loss = -(y[index] * functional.log_softmax(scores[:, :k], 1)).sum(1)
            present = functional.binary_cross_entropy_with_logits(scores[:, k:], z[index], reduction="none")
            loss = loss + settings.presence_weight * present.mean(1)
            loss = (loss * w[index]).sum() / w[index].sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    learnt = {name: tensor.detach() for name, tensor in tensors.items()}
    pieces[used] = learnt["pieces"]
    # tables as they are stored, so that calibration sees what is served
    reader = WordWindows(tokenizer, pieces.numpy(), [learnt[f"convolutions.{i}.weight"].numpy() for i in range(len(windows.WIDTHS))])
    layers = (learnt["hidden.weight"].T, learnt["hidden.bias"], learnt["output.weight"].T, learnt["output.bias"])
    return Student(ngrams, reader, learnt["terms"].half().numpy(), *(layer.numpy() for layer in layers))
