"""The metric tables after one new day on three years of history: from the sums of days, and by the same SQL over everything, in turns.

    python benchmarks/daily_refresh.py [--days 1096] [--per-day 50_000] [--rounds 3] [--folder DIR]

The history is drawn: a week of days, each row with what the service writes, repeated with other dates. The project counts the new day,
puts its sums to those of the days before, and runs the SQL files of `dbt_like_sql/` that read them, with their tests, into the lake: what
the assets `day_of_traffic`, `traffic` and the tables do. The peer has DuckDB group all rows of all days, reading the columns it needs,
and runs the same three SELECTs. Both have the same threads. Sums must be equal; else the exit status is 1.
"""

import argparse
import datetime as dt
import os
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.counts import COUNTS, DAY, count_day
from mangaassist_assets.lib.drift.ingestion import gather
from mangaassist_assets.lib.drift.interactions import INTERACTIONS
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.metrics.report import as_markdown
from mangaassist_assets.lib.metrics.sql_files import literal, read_sql_files
from mangaassist_assets.lib.metrics.warehouse import run_files

FIRST = dt.date(2023, 11, 24)
MAIN = ("main.interaction_daily", "main.online_daily", "main.shared_daily")
NAMES = ("raw.interaction_counts", "raw.traffic_days", "model.answers_by_day", *MAIN)
FILES = [file for file in read_sql_files() if file.name in NAMES]  # in their order; a process reads them once
COUNTS_SQL = """
    SELECT occurred_at::DATE AS day, intent, language, route, model_digest, arm, generator,
        count(*) AS n, sum(confidence::DOUBLE) AS confidence_sum, count(feedback_at) AS feedback,
        count(*) FILTER (thumbs_up) AS thumbs_up, count(*) FILTER (NOT thumbs_up) AS thumbs_down,
        count(*) FILTER (escalated) AS escalated, count(*) FILTER (converted) AS converted, count(error) AS errors,
        coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
        coalesce(sum(cost_usd), 0) AS cost_usd
    FROM read_parquet({files}) WHERE NOT list_contains(flags, 'probe') GROUP BY ALL
"""
DAYS_SQL = """
    WITH answers AS (SELECT * FROM read_parquet({files}) WHERE NOT list_contains(flags, 'probe')),
    minutes AS (SELECT occurred_at::DATE AS day, count(*) AS n FROM answers GROUP BY day, date_trunc('minute', occurred_at)),
    busiest AS (SELECT day, max(n) AS busiest_minute FROM minutes GROUP BY day)
    SELECT occurred_at::DATE AS day, count(*) AS requests, count(DISTINCT session) AS sessions, any_value(busiest_minute) AS busiest_minute,
        0 AS probes, NULL AS probes_right, NULL AS duplicates, NULL AS quarantined, NULL AS late,
        count(*) FILTER (len(flags) > 0) AS flagged,
        quantile_cont(latency_ms, 0.5) AS latency_ms_p50, quantile_cont(latency_ms, 0.99) AS latency_ms_p99
    FROM answers JOIN busiest ON busiest.day = occurred_at::DATE GROUP BY ALL
"""


def draw_day(number: int, n: int) -> pa.Table:
    """INTERACTIONS of the day of that number."""
    rng = np.random.default_rng([7, number])
    midnight = dt.datetime.combine(FIRST + dt.timedelta(number), dt.time(), dt.UTC)
    second = np.sort(rng.integers(0, 86_400, n))
    spoken = rng.random(n) < 0.1
    at = pa.array((second + int(midnight.timestamp())) * 1_000_000).cast(pa.timestamp("us", "UTC"))
    columns = {
        "request_id": pa.array([f"{number:x}-{i:x}" for i in range(n)]),
        "occurred_at": at,
        "session": pa.array([f"{number:x}-{i // 3:x}" for i in range(n)]),
        "text": pa.array([f"is volume {i} of this series in stock again" for i in rng.zipf(1.3, n) % 5_000]),
        "language": pa.array(rng.choice(["en", "ja", "mixed"], n, p=[0.8, 0.05, 0.15])),
        "intent": pa.array([f"intent_{i}" for i in rng.integers(0, 11, n)]),
        "confidence": pa.array(rng.beta(8, 1, n), pa.float32()),
        "route": pa.array(rng.choice(["rules", "student", "classifier"], n)),
        "model_digest": pa.array([f"{number // 30:064x}"] * n),
        "arm": pa.array(["champion"] * n),
        "latency_ms": pa.array(rng.lognormal(0, 1, n), pa.float32()),
        "flags": pa.array([[]] * n, pa.list_(pa.string())),
        "thumbs_up": pa.array(rng.random(n) < 0.7, mask=~spoken),
        "escalated": pa.array(rng.random(n) < 0.1, mask=~spoken),
        "converted": pa.array(rng.random(n) < 0.05, mask=~spoken),
        "feedback_at": pa.array(at.to_numpy(zero_copy_only=False), pa.timestamp("us", "UTC"), mask=~spoken),
    }
    return pa.table([columns[f.name].cast(f.type) if f.name in columns else pa.nulls(n, f.type) for f in INTERACTIONS], schema=INTERACTIONS)


def add_day(house: House, number: int, interactions: pa.Table) -> str:
    """Counts a day and publishes its sums; returns its name."""
    day = FIRST + dt.timedelta(number)
    counts, figures = count_day(interactions, day, probe_labels={})
    house.write_table("drift/interaction_counts", counts, partition=day.isoformat())
    house.write_table("drift/interaction_counts", figures, partition=day.isoformat(), part="day")
    return day.isoformat()


def refresh(house: House, days: list[str]) -> None:
    """All tables, from the sums of days."""
    versions = {day: day for day in days}
    gather(house, "drift/interaction_counts", "drift/traffic", COUNTS, versions)
    gather(house, "drift/interaction_counts", "drift/traffic", DAY, versions, part="day")
    for outcome in run_files(FILES, house):
        if outcome.digest is None:
            sys.exit(f"{outcome.file.name}: a claim is broken")


def over_everything(folder: Path, threads: int) -> dict[str, pa.Table]:
    """The same tables from all rows of all days."""
    files = literal(str(folder / "*" / "data.parquet"))
    with duckdb.connect(config={"threads": threads}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("ATTACH ':memory:' AS lake; CREATE SCHEMA lake.drift; CREATE SCHEMA raw; CREATE SCHEMA model")
        connection.execute(f"CREATE TABLE lake.drift.traffic AS {COUNTS_SQL.format(files=files)}")
        connection.execute(f"CREATE TABLE lake.drift.traffic__day AS {DAYS_SQL.format(files=files)}")
        for file in FILES:
            connection.execute(f"CREATE TABLE {file.name} AS {file.sql}")
        return {name: connection.sql(f"SELECT * FROM {name} ORDER BY ALL").to_arrow_table() for name in MAIN}


def unequal(ours: pa.Table, theirs: pa.Table) -> list[str]:
    """Columns that differ: counts at all, sums of fractions by more than rounding."""
    found = []
    for name in theirs.column_names:
        a, b = ours[name], theirs[name].cast(ours[name].type)
        if pa.types.is_floating(a.type):
            same = np.allclose(a.to_numpy().astype(float), b.to_numpy().astype(float), rtol=1e-6, equal_nan=True)
        else:
            same = a.combine_chunks().equals(b.combine_chunks())
        if not same:
            found.append(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=1_096)
    parser.add_argument("--per-day", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the history is written; a temporary folder without it")
    args = parser.parse_args()
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        house = House(Path(scratch))
        names = []
        for number in range(args.days):
            table = draw_day(number, args.per_day)
            house.write_table("drift/interactions", table, partition=(FIRST + dt.timedelta(number)).isoformat())
            names.append(add_day(house, number, table))
        refresh(house, names)
        folder = (house.home / house.table_path("drift/interactions", partition=names[0])).parents[1]
        size_gb = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e9
        took: dict[str, list[float]] = {"sums of days": [], "all rows": []}
        for turn in range(args.rounds):
            new = draw_day(args.days + turn, args.per_day)
            house.write_table("drift/interactions", new, partition=(FIRST + dt.timedelta(args.days + turn)).isoformat())
            began = time.perf_counter()
            names.append(add_day(house, args.days + turn, new))
            refresh(house, names)
            took["sums of days"].append(time.perf_counter() - began)
            began = time.perf_counter()
            theirs = over_everything(folder, threads)
            took["all rows"].append(time.perf_counter() - began)
        differing = {name: unequal(house.read_table("metrics/" + name.replace(".", "/")), table) for name, table in theirs.items()}
    rows = [(name, " ".join(f"{s:.2f}" for s in seconds), f"{np.median(seconds):.2f}") for name, seconds in took.items()]
    answers = (args.days + args.rounds) * args.per_day
    print(as_markdown((f"{len(names):,} days, {answers:,} answers, {size_gb:.1f} GB", "seconds", "median"), rows))
    print(f"\nratio {np.median(took['all rows']) / np.median(took['sums of days']):.1f}")
    print(f"columns that differ: {({name: columns for name, columns in differing.items() if columns}) or 'none'}")
    print(f"{hardware('pyarrow')}, {os.getloadavg()[0]:.1f} processes wanting them")
    return 1 if any(differing.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
