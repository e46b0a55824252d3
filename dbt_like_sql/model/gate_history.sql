-- asset.description = One row per release, metric and measurement, with its place in time.
-- asset.column = release | text | Digest of the release.
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
-- asset.not_null = release, metric, verdict, measured_at, is_latest
SELECT
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
    row_number() OVER (PARTITION BY gates.release, gates.metric ORDER BY gates.measured_at DESC, gates.verdict) = 1 AS is_latest
FROM raw.offline_gates AS gates
