"""How far annotators agree, and which labels are likely wrong."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.messages.queue_state import State
from mangaassist_assets.lib.statistics import Estimate, finite_or_none, proportion

AGREEMENT = pa.schema(
    [
        pa.field("annotators", pa.string(), metadata={"description": "The two who labelled the same items; all for every pair together."}),
        ("n", pa.int64()),
        ("agreement", pa.float64()),
        ("kappa", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
SUSPECTS = pa.schema(
    [
        ("rank", pa.int64()),
        ("item_id", pa.string()),
        ("text", pa.string()),
        ("intent", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("label_quality", pa.float64()),
    ]
)
LEAST_LABELS = 30  # fewer say nothing about which intents are confused


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Cohen's kappa of two annotators' answers to the same items (Cohen 1960).

    The interval is Wilson's for the observed agreement, carried through kappa = (po - pe) / (1 - pe) with chance agreement pe taken as
    known: Cohen's approximation, made honest where agreement is perfect and his standard error is 0. NaN where both use one label only,
    and for no items.
    """
    if len(first) != len(second):
        raise ValueError(f"answers must align item by item, got {len(first)} and {len(second)}")
    n = len(first)
    observed = proportion(sum(a == b for a, b in zip(first, second, strict=True)), n)
    left, right = Counter(first), Counter(second)
    chance = sum(left[label] * right[label] for label in left) / n**2 if n else math.nan
    if not chance < 1:
        return Estimate(math.nan, math.nan, math.nan, n)
    value, low, high = ((p - chance) / (1 - chance) for p in (observed.value, observed.ci_low, observed.ci_high))
    return Estimate(value, max(-1.0, low), high, n)


def agreement(state: State) -> pa.Table:
    """One row per pair of annotators, and one for all pairs together, columns AGREEMENT: their first intents, before adjudication."""
    pairs: dict[str, list[tuple[str, str]]] = {"all": []}
    for item in state.items.values():
        if len(item.labels) > 1:
            (one, first), (other, second) = sorted(item.labels.items())[:2]
            for key in ("all", f"{one}, {other}"):
                pairs.setdefault(key, []).append((first.intent, second.intent))
    rows = []
    for names, answers in pairs.items():
        kappa = cohens_kappa([a for a, _ in answers], [b for _, b in answers])
        share = sum(a == b for a, b in answers) / len(answers) if answers else None
        bounds = {"kappa": kappa.value, "ci_low": kappa.ci_low, "ci_high": kappa.ci_high}
        rows.append({"annotators": names, "n": kappa.n, "agreement": share} | {k: finite_or_none(v) for k, v in bounds.items()})
    return pa.Table.from_pylist(rows, AGREEMENT)


def suspects(state: State) -> pa.Table:
    """One row per settled label that is likely wrong, the likeliest first, columns SUSPECTS: read these again.

    cleanlab finds them by confident learning (Northcutt et al. 2021). What the model answered when the text was drawn is out of sample,
    since the label came later; of its distribution the queue knows the first intent's probability, and the others share the rest.
    Adjudicated labels are a person's last word and none of the suspects, nor is anything while there are fewer than LEAST_LABELS.
    """
    settled = [(item, item.outcome) for item in state.items.values() if item.outcome is not None]
    names = sorted({label.intent for _, label in settled} | {item.predicted for item, _ in settled})
    if len(settled) < LEAST_LABELS or len(names) < 2:
        return SUSPECTS.empty_table()
    items = [item for item, _ in settled]
    labels = np.array([names.index(label.intent) for _, label in settled])
    quality, found = suspect_labels(
        labels, spread([names.index(item.predicted) for item in items], [i.confidence for i in items], len(names))
    )
    rows = [
        {"item_id": items[i].item_id, "text": items[i].text, "intent": names[labels[i]], "predicted": items[i].predicted}
        | {"confidence": items[i].confidence, "label_quality": float(quality[i])}
        for i in found
        if items[i].decision is None
    ]
    return pa.Table.from_pylist([{"rank": rank} | row for rank, row in enumerate(rows, 1)], SUSPECTS)


def spread(predicted: Sequence[int], confidence: Sequence[float], k: int) -> NDArray[np.float64]:
    """(n, k) probabilities: `confidence` for what was predicted, and the rest shared evenly."""
    certain = np.clip(np.asarray(confidence, np.float64), 0.0, 1.0)
    table = np.repeat(((1 - certain) / max(1, k - 1))[:, None], k, axis=1)
    table[np.arange(len(certain)), list(predicted)] = certain
    return table


def suspect_labels(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[int]]:
    """Quality of each label (n,), low where it is doubtful, and the indices of those held to be wrong, worst first.

    Args:
        labels: (n,) column that each item was given.
        probabilities: (n, K) of a model that did not learn from these labels.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = np.asarray(get_label_quality_scores(labels, probabilities, method="self_confidence"), np.float64)
    wrong = find_label_issues(labels, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1)
    return quality, [int(i) for i in wrong]
