-- asset.description = One row per candidate of the benchmark, with what the selection decided on it.
-- asset.column = candidate | text | Name of the candidate.
-- asset.column = status | text | measured, or skipped where its weights or packages could not be had.
-- asset.column = chosen | flag | Whether it was chosen.
-- asset.column = reason | text | Why it was chosen, rejected or skipped; empty only where the selection is older than the benchmark.
-- asset.column = accuracy | ratio | Share of held-out messages with the right intent.
-- asset.column = usd_per_million | usd per million | Price of an hour over the messages answered in it.
-- asset.column = usd_per_marginal_accuracy_point | usd per point | US dollars a month, at the volume of intents.selection, for each point of accuracy gained over the best cheaper eligible candidate.
-- asset.column = dominated_by | text | Candidate that is at least as accurate, fast and cheap; empty on the Pareto front.
-- asset.unique = candidate
-- asset.not_null = candidate, chosen
SELECT
    benchmark.candidate,
    benchmark.status,
    coalesce(selection.chosen, FALSE) AS chosen,
    coalesce(selection.reason, benchmark.reason) AS reason,
    benchmark.accuracy,
    benchmark.usd_per_million,
    selection.usd_per_marginal_accuracy_point,
    selection.dominated_by
FROM raw.candidate_benchmark AS benchmark
LEFT JOIN raw.model_selection AS selection ON selection.candidate = benchmark.candidate
