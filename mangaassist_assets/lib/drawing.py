"""How every picture of the project looks: PNG bytes 900 pixels wide, in colours that colour-blind readers can tell apart."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which stays distinct in the common kinds of colour blindness.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
INK, GREY, PALE = "#222222", "#6E6E6E", "#E6E6E6"
SERIES = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"), (PURPLE, "v"), (SKY, "P"), (INK, "X"), (GREY, "*"))

WIDTH_INCHES, DOTS_PER_INCH = 9.0, 100
JAPANESE_FONTS = ("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "Hiragino Sans", "Yu Gothic", "MS Gothic")


@contextlib.contextmanager
def figure_of(height_inches: float, title: str) -> Iterator[tuple["Figure", io.BytesIO]]:
    """A figure to draw on; when the block ends it is rendered into the buffer."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    look = {
        "font.family": ["DejaVu Sans", *(name for name in JAPANESE_FONTS if name in installed)],
        "font.size": 10,
        "text.parse_math": False,  # a label may hold a dollar sign
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box where no font has it
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=12.5, fontweight="bold", x=0.012, ha="left")
        yield figure, buffer
        figure.savefig(buffer, format="png", metadata={"Software": None})  # equal content, equal bytes


def intervals(
    axes: Any, rows: Sequence[Mapping[str, Any]], ys: Sequence[float], *, value: str, colour: str, marker: str, label: str
) -> None:
    """Values of rows at heights `ys`, each with its interval."""
    values = np.array([row[value] for row in rows])
    below, above = values - [row["ci_low"] for row in rows], np.array([row["ci_high"] for row in rows]) - values
    axes.errorbar(values, ys, xerr=(below, above), fmt=marker, color=colour, markersize=7, elinewidth=2, capsize=3, label=label)


def legend_below(figure: "Figure", axes: Any, columns: int) -> None:
    """What the marks mean, below the axes."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5)
