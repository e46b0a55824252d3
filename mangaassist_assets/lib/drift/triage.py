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
from dataclasses import dataclass

import pyarrow as pa

from mangaassist_assets.lib.drift.calendar import Calendar
from mangaassist_assets.lib.drift.daily import WEEK
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.signals import Finding, Signals

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
    signals = Signals(traffic, days, shares, confidence, embedding, moments, accuracy, events, calendar, limits)
    rows: list[dict[str, object]] = []
    judged: dict[dt.date, Verdict] = {}
    alarmed: dict[dt.date, set[str]] = {}
    for week in signals.weeks:
        findings = signals.findings(week, _reference(week, signals, judged, limits))
        verdict = _decide(week, findings, judged, alarmed, signals.releases, limits)
        judged[week], alarmed[week] = verdict, {finding.signal for finding in findings if finding.alarms}
        rows += [_row(week, finding) for finding in findings]
        because = [finding.evidence for finding in findings if finding.cause != "none"]
        row = _row(week, Finding("verdict", verdict.cause, "; ".join(because) or "every signal is quiet"))
        rows.append(row | {"action": verdict.action, "retrain": verdict.retrain, "reason": verdict.reason})
    return pa.Table.from_pylist(rows, DRIFT_TRIAGE)


def _reference(week: dt.date, signals: Signals, judged: dict[dt.date, Verdict], limits: DriftLimits) -> list[dt.date]:
    """The latest quiet weeks before `week`; where there are too few, the latest weeks."""
    answered = max((release for release in signals.releases if release < week), default=dt.date.min)
    earlier = [w for w in signals.weeks if week - dt.timedelta(WEEK * QUIET_WEEKS) <= w < week]
    quiet = [w for w in earlier if judged[w].cause == "none" or w + dt.timedelta(WEEK) <= answered]
    return (quiet if len(quiet) >= 2 else earlier)[-limits.reference_weeks :]


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
