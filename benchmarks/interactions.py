"""One day of interactions: what writing costs the service, what reading costs the graph, and whether that grows with the days before.

    python benchmarks/interactions.py [--n 500_000] [--dim 384] [--earlier 1,100,1_000]

The day is drawn: messages as often as words are (Zipf), ten intents, feedback to one answer in ten, embeddings of unit length. It is
appended to a journal as the service does it, sealed, read, checked, counted, and its embeddings become moments in the space of
comparison, 50,000 at a time. Embeddings come from a model elsewhere; drawing them is not in the time.

Appending is also timed at a steady rate, beside the same loop without a journal: both see the machine's own pauses.

The growth law: the same new day with that many earlier days of segments in the folder: listing, digest, reading, counting.

Every part runs in a process of its own. Seconds are those of the clock and, after the slash, of the processor; peak memory is the
process's largest resident size.
"""

import argparse
import datetime as dt
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.counts import count_day
from mangaassist_assets.lib.drift.expectations import Day, check_day
from mangaassist_assets.lib.drift.interactions import Answer, Feedback, line_of, read_day
from mangaassist_assets.lib.drift.moments import day_moments, fit_space, merge
from mangaassist_assets.lib.drift.segments import Journal, digest_of_day, sealed
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.metrics.report import as_markdown

DAY = dt.date(2026, 11, 24)
MIDNIGHT = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
VECTORS_AT_ONCE = 50_000
SEGMENTS_A_DAY, LINES_A_SEGMENT = 24, 20
NEW_DAY_ROWS = 20_000


def lines_of_day(n: int) -> list[bytes]:
    """Records of a day in order of time, answers and the feedback on them."""
    rng = np.random.default_rng(5)
    message, intent, spoken = rng.zipf(1.3, n) % 50_000, rng.integers(0, 10, n), rng.random(n) < 0.1
    confidence, latency_ms = rng.beta(8, 1, n), rng.lognormal(0, 1, n)
    lines = []
    for i in range(n):
        at = MIDNIGHT + dt.timedelta(seconds=i * 86_000 / n)
        name = f"20261124-bench-{i:x}"
        answer = Answer(
            request_id=name, occurred_at=at, text=f"is volume {message[i]} of this series in stock again", language="en", route="student",
            latency_ms=float(latency_ms[i]), session=f"{i // 3:016x}", intent=f"intent_{intent[i]}", confidence=float(confidence[i]),
            model_digest="a" * 64,
        )  # fmt: skip
        lines.append(line_of(answer))
        if spoken[i]:
            lines.append(line_of(Feedback(request_id=name, at=at + dt.timedelta(seconds=30), thumbs_up=bool(i % 4), escalated=i % 20 == 0)))
    return lines


class Timed:
    """Seconds of the clock and of the processor of what is done in it, in words."""

    def __enter__(self) -> "Timed":
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.clock_s, self.processor_s = time.perf_counter() - self._began[0], time.process_time() - self._began[1]

    def __str__(self) -> str:
        return f"{self.clock_s:.2f} / {self.processor_s:.2f}"


def peak_mib() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}"


def write(folder: Path, n: int) -> list[tuple[str, str, str]]:
    """Appends a day as fast as the journal takes it."""
    lines = lines_of_day(n)
    journal = Journal(folder, clock=lambda: MIDNIGHT)
    with Timed() as appending:
        for line in lines:
            while not journal.append(line):
                time.sleep(0.001)
    with Timed() as closing:
        journal.close()
    return [("append, as fast as it is taken", str(appending), ""), ("seal what is left", str(closing), "")]


def append_steadily(folder: Path, per_s: int, seconds: int) -> list[tuple[str, ...]]:
    """Microseconds of appends that come at a steady rate, and of the same loop without a journal."""
    lines = lines_of_day(per_s)
    found = []
    for name in ("no journal", "journal"):
        journal = Journal(folder, clock=lambda: MIDNIGHT) if name == "journal" else None
        append = journal.append if journal else len
        took, due = [], time.perf_counter()
        for i in range(per_s * seconds):
            due += 1 / per_s
            while (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            began = time.perf_counter()
            append(lines[i % len(lines)])
            took.append(time.perf_counter() - began)
        lost = journal.lost if journal else 0
        if journal:
            journal.close()
        low, middle, high, most = np.quantile(np.array(took) * 1e6, [0.5, 0.99, 0.999, 1])
        found.append((name, f"{low:.1f}", f"{middle:.1f}", f"{high:.0f}", f"{most:,.0f}", str(lost)))
    return found


def read(folder: Path, home: Path) -> list[tuple[str, str, str]]:
    """From segments to published tables of interactions and counts."""
    house = House(home)
    with Timed() as reading:
        found = read_day(folder, DAY)
    rows = [("read and join", str(reading), peak_mib())]
    with Timed() as publishing:
        house.write_table("drift/interactions", found.table, partition=DAY.isoformat())
        house.write_table("drift/interactions", found.quarantined, partition=DAY.isoformat(), part="quarantined")
    rows.append(("publish interactions", str(publishing), peak_mib()))
    with Timed() as counting:
        counts, day = count_day(found.table, DAY, probe_labels={}, ingested=found.counts)
    return [*rows, (f"count: {counts.num_rows} rows of {day['requests'][0]} answers", str(counting), peak_mib())]


def check(home: Path) -> list[tuple[str, str, str]]:
    """Great Expectations on every row."""
    table = House(home).read_table("drift/interactions", partition=DAY.isoformat())
    with Timed() as checking:
        results = check_day(Day(DAY, table))
    failed = [result.name for result in results if not result.passed]
    return [(f"check {len(results)} expectations, {len(failed)} fail", str(checking), peak_mib())]


def moments(n: int, dim: int) -> list[tuple[str, str, str]]:
    """Moments of a day's embeddings, in parts."""
    rng = np.random.default_rng(6)

    def draw(rows: int) -> np.ndarray:
        vectors = rng.standard_normal((rows, dim), np.float32) * (np.arange(1, dim + 1, dtype=np.float32) ** -0.5)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    with Timed() as fitting:
        space = fit_space(draw(4_000), 20)
    parts, clock_s, processor_s = [], 0.0, 0.0
    for start in range(0, n, VECTORS_AT_ONCE):
        vectors = draw(min(VECTORS_AT_ONCE, n - start))
        with Timed() as part:
            parts.append(day_moments(space, vectors, np.full(len(vectors), 0.9, np.float32), DAY))
        clock_s, processor_s = clock_s + part.clock_s, processor_s + part.processor_s
    with Timed() as merging:
        merge(pa.concat_tables(parts))
    return [
        ("fit the space, once for all days", str(fitting), ""),
        (f"moments of {n:,} x {dim}", f"{clock_s + merging.clock_s:.2f} / {processor_s + merging.processor_s:.2f}", peak_mib()),
    ]


def add_earlier_days(folder: Path, first: int, last: int) -> None:
    content = b"".join(lines_of_day(LINES_A_SEGMENT))
    for back in range(first, last + 1):
        place = folder / (DAY - dt.timedelta(days=back)).isoformat()
        place.mkdir()
        for number in range(SEGMENTS_A_DAY):
            (place / f"1-bench-{number:06d}.jsonl").write_bytes(content)


def new_day(folder: Path, earlier: int) -> tuple[str, ...]:
    """What one new day costs; medians of five."""
    steps = {
        "list": lambda: sealed(folder),
        "digest": lambda: digest_of_day(folder, DAY),
        "read": lambda: read_day(folder, DAY),
    }
    found = read_day(folder, DAY)
    steps["count"] = lambda: count_day(found.table, DAY, probe_labels={}, ingested=found.counts)
    medians = []
    for step in steps.values():
        took = []
        for _ in range(5):
            with Timed() as timed:
                step()
            took.append(timed)
        medians.append(f"{np.median([t.clock_s for t in took]) * 1e3:,.1f} / {np.median([t.processor_s for t in took]) * 1e3:,.1f}")
    return f"{earlier:,}", f"{sum(map(len, sealed(folder).values())):,}", *medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--earlier", type=lambda text: [int(part) for part in text.split(",")], default=[1, 100, 1_000])
    parser.add_argument("--per-s", type=int, default=1_000, help="appends a second of the steady rate")
    parser.add_argument("--seconds", type=int, default=20, help="of the steady rate")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, home, growing = (Path(scratch, name) for name in ("interactions", "home", "growing"))

        def alone(step, *arguments):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                return pool.submit(step, *arguments).result()

        rows = [
            *alone(write, folder, args.n),
            *alone(read, folder, home),
            *alone(check, home),
            *alone(moments, args.n, args.dim),
        ]
        print(as_markdown((f"one day of {args.n:,} answers", "seconds: clock / processor", "peak MiB"), rows), flush=True)
        steady = alone(append_steadily, Path(scratch, "steady"), args.per_s, args.seconds)
        print()
        print(as_markdown((f"append at {args.per_s:,}/s, us", "median", "P99", "P99.9", "most", "lost"), steady), flush=True)
        alone(write, growing, NEW_DAY_ROWS)
        grown, before = [], 0
        for earlier in args.earlier:
            add_earlier_days(growing, before + 1, earlier)
            before = earlier
            grown.append(alone(new_day, growing, earlier))
        print()
        header = ("earlier days", "segments", *(f"{step} ms: clock / processor" for step in ("list", "digest", "read", "count")))
        print(f"A new day of {NEW_DAY_ROWS:,} answers:\n")
        print(as_markdown(header, grown))
    print(f"\n{hardware('pyarrow')}, {os.getloadavg()[0]:.1f} processes wanting them")


if __name__ == "__main__":
    main()
