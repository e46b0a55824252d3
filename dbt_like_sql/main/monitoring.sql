-- asset.description = One row per figure that monitoring elsewhere is told: the decisive ones of each day, week and month, with their time.
-- asset.column = metric | text | What was measured; a flag is 1 where it holds and 0 where not.
-- asset.column = unit | text | Unit of the value: count, ms, per second, ratio, ratio change, usd, nats or flag.
-- asset.column = intent | text | Intent that it is about; empty where it is about all.
-- asset.column = cause | text | Cause that it is about, of a verdict on drift; empty elsewhere.
-- asset.column = stage | text | Stage of the gates; empty elsewhere.
-- asset.column = at | time | Last minute of the day, week or month, or when the gates were judged; empty where it is the latest estimate there is.
-- asset.column = value | own | The figure; empty where it was not measured.
-- asset.unique = metric, intent, cause, stage, at
-- asset.not_null = metric, unit
-- asset.accepted = unit | count, ms, per second, ratio, ratio change, usd, nats, flag
WITH days AS (
    SELECT
        (online.day + INTERVAL 1439 MINUTE) AT TIME ZONE 'UTC' AS "at",
        online.requests,
        online.latency_ms_p50,
        online.latency_ms_p99,
        online.throughput_per_s,
        online.error_rate,
        online.usd_per_inference,
        online.probe_accuracy,
        online.quarantined,
        shared.escalation_rate,
        shared.thumbs_up_rate,
        shared.hallucination_rate,
        shared.conversion_rate,
        confidence.mean_confidence,
        confidence.alerting
    FROM main.online_daily AS online
    LEFT JOIN main.shared_daily AS shared ON shared.day = online.day
    LEFT JOIN main.confidence_daily AS confidence ON confidence.day = online.day
),

weeks AS (
    SELECT
        (found.week + INTERVAL 10079 MINUTE) AT TIME ZONE 'UTC' AS "at",
        found.intent,
        found.share,
        found.shift,
        found.alerting
    FROM main.intent_share_weekly AS found
),

shifts AS (
    SELECT
        weeks."at",
        count(*) FILTER (WHERE weeks.alerting) AS alerting
    FROM weeks
    GROUP BY weeks."at"
),

months AS (
    SELECT
        (last_day(found.month) + INTERVAL 1439 MINUTE) AT TIME ZONE 'UTC' AS "at",
        found.kl_nats,
        found.threshold_nats,
        found.alerting
    FROM main.embedding_drift_monthly AS found
),

verdicts AS (
    SELECT
        (found.period + INTERVAL 10079 MINUTE) AT TIME ZONE 'UTC' AS "at",
        found.cause,
        found.retrain
    FROM main.drift_triage AS found
    WHERE found.signal = 'verdict'
),

latest_releases AS (
    SELECT
        found.stage,
        arg_max(found.release, (found.measured_at, found.release)) AS release
    FROM main.gates AS found
    GROUP BY found.stage
),

gates AS (
    SELECT
        found.stage,
        max(found.measured_at) AS "at",
        count(*) FILTER (WHERE found.verdict = 'FAIL') AS failed,
        count(*) FILTER (WHERE found.verdict = 'INCONCLUSIVE') AS inconclusive
    FROM main.gates AS found
    INNER JOIN latest_releases ON latest_releases.stage = found.stage AND latest_releases.release = found.release
    GROUP BY found.stage
),

labelled AS (
    SELECT
        found.accuracy,
        found.ci_low,
        found.n
    FROM main.production_accuracy AS found
    ORDER BY found.week DESC, found.n DESC, found.model_digest
    LIMIT 1
),

figures AS (
    SELECT f.metric, f.unit, NULL::VARCHAR AS intent, NULL::VARCHAR AS cause, NULL::VARCHAR AS stage, days."at", f.value::DOUBLE AS value
    FROM days, LATERAL (VALUES
        ('requests', 'count', days.requests),
        ('latency_ms_p50', 'ms', days.latency_ms_p50),
        ('latency_ms_p99', 'ms', days.latency_ms_p99),
        ('throughput_per_s', 'per second', days.throughput_per_s),
        ('error_rate', 'ratio', days.error_rate),
        ('usd_per_inference', 'usd', days.usd_per_inference),
        ('probe_accuracy', 'ratio', days.probe_accuracy),
        ('quarantined', 'count', days.quarantined),
        ('escalation_rate', 'ratio', days.escalation_rate),
        ('thumbs_up_rate', 'ratio', days.thumbs_up_rate),
        ('hallucination_rate', 'ratio', days.hallucination_rate),
        ('conversion_rate', 'ratio', days.conversion_rate),
        ('mean_confidence', 'ratio', days.mean_confidence),
        ('confidence_alerting', 'flag', days.alerting::INTEGER)
    ) AS f (metric, unit, value)
    UNION ALL
    SELECT f.metric, f.unit, weeks.intent, NULL, NULL, weeks."at", f.value::DOUBLE
    FROM weeks, LATERAL (VALUES
        ('intent_share', 'ratio', weeks.share),
        ('intent_share_shift', 'ratio change', weeks.shift)
    ) AS f (metric, unit, value)
    UNION ALL
    SELECT 'intent_shifts_alerting', 'count', NULL, NULL, NULL, shifts."at", shifts.alerting::DOUBLE
    FROM shifts
    UNION ALL
    SELECT f.metric, f.unit, NULL, NULL, NULL, months."at", f.value::DOUBLE
    FROM months, LATERAL (VALUES
        ('embedding_kl_nats', 'nats', months.kl_nats),
        ('embedding_threshold_nats', 'nats', months.threshold_nats),
        ('embedding_alerting', 'flag', months.alerting::INTEGER)
    ) AS f (metric, unit, value)
    UNION ALL
    SELECT 'drift_verdict', 'flag', NULL, known.cause, NULL, verdicts."at", (verdicts.cause = known.cause)::INTEGER::DOUBLE
    FROM verdicts, LATERAL (VALUES ('none'), ('model'), ('data'), ('new_intent'), ('provider'), ('seasonal')) AS known (cause)
    UNION ALL
    SELECT 'retrain_due', 'flag', NULL, NULL, NULL, verdicts."at", verdicts.retrain::INTEGER::DOUBLE
    FROM verdicts
    UNION ALL
    SELECT f.metric, 'count', NULL, NULL, gates.stage, gates."at", f.value::DOUBLE
    FROM gates, LATERAL (VALUES ('gates_failed', gates.failed), ('gates_inconclusive', gates.inconclusive)) AS f (metric, value)
    UNION ALL
    SELECT f.metric, f.unit, NULL, NULL, NULL, NULL, f.value::DOUBLE
    FROM labelled, LATERAL (VALUES
        ('production_accuracy', 'ratio', labelled.accuracy),
        ('production_accuracy_ci_low', 'ratio', labelled.ci_low),
        ('production_accuracy_n', 'count', labelled.n)
    ) AS f (metric, unit, value)
)

SELECT
    figures.metric,
    figures.unit,
    figures.intent,
    figures.cause,
    figures.stage,
    figures."at",
    figures.value
FROM figures
ORDER BY figures."at", figures.metric, figures.intent, figures.cause, figures.stage
