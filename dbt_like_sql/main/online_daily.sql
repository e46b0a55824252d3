-- asset.description = One row per day: what engineering watches while the assistant serves.
-- asset.column = day | date | Day of the answers.
-- asset.column = requests | count | Answers; probes are left out.
-- asset.column = sessions | count | Sessions that asked.
-- asset.column = latency_ms_p50 | ms | Median latency of the answers.
-- asset.column = latency_ms_p99 | ms | 99th percentile of that latency.
-- asset.column = throughput_per_s | per second | Answers a second in the busiest minute of the day: what was asked for, not what could be served.
-- asset.column = error_rate | ratio | Share of the answers that were an error.
-- asset.column = usd_per_inference | usd | Mean cost of an answer.
-- asset.column = probes | count | Golden probes that were answered.
-- asset.column = probe_accuracy | ratio | Share of the golden probes answered with their label; empty where none was sent.
-- asset.column = duplicates | count | Records that came more than once and were read once.
-- asset.column = quarantined | count | Lines that could not be read.
-- asset.unique = day
-- asset.not_null = day, requests
-- asset.test = percentiles_are_ordered | SELECT * FROM main.online_daily WHERE latency_ms_p50 > latency_ms_p99
SELECT
    days.day,
    days.requests,
    days.sessions,
    days.latency_ms_p50,
    days.latency_ms_p99,
    days.busiest_minute / 60 AS throughput_per_s,
    answers.errors / nullif(answers.n, 0) AS error_rate,
    answers.cost_usd / nullif(answers.n, 0) AS usd_per_inference,
    days.probes,
    days.probes_right / nullif(days.probes, 0) AS probe_accuracy,
    days.duplicates,
    days.quarantined
FROM raw.traffic_days AS days
LEFT JOIN model.answers_by_day AS answers ON answers.day = days.day
ORDER BY days.day
