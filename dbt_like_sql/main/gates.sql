-- asset.description = One row per release, stage and metric: the latest measurement against the threshold that was agreed.
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
-- asset.column = stage | text | offline, shadow, canary or retrieval: where the release was when it was measured.
-- asset.unique = release, stage, metric
-- asset.not_null = release, stage, metric, owner, verdict, measured_at
-- asset.accepted = stage | offline, shadow, canary, retrieval
-- asset.accepted = verdict | PASS, FAIL, INCONCLUSIVE
-- asset.test = intervals_are_ordered | SELECT * FROM main.gates WHERE ci_low > ci_high
-- asset.test = nothing_unmeasured_passes | SELECT * FROM main.gates WHERE verdict = 'PASS' AND (observed IS NULL OR n IS NULL OR n = 0)
SELECT
    history.release,
    history.metric,
    history.owner,
    history.threshold,
    history.observed,
    history.ci_low,
    history.ci_high,
    history.n,
    history.verdict,
    history.measured_at,
    history.stage
FROM model.gate_history AS history
WHERE history.is_latest
ORDER BY history.measured_at DESC, history.release, history.stage, history.metric
