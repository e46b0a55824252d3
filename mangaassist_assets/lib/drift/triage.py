"""Is it a model problem or a data problem? One verdict a week, with the evidence that it rests on.

The decision tree asks in this order, and the first yes decides:

    1. Did a release come in, and accuracy, feedback or errors get worse with it?      model: roll back
    2. Are the golden probes, which never change, answered worse?                      model: roll back
    3. Did the provider change, and people like replies less, or more requests fail?   provider: call it
    4. Did a few cells gain messages that the model doubts, in no other languages?     new intent: name it, label it
    5. Doubted messages everywhere, other languages, less confidence or accuracy?      data: label, then retrain
    6. Did shares or vectors move otherwise, and nothing get worse?                    data: label more
    7. Do people like replies less, and has an earlier week a verdict that stands?     that one
    8. Do people like replies less for two weeks, and nothing else has changed?        provider, unannounced: call it
    9. Did shares or vectors move as the calendar expects?                             seasonal: wait
"""

import datetime as dt
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.calendar import Calendar
from mangaassist_assets.lib.drift.daily import (
    NO_CHANGE,
    WEEK,
    ByDay,
    Change,
    Mask,
    by_day,
    by_day_and,
    compare_means,
    compare_rates,
    whole_weeks,
)
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.moments import Moments
from mangaassist_assets.lib.statistics import Z95

Floats = NDArray[np.float64]

DRIFT_TRIAGE = pa.schema(
    [
        ("period", pa.date32()),
        ("signal", pa.string()),
        ("cause", pa.string()),
        ("evidence", pa.string()),
        ("action", pa.string()),
        ("observed", pa.float64()),
        ("threshold", pa.float64()),
        ("retrain", pa.bool_()),
        ("reason", pa.string()),
    ]
)
EVENTS = pa.schema([("at", pa.timestamp("us", "UTC")), ("kind", pa.string()), ("detail", pa.string())])

CAUSES = ("none", "model", "data", "new_intent", "provider", "seasonal")
ACTIONS = {
    "none": "nothing",
    "model": "roll_back",
    "data": "label_more",
    "new_intent": "new_intent",
    "provider": "call_provider",
    "seasonal": "wait",
}
QUIET_WEEKS = 13  # how far back a quiet week may lie that a week is held against
STANDING_WEEKS = 6  # for so long a verdict explains what is seen late: the divergence of a month, what people say
CELL_DISCOVERY = 0.05  # share of chance among the cells said to be doubted more; what they gained together must still be large
LAST_DAYS = 3  # of a week, on which probes are judged
SAME_PROBES = 0.05  # least dispersion of probes: the same ones are asked every day, so that hardly any chance is in the answers
PRIOR_MESSAGES = 10.0  # of the usual confidence, added to each cell's own


@dataclass(frozen=True)
class Finding:
    """What one signal says of one week.

    Attributes:
        cause: what it points to by itself; `none` where it is quiet.
        observed, threshold: the change that was seen and the one that counts; None where nothing was measured.
        evidence: one line for a person.
    """

    signal: str
    cause: str
    evidence: str
    observed: float | None = None
    threshold: float | None = None

    @property
    def alarms(self) -> bool:
        return self.cause not in ("none", "seasonal")


@dataclass(frozen=True)
class Verdict:
    """What a week amounts to; `retrain` asks for a retrain now."""

    cause: str
    action: str
    reason: str
    retrain: bool = False


def triage(
    *,
    traffic: pa.Table,
    days: pa.Table,
    shares: pa.Table,
    confidence: pa.Table,
    embedding: pa.Table,
    moments: pa.Table,
    accuracy: pa.Table,
    events: pa.Table,
    calendar: Calendar,
    limits: DriftLimits,
) -> pa.Table:
    """One row per whole week and signal, and one with the signal `verdict`, columns DRIFT_TRIAGE.

    Args:
        traffic: columns COUNTS of all days.
        days: columns day, probes, probes_right, one row a day.
        shares: columns INTENT_SHARE.
        confidence: columns CONFIDENCE.
        embedding: columns EMBEDDING_DRIFT.
        moments: columns MOMENTS, one row a day and space.
        accuracy: columns week, n, accuracy, ci_low, ci_high, from labels of the control slice; may be empty.
        events: columns EVENTS; kind `release` is a change of champion, `provider` one that a person or the provider announced.
        calendar: the seasons.
        limits: what counts as a change.

    A week is held against the quiet weeks before it: those without a verdict, or whose verdict a later release has answered. A signal's
    `cause` is what it would say alone; the verdict weighs them.
    """
    world = _World(traffic, days, shares, confidence, embedding, moments, accuracy, events, calendar, limits)
    rows: list[dict[str, object]] = []
    judged: dict[dt.date, Verdict] = {}
    alarmed: dict[dt.date, set[str]] = {}
    for week in world.weeks:
        findings = world.findings(week, world.reference(week, judged))
        verdict = _decide(week, findings, judged, alarmed, world.releases, limits)
        judged[week], alarmed[week] = verdict, {finding.signal for finding in findings if finding.alarms}
        rows += [_row(week, finding) for finding in findings]
        because = [finding.evidence for finding in findings if finding.cause != "none"]
        row = _row(week, Finding("verdict", verdict.cause, "; ".join(because) or "every signal is quiet"))
        rows.append(row | {"action": verdict.action, "retrain": verdict.retrain, "reason": verdict.reason})
    return pa.Table.from_pylist(rows, DRIFT_TRIAGE)


def _row(week: dt.date, finding: Finding) -> dict[str, object]:
    return {
        "period": week,
        "signal": finding.signal,
        "cause": finding.cause,
        "evidence": finding.evidence,
        "action": ACTIONS[finding.cause],
        "observed": finding.observed,
        "threshold": finding.threshold,
        "retrain": False,
        "reason": "",
    }


# ── the decision ────────────────────────────────────────────────────────────────────────────────────────────────────


def _decide(
    week: dt.date,
    findings: list[Finding],
    judged: dict[dt.date, Verdict],
    alarmed: dict[dt.date, set[str]],
    releases: list[dt.date],
    limits: DriftLimits,
) -> Verdict:
    """The tree of the module's head."""
    causes = {finding.signal: finding.cause for finding in findings}
    on = {finding.signal for finding in findings if finding.alarms}
    earlier = alarmed.get(week - dt.timedelta(WEEK), set())
    disliked = on & {"feedback", "errors"}
    worse = disliked | on & {"golden_probes", "labelled_accuracy"}
    moved = on & {"share", "embedding_drift"}
    if on - {"release", "provider"} == {"labelled_accuracy"} and "labelled_accuracy" not in earlier:
        return Verdict("none", "nothing", "labelled accuracy alone, for the first week: a second week decides")
    if "release" in on and worse:
        return Verdict("model", "roll_back", f"worse since a release came in: {_named(worse)}")
    if "golden_probes" in on:
        return Verdict(
            "model", "roll_back", "the same probes are answered worse: the model, or what reaches it, is no longer what was released"
        )
    unfamiliar = on & {"novelty", "language_mix", "labelled_accuracy"}
    if "release" not in on:  # another model's confidence is no measure of messages
        unfamiliar |= on & {"confidence"}
    if "provider" in on and disliked and not unfamiliar:
        return Verdict("provider", "call_provider", f"another provider answers, and worse: {_named(disliked)}")
    if causes["novelty"] == "new_intent" and "language_mix" not in on:
        return _learn(
            "new_intent", week, judged, releases, limits, "messages that the model doubts lie close together: something new is asked"
        )
    if unfamiliar:
        return _learn("data", week, judged, releases, limits, f"probes hold, messages changed: {_named(unfamiliar)}")
    since = max([r for r in releases if r < week], default=dt.date.min)
    standing = [
        v.cause
        for w, v in judged.items()
        if v.cause != "none" and week - w <= dt.timedelta(WEEK * STANDING_WEEKS) and w + dt.timedelta(WEEK) > since
    ]
    if moved == {"embedding_drift"} and standing:
        return Verdict(standing[-1], ACTIONS[standing[-1]], "the month differs by what an earlier week already explains")
    if moved:
        return Verdict("data", "label_more", f"{_named(moved)} moved, and nothing got worse: label, do not retrain")
    if disliked and standing and standing[-1] != "seasonal":
        return Verdict(standing[-1], ACTIONS[standing[-1]], f"{_named(disliked)}: what an earlier week found still stands")
    if disliked & earlier:
        why = "messages, probes and confidence are as before, and replies are liked less: what writes them changed"
        return Verdict("provider", "call_provider", why)
    if disliked:
        return Verdict("none", "nothing", f"{_named(disliked)} alone, for the first week: a second week decides")
    if "seasonal" in causes.values():
        return Verdict("seasonal", "wait", "the calendar expects it, and nothing got worse")
    return Verdict("none", "nothing", "")


def _learn(cause: str, week: dt.date, judged: dict[dt.date, Verdict], releases: list[dt.date], limits: DriftLimits, why: str) -> Verdict:
    """Label in the first week, retrain in the second, and not again within the cooldown."""
    end = week + dt.timedelta(WEEK)
    last = max(
        [w + dt.timedelta(WEEK) for w, verdict in judged.items() if verdict.retrain] + [r for r in releases if r < end], default=None
    )
    earlier = judged.get(week - dt.timedelta(WEEK))
    if earlier is None or earlier.cause not in ("data", "new_intent"):
        return Verdict(cause, ACTIONS[cause], f"{why}; the first week: label before anything is trained")
    if last is not None and end - last < dt.timedelta(limits.cooldown_days):
        return Verdict(cause, ACTIONS[cause], f"{why}; no retrain before {last + dt.timedelta(limits.cooldown_days)}, the last was {last}")
    return Verdict(cause, "retrain" if cause == "data" else ACTIONS[cause], f"{why}; for a second week: retrain", retrain=True)


def _named(signals: set[str]) -> str:
    return ", ".join(sorted(signals)).replace("_", " ")


# ── the signals ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _World:
    """All tables as arrays by day, and what each signal reads in them."""

    traffic: pa.Table
    probe_days: pa.Table
    shares: pa.Table
    confidence: pa.Table
    embedding: pa.Table
    moments_table: pa.Table
    accuracy: pa.Table
    events: pa.Table
    calendar: Calendar
    limits: DriftLimits
    weeks: list[dt.date] = field(init=False)
    releases: list[dt.date] = field(init=False)

    def __post_init__(self) -> None:
        self.daily: ByDay = by_day(self.traffic, ("errors",))
        self.weeks = whole_weeks(self.daily)
        self.intents = _PerIntent.of(self.traffic)
        self.languages, self.by_language = by_day_and(self.traffic, "language")
        serving = self.traffic.filter(pa.array([arm != "canary" for arm in self.traffic["arm"].to_pylist()], pa.bool_()))
        self.generators = _mains(self.traffic, "generator")
        self.models = _mains(serving, "model_digest")
        announced = self.events.to_pylist()
        self.releases = sorted({e["at"].date() for e in announced if e["kind"] == "release"} | _changes(self.models))
        self.providers = sorted({e["at"].date() for e in announced if e["kind"] == "provider"} | _changes(self.generators))
        self.probes = _laid_out(self.probe_days, ("probes", "probes_right"), self.daily.days)
        self.novel = _Novelty.of(self.moments_table, self.daily.days)
        self.share_rows = _by(self.shares, "week")
        self.confidence_rows = _by(self.confidence, "day")
        self.month_rows = {_last_day(row["month"]): row for row in self.embedding.to_pylist()}
        self.accuracy_rows = _by(self.accuracy, "week")

    def mask(self, weeks: list[dt.date]) -> Mask:
        mask = np.zeros(len(self.daily.days), bool)
        for week in weeks:
            mask[self.daily.rows(week, WEEK)] = True
        return mask

    def reference(self, week: dt.date, judged: dict[dt.date, Verdict]) -> list[dt.date]:
        """The latest quiet weeks before `week`; where there are too few, the latest weeks."""
        answered = max((release for release in self.releases if release < week), default=dt.date.min)
        earlier = [w for w in self.weeks if week - dt.timedelta(WEEK * QUIET_WEEKS) <= w < week]
        quiet = [w for w in earlier if judged[w].cause == "none" or w + dt.timedelta(WEEK) <= answered]
        return (quiet if len(quiet) >= 2 else earlier)[-self.limits.reference_weeks :]

    def findings(self, week: dt.date, reference: list[dt.date]) -> list[Finding]:
        """What every signal says of `week` against `reference`, in the order in which people read them."""
        after, before = self.mask([week]), self.mask(reference)
        return [
            self._golden_probes(after, before),
            self._labelled_accuracy(week, reference),
            self._share(week, after, before),
            self._language_mix(after, before),
            self._confidence(week, after, before),
            self._embedding_drift(week),
            self._novelty(after, before),
            self._feedback(after, before),
            self._errors(after, before),
            self._provider(week, reference),
            self._release(week, reference),
            self._calendar(week),
        ]

    def _golden_probes(self, after: Mask, before: Mask) -> Finding:
        """The last days of the week tell how it ended, as the same probes are asked on all of them."""
        right, asked = self.probes["probes_right"], self.probes["probes"]
        last = after & (np.cumsum(after) > after.sum() - LAST_DAYS)
        change = compare_rates(right, asked, last, before, least_dispersion=SAME_PROBES)
        fell = -change.change >= self.limits.probe_fall and change.p_value <= self.limits.significance
        return _finding("golden_probes", "model" if fell else "none", "probes answered right", change, -self.limits.probe_fall)

    def _labelled_accuracy(self, week: dt.date, reference: list[dt.date]) -> Finding:
        from scipy.stats import norm

        value, error, n = _pooled_accuracy(self.accuracy_rows.get(week, []))
        usual, usual_error, usual_n = _pooled_accuracy([row for w in reference for row in self.accuracy_rows.get(w, [])])
        if not n or not usual_n:
            return Finding("labelled_accuracy", "none", "no labels of the control slice to compare")
        spread = math.hypot(error, usual_error)
        p_value = float(2 * norm.sf(abs(value - usual) / spread)) if spread > 0 else 1.0
        change = Change(usual, value, value - usual, value - usual - Z95 * spread, value - usual + Z95 * spread, p_value, n)
        fell = usual - value >= self.limits.accuracy_fall and p_value <= self.limits.significance
        return _finding(
            "labelled_accuracy", "data" if fell else "none", "labelled messages answered right", change, -self.limits.accuracy_fall
        )

    def _share(self, week: dt.date, after: Mask, before: Mask) -> Finding:
        """An alarm of intent_share, or the largest move against the reference: what begins in mid-week moves two weeks by half."""
        alarms = [row for row in self.share_rows.get(week, []) if row["alerting"]]
        if alarms:
            row = max(alarms, key=lambda row: abs(row["shift"]))
            said = f"share of {row['intent']} in a week: {row['reason']}"
            return Finding("share", "data", said, row["shift"], math.copysign(self.limits.share_shift, row["shift"]))
        name, change = self._largest(self.intents.names, self.intents.sums["n"], after, before)
        season = self.calendar.between(week - dt.timedelta(WEEK), week + dt.timedelta(WEEK - 1))
        size, sure = abs(change.change), change.p_value <= self.limits.significance
        cause = "none"
        if season and sure and self.limits.share_shift / 2 < size <= season.share_shift:
            cause = "seasonal"
        elif sure and size > self.limits.share_shift:
            cause = "data"
        return _finding("share", cause, f"share of {name}", change, self._towards(self.limits.share_shift, change))

    def _largest(self, names: tuple[str, ...], counts: Floats, after: Mask, before: Mask) -> tuple[str, Change]:
        """The name whose share of all messages moved most."""
        changes = [(name, compare_rates(counts[:, i], self.daily.n, after, before)) for i, name in enumerate(names)]
        return max(changes, key=lambda pair: abs(pair[1].change) if pair[1].n else -1.0, default=("nothing", NO_CHANGE))

    def _towards(self, limit: float, change: Change) -> float:
        return math.copysign(limit, change.change) if change.n else limit

    def _language_mix(self, after: Mask, before: Mask) -> Finding:
        name, change = self._largest(self.languages, self.by_language, after, before)
        moved = abs(change.change) >= self.limits.language_shift and change.p_value <= self.limits.significance
        limit = self._towards(self.limits.language_shift, change)
        return _finding("language_mix", "data" if moved else "none", f"messages in {name}", change, limit)

    def _confidence(self, week: dt.date, after: Mask, before: Mask) -> Finding:
        """Days that alarm, or a week that is surely lower; and in both cases not because other intents are asked for."""
        days = [row for i in range(WEEK) for row in self.confidence_rows.get(week + dt.timedelta(i), [])]
        alarms = sum(row["alerting"] for row in days)
        sums, n = self.intents.total("confidence_sum"), self.intents.total("n")
        items = np.maximum(n, 1)
        variance = np.maximum(self.intents.total("confidence_square_sum") / items - (sums / items) ** 2, 0.0)
        change = compare_means(sums, n, variance, after, before)
        within = self.intents.within("confidence_sum", after, before)
        lower = -change.change >= self.limits.confidence_fall and change.p_value <= self.limits.significance
        fell = (lower or alarms > 0) and -within >= self.limits.confidence_fall / 2
        said = "mean confidence: nothing to compare"
        if change.n:
            said = f"mean confidence: {change.before:.3f} to {change.after:.3f}, p {change.p_value:.2g}, "
            said += f"{within:+.3f} at equal shares of intents"
        said += f", {alarms} of {len(days)} days alarm"
        observed = change.change if change.n else None
        return Finding("confidence", "data" if fell else "none", said, observed, -self.limits.confidence_fall)

    def _embedding_drift(self, week: dt.date) -> Finding:
        ended = [
            row for i in range(WEEK) if (row := self.month_rows.get(week + dt.timedelta(i))) is not None and row["kl_nats"] is not None
        ]
        if not ended:
            return Finding("embedding_drift", "none", "no month ends in this week")
        row = ended[-1]
        far = row["kl_nats"] > row["threshold_nats"] and row["p_value"] <= self.limits.significance
        cause = "data" if row["alerting"] else "seasonal" if far else "none"
        return Finding(
            "embedding_drift", cause, f"KL {row['kl_nats']:.3g} nats from the month before", row["kl_nats"], row["threshold_nats"]
        )

    def _novelty(self, after: Mask, before: Mask) -> Finding:
        novel, limits = self.novel, self.limits
        after, before = after & novel.known, before & novel.known
        far = compare_rates(novel.far, novel.n, after, before)
        if not far.n:
            return Finding("novelty", "none", "cells of the drift space: nothing to compare", None, limits.novelty_growth)
        growth = novel.growth(after, before)
        doubted = growth.gained >= limits.novelty_growth and growth.doubt >= limits.novelty_doubt / 3
        farther = far.change >= limits.novelty_far and far.p_value <= limits.significance
        close = growth.doubt * limits.novelty_cells >= limits.novelty_doubt * growth.cells
        cause = "none"
        if doubted or farther:
            gathered = farther and growth.gained > 0 and novel.far_cells(after, before) <= limits.novelty_cells
            cause = "new_intent" if (doubted and close) or gathered else "data"
        said = "no cell gained messages that are doubted more"
        if growth.gained:
            said = (
                f"cells gained {_percent(growth.gained)} of messages, doubted {growth.doubt:.2f} more, spread over {growth.cells:.0f} cells"
            )
        return Finding(
            "novelty", cause, f"{said}; far ones {_percent(far.before)} to {_percent(far.after)}", growth.gained, limits.novelty_growth
        )

    def _feedback(self, after: Mask, before: Mask) -> Finding:
        """The worse of escalations per message and thumbs down per thumb, at equal shares of intents."""
        limits, found = self.limits, []
        kinds = (
            ("escalations", "escalated", "n", limits.escalation_rise),
            ("thumbs down", "thumbs_down", "thumbs", limits.thumbs_down_rise),
        )
        for name, events, items, limit in kinds:
            change = compare_rates(self.intents.total(events), self.intents.total(items), after, before)
            rise = min(change.change, self.intents.within(events, after, before, items))
            worse = rise >= limit and change.p_value <= limits.significance / len(kinds)
            found.append((worse, change.change / limit if change.n else -math.inf, name, change, limit))
        worse, _, name, change, limit = max(found, key=lambda item: item[:2])
        return _finding("feedback", "provider" if worse else "none", name, change, limit)

    def _errors(self, after: Mask, before: Mask) -> Finding:
        change = compare_rates(self.daily.sums["errors"], self.daily.n, after, before)
        worse = change.change >= self.limits.escalation_rise and change.p_value <= self.limits.significance
        return _finding("errors", "provider" if worse else "none", "requests that failed", change, self.limits.escalation_rise)

    def _provider(self, week: dt.date, reference: list[dt.date]) -> Finding:
        recent = self._came_in(self.providers, week, reference)
        return Finding("provider", "provider" if recent else "none", f"the provider changed on {recent}" if recent else "the same provider")

    def _release(self, week: dt.date, reference: list[dt.date]) -> Finding:
        recent = self._came_in(self.releases, week, reference)
        return Finding("release", "model" if recent else "none", f"a release came in on {recent}" if recent else "the same release")

    def _came_in(self, changes: list[dt.date], week: dt.date, reference: list[dt.date]) -> dt.date | None:
        """The latest change between the last week of the reference and the end of `week`: what is in force now, and was not then."""
        first, last = max(reference, default=week), week + dt.timedelta(WEEK)
        return max((change for change in changes if first <= change < last), default=None)

    def _calendar(self, week: dt.date) -> Finding:
        season = self.calendar.between(week, week + dt.timedelta(WEEK - 1))
        return Finding("calendar", "none", f"season: {season.name}" if season else "no season")


def _finding(signal: str, cause: str, what: str, change: Change, limit: float) -> Finding:
    if not change.n:
        return Finding(signal, "none", f"{what}: nothing to compare", None, limit)
    said = f"{what}: {_percent(change.before)} to {_percent(change.after)}, p {change.p_value:.2g}, n {change.n}"
    return Finding(signal, cause, said, change.change, limit)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


@dataclass(frozen=True)
class _PerIntent:
    """Sums by day and intent, (T, intents) each; requests that failed have no intent and are left out."""

    names: tuple[str, ...]
    sums: dict[str, Floats]

    @classmethod
    def of(cls, traffic: pa.Table) -> "_PerIntent":
        columns = ("n", "confidence_sum", "confidence_square_sum", "thumbs_up", "thumbs_down", "escalated")
        sums = {name: by_day_and(traffic, "intent", value=name)[1] for name in columns}
        return cls(by_day_and(traffic, "intent")[0], sums | {"thumbs": sums["thumbs_up"] + sums["thumbs_down"]})

    def total(self, name: str) -> Floats:
        total: Floats = self.sums[name].sum(1)
        return total

    def within(self, name: str, after: Mask, before: Mask, items: str = "n") -> float:
        """Change of a rate at the shares of intents of `after`: direct standardisation, as epidemiologists compare populations."""
        now, then = (np.stack([self.sums[c][days].sum(0) for c in (name, items)]) for days in (after, before))
        shared = (now[1] > 0) & (then[1] > 0)
        if not shared.any():
            return math.nan
        rates = now[0, shared] / now[1, shared] - then[0, shared] / then[1, shared]
        return float((rates * now[1, shared]).sum() / now[1, shared].sum())


@dataclass(frozen=True)
class _Growth:
    """Cells of the drift space that gained messages which the model doubts more than the earlier ones there.

    Attributes:
        gained: share of all messages that they gained.
        cells: over how many cells alike the doubt is spread: the inverse of Simpson's index (1949).
        doubt: confidence that a gained message lacks against the earlier ones of its cell.
    """

    gained: float
    cells: float
    doubt: float


@dataclass(frozen=True)
class _Novelty:
    """Messages of the latest drift space by day (T,) and by cell (T, k); `known` are the days that have any."""

    n: Floats
    far: Floats
    cells: Floats
    cell_far: Floats
    cell_confidence: Floats
    known: Mask

    @classmethod
    def of(cls, moments: pa.Table, days: tuple[dt.date, ...]) -> "_Novelty":
        size = len(days)
        if moments.num_rows == 0:
            empty = np.zeros((size, 0))
            return cls(np.zeros(size), np.zeros(size), empty, empty, empty, np.zeros(size, bool))
        latest = moments["space_digest"][int(np.argmax(moments["day"].cast(pa.int32()).to_numpy()))]
        own = Moments.of(moments.filter(pc.equal(moments["space_digest"], latest)))
        place = {day: i for i, day in enumerate(days)}
        kept = [i for i, day in enumerate(own.days) if day in place]
        at = [place[own.days[i]] for i in kept]

        def laid(values: NDArray[Any]) -> Floats:
            out = np.zeros((size, *values.shape[1:]))
            out[at] = values[kept]
            return out

        n = laid(own.n)
        return cls(n, laid(own.far), laid(own.cells), laid(own.cell_far), laid(own.cell_confidence), n > 0)

    def growth(self, after: Mask, before: Mask) -> _Growth:
        """What cells gained, and how sure the model is of it; the variation of a cell is that between days of one group.

        Sampling makes the squares of gains too large by their variance, which is taken off again: the slope of doubt over gain is that of
        a regression through the origin with errors in the gains (Fuller 1987, section 1.2).
        """
        usual = self.cell_confidence[before].sum() / self.n[before].sum()
        counts, sums = self.cells[before].sum(0), self.cell_confidence[before].sum(0)
        earlier = (sums + PRIOR_MESSAGES * usual) / (counts + PRIOR_MESSAGES)
        items = np.maximum(self.n, 1)[:, None]
        gain, gain_variance = _mean_changes(self.cells / items, after, before)
        doubted, doubt_variance = _mean_changes((self.cells * earlier - self.cell_confidence) / items, after, before)
        sure = _discovered(doubted, doubt_variance, int(after.sum() + before.sum()) - 2)
        squares, doubt_squares = (gain**2 - gain_variance).sum(), (doubted**2 - doubt_variance).sum()
        return _Growth(
            gained=float(gain[sure & (gain > 0) & (doubted > 0)].sum()),
            cells=float(doubted.sum() ** 2 / doubt_squares) if doubt_squares > 0 else math.inf,
            doubt=float((gain * doubted).sum() / squares) if squares > 0 else 0.0,
        )

    def far_cells(self, after: Mask, before: Mask) -> float:
        """Over how many cells alike the rise of far messages is spread."""
        rise = np.maximum(self.cell_far[after].sum(0) / self.n[after].sum() - self.cell_far[before].sum(0) / self.n[before].sum(), 0.0)
        return float(rise.sum() ** 2 / (rise**2).sum()) if rise.any() else math.inf


def _mean_changes(values: Floats, after: Mask, before: Mask) -> tuple[Floats, Floats]:
    """Changes of the daily means of columns (T, k), and their variances from the days of both groups."""
    parts = (values[after], values[before])
    squares = sum(((part - part.mean(0)) ** 2).sum(0) for part in parts)
    variance: Floats = squares / max(len(parts[0]) + len(parts[1]) - 2, 1) * (1 / len(parts[0]) + 1 / len(parts[1]))
    change: Floats = parts[0].mean(0) - parts[1].mean(0)
    return change, variance


def _discovered(changes: Floats, variances: Floats, freedom: int) -> Mask:
    """Which changes are sure, so that at most CELL_DISCOVERY of them are chance (Benjamini and Hochberg 1995)."""
    from scipy.stats import t

    p_values = np.where(variances > 0, 2 * t.sf(np.abs(changes) / np.sqrt(np.maximum(variances, 1e-18)), max(freedom, 1)), 1.0)
    order = np.argsort(p_values)
    below = np.flatnonzero(p_values[order] <= CELL_DISCOVERY * np.arange(1, len(p_values) + 1) / len(p_values))
    found = np.zeros(len(p_values), bool)
    if len(below):
        found[order[: below[-1] + 1]] = True
    return found


def _mains(traffic: pa.Table, key: str) -> list[tuple[dt.date, str]]:
    """By day the commonest value of `key`, in order; days without one are left out."""
    names, sums = by_day_and(traffic, key)
    if not names:
        return []
    days = by_day(traffic, ()).days
    return [(day, names[int(row.argmax())]) for day, row in zip(days, sums, strict=True) if row.any()]


def _changes(mains: list[tuple[dt.date, str]]) -> set[dt.date]:
    return {day for (_, before), (day, now) in zip(mains, mains[1:], strict=False) if now != before}


def _laid_out(table: pa.Table, columns: tuple[str, ...], days: tuple[dt.date, ...]) -> dict[str, Floats]:
    """Columns by day of `days`, 0 where the table has no such day."""
    place = {day: i for i, day in enumerate(days)}
    laid = {name: np.zeros(len(days)) for name in columns}
    for row in table.select(["day", *columns]).to_pylist():
        if row["day"] in place:
            for name in columns:
                laid[name][place[row["day"]]] += row[name] or 0
    return laid


def _by(table: pa.Table, key: str) -> dict[dt.date, list[dict[str, Any]]]:
    groups: dict[dt.date, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row[key], []).append(row)
    return groups


def _last_day(month: dt.date) -> dt.date:
    return (month.replace(day=28) + dt.timedelta(4)).replace(day=1) - dt.timedelta(1)


def _pooled_accuracy(rows: list[dict[str, Any]]) -> tuple[float, float, int]:
    """Accuracy of several rows weighted by n, its standard error from their intervals, and n."""
    measured = [row for row in rows if row["accuracy"] is not None and row["n"]]
    n = np.array([row["n"] for row in measured], np.float64)
    if not len(n):
        return math.nan, math.nan, 0
    errors = np.array([(row["ci_high"] - row["ci_low"]) / (2 * Z95) for row in measured])
    value = float((n * [row["accuracy"] for row in measured]).sum() / n.sum())
    return value, float(np.sqrt(((n * errors) ** 2).sum()) / n.sum()), int(n.sum())
