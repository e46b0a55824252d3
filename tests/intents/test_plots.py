"""Every picture is a PNG 900 pixels wide, whatever the labels, however many, and even of nothing."""

import struct
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.intents import plots
from mangaassist_assets.lib.intents.benchmark import MODEL_BENCHMARK, latency_histogram
from mangaassist_assets.lib.intents.evaluation import CALIBRATION, CONFUSION, METRICS, calibration_bins, calibration_error
from mangaassist_assets.lib.intents.lift import LIFT
from mangaassist_assets.lib.intents.selection import MODEL_SELECTION, SelectionRules
from mangaassist_assets.lib.statistics import Estimate

CURVE = pa.schema([("series", pa.string()), ("messages", pa.int64()), *((n, pa.float64()) for n in ("accuracy", "ci_low", "ci_high"))])


def size(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def confusion(classes):
    rows = [("d", f"class {i:03}", f"class {j:03}", 40 if i == j else 1) for i in range(classes) for j in (i, (i * 7 + 3) % classes)]
    return pa.table(list(map(list, zip(*rows, strict=True))), schema=CONFUSION)


def metrics(scopes):
    rows = [
        {"scope": scope, "slice": name, "intent": intent, "n": 50, "accuracy": 0.9, "ci_low": 0.8, "ci_high": 0.95}
        for scope in scopes
        for name in ("all", "slang", "split:golden")
        for intent in ("all", "faq")
    ]
    return pa.Table.from_pylist(rows, METRICS)


def benchmark(*points):
    rows = [
        {"candidate": f"c{i}", "status": "measured", "accuracy": a, "latency_ms_p99": p, "usd_per_million": u}
        for i, (a, p, u) in enumerate(points)
    ]
    rows.append({"candidate": "bert_base", "status": "skipped", "reason": "no weights"})
    decided = [{"candidate": r["candidate"], "chosen": r["candidate"] == "c0", "eligible": r["candidate"] in ("c0", "c1")} for r in rows]
    return pa.Table.from_pylist(rows, MODEL_BENCHMARK), pa.Table.from_pylist(decided, MODEL_SELECTION)


def lift(*changes):
    rows = [
        {
            "slice": f"s{i}",
            "n": 30,
            "accuracy_before": 0.8,
            "accuracy_after": 0.8 + c,
            "change": c,
            "ci_low": c - 0.05,
            "ci_high": c + 0.05,
            "p_value": 0.0004,
        }
        for i, c in enumerate(changes)
    ]
    return pa.Table.from_pylist(rows, LIFT)


@pytest.mark.parametrize("classes", [1, 2, 10, 25, 26, 150])
def test_a_confusion_matrix_of_any_number_of_classes_keeps_its_width_and_a_sane_height(classes):
    width, height = size(plots.confusion_plot(confusion(classes)))
    assert width == 900
    assert 400 < height < 2000


def test_a_large_confusion_matrix_without_errors_says_so():
    perfect = pa.table([["d"] * 30, [f"c{i}" for i in range(30)], [f"c{i}" for i in range(30)], [5] * 30], schema=CONFUSION)
    assert size(plots.confusion_plot(perfect))[0] == 900


def test_labels_may_be_japanese_or_hold_dollar_signs_and_underscores():
    names = ["返品_リクエスト", "$5 off_$10", "a" * 40]
    table = pa.table([["d"] * 3, names, names, [3, 4, 5]], schema=CONFUSION)
    assert size(plots.confusion_plot(table, title="100% of $1"))[0] == 900


def test_calibration_is_drawn_for_some_bins_and_for_none():
    rng = np.random.default_rng(1)
    confidence = rng.random(200)
    right = rng.random(200) < confidence
    assert size(plots.calibration_plot(calibration_bins(confidence, right), calibration_error(confidence, right, seed=1)))[0] == 900
    nothing = Estimate(float("nan"), float("nan"), float("nan"), 0)
    assert size(plots.calibration_plot(CALIBRATION.empty_table(), nothing))[0] == 900


@pytest.mark.parametrize("scopes", [("cascade",), ("cascade", "residual")])
def test_slices_are_drawn_with_and_without_residual_traffic(scopes):
    assert size(plots.slice_plot(metrics(scopes)))[0] == 900


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0.95, 12.0, 0.5)],
        [(0.95, 12.0, 0.5), (0.92, 3.0, None), (0.7, 0.02, 0.0), (0.7, 900.0, 30.0)],
        [(0.9, 50.0, 1.0)] * 6,
        [(None, None, None)],
    ],
)
def test_the_choice_is_drawn_for_any_number_of_candidates_even_on_one_spot(points):
    assert size(plots.pareto_plot(*benchmark(*points), SelectionRules()))[0] == 900


def test_latency_tails_are_drawn_for_more_candidates_than_there_are_colours():
    rng = np.random.default_rng(2)
    histograms = {f"c{i}": latency_histogram(rng.lognormal(i / 3, 0.4, 300)) for i in range(10)}
    assert size(plots.latency_plot(histograms, limit_ms=50))[0] == 900
    assert size(plots.latency_plot({}, limit_ms=50))[0] == 900


@pytest.mark.parametrize("changes", [(), (0.0,), (0.2, 0.0, -0.2)])
def test_lift_is_drawn_better_worse_and_unclear(changes):
    assert size(plots.lift_plot(lift(*changes)))[0] == 900


def test_learning_curves_are_drawn_one_per_series():
    rows = [{"series": s, "messages": n, "accuracy": 0.8, "ci_low": 0.7, "ci_high": 0.9} for s in ("bitext", "manga") for n in (1000, 100)]
    assert size(plots.learning_curve_plot(pa.Table.from_pylist(rows, CURVE)))[0] == 900
    assert size(plots.learning_curve_plot(CURVE.empty_table()))[0] == 900


def test_equal_tables_give_equal_bytes():
    assert plots.confusion_plot(confusion(4)) == plots.confusion_plot(confusion(4))
    assert plots.confusion_plot(confusion(4)) != plots.confusion_plot(confusion(5))


def test_matplotlib_loads_only_when_something_is_drawn():
    code = "import sys; import mangaassist_assets.lib.intents.plots; sys.exit('matplotlib' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
