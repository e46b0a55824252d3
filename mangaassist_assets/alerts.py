"""What people are told without asking: runs that fail, and traffic that drifts."""

import json
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from mangaassist_assets.lib.alerting import send, shortened
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import Unavailable
from mangaassist_assets.lib.messages.redaction import redact
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.retraining import TRIAGE, VERDICT
from mangaassist_assets.settings import current


@dg.run_failure_sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the webhook of alerts.webhook_url that a run failed, and why; without one, the log.",
)
def run_failures_to_webhook(context: dg.RunFailureSensorContext) -> None:
    """One message a failed run."""
    run = context.dagster_run
    causes = {event.step_key: _cause(event) for event in context.get_step_failure_events()}
    first = next(iter(causes.values()), context.failure_event.message or "the run failed")
    tell(
        context,
        {
            "kind": "run_failure",
            "id": run.run_id,
            "text": shortened(f"Run {run.run_id[:8]} of {run.job_name} failed: {redact(first)}"),
            "run_id": run.run_id,
            "job": run.job_name,
            "partition": run.tags.get("dagster/partition"),
            "steps": sorted(filter(None, causes)),
        },
    )


@dg.sensor(
    minimum_interval_seconds=current().alerts.every_s,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the webhook what drift_triage says of the latest week, each verdict once.",
)
def drift_to_webhook(context: dg.SensorEvaluationContext, house: HouseResource) -> dg.SensorResult | dg.SkipReason:
    """What was told stands in the cursor; what the webhook refuses is tried again at the next look."""
    store = house.open()
    if not store.has_table(TRIAGE):
        return dg.SkipReason("drift_triage was never built. Build it once: `mangaassist run`.")
    found = findings(store.read_table(TRIAGE).to_pylist())
    told = set(json.loads(context.cursor or "[]"))
    new = {name: row for name, row in found.items() if name not in told}
    if not new:
        return dg.SkipReason("nothing new" if found else "the latest week is quiet")
    for name, row in new.items():
        text = f"Week of {row['period']}: {row['cause']}. To do: {row['action']}. Why: {row['reason']}. Seen: {row['evidence']}."
        if not tell(context, {"kind": "drift", "id": name, "text": shortened(text), **row}):
            return dg.SensorResult(skip_reason="the webhook did not answer", cursor=json.dumps(sorted(told & set(found))))
        told.add(name)
    return dg.SensorResult(skip_reason=f"{len(new)} verdicts told", cursor=json.dumps(sorted(told & set(found))))


def findings(triage: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The verdict on the latest week, by a digest of what it says; nothing where the week is quiet."""
    verdicts = [row for row in triage if row["signal"] == VERDICT]
    latest = max((row["period"] for row in verdicts), default=None)
    rows = [row for row in verdicts if row["period"] == latest and row["cause"] != "none"]
    return {digest_of([str(row["period"]), row["cause"], row["action"]])[:16]: row for row in rows}


def tell(context: dg.SensorEvaluationContext | dg.RunFailureSensorContext, payload: Mapping[str, Any]) -> bool:
    """Writes an alert into the log and posts it; False where a webhook is set and does not take it."""
    context.log.warning(payload["text"])
    try:
        send(payload, current().alerts, pause=time.sleep)
    except Unavailable as error:
        context.log.error(str(error))
        return False
    return True


def _cause(event: dg.DagsterEvent) -> str:
    """The innermost error's message of a failed step."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message if error is not None else event.message or "failed"
