"""What a message's words say in their order: convolutions over word pieces, and the maximum of each filter (Kim 2014).

The pieces are those of the embedded encoder, and so are their embeddings at the start, cut to their principal components: a word
that no training message had still lies near words that some had.

A filter of width w over pieces x_t is x_t A_1 + ... + x_{t+w-1} A_w. The products of every piece of the vocabulary are computed once,
47 MB at the usual sizes: a convolution is then a sum of looked-up rows, a third of the time of multiplying. Two pieces of padding end
each text, so that a whole batch is one sequence.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, from_pretrained, tokenize

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

WIDTHS = (1, 2, 3)
MAX_PIECES = 64  # of a text; the rest is not read
PAD = 0  # the padding of the embedded encoder, whose embedding is zero here
Floats = NDArray[np.float32]


class WordWindows:
    """Filters of width 1, 2 and 3 over piece embeddings, each reduced to its maximum over a text.

    Args:
        tokenizer: cuts a text into pieces.
        embedding: (V, E) float16, of the pieces; row PAD is zero.
        filters: (F, E, w) for each width w, as `torch.nn.Conv1d` has them.
    """

    def __init__(self, tokenizer: "Tokenizer", embedding: NDArray[Any], filters: Sequence[Floats]) -> None:
        self.tokenizer, self.filters = tokenizer, tuple(filters)
        self.embedding = embedding.astype(np.float16)
        places = [weights[:, :, place].T for place in range(len(WIDTHS)) for weights in filters if place < weights.shape[2]]
        # (V, 6F): of A_1 of all widths, then of A_2 of two, then of A_3 of one
        self._products = self.embedding.astype(np.float32) @ np.hstack(places).astype(np.float32)

    def features(self, texts: Sequence[str]) -> Floats:
        """Each filter's maximum over the windows that begin at a piece of the text, at least 0, and the text's length: (n, 3F + 1).

        The length is there because maxima do not show it, and a message with two intents is longer than others.
        """
        pieces: list[int] = []
        starts, ends = [], []
        for ids in tokenize(self.tokenizer, texts, MAX_PIECES):
            starts.append(len(pieces))
            pieces += ids
            ends.append(len(pieces))
            pieces += (PAD, PAD)
        products = self._products[pieces]
        f = products.shape[1] // 6
        out = products[:, : 3 * f]
        out[:-1, f:] += products[1:, 3 * f : 5 * f]
        out[:-2, 2 * f :] += products[2:, 5 * f :]
        highest = np.stack([out[start:end].max(0) for start, end in zip(starts, ends, strict=True)])
        return np.hstack([np.maximum(highest, 0), log_length(np.subtract(ends, starts))])

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"pieces": self.embedding} | {f"filters_{width}": weights for width, weights in zip(WIDTHS, self.filters, strict=True)}

    @classmethod
    def from_tensors(cls, tokenizer: "Tokenizer", tensors: dict[str, NDArray[Any]]) -> "WordWindows":
        return cls(tokenizer, tensors["pieces"], [tensors[f"filters_{width}"] for width in WIDTHS])


def feature_count(filters: int) -> int:
    """How many features `filters` of each width give, the length included."""
    return len(WIDTHS) * filters + 1


def log_length(pieces: NDArray[np.int64]) -> Floats:
    """(n,) numbers of pieces -> (n, 1) logarithms, about 0 for a usual message."""
    return np.log(pieces / 20, dtype=np.float32)[:, None]


def first_pieces(width: int) -> "tuple[Tokenizer, torch.Tensor]":
    """The embedded encoder's tokenizer, and its piece embeddings (V, width) cut to their principal components.

    Raises:
        Unavailable: the encoder cannot be had.
    """
    import torch

    pretrained = from_pretrained(EMBEDDED_ENCODER)
    words = pretrained.weights["words.weight"]
    centred = words - words.mean(0)
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())
    embedding = centred @ vectors[:, -width:].float()
    embedding /= 2 * embedding.std()
    embedding[PAD] = 0
    return pretrained.tokenizer, embedding
