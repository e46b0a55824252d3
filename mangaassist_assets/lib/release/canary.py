"""A canary: a small share of sessions answered by the new release, compared with the champion that answers the others meanwhile."""

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.release import sample_size, sequential
from mangaassist_assets.lib.release.live import answers_since, tally
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.release.sequential import Tally
from mangaassist_assets.lib.statistics import Estimate, Floats, finite_or_none
from mangaassist_assets.lib.verdicts import Gate, Judgement, Verdict, combine, judge

MISMATCH = 0.001  # chance at which a share of sessions other than the agreed one is no accident (Fabijan et al. 2019)
SESSIONS = pa.schema(
    [
        ("session", pa.string()),
        ("canary", pa.bool_()),
        ("answers", pa.int64()),
        ("errors", pa.int64()),
        ("told", pa.int64()),
        ("escalated", pa.int64()),
        ("rated", pa.int64()),
        ("thumbs_up", pa.int64()),
        ("first_at", pa.timestamp("us", "UTC")),
        ("last_at", pa.timestamp("us", "UTC")),
        ("latency_ms", pa.float64()),
    ]
)
BASE = pa.schema(
    [
        ("event", pa.int64()),
        ("escalation_n", pa.int64()),
        ("escalation", pa.float64()),
        ("thumbs_up_n", pa.int64()),
        ("thumbs_up", pa.float64()),
        ("errors_n", pa.int64()),
        ("errors", pa.float64()),
    ]
)
REPORT = pa.schema(
    [
        ("release", pa.string()),
        ("metric", pa.string()),
        ("champion_n", pa.int64()),
        ("canary_n", pa.int64()),
        ("champion", pa.float64()),
        ("canary", pa.float64()),
        ("change", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("threshold", pa.float64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("needed_n", pa.int64()),
        ("hours_to_decide", pa.float64()),
        ("measured_at", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True)
class Arm:
    """What one arm showed.

    Attributes:
        sessions: that it answered.
        escalation: of all sessions, those handed to a person; nobody saying so means it was not, unless nobody says anything in any.
        thumbs_up: of the rated sessions, the share of ratings that are thumbs up.
        errors: of all sessions, the share of messages answered with an error.
        latency_ms: of the first answer of each session.
    """

    sessions: int
    escalation: Tally
    thumbs_up: Tally
    errors: Tally
    latency_ms: Floats


@dataclass(frozen=True)
class Base:
    """What the champion showed before the canary began: it sets how the comparison is mixed, so it is measured once and kept."""

    escalation: Tally = Tally(0, 0.0)
    thumbs_up: Tally = Tally(0, 0.0)
    errors: Tally = Tally(0, 0.0)

    def table(self, event: int) -> pa.Table:
        """One row, columns BASE, for the canary that `event` of the log began."""
        tallies = (self.escalation, self.thumbs_up, self.errors)
        return pa.Table.from_pylist([dict(zip(BASE.names, [event, *(value for tally in tallies for value in tally)], strict=True))], BASE)

    @classmethod
    def of_table(cls, table: pa.Table) -> "Base":
        """The base out of what `table` made."""
        values = list(table.to_pylist()[0].values())[1:]
        return cls(*(Tally(n, total) for n, total in zip(values[::2], values[1::2], strict=True)))


def sessions_of(interactions: pa.Table, *, release: str, champion: str, since: dt.datetime) -> pa.Table:
    """One row per session of a day, columns SESSIONS, of answers by the canary `release` and by the champion from `since` on.

    `told` counts answers whose feedback says whether they were escalated, `latency_ms` is that of the first answer. A session that the
    canary answered once belongs to it as a whole; messages without a session always go to the champion and are in no comparison.
    """
    found = answers_since(interactions, since)
    found = found.filter(pc.is_valid(found["session"]))
    canary = pc.and_(pc.equal(found["arm"], "canary"), pc.equal(found["model_digest"], release))
    found = found.append_column("canary", canary)
    found = found.filter(pc.or_(canary, pc.equal(found["model_digest"], champion)))
    given, escalated = pc.is_valid(found["escalated"]), pc.fill_null(found["escalated"], False)
    rated, up = pc.is_valid(found["thumbs_up"]), pc.fill_null(found["thumbs_up"], False)
    rows = pa.table(
        {
            "session": found["session"],
            "canary": found["canary"],
            "answers": pa.array(np.ones(len(found), np.int64)),
            "errors": pc.is_valid(found["error"]).cast(pa.int64()),
            "told": given.cast(pa.int64()),
            "escalated": escalated.cast(pa.int64()),
            "rated": rated.cast(pa.int64()),
            "thumbs_up": up.cast(pa.int64()),
            "first_at": found["occurred_at"],
            "last_at": found["occurred_at"],
            "latency_ms": found["latency_ms"].cast(pa.float64()),
        }
    )
    return merge([rows])


def merge(days: Iterable[pa.Table]) -> pa.Table:
    """Sessions of several days as one row each, in order of their first answer; none for no days."""
    rows = pa.concat_tables([SESSIONS.empty_table(), *(day.cast(SESSIONS) for day in days)])
    rows = rows.sort_by([("first_at", "ascending"), ("session", "ascending")])
    counted = ("answers", "errors", "told", "escalated", "rated", "thumbs_up")
    kinds = [("canary", "max"), *((name, "sum") for name in counted), ("first_at", "min"), ("last_at", "max"), ("latency_ms", "first")]
    grouped = rows.group_by("session", use_threads=False).aggregate(kinds)
    named = grouped.rename_columns([name.rsplit("_", 1)[0] if name != "session" else name for name in grouped.column_names])
    return named.select(SESSIONS.names).cast(SESSIONS).sort_by([("first_at", "ascending"), ("session", "ascending")])


def arms(sessions: pa.Table) -> tuple[Arm, Arm]:
    """Champion and canary out of merged sessions."""
    is_canary = sessions["canary"].to_numpy(zero_copy_only=False).astype(bool)
    return _arm(sessions, ~is_canary), _arm(sessions, is_canary)


def base_of(sessions: pa.Table) -> Base:
    """What the champion showed in sessions before the canary."""
    before = _arm(sessions, np.ones(len(sessions), bool))
    return Base(before.escalation, before.thumbs_up, before.errors)


def _arm(sessions: pa.Table, where: NDArray[np.bool_]) -> Arm:
    latency: Floats = sessions["latency_ms"].to_numpy().astype(np.float64)[where]
    is_told = bool(sessions["told"].to_numpy()[where].any())
    escalated = int((sessions["escalated"].to_numpy()[where] > 0).sum())
    return Arm(
        sessions=int(where.sum()),
        escalation=Tally(int(where.sum()), escalated) if is_told else Tally(0, 0.0),
        thumbs_up=tally(sessions, "thumbs_up", "rated", where),
        errors=tally(sessions, "errors", "answers", where),
        latency_ms=latency[np.isfinite(latency)],
    )


@dataclass(frozen=True)
class Comparison:
    """One metric of the canary against that of the champion."""

    judgement: Judgement
    champion_n: int
    champion: float
    canary: float
    needed_n: int | None
    hours_to_decide: float | None


@dataclass(frozen=True)
class CanaryReport:
    """What a canary has shown so far.

    Attributes:
        release: digest of its bundle.
        comparisons: one a metric.
        verdict: PASS only where every metric passes, on enough sessions, after enough hours; FAIL as soon as one fails.
        reason: one line.
    """

    release: str
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    reason: str

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """For the table of gates: each metric named as the canary's."""
        return tuple(replace(c.judgement, metric=f"canary:{c.judgement.metric}") for c in self.comparisons)

    def table(self, measured_at: dt.datetime) -> pa.Table:
        """One row per metric, columns REPORT; what is not measured or not bounded is null."""
        rows = [
            {
                "release": self.release,
                "metric": c.judgement.metric,
                "champion_n": c.champion_n,
                "canary_n": c.judgement.n,
                "champion": finite_or_none(c.champion),
                "canary": finite_or_none(c.canary),
                "change": c.judgement.observed,
                "ci_low": None if c.judgement.ci_low is None else finite_or_none(c.judgement.ci_low),
                "ci_high": None if c.judgement.ci_high is None else finite_or_none(c.judgement.ci_high),
                "threshold": c.judgement.threshold,
                "verdict": c.judgement.verdict.value,
                "reason": c.judgement.reason,
                "needed_n": c.needed_n,
                "hours_to_decide": c.hours_to_decide,
                "measured_at": measured_at,
            }
            for c in self.comparisons
        ]
        return pa.Table.from_pylist(rows, REPORT)


def judge_canary(release: str, champion: Arm, canary: Arm, *, base: Base, hours: float, rules: ReleaseRules) -> CanaryReport:
    """Compares the arms after `hours` of traffic; may be asked as often as one likes.

    What nothing was measured of is INCONCLUSIVE, not FAIL: feedback comes late, and a canary is not rolled back for silence. It never
    passes. Where the canary's share of sessions is not the agreed one, assignment or logging is broken, and nothing is decided.
    """
    comparisons = tuple(_comparisons(champion, canary, base=base, hours=hours, rules=rules))
    if broken := share_mismatch(champion.sessions, canary.sessions, rules.canary_share):
        void = Verdict.INCONCLUSIVE
        comparisons = tuple(replace(c, judgement=replace(c.judgement, verdict=void, reason=f"void: {broken}")) for c in comparisons)
        return CanaryReport(release, comparisons, void, f"void: {broken}")
    verdict = combine([c.judgement.verdict for c in comparisons])
    return CanaryReport(release, comparisons, *_verdict(verdict, comparisons, canary.sessions, hours, rules))


def share_mismatch(champion: int, canary: int, share: float) -> str | None:
    """Why the numbers of sessions cannot be those of a canary with `share` of them; None where they can.

    A confidence sequence of the share, at MISMATCH, as the numbers are looked at again and again (Lindon and Malek 2022).
    """
    mixed = sequential.mixing(Tally(1, share), share / 10)
    low, high = sequential.bounds(champion + canary, canary, mixed, alpha=MISMATCH)
    if low <= share <= high:
        return None
    return f"the canary answered {canary:,} of {champion + canary:,} sessions, which is not the {share:.2%} that was agreed"


def _comparisons(champion: Arm, canary: Arm, *, base: Base, hours: float, rules: ReleaseRules) -> Iterable[Comparison]:
    rates: Sequence[tuple[Gate, str]] = (
        (Gate("escalation_rate_change", "joint", "at_most", rules.escalation), "escalation"),
        (Gate("thumbs_up_rate_change", "joint", "at_least", -rules.thumbs_up), "thumbs_up"),
        (Gate("error_rate_change", "engineering", "at_most", rules.errors), "errors"),
    )
    for gate, name in rates:
        before: Tally = getattr(base, name)
        old, new = getattr(champion, name), getattr(canary, name)
        limit = abs(gate.threshold)
        mixed = sequential.mixing(before, limit)
        known = before if before.n else old
        needed = None
        if known.n:
            needed = sample_size.units_needed(known.rate, limit, share=rules.canary_share, mixed=mixed, power=rules.power)
        yield _compared(gate, sequential.change(old, new, mixed), old.n, old.rate, new.rate, new.n, needed, hours)
    gate = Gate("latency_ms_p99", "engineering", "at_most", rules.latency_ms)
    alpha, part = sequential.ALPHA, sequential.CANARYS_PART
    old_p99 = sequential.quantile(champion.latency_ms, 0.99, alpha=alpha * (1 - part))
    new_p99 = sequential.quantile(canary.latency_ms, 0.99, alpha=alpha * part)
    change = Estimate(new_p99.value - old_p99.value, new_p99.ci_low - old_p99.ci_high, new_p99.ci_high - old_p99.ci_low, new_p99.n)
    needed = sample_size.units_for_quantile(0.99)
    yield _compared(gate, change, old_p99.n, old_p99.value, new_p99.value, new_p99.n, needed, hours)


def _compared(
    gate: Gate, change: Estimate, champion_n: int, champion: float, canary: float, n: int, needed: int | None, hours: float
) -> Comparison:
    judgement = judge(gate, change)
    if not change.is_measured:
        judgement = replace(judgement, verdict=Verdict.INCONCLUSIVE, n=n, reason="not measured yet")
    to_go = sample_size.hours_to_decide(needed, n, hours)
    if judgement.verdict is Verdict.INCONCLUSIVE:
        judgement = replace(judgement, reason=f"{judgement.reason}{_outlook(n, needed, to_go)}")
    return Comparison(judgement, champion_n, champion, canary, needed, to_go if judgement.verdict is Verdict.INCONCLUSIVE else 0.0)


def _outlook(n: int, needed: int | None, to_go: float | None) -> str:
    if needed is None:
        return ""
    if n >= needed:
        return f"; it has the {needed:,} sessions that an unchanged release would need"
    when = "" if to_go is None else f", in about {lasting(to_go)} at this traffic"
    return f"; {n:,} of about {needed:,} sessions{when}"


def lasting(hours: float) -> str:
    """A duration for people: hours below three days, then days."""
    return f"{math.ceil(hours)} hours" if hours < 72 else f"{math.ceil(hours / 24):,} days"


def _verdict(found: Verdict, comparisons: Sequence[Comparison], sessions: int, hours: float, rules: ReleaseRules) -> tuple[Verdict, str]:
    if found is Verdict.FAIL:
        failed = [c.judgement for c in comparisons if c.judgement.verdict is Verdict.FAIL]
        return found, "; ".join(f"{j.metric} {j.observed:+.4g}: {j.reason}" for j in failed)
    if sessions < rules.canary_sessions:
        return Verdict.INCONCLUSIVE, f"{sessions:,} of at least {rules.canary_sessions:,} sessions"
    if hours < rules.canary_hours:
        return Verdict.INCONCLUSIVE, f"{hours:.1f} of at least {rules.canary_hours:g} hours"
    if found is Verdict.INCONCLUSIVE:
        unsure = [c for c in comparisons if c.judgement.verdict is Verdict.INCONCLUSIVE]
        slowest = max(unsure, key=lambda c: math.inf if c.hours_to_decide is None else c.hours_to_decide)
        return found, f"{slowest.judgement.metric} is undecided: {slowest.judgement.reason}"
    return found, f"all {len(comparisons)} metrics are within their limits after {sessions:,} sessions and {hours:.0f} hours"
