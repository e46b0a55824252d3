-- asset.description = One row per day: what its answers add up to.
-- asset.column = day | date | Day of the answers.
-- asset.column = n | count | Answers; probes are left out.
-- asset.column = feedback | count | Answers that feedback came to.
-- asset.column = thumbs_up | count | Answers that a customer liked.
-- asset.column = thumbs_down | count | Answers that a customer disliked.
-- asset.column = escalated | count | Answers after which a person had to take over.
-- asset.column = converted | count | Answers after which the customer bought.
-- asset.column = errors | count | Answers that were an error.
-- asset.column = input_tokens | count | Tokens that language models read.
-- asset.column = output_tokens | count | Tokens that language models wrote.
-- asset.column = cost_usd | usd | What the answers cost.
-- asset.unique = day
-- asset.not_null = day, n
SELECT
    counts.day,
    sum(counts.n)::BIGINT AS n,
    sum(counts.feedback)::BIGINT AS feedback,
    sum(counts.thumbs_up)::BIGINT AS thumbs_up,
    sum(counts.thumbs_down)::BIGINT AS thumbs_down,
    sum(counts.escalated)::BIGINT AS escalated,
    sum(counts.converted)::BIGINT AS converted,
    sum(counts.errors)::BIGINT AS errors,
    sum(counts.input_tokens)::BIGINT AS input_tokens,
    sum(counts.output_tokens)::BIGINT AS output_tokens,
    sum(counts.cost_usd) AS cost_usd
FROM raw.interaction_counts AS counts
GROUP BY counts.day
