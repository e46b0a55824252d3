"""Pictures of measurements, as PNG bytes 900 pixels wide, in colours that colour-blind readers can tell apart.

Every function draws what a table holds and computes nothing but positions. Figures are made without pyplot, so that threads can draw.
"""

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.drawing import BLUE, GREEN, GREY, INK, ORANGE, PALE, SERIES, SKY, VERMILLION, figure_of, intervals, legend_below
from mangaassist_assets.lib.intents.selection import SelectionRules
from mangaassist_assets.lib.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Belongs = Callable[[Mapping[str, Any]], bool]

MOST_WRITTEN_CLASSES = 25  # beyond that the counts of a confusion matrix are too small to read


# ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def confusion_plot(confusion: pa.Table, *, title: str = "Confusion matrix") -> bytes:
    """Rows true, columns predicted, shaded by share of the row, counts written; for many classes the commonest errors beside it.

    Args:
        confusion: columns intent, predicted, n; any number of classes.
        title: above the picture.
    """
    labels = sorted(set(confusion["intent"].to_pylist()) | set(confusion["predicted"].to_pylist()))
    place = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), np.int64)
    for true, predicted, n in zip(*(confusion[c].to_pylist() for c in ("intent", "predicted", "n")), strict=True):
        counts[place[true], place[predicted]] += n
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(labels) > MOST_WRITTEN_CLASSES:
        return _large_confusion(labels, counts, shares, title)
    with figure_of(2.6 + 0.62 * max(len(labels), 4), title) as (figure, png):
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        size = 9.5 if len(labels) <= 12 else 7.5
        for i, j in zip(*np.nonzero(counts), strict=True):
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=size, color="white" if shares[i, j] > 0.5 else INK)
        axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
        axes.set_yticks(range(len(labels)), [f"{label}  ({n})" for label, n in zip(labels, counts.sum(1), strict=True)], fontsize=size)
        axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(labels) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=PALE, linewidth=0.8)
        axes.tick_params(which="both", length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true (messages)")
    return png.getvalue()


def _large_confusion(labels: Sequence[str], counts: Any, shares: Any, title: str) -> bytes:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    pairs = [(int(k) // len(labels), int(k) % len(labels)) for k in order if wrong.flat[k] > 0]
    with figure_of(6.4, title) as (figure, png):
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        picture = left.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(
            picture, ax=left, shrink=0.7, ticks=np.sqrt([0, 0.01, 0.1, 0.5, 1]), label="share of the true class"
        ).ax.set_yticklabels(["0", "0.01", "0.1", "0.5", "1"])
        left.set_xticks([])
        left.set_yticks([])
        left.set_xlabel(f"predicted ({len(labels)} classes, alphabetical)")
        left.set_ylabel("true")
        _bars(right, [f"{labels[i]} → {labels[j]}" for i, j in pairs], [int(wrong[i, j]) for i, j in pairs])
        right.set_title(f"the {len(pairs)} commonest of {int((wrong > 0).sum())} kinds of error", fontsize=10, color=INK)
        right.set_xlabel("messages")
    return png.getvalue()


def _bars(axes: Any, names: Sequence[str], values: Sequence[int]) -> None:
    axes.barh(range(len(names)), values, color=VERMILLION, height=0.65)
    axes.set_yticks(range(len(names)), ["\n".join(textwrap.wrap(name, 44)) for name in names], fontsize=7.5)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    for place, value in enumerate(values):
        axes.annotate(f" {value}", (value, place), va="center", fontsize=7.5)
    axes.margins(x=0.12)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if not names:
        axes.text(0.5, 0.5, "no errors", transform=axes.transAxes, ha="center", color=GREY)


def calibration_plot(calibration: pa.Table, error: Estimate, *, title: str = "Calibration") -> bytes:
    """Accuracy against mean confidence per bin, and the number of messages per bin below it.

    Args:
        calibration: columns bin_low, bin_high, n, mean_confidence, accuracy.
        error: expected calibration error.
        title: above the picture.
    """
    low, high, n, confidence, accuracy = (
        calibration[name].to_numpy() for name in ("bin_low", "bin_high", "n", "mean_confidence", "accuracy")
    )
    with figure_of(6.6, f"{title}: expected calibration error {_interval(error, 3)}") as (figure, png):
        above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        above.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
        above.vlines(
            confidence, np.minimum(confidence, accuracy), np.maximum(confidence, accuracy), color=VERMILLION, linewidth=2.5, label="gap"
        )
        above.plot(confidence, accuracy, color=BLUE, marker="o", markersize=6, linewidth=1.5, label="measured")
        above.set_ylim(-0.02, 1.02)
        above.set_ylabel("accuracy")
        above.grid(color=PALE)
        above.legend(loc="upper left", frameon=False)
        below.bar((low + high) / 2, n, width=(high - low) * 0.92, color=SKY)
        for x, count in zip((low + high) / 2, n, strict=True):
            below.annotate(f"{count}", (x, count), ha="center", va="bottom", fontsize=8)
        below.margins(y=0.25)
        below.set_xlim(0, 1)
        below.set_xlabel("confidence")
        below.set_ylabel("messages")
    return png.getvalue()


def slice_plot(metrics: pa.Table, *, title: str = "Accuracy by slice") -> bytes:
    """Accuracy with its interval per slice, the cascade above and, where routes are known, the residual traffic below it.

    Args:
        metrics: columns scope, slice, intent, n, accuracy, ci_low, ci_high; the rows of `intent = all` are drawn.
        title: above the picture.
    """
    rows = metrics.filter(pc.equal(metrics["intent"], "all")).to_pylist()
    names = list(dict.fromkeys(row["slice"] for row in rows))
    scopes = [scope for scope in ("cascade", "residual") if any(row["scope"] == scope for row in rows)]
    with figure_of(1.5 + 0.5 * len(names), title) as (figure, png):
        axes = figure.add_subplot()
        for (colour, marker), scope in zip(SERIES, scopes, strict=False):
            own = [row for row in rows if row["scope"] == scope]
            shift = 0.0 if len(scopes) == 1 else 0.17 * (1 if scope == "residual" else -1)
            ys = [names.index(row["slice"]) + shift for row in own]
            label = {"cascade": "cascade: all messages", "residual": "residual: messages that reach the classifier"}[scope]
            intervals(axes, own, ys, value="accuracy", colour=colour, marker=marker, label=label)
            for row, y in zip(own, ys, strict=True):
                note = f"{row['accuracy']:.3f}   n = {row['n']}"
                axes.annotate(note, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=colour)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
        axes.set_xlim(right=1.005)
        axes.set_xlabel("share of messages answered right, 95% interval")
        axes.grid(axis="x", color=PALE)
        legend_below(figure, axes, len(scopes))
    return png.getvalue()


# ── choice ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def pareto_plot(benchmark: pa.Table, selection: pa.Table, rules: SelectionRules, *, title: str = "Latency, accuracy and cost") -> bytes:
    """Accuracy against P99 latency on a logarithmic scale, the limits shaded out, each candidate with its cost per million.

    Args:
        benchmark: columns candidate, status, accuracy, latency_ms_p99, usd_per_million.
        selection: columns candidate, chosen, eligible, dominated_by.
        rules: the limits that are drawn.
        title: above the picture.
    """
    decided = {row["candidate"]: row for row in selection.to_pylist()}
    drawn = [row for row in benchmark.to_pylist() if row["accuracy"] is not None and row["latency_ms_p99"] is not None]
    skipped = [row["candidate"] for row in benchmark.to_pylist() if row["status"] == "skipped"]
    with figure_of(6.2, title) as (figure, png):
        axes = figure.add_subplot()
        axes.set_xscale("log")
        kinds: tuple[tuple[str, str, str, int, Belongs], ...] = (
            ("chosen", GREEN, "*", 260, lambda d: d["chosen"]),
            ("eligible", BLUE, "o", 70, lambda d: d["eligible"] and not d["chosen"] and d["dominated_by"] is None),
            ("eligible, dominated", ORANGE, "D", 55, lambda d: d["eligible"] and not d["chosen"] and d["dominated_by"] is not None),
            ("breaks a limit", VERMILLION, "X", 75, lambda d: not d["eligible"]),
        )
        for label, colour, marker, size, belongs in kinds:
            own = [row for row in drawn if belongs(decided[row["candidate"]])]
            if own:
                xs, ys = [row["latency_ms_p99"] for row in own], [row["accuracy"] for row in own]
                axes.scatter(xs, ys, s=size, marker=marker, color=colour, label=label, zorder=3, edgecolor="white", linewidth=0.8)
        xs = [row["latency_ms_p99"] for row in drawn] or [1.0]
        ys = [row["accuracy"] for row in drawn] or [rules.accuracy]
        axes.set_xlim(min(*xs, rules.latency_ms_p99) / 2.5, max(*xs, rules.latency_ms_p99) * 4)
        reach = max(max(*ys, rules.accuracy) - min(*ys, rules.accuracy), 0.02)
        axes.set_ylim(min(*ys, rules.accuracy) - 0.18 * reach, min(max(*ys, rules.accuracy) + 0.12 * reach, 1.02))
        axes.axvspan(rules.latency_ms_p99, axes.get_xlim()[1], color=VERMILLION, alpha=0.07)
        axes.axhspan(axes.get_ylim()[0], rules.accuracy, color=VERMILLION, alpha=0.07)
        axes.axvline(
            rules.latency_ms_p99,
            color=VERMILLION,
            linewidth=1,
            label=f"limits: P99 {rules.latency_ms_p99:g} ms, accuracy {rules.accuracy:g}",
        )
        axes.axhline(rules.accuracy, color=VERMILLION, linewidth=1)
        _plain_logarithm(axes.xaxis)
        axes.set_xlabel("P99 latency, ms" + (f"        (skipped: {', '.join(skipped)})" if skipped else ""))
        axes.set_ylabel("accuracy")
        axes.grid(color=PALE)
        legend_below(figure, axes, 3)
        costs = ["cost unknown" if row["usd_per_million"] is None else f"${row['usd_per_million']:,.3g} a million" for row in drawn]
        notes = [f"{row['candidate']}\n{cost}" for row, cost in zip(drawn, costs, strict=True)]
        _label_points(figure, axes, [(row["latency_ms_p99"], row["accuracy"]) for row in drawn], notes)
    return png.getvalue()


def latency_plot(histograms: Mapping[str, pa.Table], *, limit_ms: float, title: str = "Latency from the time a request is due") -> bytes:
    """Share of requests slower than a given time, both axes logarithmic, so that tails show.

    Args:
        histograms: per candidate, columns latency_ms_low, latency_ms_high, n.
        limit_ms: the limit on P99, drawn at a share of 0.01.
        title: above the picture.
    """
    with figure_of(5.4, title) as (figure, png):
        axes = figure.add_subplot()
        for (colour, _), (name, table) in zip(_repeated(SERIES), histograms.items(), strict=False):
            n = table["n"].to_numpy().astype(np.float64)
            slower = 1 - np.cumsum(n) / n.sum()
            xs = np.concatenate([[table["latency_ms_low"][0].as_py()], table["latency_ms_high"].to_numpy()])
            ys = np.concatenate([[1.0], np.maximum(slower, 1e-9)])
            axes.step(xs, ys, where="post", color=colour, linewidth=1.8, label=f"{name} ({int(n.sum())} requests)")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(8e-4, 1.3)
        axes.plot([limit_ms], [0.01], color=INK, marker="v", markersize=9, linestyle="none", label=f"limit: P99 {limit_ms:g} ms")
        axes.axhline(0.01, color=GREY, linewidth=0.8, linestyle=":")
        _plain_logarithm(axes.xaxis)
        axes.set_yticks([1, 0.1, 0.01, 0.001], ["all", "1 in 10", "1 in 100", "1 in 1,000"])
        axes.set_xlabel("latency, ms")
        axes.set_ylabel("requests slower than that")
        axes.grid(color=PALE)
        legend_below(figure, axes, 3)
    return png.getvalue()


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lift_plot(lift: pa.Table, *, title: str = "What augmentation changed") -> bytes:
    """Change of accuracy with its paired interval per slice.

    Args:
        lift: columns slice, n, accuracy_before, accuracy_after, change, ci_low, ci_high, p_value.
        title: above the picture.
    """
    rows = lift.to_pylist()
    with figure_of(1.7 + 0.42 * len(rows), title) as (figure, png):
        axes = figure.add_subplot()
        kinds: tuple[tuple[str, str, str, Belongs], ...] = (
            ("better", GREEN, "^", lambda r: r["ci_low"] > 0),
            ("no clear change", GREY, "o", lambda r: r["ci_low"] <= 0 <= r["ci_high"]),
            ("worse", VERMILLION, "v", lambda r: r["ci_high"] < 0),
        )
        for label, colour, marker, belongs in kinds:
            places = [i for i, row in enumerate(rows) if belongs(row)]
            if places:
                own = [rows[i] for i in places]
                intervals(axes, own, places, value="change", colour=colour, marker=marker, label=label)
        for i, row in enumerate(rows):
            note = f"{row['accuracy_before']:.3f} → {row['accuracy_after']:.3f}   n = {row['n']}   p {_p_value(row['p_value'])}"
            axes.annotate(note, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), [row["slice"] for row in rows])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        axes.set_xlabel("change of accuracy, paired 95% interval")
        axes.grid(axis="x", color=PALE)
        legend_below(figure, axes, 3)
    return png.getvalue()


def learning_curve_plot(curve: pa.Table, *, title: str = "Learning curve") -> bytes:
    """Accuracy against number of training messages, one line per source of messages.

    Args:
        curve: columns series, messages, accuracy, ci_low, ci_high.
        title: above the picture.
    """
    rows = curve.to_pylist()
    names = list(dict.fromkeys(row["series"] for row in rows))
    with figure_of(5.4, title) as (figure, png):
        axes = figure.add_subplot()
        for (colour, marker), name in zip(_repeated(SERIES), names, strict=False):
            own = sorted((row for row in rows if row["series"] == name), key=lambda row: row["messages"])
            xs = [row["messages"] for row in own]
            axes.fill_between(xs, [row["ci_low"] for row in own], [row["ci_high"] for row in own], color=colour, alpha=0.13, linewidth=0)
            axes.plot(xs, [row["accuracy"] for row in own], color=colour, marker=marker, markersize=6, linewidth=1.8, label=name)
        axes.set_xscale("log")
        _plain_logarithm(axes.xaxis)
        axes.set_xlabel("training messages")
        axes.set_ylabel("accuracy, 95% interval")
        axes.grid(color=PALE)
        legend_below(figure, axes, 3)
    return png.getvalue()


# ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _label_points(figure: "Figure", axes: Any, points: Sequence[tuple[float, float]], notes: Sequence[str]) -> None:
    """Writes a note beside each point, where it covers neither another point nor an earlier note, if there is such a place."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # the layout decides where things lie
    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in axes.transData.transform(points)] if points else []
    offsets = [
        (9, -4, "left", "top"),
        (9, 4, "left", "bottom"),
        (-9, -4, "right", "top"),
        (-9, 4, "right", "bottom"),
        (0, 12, "center", "bottom"),
    ]
    for point, note in sorted(zip(points, notes, strict=True)):
        written = axes.annotate(note, point, xytext=(0, 0), textcoords="offset points", fontsize=9)
        extents = []
        for dx, dy, horizontal, vertical in offsets:
            written.set(position=(dx, dy), ha=horizontal, va=vertical)
            extents.append(written.get_window_extent())
        collisions = [sum(extent.overlaps(other) for other in taken) + (not _within(axes.bbox, extent)) for extent in extents]
        best = collisions.index(min(collisions))
        dx, dy, horizontal, vertical = offsets[best]
        written.set(position=(dx, dy), ha=horizontal, va=vertical)
        taken.append(extents[best])


def _within(frame: Any, box: Any) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def _plain_logarithm(axis: Any) -> None:
    """1, 10, 1,000 instead of powers of ten, and small numbers between where there is room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:.10f}".rstrip("0")))
    axis.set_minor_formatter(NullFormatter())


def _repeated(series: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    while True:
        yield from series


def _interval(estimate: Estimate, digits: int) -> str:
    if not math.isfinite(estimate.value):
        return "not measured"
    return f"{estimate.value:.{digits}f} [{estimate.ci_low:.{digits}f}, {estimate.ci_high:.{digits}f}], n = {estimate.n}"


def _p_value(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"
