"""A shadow: the new release answers what the champion answers, nobody sees it, and the two are compared message by message."""

import datetime as dt
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.release import sequential
from mangaassist_assets.lib.release.live import answers_since, tally
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.release.sequential import Tally
from mangaassist_assets.lib.statistics import Estimate, Floats, finite_or_none, paired_difference
from mangaassist_assets.lib.verdicts import Gate, Judgement, Verdict, combine, judge

REPORT = pa.schema(
    [
        ("release", pa.string()),
        ("n", pa.int64()),
        ("agreement", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("latency_ms_p99_champion", pa.float64()),
        ("latency_ms_p99_shadow", pa.float64()),
        ("days", pa.int64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
    ]
)
COHORTS = pa.schema(
    [
        ("release", pa.string()),
        ("champion_intent", pa.string()),
        ("shadow_intent", pa.string()),
        ("n", pa.int64()),
        ("share", pa.float64()),
    ]
)
PAIRS = pa.schema(
    [
        ("request_id", pa.string()),
        ("occurred_at", pa.timestamp("us", "UTC")),
        ("session", pa.string()),
        ("champion_intent", pa.string()),
        ("shadow_intent", pa.string()),
        ("latency_ms", pa.float64()),
        ("shadow_latency_ms", pa.float64()),
    ]
)


@dataclass(frozen=True)
class ShadowReport:
    """What a shadow has shown so far.

    Attributes:
        release: digest of its bundle.
        n: messages that both answered.
        agreement: share of messages answered alike, averaged over sessions; its n counts sessions.
        latency_ms_p99_champion, latency_ms_p99_shadow: 99th percentiles on the same messages.
        days: days on which messages were compared.
        cohorts: how often the champion said one thing and the shadow another, columns COHORTS, most frequent first.
        judgements: one a metric, named as the shadow's, for the table of gates.
        verdict: PASS only where every metric passes, on enough sessions, after all the days; FAIL as soon as one fails.
        reason: one line.
    """

    release: str
    n: int
    agreement: Estimate
    latency_ms_p99_champion: float
    latency_ms_p99_shadow: float
    days: int
    cohorts: pa.Table
    judgements: tuple[Judgement, ...]
    verdict: Verdict
    reason: str

    def table(self) -> pa.Table:
        """One row, columns REPORT; what is not measured is null."""
        row = {
            "release": self.release,
            "n": self.n,
            "agreement": finite_or_none(self.agreement.value),
            "ci_low": finite_or_none(self.agreement.ci_low),
            "ci_high": finite_or_none(self.agreement.ci_high),
            "latency_ms_p99_champion": finite_or_none(self.latency_ms_p99_champion),
            "latency_ms_p99_shadow": finite_or_none(self.latency_ms_p99_shadow),
            "days": self.days,
            "verdict": self.verdict.value,
            "reason": self.reason,
        }
        return pa.Table.from_pylist([row], REPORT)


def pairs_of(interactions: pa.Table, *, release: str, champion: str, since: dt.datetime) -> pa.Table:
    """One row per message of a day that the champion answered and that the shadow was given too, columns PAIRS.

    `shadow_intent` is null where the shadow gave no answer. A message without a session is a session of its own.
    """
    found = answers_since(interactions, since)
    asked_both = pc.and_(pc.equal(found["model_digest"], champion), pc.equal(found["shadow_digest"], release))
    found = found.filter(pc.and_(asked_both, pc.is_null(found["error"])))
    columns = {name: found[name] for name in PAIRS.names if name in found.column_names}
    columns |= {"session": pc.coalesce(found["session"], found["request_id"]), "champion_intent": found["intent"]}
    return pa.table({name: columns[name] for name in PAIRS.names}).cast(PAIRS)


def judge_shadow(
    release: str,
    days: Iterable[pa.Table],
    *,
    labels: Mapping[str, str],
    latency_ms: float,
    elapsed: dt.timedelta,
    rules: ReleaseRules,
    seed: int,
) -> ShadowReport:
    """Compares a release in shadow with the champion; may be asked as often as one likes.

    Args:
        release: digest of its bundle.
        days: PAIRS of each day since it entered shadow.
        labels: true intent by request_id, of a random sample of messages that people have labelled since. Too few of them decide nothing
            and hold nothing up; enough of them that show a loss of accuracy fail the release.
        latency_ms: limit on the 99th percentile of the shadow's latency.
        elapsed: time since it entered shadow.
        rules: the thresholds.
        seed: of the paired interval.
    """
    pairs = pa.concat_tables([PAIRS.empty_table(), *(day.cast(PAIRS) for day in days)])
    answered = pairs.filter(pc.is_valid(pairs["shadow_intent"]))
    sessions = _sessions(pairs)
    everywhere = np.ones(len(sessions), bool)
    agreement = sequential.rate(tally(sessions, "alike", "answered", everywhere))
    unanswered = sequential.rate(tally(sessions, "unanswered", "asked", everywhere), sequential.mixing(Tally(0, 0.0), rules.shadow_errors))
    slow, usual = _latency(answered, "shadow_latency_ms"), _latency(answered, "latency_ms")
    gates = [
        (Gate("shadow:agreement", "data_science", "at_least", rules.agreement), agreement),
        (Gate("shadow:error_rate", "engineering", "at_most", rules.shadow_errors), unanswered),
        (Gate("shadow:latency_ms_p99", "engineering", "at_most", latency_ms), slow),
    ]
    judgements = [_unless_missing(gate, estimate) for gate, estimate in gates]
    judgements += _accuracy(answered, labels, rules.accuracy_drop, seed)
    seen = len(pc.unique(pc.floor_temporal(pairs["occurred_at"], unit="day")))
    verdict, reason = _verdict(judgements, len(sessions), seen, elapsed, rules)
    return ShadowReport(
        release, len(answered), agreement, usual.value, slow.value, seen, cohorts(release, answered), tuple(judgements), verdict, reason
    )


def cohorts(release: str, answered: pa.Table) -> pa.Table:
    """One row per pair of different answers, columns COHORTS; `share` is of all messages."""
    differ = answered.filter(pc.not_equal(answered["champion_intent"], answered["shadow_intent"]))
    counted = differ.group_by(["champion_intent", "shadow_intent"]).aggregate([([], "count_all")]).to_pylist()
    counted.sort(key=lambda row: (-row["count_all"], row["champion_intent"], row["shadow_intent"]))
    rows = [
        {
            "release": release,
            "champion_intent": row["champion_intent"],
            "shadow_intent": row["shadow_intent"],
            "n": row["count_all"],
            "share": row["count_all"] / len(answered),
        }
        for row in counted
    ]
    return pa.Table.from_pylist(rows, COHORTS)


def _sessions(pairs: pa.Table) -> pa.Table:
    answered = pc.is_valid(pairs["shadow_intent"])
    alike = pc.fill_null(pc.equal(pairs["champion_intent"], pairs["shadow_intent"]), False)
    rows = pa.table(
        {
            "session": pairs["session"],
            "asked": pa.array(np.ones(len(pairs), np.int64)),
            "answered": answered.cast(pa.int64()),
            "unanswered": pc.invert(answered).cast(pa.int64()),
            "alike": alike.cast(pa.int64()),
        }
    )
    names = ["asked", "answered", "unanswered", "alike"]
    grouped = rows.group_by("session").aggregate([(name, "sum") for name in names])
    return grouped.rename_columns([name.removesuffix("_sum") for name in grouped.column_names])


def _latency(answered: pa.Table, name: str) -> Estimate:
    values: Floats = answered.group_by("session", use_threads=False).aggregate([(name, "first")])[f"{name}_first"].to_numpy()
    return sequential.quantile(values[np.isfinite(values)], 0.99)


def _unless_missing(gate: Gate, estimate: Estimate) -> Judgement:
    judgement = judge(gate, estimate)
    if estimate.is_measured:
        return judgement
    return replace(judgement, verdict=Verdict.INCONCLUSIVE, reason="not measured yet")


def _accuracy(answered: pa.Table, labels: Mapping[str, str], drop: float, seed: int) -> list[Judgement]:
    """The paired change of accuracy on labelled messages, once there are any."""
    known = [row for row in answered.to_pylist() if row["request_id"] in labels] if labels else []
    if not known:
        return []
    true = [labels[row["request_id"]] for row in known]
    before, after = ([row[name] == t for row, t in zip(known, true, strict=True)] for name in ("champion_intent", "shadow_intent"))
    change = paired_difference(np.array(before, float), np.array(after, float), seed=seed)
    return [judge(Gate("shadow:accuracy_change", "data_science", "at_least", -drop), change)]


def _verdict(judgements: list[Judgement], sessions: int, seen: int, elapsed: dt.timedelta, rules: ReleaseRules) -> tuple[Verdict, str]:
    failed = [j for j in judgements if j.verdict is Verdict.FAIL]
    if failed:
        return Verdict.FAIL, "; ".join(f"{j.metric} {j.observed:.4g}: {j.reason}" for j in failed)
    days = elapsed / dt.timedelta(days=1)
    if sessions < rules.shadow_sessions:
        return Verdict.INCONCLUSIVE, f"{sessions:,} of at least {rules.shadow_sessions:,} sessions compared"
    if days < rules.shadow_days or seen < rules.shadow_days:
        return Verdict.INCONCLUSIVE, f"day {math.floor(days) + 1} of {rules.shadow_days:g}, traffic on {seen} of them"
    needed = [j for j in judgements if j.metric != "shadow:accuracy_change"]
    verdict = combine([j.verdict for j in needed])
    unsure = [f"{j.metric}: {j.reason}" for j in needed if j.verdict is not Verdict.PASS]
    return verdict, "; ".join(unsure) or f"all {len(needed)} metrics are within their limits after {seen} days and {sessions:,} sessions"
