"""How often the model is right in production, from the control slice: requests drawn whatever the model thought of them."""

import datetime as dt
import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from mangaassist_assets.lib.messages.queue_state import SETTLED
from mangaassist_assets.lib.statistics import Z95, Estimate, expected_calibration_error

Floats = NDArray[np.float64]

PRODUCTION_ACCURACY = pa.schema(
    [
        ("week", pa.date32()),
        ("model_digest", pa.string()),
        ("n", pa.int64()),
        ("accuracy", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("expected_calibration_error", pa.float64()),
    ]
)


def weighted_share(right: ArrayLike, inclusion_probability: ArrayLike) -> Estimate:
    """Share of the population that is right, from items drawn with known inclusion probability.

    Hajek's ratio of Horvitz-Thompson totals (Hajek 1971): labels that are missing at random do not bias it. The interval is Wilson's with
    Kish's effective sample size (sum w)^2 / sum w^2, as Korn and Graubard (1998) advise for shares near 1; it leaves out that the
    population is finite, which makes it no narrower. NaN everywhere for no items.

    Args:
        right: (n,) booleans.
        inclusion_probability: (n,), each above 0 and at most 1.
    """
    hit, probability = np.asarray(right, np.float64), np.asarray(inclusion_probability, np.float64)
    if hit.shape != probability.shape or not ((probability > 0) & (probability <= 1)).all():
        raise ValueError("each item needs an inclusion probability above 0 and at most 1")
    n = len(hit)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    weight: Floats = 1 / probability
    p = float((weight * hit).sum() / weight.sum())
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    shrink = 1 + Z95**2 / effective
    centre = (p + Z95**2 / (2 * effective)) / shrink
    half = Z95 * math.sqrt(p * (1 - p) / effective + Z95**2 / (4 * effective**2)) / shrink
    return Estimate(p, min(max(0.0, centre - half), p), max(min(1.0, centre + half), p), n)


def production_accuracy(sample: pa.Table, queue: pa.Table) -> pa.Table:
    """One row per week and model, columns PRODUCTION_ACCURACY; no row where nothing of the control slice is settled.

    The calibration error has a floor that falls with n: in 15 bins a hundred labels show several points even where confidence is true.

    Args:
        sample: every week's rows, columns `sampling.SAMPLE`.
        queue: columns `queue.QUEUE`; a text's label counts for every request with that text.
    """
    settled = zip(queue["message_id"].to_pylist(), queue["intent"].to_pylist(), queue["state"].to_pylist(), strict=True)
    labels = {message: intent for message, intent, state in settled if state in SETTLED}
    groups: dict[tuple[dt.date, str], list[dict[str, Any]]] = {}
    for row in sample.to_pylist():
        if row["stratum"] == "control" and row["message_id"] in labels:
            groups.setdefault((row["week"], row["model_digest"]), []).append(row)
    rows = []
    for (week, model), drawn in sorted(groups.items(), key=lambda group: (group[0][0], group[0][1] or "")):
        right = np.array([row["intent"] == labels[row["message_id"]] for row in drawn])
        confidence = np.array([row["confidence"] for row in drawn], np.float64)
        found = weighted_share(right, [row["inclusion_probability"] for row in drawn])
        rows.append(
            {
                "week": week,
                "model_digest": model,
                "n": found.n,
                "accuracy": found.value,
                "ci_low": found.ci_low,
                "ci_high": found.ci_high,
                "expected_calibration_error": expected_calibration_error(confidence, right),
            }
        )
    return pa.Table.from_pylist(rows, PRODUCTION_ACCURACY)
