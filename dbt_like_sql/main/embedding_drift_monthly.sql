-- asset.description = One row per month: how far its messages lie from those of the month before.
-- asset.column = month | date | First day of the month.
-- asset.column = n | count | Messages of the month that were embedded.
-- asset.column = kl_nats | nats | KL divergence of Gaussians in a shared space; empty where there is nothing to compare with.
-- asset.column = histogram_kl_nats | nats | KL divergence of smoothed histograms on shared bins.
-- asset.column = p_value | ratio | Probability of a divergence as large where there is none (permutation).
-- asset.column = threshold_nats | nats | Divergence from which it alerts (bootstrap).
-- asset.column = alerting | flag | Whether it is larger than the threshold and no accident.
-- asset.column = reason | text | Why it alerts, or does not.
-- asset.unique = month
-- asset.not_null = month, n, alerting
-- asset.test = an_alert_has_evidence | SELECT * FROM main.embedding_drift_monthly WHERE alerting AND (kl_nats IS NULL OR p_value IS NULL)
SELECT
    found.month,
    found.n,
    found.kl_nats,
    found.histogram_kl_nats,
    found.p_value,
    found.threshold_nats,
    found.alerting,
    found.reason
FROM raw.embedding_drift_monthly AS found
ORDER BY found.month
