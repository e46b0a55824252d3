-- asset.description = One row per release and metric of the shadow's measurement, as judged.
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
-- asset.not_null = release, metric, owner, verdict, measured_at
-- asset.accepted = verdict | PASS, FAIL, INCONCLUSIVE
SELECT
    release::VARCHAR AS release,
    metric::VARCHAR AS metric,
    owner::VARCHAR AS owner,
    nullif(threshold::DOUBLE, 'NaN'::DOUBLE) AS threshold,
    nullif(observed::DOUBLE, 'NaN'::DOUBLE) AS observed,
    nullif(ci_low::DOUBLE, 'NaN'::DOUBLE) AS ci_low,
    nullif(ci_high::DOUBLE, 'NaN'::DOUBLE) AS ci_high,
    n::BIGINT AS n,
    verdict::VARCHAR AS verdict,
    measured_at::TIMESTAMPTZ AS measured_at
FROM lake.release.shadow_gates
