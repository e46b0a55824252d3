"""How fast a classifier answers and what that costs, as its callers would feel it.

Latency is measured in an open loop: requests are due at random times that do not wait for earlier answers, one worker takes them in
order, and a request's clock starts when it is due. A stall thus delays everything behind it, as in production; a loop that asks again
only after each answer would leave those delays out.
"""

import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.economics.prices import Price, usd_per_million
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.statistics import Estimate, finite_or_none, mean, quantile

Floats = NDArray[np.float64]
Classify = Callable[[Sequence[str]], object]

DECIDING_REQUESTS = 400  # an upper bound of a P99 takes 368
BINS_PER_DECADE = 20
SPIN_S = 0.0002  # a sleep ends some 0.1 ms late, which is more than some classifiers take

MODEL_BENCHMARK = pa.schema(
    [
        ("candidate", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        *((name, pa.float64()) for name in ("accuracy", "macro_f1", "latency_ms_mean", "latency_ms_p50", "latency_ms_p99")),
        *((name, pa.float64()) for name in ("latency_ms_p99_low", "latency_ms_p99_high")),
        ("requests", pa.int64()),
        ("rate_per_s", pa.float64()),
        *((name, pa.float64()) for name in ("throughput_per_s", "throughput_per_s_low", "throughput_per_s_high")),
        ("batch_size", pa.int64()),
        ("size_mb", pa.float64()),
        ("instance_type", pa.string()),
        ("instance_usd_per_hour", pa.float64()),
        ("usd_per_million", pa.float64()),
        ("training_s", pa.float64()),
        ("hardware", pa.string()),
    ]
)
HISTOGRAM = pa.schema([("latency_ms_low", pa.float64()), ("latency_ms_high", pa.float64()), ("n", pa.int64())])


@dataclass(frozen=True)
class Benchmarking:
    """How long and how hard a classifier is driven.

    Attributes:
        seconds: of open-loop requests.
        max_seconds: to which that is extended for a slow classifier, until 400 requests let its P99 have an upper bound.
        utilisation: share of the time in which the one worker is busy; sets the rate from the time that a single call takes.
        batch_size: texts per call when throughput is measured; fewer where a batch would take over half a second.
        repeats: of the throughput measurement, from which its interval comes.
    """

    seconds: float = 4.0
    max_seconds: float = 20.0
    utilisation: float = 0.5
    batch_size: int = 256
    repeats: int = 5


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        latency_ms: of every request, shape (requests,), from the time it was due to its answer.
        latency_ms_p50: median of those.
        latency_ms_p99: with an infinite upper bound where requests are too few.
        rate_per_s: at which requests were due.
        throughput_per_s: texts per second in batches, with its interval over repeats.
        batch_size: of those batches.
    """

    latency_ms: Floats
    latency_ms_p50: Estimate
    latency_ms_p99: Estimate
    rate_per_s: float
    throughput_per_s: Estimate
    batch_size: int


def measure(
    classify: Classify,
    texts: Sequence[str],
    how: Benchmarking,
    *,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Benchmark:
    """Drives `classify` with single texts in an open loop, then with batches.

    Args:
        classify: answers a sequence of texts.
        texts: real messages, taken in a random order and over again as needed.
        how: how long and how hard.
        seed: of order and arrival times.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.

    Raises:
        MissingEvidence: no texts.
    """
    if not texts:
        raise MissingEvidence("no messages to measure latency on")
    rng = np.random.default_rng(seed)
    service_s = _service_time(classify, texts, clock)
    rate = how.utilisation / service_s
    seconds = min(max(how.seconds, DECIDING_REQUESTS / rate), max(how.seconds, how.max_seconds))
    requests = max(int(rate * seconds), 1)
    due_s = np.cumsum(rng.exponential(1 / rate, requests))  # Poisson arrivals
    asked = [texts[i] for i in rng.integers(0, len(texts), requests)]
    latency_ms = 1000 * open_loop(classify, asked, due_s, patience_s=2 * seconds, clock=clock, sleep=sleep)
    batch_size = max(1, min(how.batch_size, int(0.5 / service_s)))
    throughput = _throughput(classify, texts, batch_size, how.repeats, clock)
    return Benchmark(latency_ms, quantile(latency_ms, 0.5), quantile(latency_ms, 0.99), rate, throughput, batch_size)


def open_loop(
    classify: Classify,
    texts: Sequence[str],
    due_s: Floats,
    *,
    patience_s: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Floats:
    """Latency in seconds of each text, from when it is due until it is answered, shape (len(texts),).

    After `patience_s` the worker gives up: what is due by then and not answered counts with the time it has waited, a lower bound,
    and what is not due yet is left out.
    """
    latency_s = np.zeros(len(texts))
    start = clock()
    for i, (text, due) in enumerate(zip(texts, due_s.tolist(), strict=True)):
        late = clock() - start - due
        if late < -SPIN_S:
            sleep(-late - SPIN_S)
        while clock() - start < due:
            pass
        if clock() - start > patience_s:
            waiting = clock() - start - due_s[i:]
            return np.concatenate([latency_s[:i], waiting[waiting >= 0]])
        classify([text])
        latency_s[i] = clock() - start - due
    return latency_s


def _service_time(classify: Classify, texts: Sequence[str], clock: Callable[[], float]) -> float:
    """Seconds per single call in a closed loop, after as many calls to warm up: half a second of each, or ten calls."""
    per_call = math.inf
    for _ in ("warm up", "probe"):
        start, calls = clock(), 0
        while calls < 10 or clock() - start < 0.5:
            classify([texts[calls % len(texts)]])
            calls += 1
        per_call = (clock() - start) / calls
    return per_call


def _throughput(classify: Classify, texts: Sequence[str], batch_size: int, repeats: int, clock: Callable[[], float]) -> Estimate:
    """Texts per second over `repeats` rounds of at least 0.3 s, after one batch to warm up."""
    rounded = [texts[i % len(texts)] for i in range(max(len(texts), batch_size))]
    batches = [rounded[i : i + batch_size] for i in range(0, len(rounded) - batch_size + 1, batch_size)]
    classify(batches[0])
    rates, position = [], 0
    for _ in range(repeats):
        start, done = clock(), 0
        while done == 0 or clock() - start < 0.3:
            classify(batches[position % len(batches)])
            done, position = done + batch_size, position + 1
        rates.append(done / (clock() - start))
    return mean(rates)


def latency_histogram(latency_ms: Floats) -> pa.Table:
    """One row per latency bin that holds a request, columns HISTOGRAM, twenty bins to a factor of ten."""
    exponent = np.floor(np.log10(np.maximum(latency_ms, 1e-6)) * BINS_PER_DECADE).astype(np.int64)
    bins, n = np.unique(exponent, return_counts=True)
    return pa.table([10.0 ** (bins / BINS_PER_DECADE), 10.0 ** ((bins + 1) / BINS_PER_DECADE), n], schema=HISTOGRAM)


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def measured_row(
    candidate: str,
    benchmark: Benchmark,
    *,
    accuracy: float,
    macro_f1: float,
    size_bytes: int,
    training_s: float,
    price: Price,
    hardware: str,
) -> dict[str, object]:
    """One row of MODEL_BENCHMARK for a candidate that ran.

    usd_per_million is what a million messages would cost on `price.instance` if it were as fast as `hardware` and always busy. A bound
    that too few requests cannot give is null.
    """
    return {
        "candidate": candidate,
        "status": "measured",
        "reason": None,
        "accuracy": finite_or_none(accuracy),
        "macro_f1": finite_or_none(macro_f1),
        "latency_ms_mean": float(benchmark.latency_ms.mean()),
        "latency_ms_p50": benchmark.latency_ms_p50.value,
        "latency_ms_p99": benchmark.latency_ms_p99.value,
        "latency_ms_p99_low": finite_or_none(benchmark.latency_ms_p99.ci_low),
        "latency_ms_p99_high": finite_or_none(benchmark.latency_ms_p99.ci_high),
        "requests": len(benchmark.latency_ms),
        "rate_per_s": benchmark.rate_per_s,
        "throughput_per_s": benchmark.throughput_per_s.value,
        "throughput_per_s_low": finite_or_none(benchmark.throughput_per_s.ci_low),
        "throughput_per_s_high": finite_or_none(benchmark.throughput_per_s.ci_high),
        "batch_size": benchmark.batch_size,
        "size_mb": size_bytes / 1e6,
        "instance_type": price.instance,
        "instance_usd_per_hour": price.usd_per_hour,
        "usd_per_million": finite_or_none(usd_per_million(price.usd_per_hour, benchmark.throughput_per_s.value)),
        "training_s": training_s,
        "hardware": hardware,
    }


def skipped_row(candidate: str, reason: str) -> dict[str, object]:
    """One row of MODEL_BENCHMARK for a candidate that could not run; every figure is null."""
    return {"candidate": candidate, "status": "skipped", "reason": reason}


def hardware(provider: str) -> str:
    """What the figures were measured on: processor, cores this process may use, graphics card if any, execution provider."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ", ".join(filter(None, (_processor(), f"{cores} cores", _graphics_card(), provider)))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _graphics_card() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):  # a driver without a card
        return ""
    return names[0].strip()
