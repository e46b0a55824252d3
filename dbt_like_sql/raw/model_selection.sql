-- asset.description = One row per candidate that the selection looked at, as decided.
-- asset.column = candidate | text | Name of the candidate.
-- asset.column = chosen | flag | Whether it was chosen.
-- asset.column = reason | text | Why it was chosen or rejected.
-- asset.column = usd_per_marginal_accuracy_point | usd per point | US dollars a month, at the volume of intents.selection, for each point of accuracy gained over the best cheaper eligible candidate.
-- asset.column = dominated_by | text | Candidate that is at least as accurate, fast and cheap; empty on the Pareto front.
-- asset.unique = candidate
-- asset.not_null = candidate, chosen
SELECT
    candidate::VARCHAR AS candidate,
    chosen::BOOLEAN AS chosen,
    reason::VARCHAR AS reason,
    nullif(usd_per_marginal_accuracy_point::DOUBLE, 'NaN'::DOUBLE) AS usd_per_marginal_accuracy_point,
    dominated_by::VARCHAR AS dominated_by
FROM lake.intents.model_selection
