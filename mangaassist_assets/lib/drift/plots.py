"""Pictures of drift over time, as PNG bytes."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mangaassist_assets.lib.drawing import BLUE, GREY, INK, PALE, SERIES, VERMILLION, figure_of, legend_below
from mangaassist_assets.lib.drift.limits import DriftLimits

ALARM = {"color": VERMILLION, "marker": "o", "s": 60, "facecolors": "none", "linewidths": 1.8, "zorder": 4}


def shares_plot(intent_share: pa.Table, *, title: str = "Shares of intents by week") -> bytes:
    """One line per intent, the largest eight by name and the rest in grey; a ring where a week alarms.

    Args:
        intent_share: columns INTENT_SHARE.
        title: above the picture.
    """
    rows = [row for row in intent_share.to_pylist() if row["share"] is not None]
    totals: dict[str, int] = {}
    for row in rows:
        totals[row["intent"]] = totals.get(row["intent"], 0) + row["n"]
    named = dict(zip(sorted(totals, key=lambda name: -totals[name]), SERIES, strict=False))
    with figure_of(4.6, title) as (figure, png):
        axes = figure.add_subplot()
        for intent in totals:
            own = [row for row in rows if row["intent"] == intent]
            colour, marker = named.get(intent, (PALE, ""))
            label = intent if intent in named else "_others"
            weeks, shares = [row["week"] for row in own], [100 * row["share"] for row in own]
            axes.plot(weeks, shares, color=colour, marker=marker, markersize=4, linewidth=1.5, label=label)
        alarms = [row for row in rows if row["alerting"]]
        _rings(axes, [row["week"] for row in alarms], [100 * row["share"] for row in alarms])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("share of messages, %")
        _dates(axes)
        legend_below(figure, axes, 4)
    return png.getvalue()


def confidence_plot(confidence: pa.Table, limits: DriftLimits, *, title: str = "Mean confidence by day") -> bytes:
    """The daily mean with its 95% interval and the floor; a ring where a day alarms.

    Args:
        confidence: columns CONFIDENCE.
        limits: `mean_confidence` is the floor.
        title: above the picture.
    """
    rows = confidence.to_pylist()
    days, means = [row["day"] for row in rows], [row["mean_confidence"] for row in rows]
    with figure_of(3.6, title) as (figure, png):
        axes = figure.add_subplot()
        axes.fill_between(days, [row["ci_low"] for row in rows], [row["ci_high"] for row in rows], color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(days, means, color=BLUE, linewidth=1.6, label="mean, 95% interval")
        axes.axhline(limits.mean_confidence, color=GREY, linestyle="--", linewidth=1.2, label=f"floor {limits.mean_confidence:g}")
        alarms = [row for row in rows if row["alerting"]]
        _rings(axes, [row["day"] for row in alarms], [row["mean_confidence"] for row in alarms])
        axes.set_ylabel("confidence")
        _dates(axes)
        legend_below(figure, axes, 3)
    return png.getvalue()


def divergence_plot(embedding_drift: pa.Table, *, title: str = "Divergence of messages from the month before") -> bytes:
    """KL divergence of each month beside its threshold; a month that alarms in another colour.

    Args:
        embedding_drift: columns EMBEDDING_DRIFT.
        title: above the picture.
    """
    rows = [row for row in embedding_drift.to_pylist() if row["kl_nats"] is not None]
    with figure_of(3.6, title) as (figure, png):
        axes = figure.add_subplot()
        for number, row in enumerate(rows):
            colour = VERMILLION if row["alerting"] else BLUE
            axes.bar(number, row["kl_nats"], width=0.6, color=colour)
            axes.annotate(f"{row['kl_nats']:.3g}", (number, row["kl_nats"]), ha="center", va="bottom", fontsize=8.5, color=INK)
            label = "_threshold" if number else "threshold"
            axes.plot([number - 0.4, number + 0.4], [row["threshold_nats"]] * 2, color=INK, linestyle="--", linewidth=1.4, label=label)
        axes.set_xticks(range(len(rows)), [f"{row['month']:%Y-%m}" for row in rows])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("KL divergence, nats")
        axes.grid(axis="y", color=PALE)
        legend_below(figure, axes, 1)
    return png.getvalue()


def _rings(axes: Any, xs: Sequence[dt.date], ys: Sequence[float]) -> None:
    if xs:
        axes.scatter(xs, ys, label="alarm", **ALARM)


def _dates(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.grid(axis="y", color=PALE)
