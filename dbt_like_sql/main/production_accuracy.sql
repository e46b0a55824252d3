-- asset.description = One row per week and model: how often the answers of the control slice were right, weighted by how likely each was drawn.
-- asset.column = week | date | Monday of the week.
-- asset.column = model_digest | text | Digest of the release that answered.
-- asset.column = n | count | Labelled messages of the control slice.
-- asset.column = accuracy | ratio | Estimated share of all answers that were right.
-- asset.column = ci_low | ratio | Lower end of its 95% interval.
-- asset.column = ci_high | ratio | Upper end of its 95% interval.
-- asset.column = expected_calibration_error | ratio | Mean distance between confidence and accuracy.
-- asset.unique = week, model_digest
-- asset.not_null = week, n
-- asset.test = intervals_are_ordered | SELECT * FROM main.production_accuracy WHERE ci_low > ci_high
SELECT
    found.week,
    found.model_digest,
    found.n,
    found.accuracy,
    found.ci_low,
    found.ci_high,
    found.expected_calibration_error
FROM raw.production_accuracy AS found
ORDER BY found.week, found.model_digest
