"""Does triage name the right cause, and how often does it alarm when nothing is wrong?

    python benchmarks/triage.py [--seeds 20] [--scenario steady ...] [--home .mangaassist] [--per-day 5000]

Each scenario is simulated anew for each seed, 90 days with the change on day 45 (`holiday`: the season begins on day 46). A run is right if
the first verdict other than `none` from the change on names the true cause, and for `steady` if there is none; `second` is the share of
runs whose second such verdict does. The first week is one that the change cuts in two. False alarms are counted over 364 days of `steady`
and of `holiday`, whose seasons are all real: a week in which a signal alarms though nothing is wrong. Intervals: Wilson's for shares;
Garwood's (1936) exact Poisson for alarms a year.

Traffic comes from the validation and test messages of a home, answered by its champion, or by its newest classifier. Without --home a
pool is made of the bundled messages, answered by an n-gram classifier that is trained here, which takes a minute.
"""

import argparse
import datetime as dt
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.calendar import Calendar, read_calendar
from mangaassist_assets.lib.drift.confidence import confidence_by_day
from mangaassist_assets.lib.drift.embedding import embedding_drift
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.moments import DriftSpace, Located, fit_space
from mangaassist_assets.lib.drift.shares import intent_share
from mangaassist_assets.lib.drift.triage import triage
from mangaassist_assets.lib.release import log
from mangaassist_assets.lib.serving import newest_classifier
from mangaassist_assets.lib.statistics import proportion
from mangaassist_assets.settings import PROJECT
from mangaassist_assets.simulation.bundled import bundled_pool
from mangaassist_assets.simulation.counting import Observed, observe
from mangaassist_assets.simulation.pool import Model, Pool, Renamed, read_pool
from mangaassist_assets.simulation.running import load_cascade
from mangaassist_assets.simulation.scenarios import SCENARIOS, Scenario, scenario_named
from mangaassist_assets.simulation.traffic import Serving, traffic

DAYS, YEAR_DAYS = 90, 364
YEARLY = ("steady", "holiday")
START, HOLIDAY_START = dt.date(2026, 1, 12), dt.date(2026, 10, 5)  # Mondays; 90 days from the first touch no season
WEEK = dt.timedelta(7)
VERDICT, BAD = "verdict", "b" * 64
ALARMS = ("model", "data", "new_intent", "provider")
CALENDAR = PROJECT / "data" / "calendar.toml"
LEXICA = PROJECT / "data" / "lexica"


def judged(seen: Observed, limits: DriftLimits, calendar: Calendar, seed: int) -> list[dict[str, Any]]:
    """Rows of drift_triage for what was observed."""
    found = triage(
        traffic=seen.traffic,
        days=seen.days,
        shares=intent_share(seen.traffic, limits, calendar),
        confidence=confidence_by_day(seen.traffic, seen.accuracy, limits),
        embedding=embedding_drift(seen.moments, limits, seed, calendar=calendar),
        moments=seen.moments,
        accuracy=seen.accuracy,
        events=seen.events,
        calendar=calendar,
        limits=limits,
    )
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def poisson(events: int, years: float) -> tuple[float, float, float]:
    """Events a year with Garwood's interval."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * events) / 2 if events else 0.0
    return events / years, low / years, chi2.ppf(0.975, 2 * events + 2) / 2 / years


class Tally:
    """What came of all runs of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.first: list[str] = []
        self.second: list[str] = []
        self.weeks: list[int] = []
        self.false: Counter[str] = Counter()
        self.quiet_weeks = 0

    def enter(self, rows: list[dict[str, Any]], change: dt.date) -> None:
        """Takes the first verdict of a run whose change came on that day."""
        verdicts = [row for row in rows if row["signal"] == VERDICT and row["period"] + WEEK > change and row["cause"] != "none"]
        self.first.append(verdicts[0]["cause"] if verdicts else "none")
        if verdicts:
            self.weeks.append((verdicts[0]["period"] + WEEK - change).days // 7)
        self.second.append(verdicts[1]["cause"] if len(verdicts) > 1 else self.first[-1])

    def enter_quiet(self, rows: list[dict[str, Any]]) -> None:
        """Counts alarms of weeks in which nothing was wrong."""
        self.quiet_weeks += len({row["period"] for row in rows})
        self.false.update(row["signal"] for row in rows if row["cause"] in ALARMS)

    def line(self) -> str:
        share = proportion(sum(cause == self.scenario.cause for cause in self.first), len(self.first))
        causes = ", ".join(f"{cause} {n}" for cause, n in Counter(self.first).most_common())
        weeks = f"{np.median(self.weeks):.0f} (at most {max(self.weeks)})" if self.weeks else "-"
        interval = f"[{share.ci_low:.0%}, {share.ci_high:.0%}]"
        second = sum(cause == self.scenario.cause for cause in self.second) / len(self.second)
        return f"{self.scenario.name:16} {self.scenario.cause:11} {share.value:6.0%}  {interval:13} {second:6.0%}  {weeks:17} {causes}"


def setting(home: Path | None, say: Callable[[str], None]) -> tuple[Pool, Model, DriftSpace, Located]:
    """Pool, model and drift space, with all texts classified and embedded."""
    if home is None:
        say("a pool of the bundled messages, and a classifier trained on them")
        with tempfile.TemporaryDirectory() as folder:
            pool, model = bundled_pool(PROJECT / "data", Path(folder))
    else:
        house = House(home)
        pool = read_pool(house, LEXICA)
        digest = log.current(home / "releases").champion or newest_classifier(house.bundles)
        if digest is None:
            raise SystemExit(f"{home} holds no classifier; run `mangaassist run`, or leave --home away")
        model = load_cascade(house)(digest)
    say(f"{len(pool)} messages, {len(pool.known)} known ones: classifying and embedding")
    pool.answers(model)
    pool.answers(model, cut=True)
    space = fit_space(pool.embed(pool.known), seed=20)
    return pool, model, space, space.locate(pool.vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="one or more; all by default")
    parser.add_argument("--home", type=Path, help="an installation with labelled messages and a classifier")
    parser.add_argument("--per-day", type=int, default=5_000)
    parser.add_argument("--embedded", type=int, default=500, help="distinct messages of a day that are embedded, as the graph does")
    parser.add_argument("--control", type=int, default=100, help="labels of the control slice a week")
    args = parser.parse_args()
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    pool, model, space, located = setting(args.home, say)
    limits, calendar = DriftLimits(), read_calendar(CALENDAR)

    def run(scenario: Scenario, seed: int, days: int, start: dt.date) -> list[dict[str, Any]]:
        bad = Renamed(BAD, model) if scenario.bad_release else None
        stream = traffic(
            pool,
            scenario,
            days=days,
            per_day=args.per_day,
            seed=seed,
            start=start,
            serving=Serving(model),
            calendar=calendar,
            bad=bad,
        )
        return judged(
            observe(stream, space, located, embedded_per_day=args.embedded, control_per_week=args.control, seed=seed),
            limits,
            calendar,
            seed,
        )

    tallies = []
    for name in args.scenario or SCENARIOS:
        scenario, tally = scenario_named(name), Tally(scenario_named(name))
        start = HOLIDAY_START if scenario.seasonal else START
        for seed in range(args.seeds):
            rows = run(scenario, seed, DAYS, start)
            change = start + dt.timedelta(scenario.from_day)
            tally.enter(rows, change)
            if name in YEARLY:
                tally.enter_quiet(run(scenario, seed + args.seeds, YEAR_DAYS, START))
            else:
                tally.enter_quiet([row for row in rows if row["period"] + WEEK <= change])
        say(tally.line())
        tallies.append(tally)

    print(f"\n{args.seeds} seeds, {args.per_day:,} messages a day, {args.embedded} embedded a day, {args.control} control labels a week")
    print("scenario         cause        right  95% interval  second  weeks to first    first verdicts of the runs")
    for tally in tallies:
        print(tally.line())
    print("\nfalse alarms a year, by signal")
    for tally in tallies:
        years = tally.quiet_weeks * 7 / 365
        if not years:
            continue
        for signal, events in sorted(tally.false.items()) or [("every signal", 0)]:
            rate, low, high = poisson(events, years)
            print(f"{tally.scenario.name:16} {signal:18} {rate:5.2f}  [{low:.2f}, {high:.2f}]  {events} in {years:.1f} years")


if __name__ == "__main__":
    main()
