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
SELECT
    month::DATE AS month,
    n::BIGINT AS n,
    nullif(kl_nats::DOUBLE, 'NaN'::DOUBLE) AS kl_nats,
    nullif(histogram_kl_nats::DOUBLE, 'NaN'::DOUBLE) AS histogram_kl_nats,
    nullif(p_value::DOUBLE, 'NaN'::DOUBLE) AS p_value,
    nullif(threshold_nats::DOUBLE, 'NaN'::DOUBLE) AS threshold_nats,
    alerting::BOOLEAN AS alerting,
    reason::VARCHAR AS reason
FROM lake.drift.embedding_drift
