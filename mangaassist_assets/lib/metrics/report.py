"""What people decide by: the same tables for a terminal and for the page `report/index.html`.

Both read the published database through `warehouse.query`, so they show what anybody gets who asks it.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of, write_atomic
from mangaassist_assets.lib.metrics.page import Bar, Fact, Section, render
from mangaassist_assets.lib.metrics.warehouse import query
from mangaassist_assets.lib.verdicts import Verdict, combine

NOT_MEASURED = "–"
MOST_INTENTS = 25  # a longer table is no longer read; the database has all rows
MOST_EVENTS = 15
MOST_DAYS = 14
MOST_WEEKS = 12
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class DecisionTable(NamedTuple):
    """One table to decide by; every cell is text ready to print."""

    title: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def decision_tables(path: Path) -> list[DecisionTable]:
    """Selection, gates, accuracy by slice and intent, lift, retrieval, drift and rollout, from the database at `path`.

    Raises:
        MissingEvidence: nothing is published yet.
    """
    return [DecisionTable(section.title, section.headers, section.rows) for section in _decisions(path)]


def write_report(warehouse: Path, path: Path) -> str:
    """Publishes the report on the database `warehouse` as one HTML file at `path`; returns the SHA-256 of the page.

    Equal tables make an equal page: the date on it is that of the latest measurement.

    Raises:
        MissingEvidence: nothing is published yet.
    """
    sections = [*_decisions(warehouse), _traffic(warehouse), _mistakes(warehouse), _calibration(warehouse), _messages(warehouse)]
    page = render("MangaAssist: decision report", _facts(warehouse), sections).encode()
    write_atomic(path, page)
    return digest_of(page)


def as_markdown(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *([_markdown_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(table: pa.Table, limit: int = 25) -> str:
    """The first `limit` rows as a Markdown table, and how many more there are."""
    shown = as_markdown(table.column_names, (tuple(row.values()) for row in table.slice(0, limit).to_pylist()))
    return shown if table.num_rows <= limit else f"{shown}\n\n{table.num_rows - limit:,} more rows"


# ── what the tables say ─────────────────────────────────────────────────────────────────────────────────────────────


def _decisions(path: Path) -> list[Section]:
    return [_selection(path), _gates(path), *_metrics(path), _lift(path), _retrieval(path), _drift(path), _rollout(path)]


def _selection(path: Path) -> Section:
    found = query(
        path,
        """SELECT candidate, chosen, accuracy, macro_f1, latency_ms_p99, throughput_per_s, usd_per_million, size_mb, selection.reason
        FROM model_selection AS selection LEFT JOIN model_benchmark USING (candidate)
        ORDER BY chosen DESC, accuracy DESC NULLS LAST, candidate""",
    )
    rows = [
        (name, "yes" if chosen else "no", _ratio(accuracy), _ratio(f1), *map(_number, figures), reason)
        for name, chosen, accuracy, f1, *figures, reason in found.rows
    ]
    return Section(
        "Model selection",
        "Chosen under hard limits on accuracy and P99 latency, then by cost per point of accuracy. Bars show accuracy from 0 to 1.",
        ("candidate", "chosen", "accuracy", "macro F1", "P99 ms", "messages/s", "$/million", "MB", "reason"),
        rows,
        words=frozenset({"chosen", "reason"}),
        bars=[Bar(row[2]) for row in found.rows],
    )


def _gates(path: Path) -> Section:
    found = query(
        path,
        """SELECT metric, stage, owner, observed, ci_low, ci_high, threshold, n, verdict, release FROM gates
        WHERE release = (SELECT release FROM gates WHERE stage <> 'retrieval' ORDER BY measured_at DESC, release LIMIT 1)
        ORDER BY verdict = 'PASS', verdict, stage, owner, metric""",
    )
    rows = [
        (metric, stage, owner, _interval(value, low, high, _number), _number(limit), _count(n), verdict)
        for metric, stage, owner, value, low, high, limit, n, verdict, _ in found.rows
    ]
    return Section(
        f"Gates of release {found.rows[0][-1][:12]}" if found.rows else "Gates",
        "A gate compares the whole 95% interval with the threshold, the upright line. INCONCLUSIVE holds a release where it is.",
        ("metric", "stage", "owner", "observed [95%]", "threshold", "n", "verdict"),
        rows,
        words=frozenset({"stage", "owner", "verdict"}),
        bars=[Bar(value, low, high, *_axis(value, low, high, limit), limit) for _, _, _, value, low, high, limit, *_ in found.rows],
    )


def _metrics(path: Path) -> list[Section]:
    """Accuracy by slice and figures by intent, of each model that was evaluated."""
    found = query(
        path,
        """FROM intent_metrics WHERE slice = 'all' OR intent = 'all'
        ORDER BY slice <> 'all', CASE WHEN intent = 'all' THEN -n ELSE f1 END NULLS FIRST, slice, intent""",
    ).as_dicts()
    sections = []
    for model in sorted({row["model_digest"] for row in found}) or [""]:
        of_model = f" of model {model[:12]}" if model else ""
        rows = [row for row in found if row["model_digest"] == model]
        slices = [row for row in rows if row["intent"] == "all"]
        intents = [row for row in rows if row["intent"] != "all"]
        worst = intents[:MOST_INTENTS]
        more = f" The lowest {MOST_INTENTS} of {len(intents)}; the table intent_metrics has them all." if len(worst) < len(intents) else ""
        sections += [
            Section(
                f"Accuracy by slice{of_model}",
                "Share of the messages that the whole cascade gives the right intent, by kind of message. Bars from 0 to 1.",
                ("slice", "n", "accuracy [95%]"),
                [(r["slice"], _count(r["n"]), _interval(r["accuracy"], r["ci_low"], r["ci_high"], _ratio)) for r in slices],
                bars=[Bar(r["accuracy"], r["ci_low"], r["ci_high"]) for r in slices],
            ),
            Section(
                f"Intents{of_model}",
                f"Lowest F1 first. Bars show F1 with its interval from 0 to 1.{more}",
                ("intent", "n", "precision", "recall", "F1 [95%]", "AUC-ROC"),
                [
                    (
                        r["intent"],
                        _count(r["n"]),
                        _ratio(r["precision"]),
                        _ratio(r["recall"]),
                        _interval(r["f1"], r["ci_low"], r["ci_high"], _ratio),
                        _ratio(r["auc_roc"]),
                    )
                    for r in worst
                ],
                bars=[Bar(r["f1"], r["ci_low"], r["ci_high"]) for r in worst],
            ),
        ]
    return sections


def _lift(path: Path) -> Section:
    found = query(path, "SELECT slice, n, accuracy_before, accuracy_after, change, ci_low, ci_high, p_value FROM augmentation_lift")
    reach = max((abs(v) for row in found.rows for v in row[4:7] if v is not None), default=0.0) or 1.0
    return Section(
        "Augmentation lift",
        "The same messages, by models trained without and with augmented messages. The upright line is no change.",
        ("slice", "n", "before", "after", "change [95%]", "p"),
        [
            (name, _count(n), _ratio(before), _ratio(after), _interval(change, low, high, _signed), _ratio(p))
            for name, n, before, after, change, low, high, p in found.rows
        ],
        bars=[Bar(change, low, high, -reach, reach, 0.0) for *_, change, low, high, _ in found.rows],
    )


def _retrieval(path: Path) -> Section:
    found = query(
        path,
        """SELECT embedding_space, any_value(n),
            max(value) FILTER (WHERE metric = 'recall_at_3'), max(ci_low) FILTER (WHERE metric = 'recall_at_3'),
            max(ci_high) FILTER (WHERE metric = 'recall_at_3'), max(value) FILTER (WHERE metric = 'recall_at_5'),
            max(value) FILTER (WHERE metric = 'mrr')
        FROM retrieval_metrics WHERE slice = 'all' GROUP BY embedding_space ORDER BY 3 DESC NULLS LAST, embedding_space""",
    )
    return Section(
        "Retrieval",
        "How often a document that answers a test query is among the first three or five. Bars show the first from 0 to 1.",
        ("space or channel", "n", "recall at 3 [95%]", "recall at 5", "MRR"),
        [
            (space, _count(n), _interval(value, low, high, _ratio), _ratio(at_five), _ratio(mrr))
            for space, n, value, low, high, at_five, mrr in found.rows
        ],
        bars=[Bar(*row[2:5]) for row in found.rows],
    )


def _drift(path: Path) -> Section:
    headers = ("week of", "cause", "action", "retrain", "why", "evidence")
    found = query(
        path,
        f"""SELECT period, cause, action, retrain, reason, evidence FROM drift_triage
        WHERE signal = 'verdict' ORDER BY period DESC LIMIT {MOST_WEEKS}""",
    )
    return Section(
        "Drift",
        "What each week of traffic amounts to, the latest first; the table drift_triage has every signal of every week.",
        headers,
        [
            (f"{period:%Y-%m-%d}", cause, action, "yes" if retrain else "no", reason or "", evidence or "")
            for period, cause, action, retrain, reason, evidence in found.rows
        ],
        words=frozenset(headers),
    )


def _traffic(path: Path) -> Section:
    found = query(
        path,
        f"""SELECT day, requests, mean_confidence, ci_low, ci_high, latency_ms_p99, error_rate, escalation_rate, thumbs_up_rate
        FROM online_daily LEFT JOIN confidence_daily USING (day) LEFT JOIN shared_daily USING (day) ORDER BY day DESC LIMIT {MOST_DAYS}""",
    )
    return Section(
        "Traffic",
        f"The last {MOST_DAYS} days that were served. Bars show the mean confidence from 0 to 1.",
        ("day", "requests", "confidence [95%]", "P99 ms", "errors", "escalated", "thumbs up"),
        [
            (f"{day:%Y-%m-%d}", _count(n), _interval(mean, low, high, _ratio), _number(p99), *map(_ratio, rates))
            for day, n, mean, low, high, p99, *rates in found.rows
        ],
        bars=[Bar(*row[2:5]) for row in found.rows],
    )


def _rollout(path: Path) -> Section:
    headers = ("release", "from", "to", "at", "by", "verdict", "reason")
    found = query(
        path,
        f"""SELECT release, from_state, to_state, "at", "by", verdict, reason FROM rollout
        ORDER BY rowid DESC LIMIT {MOST_EVENTS}""",
    )
    return Section(
        "Rollout",
        "Changes in the release log, the latest first.",
        headers,
        [
            (release[:12], before or "", to, _moment(at), by, verdict or "", reason or "")
            for release, before, to, at, by, verdict, reason in found.rows
        ],
        words=frozenset(headers),
    )


def _mistakes(path: Path) -> Section:
    found = query(
        path,
        f"""SELECT true_intent, predicted_intent, n, n / sum(n) OVER (PARTITION BY model_digest, true_intent) AS share FROM confusion
        QUALIFY true_intent <> predicted_intent ORDER BY n DESC, true_intent, predicted_intent LIMIT {MOST_INTENTS}""",
    )
    return Section(
        "Mistakes",
        "The most frequent ones of the whole cascade; the table confusion has every pair. Bars show the share from 0 to 1.",
        ("true intent", "predicted intent", "n", "share of the true intent"),
        [(true, predicted, _count(n), _ratio(share)) for true, predicted, n, share in found.rows],
        words=frozenset({"predicted intent"}),
        bars=[Bar(row[3]) for row in found.rows],
    )


def _calibration(path: Path) -> Section:
    found = query(path, "SELECT bin_low, bin_high, n, mean_confidence, accuracy FROM calibration WHERE n > 0")
    return Section(
        "Calibration",
        "A calibrated classifier is right as often as it says: the dot, its accuracy, lies on the upright line, its mean confidence.",
        ("confidence", "n", "mean confidence", "accuracy"),
        [
            (f"{low:.2f} to {high:.2f}", _count(n), _ratio(confidence), _ratio(accuracy))
            for low, high, n, confidence, accuracy in found.rows
        ],
        bars=[Bar(accuracy, limit=confidence) for *_, confidence, accuracy in found.rows],
    )


def _messages(path: Path) -> Section:
    found = query(
        path,
        """SELECT source, licence, split, sum(n)::BIGINT, sum(synthetic_n)::BIGINT FROM message_counts
        GROUP BY source, licence, split ORDER BY source, licence, split""",
    )
    return Section(
        "Labelled messages",
        "What the classifier learnt from and is measured on.",
        ("source", "licence", "split", "n", "written by a machine"),
        [(source, licence or "", split, _count(n), _count(synthetic)) for source, licence, split, n, synthetic in found.rows],
        words=frozenset({"licence", "split"}),
    )


def _facts(path: Path) -> list[Fact]:
    """The answers people open the page for: who serves, what waits and why, what was chosen, as of when."""
    champions = query(
        path,
        """SELECT release, max("at") FROM rollout GROUP BY release
        HAVING arg_max(to_state, rowid) = 'champion' ORDER BY max(rowid) DESC""",
    )
    serving = [f"{release[:12]}, since {_moment(at)}" for release, at in champions.rows[:1]]
    facts = [Fact("Champion", *serving or ["none yet: no release has passed its gates"])]
    gates = query(
        path, "SELECT release, verdict, measured_at FROM gates WHERE stage <> 'retrieval' ORDER BY measured_at DESC, release"
    ).rows
    if gates:
        release, _, measured_at = gates[0]
        verdict = combine([Verdict(word) for other, word, _ in gates if other == release])
        facts.append(Fact("Latest release", release[:12], verdict.value))
    chosen = query(
        path,
        """SELECT candidate, accuracy, latency_ms_p99, usd_per_million FROM model_benchmark
        WHERE candidate IN (SELECT candidate FROM model_selection WHERE chosen) ORDER BY candidate""",
    )
    for candidate, accuracy, p99, usd in chosen.rows:
        facts.append(Fact("Chosen model", f"{candidate}: accuracy {_ratio(accuracy)}, P99 {_number(p99)} ms, ${_number(usd)} per million"))
    if gates:
        facts.append(Fact("As of", _moment(measured_at)))
    return facts


# ── how values read ─────────────────────────────────────────────────────────────────────────────────────────────────


def _ratio(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:+.3f}"


def _number(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _count(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,}"


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC"


def _interval(value: float | None, low: float | None, high: float | None, show: Callable[[float | None], str]) -> str:
    return show(value) if low is None or high is None else f"{show(value)} [{show(low)}, {show(high)}]"


def _axis(*values: float | None) -> tuple[float, float]:
    """Ends of an axis that holds all values with some room; 0 to 1 where they could be ratios."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    room = (high - low) * 0.15 or abs(high) * 0.15
    return (0.0 if low >= 0 else low - room), high + room


def _markdown_cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    text = DIGEST.sub(lambda found: found[0][:12] + "…", text)  # whole ones would push the other columns off the page
    return text.replace("|", "\\|").replace("\n", " ")
