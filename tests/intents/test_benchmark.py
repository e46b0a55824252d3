"""Latency is what callers feel: it starts when a request is due, and a stall is paid for by everybody behind it."""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.economics.prices import Price
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents import benchmark
from mangaassist_assets.lib.intents.benchmark import MODEL_BENCHMARK, Benchmarking, latency_histogram, measure, open_loop


class World:
    """A clock that only work and sleep move, and a reading of it, by a microsecond."""

    def __init__(self, service_s=0.01, per_text_s=0.0):
        self.now, self.service_s, self.per_text_s, self.calls = 0.0, service_s, per_text_s, []

    def clock(self):
        self.now += 1e-6
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def classify(self, texts):
        self.calls.append(len(texts))
        self.now += self.service_s + self.per_text_s * len(texts)

    def measure(self, texts=("a", "b", "c"), **how):
        return measure(self.classify, texts, Benchmarking(**how), seed=1, clock=self.clock, sleep=self.sleep)


def test_a_request_that_waits_behind_a_stall_is_as_late_as_its_caller_feels_it():
    world = World(service_s=0.0)

    def classify(texts):
        world.now += 1.0 if texts == ["stall"] else 0.001

    due = np.array([0.0, 0.1, 0.2, 0.9, 2.0])
    latency = open_loop(classify, ["stall", "b", "c", "d", "e"], due, patience_s=60, clock=world.clock, sleep=world.sleep)
    assert latency == pytest.approx([1.0, 0.901, 0.802, 0.103, 0.001], abs=1e-3)


def test_a_request_is_never_started_before_it_is_due():
    world, started = World(), []

    def classify(texts):
        started.append(world.now)

    open_loop(classify, ["a", "b"], np.array([0.5, 1.5]), patience_s=60, clock=world.clock, sleep=world.sleep)
    assert started == pytest.approx([0.5, 1.5], abs=1e-3) and started[0] >= 0.5


def test_an_overloaded_worker_stops_in_time_and_counts_those_still_waiting():
    world = World(service_s=1.0)
    due = np.arange(100) * 0.1
    latency = open_loop(world.classify, ["a"] * 100, due, patience_s=5, clock=world.clock, sleep=world.sleep)
    assert world.now < 7
    assert len(latency) == 51  # due within the five seconds that it took to give up
    assert latency.max() == pytest.approx(5.0, abs=0.6)


def test_the_rate_keeps_the_worker_as_busy_as_asked():
    found = World(service_s=0.01).measure(seconds=20.0, utilisation=0.5)
    assert found.rate_per_s == pytest.approx(50, rel=0.01)
    assert len(found.latency_ms) == pytest.approx(1000, rel=0.02)
    waiting_ms = found.latency_ms.mean() - 10
    assert waiting_ms == pytest.approx(5, rel=0.4)  # M/D/1: utilisation / (2 (1 - utilisation)) service times


def test_a_slow_classifier_is_watched_longer_until_its_p99_has_an_upper_bound():
    patient = World(service_s=0.02).measure(seconds=4.0, max_seconds=20.0)
    assert len(patient.latency_ms) >= 368 and math.isfinite(patient.latency_ms_p99.ci_high)
    hurried = World(service_s=0.2).measure(seconds=4.0, max_seconds=20.0)
    assert len(hurried.latency_ms) == pytest.approx(50, abs=2)
    assert hurried.latency_ms_p99.ci_high == math.inf


def test_throughput_is_counted_in_batches_that_do_not_take_forever():
    quick = World(service_s=0.001, per_text_s=0.0001)
    found = quick.measure(texts=["text"] * 1000, seconds=1.0, batch_size=256)
    assert found.batch_size == 256
    assert found.throughput_per_s.value == pytest.approx(256 / 0.0266, rel=0.01)
    assert found.throughput_per_s.n == 5
    assert found.throughput_per_s.ci_low <= found.throughput_per_s.value <= found.throughput_per_s.ci_high
    assert World(service_s=0.1).measure(seconds=1.0, batch_size=256).batch_size in (4, 5)


def test_the_whole_measurement_stays_within_its_bounds():
    for service_s in (0.0005, 0.01, 0.1, 1.0):
        world = World(service_s=service_s)
        world.measure(seconds=4.0, max_seconds=20.0)
        assert world.now < 2 * 20 + 30 * max(service_s, 0.1) + 5


def test_the_first_calls_warm_up_and_are_not_counted():
    world = World()

    def classify(texts):
        world.now += 5.0 if not world.calls else 0.01
        world.calls.append(1)

    found = measure(classify, ["a"], Benchmarking(seconds=1.0), seed=1, clock=world.clock, sleep=world.sleep)
    assert found.latency_ms.max() < 200


def test_the_same_seed_asks_for_the_same_texts_at_the_same_times():
    assert np.array_equal(World().measure().latency_ms, World().measure().latency_ms)


def test_no_messages_means_no_measurement():
    with pytest.raises(MissingEvidence):
        World().measure(texts=())


def test_real_time_agrees_with_the_simulated_clock():
    found = measure(lambda texts: sum(range(2000)), ["a"], Benchmarking(seconds=0.1, repeats=2), seed=1)
    assert 0 < found.latency_ms_p50.value < 50
    assert found.throughput_per_s.value > 100


def test_a_histogram_holds_every_request_in_a_bin_that_contains_it():
    latency_ms = np.random.default_rng(1).lognormal(0, 2, 500)
    rows = latency_histogram(latency_ms).to_pylist()
    assert sum(r["n"] for r in rows) == 500
    for r in rows:
        assert r["n"] == np.sum((latency_ms >= r["latency_ms_low"] * (1 - 1e-9)) & (latency_ms < r["latency_ms_high"] * (1 - 1e-9)))


def test_rows_hold_every_column_and_null_where_nothing_was_measured():
    found = World(service_s=0.2).measure()
    price = Price("ml.c6i.large", 0.102, dt.date(2024, 1, 1))
    row = benchmark.measured_row(
        "minilm", found, accuracy=0.9, macro_f1=0.88, size_bytes=44_000_000, training_s=61.0, price=price, hardware="a box"
    )
    skipped = benchmark.skipped_row("bert_base", "weights cannot be had")
    assert set(row) == set(MODEL_BENCHMARK.names)
    table = pa.Table.from_pylist([row, skipped], MODEL_BENCHMARK).to_pylist()
    assert table[0]["latency_ms_p99_high"] is None and table[0]["latency_ms_p99"] >= 200
    assert table[0]["usd_per_million"] == pytest.approx(0.102 / 3600 / found.throughput_per_s.value * 1e6)
    assert [v for k, v in table[1].items() if k not in ("candidate", "status", "reason")] == [None] * (len(MODEL_BENCHMARK) - 3)


def test_the_hardware_names_processor_cores_and_provider():
    assert benchmark.hardware("CPUExecutionProvider").endswith("CPUExecutionProvider")
    assert " cores, " in benchmark.hardware("CPUExecutionProvider")
