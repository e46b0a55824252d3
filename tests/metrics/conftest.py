"""A tiny lake with every table that the metric files read, and ways to run all files on it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.metrics.sql_files import SqlFile, read_sql_files
from mangaassist_assets.lib.metrics.warehouse import build, lake_name, read_input, run_file

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
    return {
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
        ("release/rollout", "data"): pa.Table.from_pylist(events),
        ("messages/labeled_messages", "data"): pa.Table.from_pylist(messages),
    }


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
