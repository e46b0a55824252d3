"""Sparse matrices by columns: a query touches only the columns of its own terms, and memory grows with the text."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Numbers = NDArray[np.int32]
Weigh = Callable[[Numbers, NDArray[np.int64], int], NDArray[np.float64]]
"""Weights of entries: the row of each, how many rows hold its term, how many rows there are."""


@dataclass(frozen=True)
class Postings:
    """A sparse matrix, rows x terms, by columns.

    Attributes:
        terms: column of each term.
        starts: (terms + 1,) where each column starts.
        rows: (entries,) ascending within a column.
        weights: (entries,).
        height: rows of the matrix.
    """

    terms: Mapping[str, int]
    starts: NDArray[np.int64]
    rows: Numbers
    weights: Floats
    height: int

    @classmethod
    def of(cls, contents: Sequence[Set[str]], weigh: Weigh) -> "Postings":
        """One row for each content, a set of terms."""
        terms = {term: i for i, term in enumerate(sorted(set().union(*contents)))}
        columns = np.array([terms[term] for content in contents for term in content], np.int64)
        rows = np.repeat(np.arange(len(contents), dtype=np.int32), [len(content) for content in contents])
        holding = np.bincount(columns, minlength=len(terms))
        order = np.lexsort((rows, columns))  # before weighing: the order of a set must not decide the last bit of a sum
        columns, rows = columns[order], rows[order]
        weights = weigh(rows, holding[columns], len(contents)).astype(np.float32)
        return cls(terms, np.concatenate([[0], np.cumsum(holding)]).astype(np.int64), rows, weights, len(contents))

    def sums(self, wanted: Mapping[str, float]) -> Floats:
        """For each row the sum of the wanted terms' weights, each times its value; (height,)."""
        total = np.zeros(self.height, np.float32)
        for term, value in wanted.items():
            if (column := self.terms.get(term)) is not None:
                span = slice(self.starts[column], self.starts[column + 1])
                total[self.rows[span]] += self.weights[span] * np.float32(value)
        return total


def rarity(holding: Any, height: int) -> Any:
    """log(1 + rows / rows that hold it): never zero, so that an n-gram of every name still counts."""
    return np.log1p(height / holding)


def cosine_weights(rows: Numbers, holding: NDArray[np.int64], height: int) -> NDArray[np.float64]:
    """Rarity, in rows of length 1."""
    weight: NDArray[np.float64] = rarity(holding, height)
    return weight / np.sqrt(np.bincount(rows, weight**2, minlength=height))[rows]


def plain_weights(rows: Numbers, holding: NDArray[np.int64], height: int) -> NDArray[np.float64]:
    """Equal weights, in rows of length 1."""
    return (1 / np.sqrt(np.maximum(np.bincount(rows, minlength=height), 1)))[rows]


def share_weights(rows: Numbers, holding: NDArray[np.int64], height: int) -> NDArray[np.float64]:
    """Rarity, in rows of sum 1."""
    weight: NDArray[np.float64] = rarity(holding, height)
    return weight / np.bincount(rows, weight, minlength=height)[rows]


def unit_query(postings: Postings, found: Iterable[str]) -> dict[str, float]:
    """Query-side rarities as a vector of length 1; n-grams that no row has count towards the length."""
    counts = {g: int(postings.starts[c + 1] - postings.starts[c]) if (c := postings.terms.get(g)) is not None else 1 for g in found}
    weights = {g: float(rarity(n, postings.height)) for g, n in counts.items()}
    length = math.sqrt(sum(w * w for w in weights.values())) or 1.0
    return {g: w / length for g, w in weights.items()}


def bm25(contents: Sequence[Sequence[str]]) -> Postings:
    """BM25 of each content (rows) for each term, Lucene's variant (k1 1.5, b 0.75), as bm25s computes it."""
    import bm25s

    terms = {term: i for i, term in enumerate(sorted(set().union(*contents)))}
    if not terms:
        return Postings({}, np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), len(contents))
    model = bm25s.BM25(method="lucene")
    model.index(
        bm25s.tokenization.Tokenized([[terms[t] for t in c] for c in contents], terms), create_empty_token=False, show_progress=False
    )
    found = model.scores
    return Postings(terms, np.asarray(found["indptr"], np.int64), found["indices"], found["data"], len(contents))
