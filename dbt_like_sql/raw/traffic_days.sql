-- asset.description = One row per day of traffic: what is said of the day as a whole.
-- asset.column = day | date | Day of the answers.
-- asset.column = requests | count | Answers; probes are left out.
-- asset.column = sessions | count | Sessions that asked.
-- asset.column = busiest_minute | count | Answers in the minute with the most.
-- asset.column = probes | count | Golden probes that were answered.
-- asset.column = probes_right | count | Golden probes that were answered with their label.
-- asset.column = duplicates | count | Records that came more than once and were read once.
-- asset.column = quarantined | count | Lines that could not be read.
-- asset.column = late | count | Records that came in after their day.
-- asset.column = flagged | count | Answers with a flag.
-- asset.column = latency_ms_p50 | ms | Median latency.
-- asset.column = latency_ms_p99 | ms | 99th percentile of latency.
-- asset.unique = day
-- asset.not_null = day, requests
SELECT
    day::DATE AS day,
    requests::BIGINT AS requests,
    sessions::BIGINT AS sessions,
    busiest_minute::BIGINT AS busiest_minute,
    probes::BIGINT AS probes,
    probes_right::BIGINT AS probes_right,
    duplicates::BIGINT AS duplicates,
    quarantined::BIGINT AS quarantined,
    late::BIGINT AS late,
    flagged::BIGINT AS flagged,
    nullif(latency_ms_p50::DOUBLE, 'NaN'::DOUBLE) AS latency_ms_p50,
    nullif(latency_ms_p99::DOUBLE, 'NaN'::DOUBLE) AS latency_ms_p99
FROM lake.drift.traffic__day
