-- asset.description = One row per candidate of the benchmark: whether it was chosen, and why.
-- asset.column = candidate | text | Name of the candidate.
-- asset.column = chosen | flag | Whether it was chosen.
-- asset.column = reason | text | Why it was chosen, rejected or skipped; empty only where the selection is older than the benchmark.
-- asset.column = usd_per_marginal_accuracy_point | usd per point | US dollars a month, at the volume of intents.selection, for each point of accuracy gained over the best cheaper eligible candidate.
-- asset.column = dominated_by | text | Candidate that is at least as accurate, fast and cheap; empty on the Pareto front.
-- asset.unique = candidate
-- asset.not_null = candidate, chosen, reason
-- asset.test = at_most_one_is_chosen | SELECT count(*) AS chosen FROM main.model_selection WHERE chosen HAVING count(*) > 1
SELECT
    candidates.candidate,
    candidates.chosen,
    candidates.reason,
    candidates.usd_per_marginal_accuracy_point,
    candidates.dominated_by
FROM model.candidates AS candidates
ORDER BY candidates.chosen DESC, candidates.accuracy DESC NULLS LAST, candidates.candidate
