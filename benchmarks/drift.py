"""Drift from moments of days against a quadratic two-sample test, in turns: time, and what each detects; then the cost of a new day.

    python benchmarks/drift.py [--home .mangaassist] [--rounds 3] [--n 5000 --strength 0.2 --trials 200]

The peer is the maximum mean discrepancy with a Gaussian kernel of median width (Gretton et al. 2012) over all pairs of 10,000 messages
and 10,000 others, in numpy with the same number of threads, written here in blocks. It gives one number, without a p-value, which would
take hundreds of it. The project's statistic is KL divergence and discrepancy: from vectors, moments and all; from the sums of 28 days a
sample, which is how months are compared; and with threshold and p-value, from 999 draws and 999 divisions of the days.

Detection: messages of the simulation are drawn before and after a shift of which `--strength` is there (1 is the scenario in full), and
each statistic is asked to tell such pairs from pairs without a shift: the area under its ROC curve. The project's is the sum of
divergence and discrepancy, each on its scale over pairs without a shift, as its p-values take them. As few distinct messages come many
times, the peer is computed over distinct messages here: the same number, sooner.

A new day: seconds for the moments of a day of 500,000 vectors, and for all drift tables after one more day on 30 to 1,000 days of sums.
"""

import argparse
import datetime as dt
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.calendar import read_calendar
from mangaassist_assets.lib.drift.confidence import confidence_by_day
from mangaassist_assets.lib.drift.embedding import bootstrap_threshold, discrepancy, embedding_drift, kl_between, permutation_p_value
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.moments import Moments, day_moments, fit_space, moments_of
from mangaassist_assets.lib.drift.shares import intent_share
from mangaassist_assets.lib.drift.triage import triage
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.metrics.report import as_markdown
from mangaassist_assets.lib.statistics import bootstrap
from mangaassist_assets.settings import PROJECT
from mangaassist_assets.simulation.bundled import bundled_pool
from mangaassist_assets.simulation.counting import observe
from mangaassist_assets.simulation.pool import Style, read_pool
from mangaassist_assets.simulation.scenarios import SCENARIOS
from mangaassist_assets.simulation.traffic import INTENT_SHARE, STYLE_SHARE, Serving, traffic

SIZE, DAYS, ROWS = 10_000, 28, 2_000
LARGE_DAY = 500_000
START = dt.date(2024, 1, 1)
HISTORY = (30, 90, 365, 1000)
SHIFTS = ("slang_shift", "new_intent", "japanese_wave", "holiday")


# ── the peer ────────────────────────────────────────────────────────────────────────────────────────────────────────


def median_width(vectors):
    """Median squared distance of 1,000 messages."""
    some = vectors[:1000]
    squared = (some**2).sum(1)
    distances = squared[:, None] + squared - 2 * some @ some.T
    return float(np.median(distances[np.triu_indices(len(some), 1)]))


def kernel_mean(x, y, width, *, same):
    """Mean of the Gaussian kernel over all pairs, without those of a message with itself."""
    squared_x, squared_y, total = (x**2).sum(1), (y**2).sum(1), 0.0
    for start in range(0, len(x), ROWS):
        block = x[start : start + ROWS] @ y.T
        block *= 2
        block -= squared_x[start : start + ROWS, None]
        block -= squared_y
        block /= width
        total += float(np.exp(block, out=block).sum(dtype=np.float64))
    return (total - len(x)) / (len(x) * (len(x) - 1)) if same else total / (len(x) * len(y))


def quadratic_mmd(x, y):
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3)."""
    width = median_width(x)
    return kernel_mean(x, x, width, same=True) + kernel_mean(y, y, width, same=True) - 2 * kernel_mean(x, y, width, same=False)


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def months_of(space, samples, days):
    """Moments of both samples, each dealt to days."""
    months = []
    for sample in samples:
        parts = np.array_split(sample, days)
        rows = [day_moments(space, part, np.ones(len(part)), START + dt.timedelta(i)) for i, part in enumerate(parts)]
        months.append(Moments.of(pa.concat_tables(rows)))
    return months


def timed(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def race(space, vectors, rounds, seed):
    """Seconds of each contender, round by round."""
    rng = np.random.default_rng(seed)
    x, y = (np.ascontiguousarray(vectors[rng.integers(0, len(vectors), SIZE)], np.float32) for _ in range(2))

    stored = months_of(space, (y, x), DAYS)

    def statistic(now, then):
        kl_between(now, then)
        discrepancy(now, then)

    def judged(now, then):
        statistic(now, then)
        permutation_p_value(now, then, 999, rng)
        bootstrap_threshold(then, DAYS, 999, rng)

    contenders = {
        "peer": lambda: quadratic_mmd(x, y),
        "statistic from vectors": lambda: statistic(*months_of(space, (y, x), 1)),
        "statistic from stored days": lambda: statistic(*stored),
        "stored days, with threshold and p-value": lambda: judged(*stored),
    }
    for name, contender in contenders.items():
        if name != "peer":
            contender()
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(timed(contender))
    return seconds


# ── detection ───────────────────────────────────────────────────────────────────────────────────────────────────────


def weights_of(pool, scenario, strength):
    """How often each message of the pool comes where `strength` of a scenario is there."""
    styles = np.zeros(len(Style))
    gains = {Style.CASUAL: scenario.casual, Style.NEW_SLANG: scenario.new_slang, Style.JAPANESE: scenario.japanese}
    styles[list(STYLE_SHARE)] = np.array(list(STYLE_SHARE.values())) * (1 - strength * sum(gains.values()))
    for style, gain in gains.items():
        styles[style] += strength * gain
    intents = np.array([INTENT_SHARE.get(name, 0.0) * (1 + strength * (scenario.seasonal.get(name, 1.0) - 1)) for name in pool.intents])
    cell = pool.truth * len(Style) + pool.style
    weights = (intents[pool.truth] * styles[pool.style]) / np.bincount(cell, minlength=len(intents) * len(Style))[cell]
    weights[pool.style == Style.EVENT] = 0.0
    weights /= weights.sum()
    events = pool.style == Style.EVENT
    weights *= 1 - strength * scenario.events
    weights[events] = strength * scenario.events / events.sum()
    return weights / weights.sum()


def area_under_roc(quiet, shifted):
    """Probability that a shifted pair has the larger value, with the interval of a bootstrap over pairs."""
    above = (shifted[:, None] > quiet[None]) + 0.5 * (shifted[:, None] == quiet[None])
    return bootstrap(len(shifted), lambda rows: float(above[rows].mean()), seed=1, resamples=500)


def detection(pool, space, n, strength, trials, seed):
    """By shift, the areas under the curves of peer, project, discrepancy alone and divergence alone."""
    rng = np.random.default_rng(seed)
    vectors = np.asarray(pool.vectors, np.float32)
    located = space.locate(vectors)
    squared = (vectors**2).sum(1)
    base = weights_of(pool, SCENARIOS["steady"], 0.0)
    kernel = np.exp(-(squared[:, None] + squared - 2 * vectors @ vectors.T) / median_width(vectors[rng.choice(len(vectors), 1000, p=base)]))

    def peer(x, y):
        a, b = (np.bincount(drawn, minlength=len(vectors)).astype(np.float32) for drawn in (x, y))
        within = sum((float(c @ kernel @ c) - n) / (n * (n - 1)) for c in (a, b))
        return within - 2 * float(a @ kernel @ b) / n**2

    def values(weights):
        x, y = (rng.choice(len(vectors), n, p=w) for w in (base, weights))
        now, then = (Moments.of(moments_of(space, located.take(drawn), np.ones(n), START)) for drawn in (y, x))
        return peer(x, y), discrepancy(now, then), kl_between(now, then)

    def scored(found):
        both = ((found[:, 1:] - quiet[:, 1:].mean(0)) / quiet[:, 1:].std(0)).sum(1)
        return np.column_stack([found[:, 0], both, found[:, 1:]])

    quiet = np.array([values(base) for _ in range(trials)])
    found = {}
    for name in SHIFTS:
        shifted = np.array([values(weights_of(pool, SCENARIOS[name], strength)) for _ in range(trials)])
        found[name] = [area_under_roc(*columns) for columns in zip(scored(quiet).T, scored(shifted).T, strict=True)]
    return found


# ── the cost of a day ───────────────────────────────────────────────────────────────────────────────────────────────


def large_day(space, vectors, seed):
    """Seconds and additional peak MiB of the moments of one day of LARGE_DAY vectors."""
    day = np.asarray(vectors, np.float32)[np.random.default_rng(seed).integers(0, len(vectors), LARGE_DAY)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = timed(lambda: day_moments(space, day, np.ones(LARGE_DAY), START))
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def growth(pool, model, space, seed):
    """Seconds of all drift tables after a new day, by days of history; months that are over keep their rows, as in the graph."""
    calendar, limits = read_calendar(PROJECT / "data" / "calendar.toml"), DriftLimits(least_messages=50)
    located = space.locate(pool.vectors)
    stream = traffic(
        pool, SCENARIOS["steady"], days=max(HISTORY), per_day=500, seed=seed, start=START, serving=Serving(model), calendar=calendar
    )
    seen = observe(stream, space, located, embedded_per_day=200, control_per_week=100, seed=seed)
    rows = []
    for days in HISTORY:
        end = pa.scalar(START + dt.timedelta(days))
        sums, moments, daily = (table.filter(pc.less(table["day"], end)) for table in (seen.traffic, seen.moments, seen.days))
        accuracy = seen.accuracy.filter(pc.less(seen.accuracy["week"], end))
        yesterday = moments.filter(pc.less(moments["day"], pa.scalar(START + dt.timedelta(days - 1))))
        earlier = embedding_drift(yesterday, limits, seed, calendar=calendar)

        def tables(sums=sums, moments=moments, daily=daily, accuracy=accuracy, earlier=earlier):
            triage(
                traffic=sums,
                days=daily,
                shares=intent_share(sums, limits, calendar),
                confidence=confidence_by_day(sums, accuracy, limits),
                embedding=embedding_drift(moments, limits, seed, calendar=calendar, earlier=earlier),
                moments=moments,
                accuracy=accuracy,
                events=seen.events,
                calendar=calendar,
                limits=limits,
            )

        rows.append((days, timed(tables)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="an installation whose messages are used; else the bundled ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=5_000, help="messages on each side of a detection trial")
    parser.add_argument("--strength", type=float, default=0.2, help="how much of a scenario is there")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made, model = bundled_pool(PROJECT / "data", Path(folder))
        pool = made if args.home is None else read_pool(House(args.home), PROJECT / "data" / "lexica")
        pool.answers(model)
    space = fit_space(pool.embed(pool.known), seed=args.seed)

    day, mebibytes = large_day(space, pool.vectors, args.seed)  # first: a peak is only seen where nothing larger came before
    print(f"moments of a day of {LARGE_DAY:,} vectors: {day:.2f} s, {mebibytes:.0f} MiB beyond the vectors\n", flush=True)
    seconds = race(space, pool.vectors, args.rounds, args.seed)
    peer = np.median(seconds["peer"])
    rows = [(name, f"{np.median(s):.3f}", f"{peer / np.median(s):.0f}") for name, s in seconds.items()]
    print(as_markdown((f"{SIZE:,} messages against {SIZE:,}", "seconds", "peer / this"), rows), flush=True)

    found = detection(pool, space, args.n, args.strength, args.trials, args.seed)
    rows = [(name, *(f"{area.value:.3f} [{area.ci_low:.3f}, {area.ci_high:.3f}]" for area in areas)) for name, areas in found.items()]
    means = [np.mean([areas[i].value for areas in found.values()]) for i in range(4)]
    rows.append(("mean", *(f"{mean:.3f}" for mean in means)))
    title = f"area under the ROC curve, {args.n:,} messages, strength {args.strength:g}"
    print("\n" + as_markdown((title, "peer", "project", "discrepancy alone", "divergence alone"), rows), flush=True)

    rows = [(f"{days:,}", f"{s:.2f}") for days, s in growth(pool, model, space, args.seed)]
    print("\n" + as_markdown(("days of history", "seconds for all drift tables"), rows))
    print(f"\n{hardware('torch')}")


if __name__ == "__main__":
    main()
