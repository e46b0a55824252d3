"""What each signal says of a week of traffic against quiet weeks before it; what they amount to is for `triage.py` to say."""

import datetime as dt
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
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
    mains,
    whole_weeks,
)
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.novelty import Novelty
from mangaassist_assets.lib.statistics import Z95

Floats = NDArray[np.float64]
LAST_DAYS = 3  # of a week, on which probes are judged
SAME_PROBES = 0.05  # least dispersion of probes: the same ones are asked every day, so that hardly any chance is in the answers


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


@dataclass
class Signals:
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
        self.generators = mains(self.traffic, "generator")
        self.models = mains(serving, "model_digest")
        answered_by = dict(self.models)
        self.model_of_day = np.array([answered_by.get(day, "") for day in self.daily.days], object)
        announced = self.events.to_pylist()
        self.releases = sorted({e["at"].date() for e in announced if e["kind"] == "release"} | _changes(self.models))
        self.providers = sorted({e["at"].date() for e in announced if e["kind"] == "provider"} | _changes(self.generators))
        self.probes = _laid_out(self.probe_days, ("probes", "probes_right"), self.daily.days)
        self.novel = Novelty.of(self.moments_table, self.daily.days)
        self.share_rows = _by(self.shares, "week")
        self.confidence_rows = _by(self.confidence, "day")
        self.month_rows = {_last_day(row["month"]): row for row in self.embedding.to_pylist()}
        self.accuracy_rows = _by(self.accuracy, "week")

    def mask(self, weeks: list[dt.date]) -> Mask:
        mask = np.zeros(len(self.daily.days), bool)
        for week in weeks:
            mask[self.daily.rows(week, WEEK)] = True
        return mask

    def of_one_model(self, after: Mask, before: Mask) -> tuple[Mask, Mask]:
        """Both groups of days as far as the model answered that did so last: another's confidence is no measure of messages."""
        same = self.model_of_day == self.model_of_day[np.flatnonzero(after)[-1]]
        return after & same, before & same

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
        from scipy.special import ndtr

        value, error, n = _pooled_accuracy(self.accuracy_rows.get(week, []))
        usual, usual_error, usual_n = _pooled_accuracy([row for w in reference for row in self.accuracy_rows.get(w, [])])
        if not n or not usual_n:
            return Finding("labelled_accuracy", "none", "no labels of the control slice to compare")
        spread = math.hypot(error, usual_error)
        p_value = float(2 * ndtr(-abs(value - usual) / spread)) if spread > 0 else 1.0
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
        after, before = self.of_one_model(after, before)
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
        after, before = self.of_one_model(after, before)
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
