"""How well a classifier answers: per class, per slice, on all traffic and on what its fast path leaves, each figure with its interval.

Predictions are a table, one row per message:

    message_id, split, intent (true), predicted, confidence, secondary_intent, predicted_secondary, slices (list<str>),
    and where known: route (rules | student | classifier), language, probabilities (list<float>, in the order of the labels)

Scopes: `cascade` is every evaluated message, answered as the service answers it; `residual` is those that rules and student left to
the classifier. Slices: `all`, each name in `slices`, `split:<split>`, `language:<language>`, and `in_scope` where a label is out of
scope.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.statistics import Estimate, expected_calibration_error, proportion

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HELD_OUT = ("test", "golden")
BINS = 15

METRICS = pa.schema(
    [
        ("model_digest", pa.string()),
        ("scope", pa.string()),
        ("slice", pa.string()),
        ("intent", pa.string()),
        ("n", pa.int64()),
        *(
            (name, pa.float64())
            for name in ("precision", "recall", "f1", "accuracy", "ci_low", "ci_high", "f1_ci_low", "f1_ci_high", "auc_roc")
        ),
    ]
)
CONFUSION = pa.schema([("model_digest", pa.string()), ("intent", pa.string()), ("predicted", pa.string()), ("n", pa.int64())])
CALIBRATION = pa.schema(
    [
        ("bin_low", pa.float64()),
        ("bin_high", pa.float64()),
        ("n", pa.int64()),
        ("mean_confidence", pa.float64()),
        ("accuracy", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        metrics: one row per scope x slice x intent, columns METRICS; see `evaluate`.
        confusion: one row per pair of true and predicted intent that occurs, columns CONFUSION, cascade scope.
        calibration: one row per confidence bin that holds a message, columns CALIBRATION, cascade scope.
        accuracy: share of messages answered right, Wilson's interval.
        macro_f1: mean F1 over the classes that occur, bootstrap interval.
        calibration_error: expected calibration error over BINS bins.
        both_intents: of the messages with two intents, the share where both were found; n = 0 where there is none.
        residual: share of messages that reach the classifier; n = 0 where routes are not known.
    """

    metrics: pa.Table
    confusion: pa.Table
    calibration: pa.Table
    accuracy: Estimate
    macro_f1: Estimate
    calibration_error: Estimate
    both_intents: Estimate
    residual: Estimate


def evaluate(
    predictions: pa.Table,
    *,
    model_digest: str,
    labels: Sequence[str],
    seed: int,
    splits: Sequence[str] = HELD_OUT,
    out_of_scope_label: str | None = None,
    resamples: int = 1000,
) -> Evaluation:
    """Measures predictions on the messages of `splits`.

    A row of `metrics` for a class: `n` counts its messages; precision, recall and f1 are the class's own; accuracy is the share of its
    messages answered right, so equal to recall; ci_low..ci_high belongs to **f1**. A class without a message in a slice has no row.

    The row of a slice for `intent = all`: `n` counts its messages; precision, recall, f1 and auc_roc are macro averages over the
    classes that occur in it; ci_low..ci_high belongs to **accuracy**.

    In every row f1_ci_low..f1_ci_high belongs to f1. Intervals: Wilson's for accuracy, `f1_estimate` for a class, seeded bootstrap for
    macro F1. Precision of a class that is never predicted is null, and 0 in the macro average. auc_roc without both kinds of
    message is null, and not in the average at all. It is one-vs-rest, from `probabilities`; where a message has none, its confidence
    stands for the predicted class and the rest is shared evenly, which is all that a caller of the cascade gets to see.

    Raises:
        MissingEvidence: no message of these splits, or a row without an answer or a confidence.
    """
    table = predictions.filter(pc.is_in(predictions["split"], pa.array(splits, pa.string())))
    if table.num_rows == 0:
        raise MissingEvidence(f"no message of {' or '.join(splits)} to evaluate on. Check the splits in labeled_messages.")
    confidence = table["confidence"].to_numpy()
    if table["intent"].null_count or table["predicted"].null_count or np.isnan(confidence).any():
        raise MissingEvidence("some messages have no answer or no confidence; an evaluation of the others would flatter the model.")
    names = all_labels(table, labels)
    true, predicted = _codes(table["intent"], names), _codes(table["predicted"], names)
    scores = _scores(table, predicted, confidence, len(labels), len(names))
    routed = "route" in table.column_names
    scopes = {"cascade": np.ones(table.num_rows, bool)}
    if routed:
        scopes["residual"] = pc.equal(table["route"], "classifier").fill_null(False).to_numpy()
    rows: list[dict[str, object]] = []
    for scope, within in scopes.items():
        for name, mask in slice_masks(table, out_of_scope_label=out_of_scope_label).items():
            chosen = np.flatnonzero(mask & within)
            if len(chosen):
                found = _slice_rows(true[chosen], predicted[chosen], scores[chosen], names, seed=seed, resamples=resamples)
                rows += [{"model_digest": model_digest, "scope": scope, "slice": name, **row} for row in found]
    counts = confusion_matrix(true, predicted, len(names))
    pairs = [(names[i], names[j], int(counts[i, j])) for i, j in zip(*np.nonzero(counts), strict=True)]
    right = true == predicted
    return Evaluation(
        metrics=pa.Table.from_pylist(rows, METRICS),
        confusion=pa.Table.from_pylist(
            [{"model_digest": model_digest, "intent": i, "predicted": j, "n": n} for i, j, n in pairs], CONFUSION
        ),
        calibration=calibration_bins(confidence, right),
        accuracy=proportion(int(right.sum()), len(right)),
        macro_f1=macro_f1(counts, seed=seed, resamples=resamples),
        calibration_error=calibration_error(confidence, right, seed=seed, resamples=resamples),
        both_intents=both_intents(table),
        residual=proportion(int(scopes["residual"].sum()), table.num_rows) if routed else Estimate(math.nan, math.nan, math.nan, 0),
    )


# ── who is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


def all_labels(predictions: pa.Table, labels: Sequence[str]) -> tuple[str, ...]:
    """The model's labels in their order, then those that only the data or the answers know, sorted."""
    seen = set(pc.unique(predictions["intent"]).to_pylist()) | set(pc.unique(predictions["predicted"]).to_pylist())
    return (*labels, *sorted(seen - set(labels)))


def slice_masks(table: pa.Table, *, out_of_scope_label: str | None = None) -> dict[str, Bools]:
    """Which rows belong to which slice, `all` first; the module's text names the slices."""
    n = table.num_rows
    masks: dict[str, Bools] = {"all": np.ones(n, bool)}
    slices = table["slices"].combine_chunks()
    member, row = pc.list_flatten(slices).dictionary_encode(), pc.list_parent_indices(slices).to_numpy()
    codes = member.indices.to_numpy()
    for code, name in sorted(enumerate(member.dictionary.to_pylist()), key=lambda pair: str(pair[1])):
        masks[name] = np.zeros(n, bool)
        masks[name][row[codes == code]] = True
    for column in ("split", "language"):
        if column in table.column_names:
            for value in sorted(pc.unique(table[column]).drop_null().to_pylist()):
                masks[f"{column}:{value}"] = pc.equal(table[column], value).fill_null(False).to_numpy()
    if out_of_scope_label is not None:
        masks["in_scope"] = pc.not_equal(table["intent"], out_of_scope_label).to_numpy()
    return masks


def _codes(column: pa.ChunkedArray, names: Sequence[str]) -> Ints:
    return np.asarray(pc.index_in(column, pa.array(names, pa.string())), np.int64)


def _scores(table: pa.Table, predicted: Ints, confidence: Floats, known: int, classes: int) -> Floats:
    """Scores of shape (n, classes); see `evaluate` for messages without probabilities."""
    n = table.num_rows
    rest = (1 - confidence) / max(known - 1, 1)
    scores = np.zeros((n, classes))
    scores[:, :known] = rest[:, None]
    scores[np.arange(n), predicted] = confidence
    if "probabilities" in table.column_names:
        given = table["probabilities"].combine_chunks()
        has = given.is_valid().to_numpy(zero_copy_only=False)
        scores[has, :known] = np.asarray(given.flatten(), np.float64).reshape(-1, known)
    return scores


# ── one slice ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _slice_rows(true: Ints, predicted: Ints, scores: Floats, names: Sequence[str], *, seed: int, resamples: int) -> list[dict[str, object]]:
    counts = confusion_matrix(true, predicted, len(names))
    right, support, answered = np.diag(counts), counts.sum(1), counts.sum(0)
    precision = [r / a if a else None for r, a in zip(right.tolist(), answered.tolist(), strict=True)]
    aucs = one_vs_rest_auc(true, scores)
    rows: list[dict[str, object]] = []
    present = np.flatnonzero(support).tolist()
    f1s = {k: f1_estimate(int(right[k]), int(answered[k] - right[k]), int(support[k] - right[k])) for k in present}
    accuracy, macro = proportion(int(right.sum()), len(true)), macro_f1(counts, seed=seed, resamples=resamples)
    defined = [aucs[k] for k in present if not math.isnan(aucs[k])]
    rows.append(
        {
            "intent": "all",
            "n": len(true),
            "precision": float(np.mean([precision[k] or 0.0 for k in present])),
            "recall": float(np.mean([right[k] / support[k] for k in present])),
            "f1": macro.value,
            "accuracy": accuracy.value,
            "ci_low": accuracy.ci_low,
            "ci_high": accuracy.ci_high,
            "f1_ci_low": macro.ci_low,
            "f1_ci_high": macro.ci_high,
            "auc_roc": float(np.mean(defined)) if defined else None,
        }
    )
    for k in present:
        recall, f1 = float(right[k] / support[k]), f1s[k]
        rows.append(
            {
                "intent": names[k],
                "n": int(support[k]),
                "precision": precision[k],
                "recall": recall,
                "f1": f1.value,
                "accuracy": recall,
                "ci_low": f1.ci_low,
                "ci_high": f1.ci_high,
                "f1_ci_low": f1.ci_low,
                "f1_ci_high": f1.ci_high,
                "auc_roc": None if math.isnan(aucs[k]) else float(aucs[k]),
            }
        )
    return rows


def confusion_matrix(true: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts of shape (classes, classes), rows true and columns predicted, from codes of shape (n,)."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_estimate(right: int, wrongly_given: int, missed: int) -> Estimate:
    """F1 of a class with an interval that stays honest at 0 and 1; n counts the class's messages.

    Given the TP + FP + FN messages that the class concerns, TP is binomial with the Jaccard index J as its probability, and
    F1 = 2 J / (1 + J): Wilson's interval for J, mapped (Lam and others 2023, arXiv:2309.14621, "Wilson indirect"). A bootstrap would
    call three right answers of three an F1 of exactly 1, with no doubt at all.
    """
    concerned = right + wrongly_given + missed
    jaccard = proportion(right, concerned)
    if concerned == 0:
        return jaccard
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.ci_low, jaccard.ci_high))
    return Estimate(value, low, high, right + missed)


def macro_f1(counts: Ints, *, seed: int, resamples: int = 1000) -> Estimate:
    """Mean F1 over the classes that occur, with a percentile bootstrap over messages.

    Resampling messages is drawing the non-empty cells of the confusion matrix from a multinomial, all resamples at once.
    """
    n = int(counts.sum())
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rows, columns = np.nonzero(counts)
    present = np.flatnonzero(counts.sum(1))
    draws = np.random.default_rng(seed).multinomial(n, counts[rows, columns] / n, size=resamples)
    classes = len(counts)
    cells, right = np.arange(len(rows)), rows == columns
    concerned = np.zeros((len(rows), classes))  # TP twice, FP and FN once: the denominator of F1
    np.add.at(concerned, (cells, rows), 1)
    np.add.at(concerned, (cells, columns), 1)
    hits = np.zeros((len(rows), classes))
    hits[cells[right], rows[right]] = 2

    def mean_f1(cell_counts: NDArray[np.float64]) -> Floats:
        below = (cell_counts @ concerned)[..., present]
        above = (cell_counts @ hits)[..., present]
        each = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        return np.asarray(np.nanmean(each, axis=-1))

    low, high = np.quantile(mean_f1(draws.astype(np.float64)), (0.025, 0.975))
    value = float(mean_f1(counts[rows, columns].astype(np.float64)))
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def one_vs_rest_auc(true: Ints, scores: Floats) -> Floats:
    """Area under the ROC curve of each class against the rest, shape (classes,); NaN without both kinds of message.

    From mean ranks, ties shared (Mann and Whitney 1947).
    """
    from scipy.stats import rankdata

    n, classes = scores.shape
    positives = np.bincount(true, minlength=classes).astype(np.float64)
    ranks = rankdata(scores, axis=0)
    rank_sums = np.bincount(true, weights=ranks[np.arange(n), true], minlength=classes)
    pairs = positives * (n - positives)
    areas: Floats = np.divide(rank_sums - positives * (positives + 1) / 2, pairs, out=np.full(classes, np.nan), where=pairs > 0)
    return areas


# ── calibration and second intents ──────────────────────────────────────────────────────────────────────────────────


def calibration_bins(confidence: Floats, right: Bools) -> pa.Table:
    """One row per equal-width confidence bin that holds a message, columns CALIBRATION."""
    which = _bin_of(confidence)
    n = np.bincount(which, minlength=BINS)
    held = np.flatnonzero(n)
    edges = np.arange(BINS + 1) / BINS
    return pa.table(
        {
            "bin_low": edges[held],
            "bin_high": edges[held + 1],
            "n": n[held],
            "mean_confidence": np.bincount(which, confidence, BINS)[held] / n[held],
            "accuracy": np.bincount(which, right.astype(np.float64), BINS)[held] / n[held],
        },
        CALIBRATION,
    )


def calibration_error(confidence: Floats, right: Bools, *, seed: int, resamples: int = 1000) -> Estimate:
    """Expected calibration error over BINS bins with a bootstrap interval.

    The estimate is biased upwards by noise within bins, and resampling adds that bias once more, so the bootstrap's mean is moved
    onto the estimate. Cells of the bootstrap are bin x right or wrong, each with its mean confidence.
    """
    n = len(confidence)
    value = expected_calibration_error(confidence, right, bins=BINS)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    cell = _bin_of(confidence) * 2 + right
    counts = np.bincount(cell, minlength=2 * BINS)
    gap = (np.bincount(cell, confidence, 2 * BINS) / np.maximum(counts, 1)) - np.tile([0.0, 1.0], BINS)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    errors = np.abs((draws * gap).reshape(resamples, BINS, 2).sum(2)).sum(1) / n
    low, high = np.clip(np.quantile(errors, (0.025, 0.975)) - (errors.mean() - value), 0, 1)
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def _bin_of(confidence: Floats) -> Ints:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def both_intents(predictions: pa.Table) -> Estimate:
    """Of the messages with two intents, the share whose two were found, in either order; n = 0 where there is none."""
    two = predictions.filter(pc.is_valid(predictions["secondary_intent"]))
    columns = (two[name].to_pylist() for name in ("intent", "secondary_intent", "predicted", "predicted_secondary"))
    found = [{first, second} == {one, other} for first, second, one, other in zip(*columns, strict=True)]
    return proportion(sum(found), len(found))


# ── two models on the same messages ─────────────────────────────────────────────────────────────────────────────────


def f1_drop(is_class: Bools, before: Bools, after: Bools, *, seed: int, draws: int = 4000) -> Estimate:
    """How much F1 of one class fell, before - after, on the same messages; n counts the class's messages.

    Args:
        is_class: shape (n,), the message truly is of the class.
        before: shape (n,), the earlier model said so.
        after: shape (n,), the later model said so.
        seed: of the draws.
        draws: from the posterior.

    The interval is that of the posterior under a Jeffreys prior over the eight ways in which truth and two answers can fall (a
    Dirichlet with 1/2 each). Unlike a bootstrap it does not take the absence of changed answers among a few messages for proof that
    nothing changed: without one, it takes about 75 messages of the class to exclude a drop of 2 points.
    """
    n = int(is_class.sum())
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    cells = np.bincount(4 * is_class.astype(np.int64) + 2 * before + after, minlength=8).astype(np.float64)
    drawn = np.random.default_rng(seed).standard_gamma(cells + 0.5, size=(draws, 8))
    low, high = np.quantile(_drop(drawn), (0.025, 0.975))
    value = float(_drop(cells))
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def _drop(cells: Floats) -> Floats:
    """F1 before minus F1 after from weights of shape (..., 8), cell = 4 is_class + 2 before + after."""

    def f1(right: Floats, given: Floats) -> Floats:
        return np.asarray(2 * right / (given + cells[..., 4:].sum(-1)))

    given_before, given_after = cells[..., [2, 3, 6, 7]].sum(-1), cells[..., [1, 3, 5, 7]].sum(-1)
    return f1(cells[..., [6, 7]].sum(-1), given_before) - f1(cells[..., [5, 7]].sum(-1), given_after)
