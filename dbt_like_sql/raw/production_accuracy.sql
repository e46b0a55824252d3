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
SELECT
    week::DATE AS week,
    model_digest::VARCHAR AS model_digest,
    n::BIGINT AS n,
    nullif(accuracy::DOUBLE, 'NaN'::DOUBLE) AS accuracy,
    nullif(ci_low::DOUBLE, 'NaN'::DOUBLE) AS ci_low,
    nullif(ci_high::DOUBLE, 'NaN'::DOUBLE) AS ci_high,
    nullif(expected_calibration_error::DOUBLE, 'NaN'::DOUBLE) AS expected_calibration_error
FROM lake.messages.production_accuracy
