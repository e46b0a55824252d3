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
-- asset.test = intervals_are_ordered | SELECT * FROM main.confidence_daily WHERE ci_low > ci_high
SELECT
    found.day,
    found.n,
    found.mean_confidence,
    found.ci_low,
    found.ci_high,
    found.expected_calibration_error,
    found.labelled_n,
    found.alerting,
    found.reason
FROM raw.confidence_daily AS found
ORDER BY found.day
