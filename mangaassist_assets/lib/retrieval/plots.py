"""Pictures of retrieval, as PNG bytes."""

import numpy as np
import pyarrow as pa

from mangaassist_assets.lib.drawing import BLUE, GREY, INK, PALE, SERIES, VERMILLION, figure_of, intervals, legend_below


def recall_plot(metrics: pa.Table, *, metric: str = "recall_at_3", title: str = "Queries answered within the first 3, by slice") -> bytes:
    """One metric with its interval per slice, one mark for each embedding space.

    Args:
        metrics: columns RETRIEVAL_METRICS of at most eight spaces, drawn in order of appearance.
        metric: which of them.
        title: above the picture.
    """
    rows = [row for row in metrics.to_pylist() if row["metric"] == metric and row["value"] is not None]
    names, spaces = (list(dict.fromkeys(row[key] for row in rows)) for key in ("slice", "embedding_space"))
    counts = {row["slice"]: row["n"] for row in rows}
    with figure_of(1.7 + (0.3 + 0.16 * len(spaces)) * max(len(names), 1), title) as (figure, png):
        axes = figure.add_subplot()
        for number, (space, (colour, marker)) in enumerate(zip(spaces, SERIES, strict=False)):
            own = [row for row in rows if row["embedding_space"] == space]
            shift = 0.6 * ((number + 0.5) / len(spaces) - 0.5)
            ys = [names.index(row["slice"]) + shift for row in own]
            intervals(axes, own, ys, value="value", colour=colour, marker=marker, label=space)
            for row, y in zip(own, ys, strict=True):
                place = (1.01, y)
                axes.annotate(f"{row['value']:.3f}", place, xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)
        axes.set_yticks(range(len(names)), [f"{name}  ({counts[name]})" for name in names])
        axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
        axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel(f"{metric}, 95% interval (queries)")
        axes.grid(axis="x", color=PALE)
        legend_below(figure, axes, 2)
    return png.getvalue()


def separation_plot(separation: pa.Table, *, title: str = "Cosine of answers and of wrong answers") -> bytes:
    """Histograms of positive and negative pairs, the encoder's space above and the adapted one below it.

    Args:
        separation: columns SEPARATION.
        title: above the picture.
    """
    rows = separation.to_pylist()
    spaces = list(dict.fromkeys(row["space"] for row in rows)) or ["base"]
    drawn = [edge for row in rows if row["n"] for edge in (row["cosine_low"], row["cosine_high"])] or [-1.0, 1.0]
    with figure_of(1.2 + 2.4 * len(spaces), title) as (figure, png):
        panels = np.atleast_1d(figure.subplots(len(spaces), 1, sharex=True))
        for axes, space in zip(panels, spaces, strict=True):
            means = []
            for side, colour in (("negative", VERMILLION), ("positive", BLUE)):
                own = [row for row in rows if (row["space"], row["side"]) == (space, side)]
                total = sum(row["n"] for row in own)
                if not total:
                    continue
                edges = [row["cosine_low"] for row in own] + [own[-1]["cosine_high"]]
                axes.stairs([row["n"] / total for row in own], edges, fill=True, color=colour, alpha=0.45, label=f"{side} pairs")
                axes.axvline(own[0]["mean"], color=colour, linewidth=1.6)
                means.append(own[0]["mean"])
            gap = f": means {means[1] - means[0]:.3f} apart" if len(means) == 2 else ""
            axes.set_title(f"{space}{gap}", fontsize=10, color=INK, loc="left")
            axes.set_ylabel("share of pairs", color=GREY)
            axes.grid(axis="x", color=PALE)
        panels[-1].set_xlim(min(drawn), max(drawn))
        panels[-1].set_xlabel("cosine of query and chunk; lines are means")
        legend_below(figure, panels[0], 2)
    return png.getvalue()
