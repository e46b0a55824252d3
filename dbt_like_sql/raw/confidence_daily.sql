-- asset.description = One row per day: how sure the classifier was, and whether it was as often right.
-- asset.column = day | date | Day of the answers.
-- asset.column = n | count | Answers.
-- asset.column = mean_confidence | ratio | Mean calibrated confidence of the answers.
-- asset.column = ci_low | ratio | Lower end of the 95% interval of the mean.
-- asset.column = ci_high | ratio | Upper end of the 95% interval of the mean.
-- asset.column = expected_calibration_error | ratio | Mean distance between confidence and accuracy on the labelled control slice; empty where nothing is labelled.
-- asset.column = labelled_n | count | Labelled messages behind it.
-- asset.column = alerting | flag | Whether it is below what was agreed.
-- asset.column = reason | text | Why it alerts, or does not.
-- asset.unique = day
-- asset.not_null = day, n, alerting
SELECT
    day::DATE AS day,
    n::BIGINT AS n,
    nullif(mean_confidence::DOUBLE, 'NaN'::DOUBLE) AS mean_confidence,
    nullif(ci_low::DOUBLE, 'NaN'::DOUBLE) AS ci_low,
    nullif(ci_high::DOUBLE, 'NaN'::DOUBLE) AS ci_high,
    nullif(expected_calibration_error::DOUBLE, 'NaN'::DOUBLE) AS expected_calibration_error,
    labelled_n::BIGINT AS labelled_n,
    alerting::BOOLEAN AS alerting,
    reason::VARCHAR AS reason
FROM lake.drift.confidence
