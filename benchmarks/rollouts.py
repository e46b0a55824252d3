"""Simulated rollouts: how often a bad release becomes champion, how often a good one does, and how long each takes.

    python benchmarks/rollouts.py [--rollouts 200] [--messages 500000] [--shares 0.01 0.05 0.2] [--days 120] [--out rollouts.md]

Every rollout goes through the release log as it would in production: offline gates pass it (the worst case: they have seen nothing), so
does shadow, the canary is judged once a day on all its sessions, and a person approves whatever is held. Sessions are drawn with the
rates below; the canary's counts are then judged by the functions that the graph uses. Days that all rollouts have undecided are skipped
by the same confidence sequences computed for all of them at once, and every verdict is that of `judge_canary`.
"""

import argparse
import datetime as dt
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mangaassist_assets.lib.artifacts import write_atomic
from mangaassist_assets.lib.release import sequential
from mangaassist_assets.lib.release.canary import Arm, Base, judge_canary
from mangaassist_assets.lib.release.log import ReleaseLog
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.release.sequential import Tally, mixing
from mangaassist_assets.lib.verdicts import Verdict

BEGAN = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
MESSAGES_A_SESSION = 4.0
RATED = 0.2  # of sessions
ESCALATION, THUMBS_UP, ERRORS, LATENCY_MS = 0.08, 0.70, 0.001, 8.0
LATENCIES = 100_000  # of each arm that are drawn: beyond that their 99th percentile is known


@dataclass(frozen=True)
class Release:
    """What a release changes; in points of a hundred."""

    name: str
    escalation: float = 0.0
    thumbs_up: float = 0.0


RELEASES = (
    Release("good: nothing changes"),
    Release("better: escalation -1 point, thumbs up +2", -0.01, 0.02),
    Release("at the limits: escalation +1 point, thumbs up -2", 0.01, -0.02),
    Release("worse: escalation +2 points, thumbs up -3", 0.02, -0.03),
    Release("bad: escalation +3 points, thumbs up -5", 0.03, -0.05),
)


def counts(rng, sessions, rates, rollouts, days):
    """Cumulative (sessions, escalated, rated, thumbs up, errors) of one arm, each of shape (rollouts, days)."""
    n = rng.poisson(sessions, (rollouts, days))
    rated = rng.binomial(n, RATED)
    drawn = (n, rng.binomial(n, rates[0]), rated, rng.binomial(rated, rates[1]), rng.binomial(n, ERRORS))
    return [values.cumsum(1) for values in drawn]


def arm(found, rollout, day, latency_ms):
    n, escalated, rated, up, errors = (int(values[rollout, day]) for values in found)
    return Arm(n, Tally(n, escalated), Tally(rated, up), Tally(n, errors), latency_ms[: min(n, LATENCIES)])


def screened(champion, canary, base, rules):
    """Days on which escalation and thumbs up are both within their limits, or one is beyond; shape (rollouts, days)."""
    part = sequential.CANARYS_PART
    within, beyond = [], []
    for name, of, had, limit, sign in (("escalation", 0, 1, rules.escalation, 1), ("thumbs_up", 2, 3, rules.thumbs_up, -1)):
        mixed = mixing(getattr(base, name), limit)
        old = sequential.bounds(champion[of], champion[had], mixed, alpha=sequential.ALPHA * (1 - part))
        new = sequential.bounds(canary[of], canary[had], mixed, alpha=sequential.ALPHA * part)
        worst = new[1] - old[0] if sign > 0 else old[1] - new[0]
        best = new[0] - old[1] if sign > 0 else old[0] - new[1]
        within.append(worst <= limit)
        beyond.append(best > limit)
    return (within[0] & within[1]) | beyond[0] | beyond[1]


def rollouts(release, share, options, rules, folder, seed):
    """The day on which each rollout was decided and how: rows of (day, verdict); INCONCLUSIVE where no day was."""
    rng = np.random.default_rng(seed)
    sessions = options.messages / MESSAGES_A_SESSION
    rates = (ESCALATION, THUMBS_UP), (ESCALATION + release.escalation, THUMBS_UP + release.thumbs_up)
    champion = counts(rng, sessions * (1 - share), rates[0], options.rollouts, options.days)
    canary = counts(rng, sessions * share, rates[1], options.rollouts, options.days)
    week = 7 * int(sessions)
    base = Base(*(Tally(n, rng.binomial(n, p)) for n, p in ((week, ESCALATION), (int(week * RATED), THUMBS_UP), (week, ERRORS))))
    latency_ms = rng.lognormal(np.log(LATENCY_MS), 0.3, (2, LATENCIES))
    worth_asking = screened(champion, canary, base, rules)
    found = []
    for rollout in range(options.rollouts):
        log = ReleaseLog(folder / f"{seed}-{rollout}")
        for name in ("champion", "release"):
            state = log.promote(name, Verdict.PASS, against=log.state().champion, by="offline_gates", at=BEGAN, reason="passed")
        state = log.advance("release", Verdict.PASS, event=state.version, approval=True, by="shadow_report", at=BEGAN, reason="passed")
        entered, outcome = state.version, (options.days, Verdict.INCONCLUSIVE)
        for day in np.flatnonzero(worth_asking[rollout]):
            arms = arm(champion, rollout, day, latency_ms[0]), arm(canary, rollout, day, latency_ms[1])
            report = judge_canary("release", *arms, base=base, hours=24.0 * (day + 1), rules=rules)
            at = BEGAN + dt.timedelta(days=int(day) + 1)
            state = log.advance("release", report.verdict, event=entered, approval=True, by="canary_report", at=at, reason=report.reason)
            if state.held:
                state = log.approve("release", by="a person who approves everything", at=at, why="held")
            if report.verdict is not Verdict.INCONCLUSIVE:
                outcome = int(day) + 1, report.verdict
                break
        is_champion = state.champion == "release"
        assert is_champion == (outcome[1] is Verdict.PASS)
        found.append(outcome)
    return found


def upper_bound(hits, n):
    """One-sided 95% bound on a rate (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return 1.0 if hits == n else float(beta.ppf(0.95, hits + 1, n - hits))


def lower_bound(hits, n):
    return 1 - upper_bound(n - hits, n)


def quantiles(days):
    return "-" if not len(days) else " / ".join(f"{np.quantile(days, q):.0f}" for q in (0.5, 0.9))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--messages", type=int, default=500_000, help="a day")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.05, 0.2], help="of sessions that the canary answers")
    parser.add_argument("--days", type=int, default=120, help="after which an undecided canary is given up")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    sessions = options.messages / MESSAGES_A_SESSION
    lines = [
        f"{options.rollouts} rollouts a row. {options.messages:,} messages a day in {sessions:,.0f} sessions, {RATED:.0%} of them rated; "
        f"the champion escalates {ESCALATION:.0%} of sessions and has {THUMBS_UP:.0%} thumbs up. One look a day, given up after "
        f"{options.days} days. Bounds are one-sided, 95%.",
        "",
        "| share | release | became champion | bound | rolled back | undecided | days to champion, median / 90% | days to rollback |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for share in options.shares:
            for number, release in enumerate(RELEASES):
                rules = ReleaseRules(canary_share=share)
                seed = options.seed + 10 * int(share * 100_000) + number
                found = rollouts(release, share, options, rules, Path(folder), seed)
                passed = [day for day, verdict in found if verdict is Verdict.PASS]
                failed = [day for day, verdict in found if verdict is Verdict.FAIL]
                n = len(found)
                good = release.escalation <= 0
                bound = f">= {lower_bound(len(passed), n):.1%}" if good else f"<= {upper_bound(len(passed), n):.1%}"
                row = (f"{share:.0%}", release.name, f"{len(passed)} of {n}", bound, len(failed), n - len(passed) - len(failed))
                lines.append(f"| {' | '.join(map(str, row))} | {quantiles(passed)} | {quantiles(failed)} |")
                print(lines[-1], flush=True)
    table = "\n".join(lines)
    print(f"\n{table}\n\n{time.perf_counter() - began:.0f} s")
    if options.out:
        write_atomic(options.out, (table + "\n").encode())


if __name__ == "__main__":
    main()
