"""When models are trained anew without new files being the reason: once a month, and when drift asks for it.

Both start the same job. It reads the labels anew, augments them and makes training rows of them; from there `when_inputs_change()` carries
whatever came of it through candidates, evaluation and gates. Labels that are the same give the same digests, and nothing is trained.
"""

import dagster as dg

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.messages.reading import digest_of_sources
from mangaassist_assets.outside import MOST_ATTEMPTS, labelled_sources
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current

TRIAGE, VERDICT = "drift/drift_triage", "verdict"
REASON_TAG = "mangaassist/retrain"

retrain = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets("labeled_messages", "rejected_messages", "augmented_messages", "training_messages"),
    description="Reads the labels anew and makes training rows of them; what is trained on them follows by itself where they changed.",
    op_retry_policy=dg.RetryPolicy(max_retries=MOST_ATTEMPTS - 1, delay=60, backoff=dg.Backoff.EXPONENTIAL),
)


@dg.schedule(
    job=retrain,
    cron_schedule="0 3 1 * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Retrains on the first of the month, at 03:00 UTC.",
)
def retrain_monthly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One run a month; its key holds the digest of the labels as they are then."""
    month = f"{context.scheduled_execution_time:%Y-%m}"
    digest = digest_of_sources(labelled_sources(current()))
    return dg.RunRequest(run_key=f"{month}-{digest[:16]}", tags={REASON_TAG: month})


@dg.sensor(
    job=retrain,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Retrains when the latest week of drift_triage says so; the cooldown after a retrain is part of that verdict.",
)
def drift_to_retrain(context: dg.SensorEvaluationContext, house: HouseResource) -> dg.SensorResult | dg.SkipReason:
    """Asks once for each verdict, and again up to MOST_ATTEMPTS where that run failed."""
    store = house.open()
    if not store.has_table(TRIAGE):
        return dg.SkipReason("drift_triage was never built. Build it once: `mangaassist run`.")
    verdicts = [row for row in store.read_table(TRIAGE).to_pylist() if row["signal"] == VERDICT]
    if not verdicts:
        return dg.SkipReason("no whole week of traffic was judged yet")
    row = max(verdicts, key=lambda row: row["period"])
    week = f"the week of {row['period']}"
    if not row["retrain"]:
        return dg.SkipReason(f"{week} asks for no retrain: {row['reason'] or 'nothing changed'}")
    name = digest_of([str(row["period"]), row["cause"], row["reason"]])[:40]
    runs = context.instance.get_run_records(dg.RunsFilter(job_name=retrain.name, tags={REASON_TAG: name}))
    statuses = [record.dagster_run.status for record in runs]
    failed = statuses.count(dg.DagsterRunStatus.FAILURE)
    if failed < len(statuses):
        return dg.SkipReason(f"the retrain for {week} was started")
    if failed >= MOST_ATTEMPTS:
        return dg.SkipReason(f"{failed} retrains for {week} failed; look at their runs.")
    context.log.info("retrain for %s: %s (%s)", week, row["reason"], row["evidence"])
    request = dg.RunRequest(run_key=f"{name}-{failed}", tags={REASON_TAG: name})
    return dg.SensorResult(run_requests=[request])
