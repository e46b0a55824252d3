"""A tiny lake with every table that the metric files read, and ways to run all files on it."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.metrics.sql_files import SqlFile, read_sql_files
from mangaassist_assets.lib.metrics.warehouse import build, lake_name, read_input, run_file
from mangaassist_assets.lib.release.gates import GATES

NAN = float("nan")
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def tiny_lake() -> dict[tuple[str, str], pa.Table]:
    """(name, part) -> table: two candidates, one skipped candidate, one release."""
    benchmark = {
        "candidate": ["minilm", "linear", "bert_base"], "status": ["measured", "measured", "skipped"],
        "reason": [None, None, "no weights at hub/bert_base"], "accuracy": [0.9, 0.8, NAN], "macro_f1": [0.88, 0.79, None],
        "latency_ms_mean": [5.0, 1.0, None], "latency_ms_p50": [4.0, 1.0, None], "latency_ms_p99": [12.0, 2.0, None],
        "throughput_per_s": [900.0, 9000.0, None], "size_mb": [23.0, 1.5, None], "instance_type": ["m7i.large", "m7i.large", None],
        "instance_usd_per_hour": [0.1, 0.1, None], "usd_per_million": [0.03, 0.003, None], "training_s": [60.0, 3.0, None],
        "hardware": ["2 cores", "2 cores", None],
    }  # fmt: skip
    selection = {
        "candidate": ["minilm", "linear"], "chosen": [True, False], "reason": ["most accurate within 50 ms", "accuracy below 0.85"],
        "usd_per_marginal_accuracy_point": [0.0027, None], "dominated_by": [None, None],
    }  # fmt: skip
    figures = {"precision": 0.9, "recall": 0.8, "f1": 0.85, "accuracy": 0.9, "ci_low": 0.8, "ci_high": 0.95, "auc_roc": 0.97}
    evaluation = [
        {"model_digest": "m" * 64, "scope": scope, "slice": slice_, "intent": intent, "n": 40, **figures}
        for scope in ("cascade", "residual")
        for slice_, intent in (("all", "all"), ("japanese_mixed", "all"), ("all", "faq"), ("all", "promotion"), ("emoji", "faq"))
    ]
    evaluation[1] |= {"n": 0, "accuracy": NAN, "ci_low": NAN, "ci_high": NAN}
    gates = [
        {"release": "r" * 64, "metric": metric, "owner": "joint", "threshold": limit, "observed": seen, "ci_low": low, "ci_high": high,
         "n": n, "verdict": verdict, "reason": "", "measured_at": NOON}
        for metric, limit, seen, low, high, n, verdict in (
            ("accuracy", 0.85, 0.9, 0.87, 0.93, 300, "PASS"), ("latency_ms_p99", 50.0, 80.0, 70.0, 90.0, 900, "FAIL"),
            ("throughput_per_s", 1000.0, None, None, None, 0, "FAIL"), ("macro_f1", 0.85, 0.86, 0.8, 0.9, 300, "INCONCLUSIVE"))
    ]  # fmt: skip
    later_gates = {
        stage: [{"release": ("a" if stage == "retrieval" else "r") * 64, "metric": metric, "owner": "joint", "threshold": 0.01,
                 "observed": seen, "ci_low": seen, "ci_high": seen, "n": 5000, "verdict": "PASS", "reason": "", "measured_at": NOON}]
        for stage, metric, seen in (
            ("shadow", "shadow_agreement", 0.97), ("canary", "escalation_rate_change", 0.002), ("retrieval", "recall_at_3_gain", 0.2))
    }  # fmt: skip
    lift = {
        "slice": ["all", "slang"], "n": [300, 25], "accuracy_before": [0.85, 0.6], "accuracy_after": [0.88, 0.72], "change": [0.03, 0.12],
        "ci_low": [0.01, -0.02], "ci_high": [0.05, 0.2], "p_value": [0.01, 0.4],
    }  # fmt: skip
    events = [
        {"release": "r" * 64, "from_state": None, "to_state": "candidate", "at": NOON, "by": "release_candidate",
         "verdict": None, "reason": None},
        {"release": "r" * 64, "from_state": "candidate", "to_state": "held", "at": NOON.replace(hour=13), "by": "champion",
         "verdict": "FAIL", "reason": "latency_ms_p99 <script>alert(1)</script>"},
    ]  # fmt: skip
    messages = [
        {"message_id": f"{number:016x}", "text": f"private {number}", "intent": intent, "secondary_intent": "faq" if number == 1 else None,
         "split": "train" if number % 2 else "golden", "source": "bitext", "licence": "CDLA-Sharing-1.0", "synthetic": number == 3,
         "language": "en", "slices": ["slang"]}
        for number, intent in enumerate(["faq", "promotion", "faq", "faq"])
    ]  # fmt: skip
    retrieval = [
        {"embedding_space": space, "slice": slice_, "metric": metric, "value": value, "ci_low": low, "ci_high": high, "n": n}
        for space, slice_, metric, value, low, high, n in (
            ("minilm-0123456789ab", "all", "recall_at_3", 0.5, 0.4, 0.6, 248), ("fused", "all", "recall_at_3", 0.92, 0.88, 0.95, 248),
            ("fused", "japanese", "mrr", NAN, None, None, 0))
    ]  # fmt: skip
    events = [{"step": step} | event for step, event in enumerate(events, 1)]
    return traffic_tables() | {
        ("intents/candidate_benchmark", "data"): pa.table(benchmark),
        ("intents/model_selection", "data"): pa.table(selection),
        ("intents/intent_evaluation", "data"): pa.Table.from_pylist(evaluation),
        ("intents/intent_evaluation", "confusion"): pa.table(
            {
                "model_digest": ["m" * 64] * 3,
                "intent": ["faq", "faq", "promotion"],
                "predicted": ["faq", "promotion", "promotion"],
                "n": [30, 10, 40],
            }
        ),  # fmt: skip
        ("intents/intent_evaluation", "calibration"): pa.table(
            {"bin_low": [0.0, 0.5], "bin_high": [0.5, 1.0], "n": [0, 80], "mean_confidence": [NAN, 0.9], "accuracy": [NAN, 0.85]}
        ),
        ("intents/augmentation_lift", "data"): pa.table(lift),
        ("retrieval/retrieval_evaluation", "data"): pa.Table.from_pylist(retrieval),
        ("release/offline_gates", "data"): pa.Table.from_pylist(gates),
        **{(f"release/{stage}_gates", "data"): pa.Table.from_pylist(later_gates[stage], GATES) for stage in later_gates},
        ("release/rollout", "data"): pa.Table.from_pylist(events),
        ("messages/labeled_messages", "data"): pa.Table.from_pylist(messages),
    }


def traffic_tables() -> dict[tuple[str, str], pa.Table]:
    """What drift's assets leave: two days, of which the second has no feedback and no probes."""
    first, second = date(2026, 11, 19), date(2026, 11, 20)
    counted = {
        "feedback": 0, "thumbs_up": 0, "thumbs_down": 0, "escalated": 0, "converted": 0, "errors": 0, "input_tokens": 0, "output_tokens": 0,
        "cost_usd": 0.0,
    }  # fmt: skip
    counts = [
        {"day": day, "intent": intent, "language": language, "route": route, "model_digest": "m" * 64, "arm": "champion", "generator": None,
         "n": n, "confidence_sum": total, **counted, **more}
        for day, intent, language, route, n, total, more in (
            (first, "faq", "en", "classifier", 30, 27.0, {"feedback": 8, "thumbs_up": 3, "thumbs_down": 1, "escalated": 2, "cost_usd": .3}),
            (first, "faq", "ja", "classifier", 10, 7.0, {"feedback": 2, "thumbs_up": 2, "converted": 4, "errors": 1, "cost_usd": 0.1}),
            (first, "promotion", "en", "rules", 10, 10.0, {}),
            (second, "faq", "en", "classifier", 5, 4.5, {}))
    ]  # fmt: skip
    quiet = {"sessions": 4, "duplicates": 0, "quarantined": 0, "late": 0, "flagged": 0}
    days = [
        quiet | {"day": day, "requests": n, "busiest_minute": busiest, "probes": probes, "probes_right": right, "latency_ms_p50": p50,
                 "latency_ms_p99": p99}
        for day, n, busiest, probes, right, p50, p99 in ((first, 50, 12, 10, 9, 4.0, 20.0), (second, 5, 3, 0, None, NAN, NAN))
    ]  # fmt: skip
    monday = date(2026, 11, 16)
    shares = [
        {"week": monday, "intent": intent, "n": n, "share": share, "previous_share": before, "shift": shift, "baseline_share": None,
         "p_value": p_value, "alerting": alerting, "reason": reason}
        for intent, n, share, before, shift, p_value, alerting, reason in (
            ("faq", 45, 0.82, 0.7, 0.12, 0.001, True, "shifted by 12 points"),
            ("promotion", 10, 0.18, None, None, None, False, "no week before"))
    ]  # fmt: skip
    confidence = [
        {"day": day, "n": n, "mean_confidence": mean, "ci_low": mean - 0.02, "ci_high": mean + 0.02, "expected_calibration_error": NAN,
         "labelled_n": 0, "alerting": False, "reason": "above the floor"}
        for day, n, mean in ((first, 50, 0.88), (second, 5, 0.9))
    ]  # fmt: skip
    embedding = {
        "month": date(2026, 11, 1), "n": 400, "kl_nats": 0.31, "histogram_kl_nats": 0.2, "p_value": 0.004, "threshold_nats": 0.1,
        "alerting": True, "reason": "beyond the threshold",
    }  # fmt: skip
    triage = [
        {"period": monday, "signal": signal, "cause": cause, "evidence": "faq 0.70 to 0.82", "action": action, "observed": 0.12,
         "threshold": 0.05, "retrain": retrain, "reason": "no retrain in 28 days"}
        for signal, cause, action, retrain in (("share", "data", "label_more", False), ("verdict", "data", "retrain", True))
    ]  # fmt: skip
    accuracy = {
        "week": monday, "model_digest": "m" * 64, "n": 60, "accuracy": 0.91, "ci_low": 0.84, "ci_high": 0.96,
        "expected_calibration_error": 0.03,
    }  # fmt: skip
    rows = {
        ("drift/traffic", "data"): counts, ("drift/traffic", "day"): days, ("drift/intent_share", "data"): shares,
        ("drift/confidence", "data"): confidence, ("drift/embedding_drift", "data"): [embedding], ("drift/drift_triage", "data"): triage,
        ("messages/production_accuracy", "data"): [accuracy],
    }  # fmt: skip
    return {place: pa.Table.from_pylist(found) for place, found in rows.items()}


@pytest.fixture(scope="session")
def files() -> tuple[SqlFile, ...]:
    return read_sql_files()


def furnish(home: Path) -> House:
    """A house whose lake holds the tiny tables, nothing of the metrics yet."""
    house = House(home)
    for (name, part), table in tiny_lake().items():
        house.write_table(name, table, part=part)
    return house


@pytest.fixture
def house(tmp_path: Path) -> House:
    return furnish(tmp_path / "home")


@pytest.fixture(scope="session")
def run_all(files: tuple[SqlFile, ...]) -> Callable[[House], dict[str, pa.Table]]:
    """Runs every file on the lake, writes each result, returns them by `schema.table`."""

    def run_all(house: House) -> dict[str, pa.Table]:
        results = {}
        for file in files:
            results[file.name] = run_file(file, {name: read_input(house, name) for name in file.inputs})
            house.write_table(lake_name(file), results[file.name])
        return results

    return run_all


@pytest.fixture(scope="session")
def publish(files: tuple[SqlFile, ...], run_all: Callable[[House], dict[str, pa.Table]]) -> Callable[[House], Path]:
    """Runs all files and builds the database; returns its path."""

    def publish(house: House) -> Path:
        run_all(house)
        return build(files, house, house.home / "warehouse" / "metrics.duckdb").path

    return publish


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, run_all: Callable[[House], dict[str, pa.Table]]) -> dict[str, pa.Table]:
    """The result of every file on the tiny lake, by `schema.table`."""
    return run_all(furnish(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, publish: Callable[[House], Path]) -> Path:
    """A published database that tests only read."""
    return publish(furnish(tmp_path_factory.mktemp("published")))


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[..., Path]:
    """Writes SQL files given as `schema/table` -> text into a folder of their own."""

    def write(**texts: str) -> Path:
        for name, text in texts.items():
            schema, table = name.split("__", 1)
            path = tmp_path / "sql" / schema / f"{table}.sql"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return tmp_path / "sql"

    return write
