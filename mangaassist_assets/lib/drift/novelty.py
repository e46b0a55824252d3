"""Kinds of messages that came up and that the model doubts: which cells of the drift space gained them."""

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.daily import Mask
from mangaassist_assets.lib.drift.moments import Moments

Floats = NDArray[np.float64]
CELL_DISCOVERY = 0.05  # share of chance among the cells said to be doubted more; what they gained together must still be large
PRIOR_MESSAGES = 10.0  # of the usual confidence, added to each cell's own


@dataclass(frozen=True)
class Growth:
    """Cells of the drift space that gained messages which the model doubts more than the earlier ones there.

    Attributes:
        gained: share of all messages that they gained.
        cells: over how many cells alike the doubt is spread: the inverse of Simpson's index (1949).
        doubt: confidence that a gained message lacks against the earlier ones of its cell.
    """

    gained: float
    cells: float
    doubt: float


@dataclass(frozen=True)
class Novelty:
    """Messages of the latest drift space by day (T,) and by cell (T, k); `known` are the days that have any."""

    n: Floats
    far: Floats
    cells: Floats
    cell_far: Floats
    cell_confidence: Floats
    known: Mask

    @classmethod
    def of(cls, moments: pa.Table, days: tuple[dt.date, ...]) -> "Novelty":
        size = len(days)
        if moments.num_rows == 0:
            empty = np.zeros((size, 0))
            return cls(np.zeros(size), np.zeros(size), empty, empty, empty, np.zeros(size, bool))
        latest = moments["space_digest"][int(np.argmax(moments["day"].cast(pa.int32()).to_numpy()))]
        own = Moments.of(moments.filter(pc.equal(moments["space_digest"], latest)))
        place = {day: i for i, day in enumerate(days)}
        kept = [i for i, day in enumerate(own.days) if day in place]
        at = [place[own.days[i]] for i in kept]

        def laid(values: NDArray[Any]) -> Floats:
            out = np.zeros((size, *values.shape[1:]))
            out[at] = values[kept]
            return out

        n = laid(own.n)
        return cls(n, laid(own.far), laid(own.cells), laid(own.cell_far), laid(own.cell_confidence), n > 0)

    def growth(self, after: Mask, before: Mask) -> Growth:
        """What cells gained, and how sure the model is of it; the variation of a cell is that between days of one group.

        Sampling makes the squares of gains too large by their variance, which is taken off again: the slope of doubt over gain is that of
        a regression through the origin with errors in the gains (Fuller 1987, section 1.2).
        """
        usual = self.cell_confidence[before].sum() / self.n[before].sum()
        counts, sums = self.cells[before].sum(0), self.cell_confidence[before].sum(0)
        earlier = (sums + PRIOR_MESSAGES * usual) / (counts + PRIOR_MESSAGES)
        items = np.maximum(self.n, 1)[:, None]
        gain, gain_variance = _mean_changes(self.cells / items, after, before)
        doubted, doubt_variance = _mean_changes((self.cells * earlier - self.cell_confidence) / items, after, before)
        sure = _discovered(doubted, doubt_variance, int(after.sum() + before.sum()) - 2)
        squares, doubt_squares = (gain**2 - gain_variance).sum(), (doubted**2 - doubt_variance).sum()
        return Growth(
            gained=float(gain[sure & (gain > 0) & (doubted > 0)].sum()),
            cells=float(doubted.sum() ** 2 / doubt_squares) if doubt_squares > 0 else math.inf,
            doubt=float((gain * doubted).sum() / squares) if squares > 0 else 0.0,
        )

    def far_cells(self, after: Mask, before: Mask) -> float:
        """Over how many cells alike the rise of far messages is spread."""
        rise = np.maximum(self.cell_far[after].sum(0) / self.n[after].sum() - self.cell_far[before].sum(0) / self.n[before].sum(), 0.0)
        return float(rise.sum() ** 2 / (rise**2).sum()) if rise.any() else math.inf


def _mean_changes(values: Floats, after: Mask, before: Mask) -> tuple[Floats, Floats]:
    """Changes of the daily means of columns (T, k), and their variances from the days of both groups."""
    parts = (values[after], values[before])
    squares = sum(((part - part.mean(0)) ** 2).sum(0) for part in parts)
    variance: Floats = squares / max(len(parts[0]) + len(parts[1]) - 2, 1) * (1 / len(parts[0]) + 1 / len(parts[1]))
    change: Floats = parts[0].mean(0) - parts[1].mean(0)
    return change, variance


def _discovered(changes: Floats, variances: Floats, freedom: int) -> Mask:
    """Which changes are sure, so that at most CELL_DISCOVERY of them are chance (Benjamini and Hochberg 1995)."""
    from scipy.special import stdtr

    p_values = np.where(variances > 0, 2 * stdtr(max(freedom, 1), -np.abs(changes) / np.sqrt(np.maximum(variances, 1e-18))), 1.0)
    order = np.argsort(p_values)
    below = np.flatnonzero(p_values[order] <= CELL_DISCOVERY * np.arange(1, len(p_values) + 1) / len(p_values))
    found = np.zeros(len(p_values), bool)
    if len(below):
        found[order[: below[-1] + 1]] = True
    return found
