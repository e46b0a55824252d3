-- asset.description = One row per release, stage, metric and measurement, with its place in time.
-- asset.column = stage | text | offline, shadow, canary or retrieval.
-- asset.column = release | text | Digest of the release; of the embedding adapter where the stage is retrieval.
-- asset.column = metric | text | Metric, its unit at the end of its name.
-- asset.column = owner | text | Who agreed to the threshold.
-- asset.column = threshold | own | Limit that was agreed.
-- asset.column = observed | own | What was measured; empty where nothing was.
-- asset.column = ci_low | own | Lower end of the 95% interval of what was measured.
-- asset.column = ci_high | own | Upper end of the 95% interval of what was measured.
-- asset.column = n | count | Items behind the measurement.
-- asset.column = verdict | text | PASS, FAIL or INCONCLUSIVE.
-- asset.column = measured_at | time | When it was judged.
-- asset.column = is_latest | flag | Whether no later measurement of this metric of this release exists.
-- asset.not_null = stage, release, metric, verdict, measured_at, is_latest
WITH gates AS (
    SELECT
        'offline' AS stage,
        offline.release,
        offline.metric,
        offline.owner,
        offline.threshold,
        offline.observed,
        offline.ci_low,
        offline.ci_high,
        offline.n,
        offline.verdict,
        offline.measured_at
    FROM raw.offline_gates AS offline
    UNION ALL
    SELECT
        'shadow' AS stage,
        shadow.release,
        shadow.metric,
        shadow.owner,
        shadow.threshold,
        shadow.observed,
        shadow.ci_low,
        shadow.ci_high,
        shadow.n,
        shadow.verdict,
        shadow.measured_at
    FROM raw.shadow_gates AS shadow
    UNION ALL
    SELECT
        'canary' AS stage,
        canary.release,
        canary.metric,
        canary.owner,
        canary.threshold,
        canary.observed,
        canary.ci_low,
        canary.ci_high,
        canary.n,
        canary.verdict,
        canary.measured_at
    FROM raw.canary_gates AS canary
    UNION ALL
    SELECT
        'retrieval' AS stage,
        retrieval.release,
        retrieval.metric,
        retrieval.owner,
        retrieval.threshold,
        retrieval.observed,
        retrieval.ci_low,
        retrieval.ci_high,
        retrieval.n,
        retrieval.verdict,
        retrieval.measured_at
    FROM raw.retrieval_gates AS retrieval
)

SELECT
    gates.stage,
    gates.release,
    gates.metric,
    gates.owner,
    gates.threshold,
    gates.observed,
    gates.ci_low,
    gates.ci_high,
    gates.n,
    gates.verdict,
    gates.measured_at,
    row_number() OVER (PARTITION BY gates.stage, gates.release, gates.metric ORDER BY gates.measured_at DESC, gates.verdict) = 1 AS is_latest
FROM gates
