"""Pictures of retrieval are PNGs 900 pixels wide, even of nothing."""

import struct

import pyarrow as pa
import pytest

from mangaassist_assets.lib.retrieval.evaluation import METRICS, RETRIEVAL_METRICS
from mangaassist_assets.lib.retrieval.plots import recall_plot, separation_plot
from mangaassist_assets.lib.retrieval.separation import SEPARATION


def width(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])[0]


def metrics(spaces, slices):
    return pa.Table.from_pylist(
        [
            {"embedding_space": space, "slice": name, "metric": metric, "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 20}
            for space in spaces
            for name in slices
            for metric in METRICS
        ],
        schema=RETRIEVAL_METRICS,
    )


def cosines(*spaces):
    return pa.Table.from_pylist(
        [
            {"space": space, "side": side, "cosine_low": low / 10, "cosine_high": (low + 1) / 10, "n": low + 1, "mean": mean}
            for space in spaces
            for side, mean in (("positive", 0.6), ("negative", 0.3))
            for low in range(-10, 10)
            if low >= 0
        ],
        schema=SEPARATION,
    )


@pytest.mark.parametrize("spaces", [(), ("base",), ("base", "adapted", "fused")])
def test_recall_is_drawn_for_any_number_of_spaces_and_slices(spaces):
    assert width(recall_plot(metrics(spaces, ("all", "日本語", "kind:plot")))) == 900


@pytest.mark.parametrize("spaces", [(), ("base", "adapted")])
def test_cosines_are_drawn_before_and_after(spaces):
    assert width(separation_plot(cosines(*spaces))) == 900


def test_equal_tables_give_equal_bytes():
    assert recall_plot(metrics(("a",), ("all",))) == recall_plot(metrics(("a",), ("all",)))
