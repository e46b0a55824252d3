-- asset.description = One row per candidate: how accurate, fast, large and dear it is, or why it was skipped.
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
-- asset.test = measured_candidates_have_figures | SELECT * FROM main.model_benchmark WHERE status = 'measured'
--   AND (accuracy IS NULL OR latency_ms_p99 IS NULL OR hardware IS NULL)
-- asset.test = skipped_candidates_have_a_reason | SELECT * FROM main.model_benchmark WHERE status = 'skipped' AND coalesce(reason, '') = ''
SELECT
    benchmark.candidate,
    benchmark.status,
    benchmark.reason,
    benchmark.accuracy,
    benchmark.macro_f1,
    benchmark.latency_ms_mean,
    benchmark.latency_ms_p50,
    benchmark.latency_ms_p99,
    benchmark.throughput_per_s,
    benchmark.size_mb,
    benchmark.instance_type,
    benchmark.instance_usd_per_hour,
    benchmark.usd_per_million,
    benchmark.training_s,
    benchmark.hardware
FROM raw.candidate_benchmark AS benchmark
ORDER BY benchmark.status, benchmark.accuracy DESC NULLS LAST, benchmark.candidate
