-- asset.description = One row per candidate of the benchmark, as measured; NaN read as not measured.
-- asset.column = candidate | text | Name of the candidate.
-- asset.column = status | text | measured, or skipped where its weights or packages could not be had.
-- asset.column = reason | text | Why it was skipped; empty where it was measured.
-- asset.column = accuracy | ratio | Share of held-out messages with the right intent.
-- asset.column = macro_f1 | ratio | Mean of the F1 scores of the intents.
-- asset.column = latency_ms_mean | ms | Mean latency under open-loop load, from the time a message was due.
-- asset.column = latency_ms_p50 | ms | Median of that latency.
-- asset.column = latency_ms_p99 | ms | 99th percentile of that latency.
-- asset.column = throughput_per_s | per second | Messages answered at saturation, in batches.
-- asset.column = size_mb | MB | Size of the bundle.
-- asset.column = instance_type | text | Instance of the price list that the cost is computed for.
-- asset.column = instance_usd_per_hour | usd per hour | On-demand price of that instance.
-- asset.column = usd_per_million | usd per million | Price of an hour over the messages answered in it.
-- asset.column = training_s | s | Time to train.
-- asset.column = hardware | text | Machine that measured latency and throughput.
-- asset.unique = candidate
-- asset.not_null = candidate, status
-- asset.accepted = status | measured, skipped
SELECT
    candidate::VARCHAR AS candidate,
    status::VARCHAR AS status,
    reason::VARCHAR AS reason,
    nullif(accuracy::DOUBLE, 'NaN'::DOUBLE) AS accuracy,
    nullif(macro_f1::DOUBLE, 'NaN'::DOUBLE) AS macro_f1,
    nullif(latency_ms_mean::DOUBLE, 'NaN'::DOUBLE) AS latency_ms_mean,
    nullif(latency_ms_p50::DOUBLE, 'NaN'::DOUBLE) AS latency_ms_p50,
    nullif(latency_ms_p99::DOUBLE, 'NaN'::DOUBLE) AS latency_ms_p99,
    nullif(throughput_per_s::DOUBLE, 'NaN'::DOUBLE) AS throughput_per_s,
    nullif(size_mb::DOUBLE, 'NaN'::DOUBLE) AS size_mb,
    instance_type::VARCHAR AS instance_type,
    nullif(instance_usd_per_hour::DOUBLE, 'NaN'::DOUBLE) AS instance_usd_per_hour,
    nullif(usd_per_million::DOUBLE, 'NaN'::DOUBLE) AS usd_per_million,
    nullif(training_s::DOUBLE, 'NaN'::DOUBLE) AS training_s,
    hardware::VARCHAR AS hardware
FROM lake.intents.candidate_benchmark
