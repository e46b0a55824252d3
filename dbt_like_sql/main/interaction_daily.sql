-- asset.description = One row per day, intent, route and model: answers, confidence, feedback and cost.
-- asset.column = day | date | Day of the answers.
-- asset.column = intent | text | Intent that was answered.
-- asset.column = route | text | rules, student or classifier.
-- asset.column = model_digest | text | Digest of the release that answered.
-- asset.column = n | count | Answers; probes are left out.
-- asset.column = mean_confidence | ratio | Mean confidence of those answers.
-- asset.column = feedback | count | Answers that feedback came to.
-- asset.column = thumbs_up | count | Answers that a customer liked.
-- asset.column = thumbs_down | count | Answers that a customer disliked.
-- asset.column = escalated | count | Answers after which a person had to take over.
-- asset.column = converted | count | Answers after which the customer bought.
-- asset.column = errors | count | Answers that were an error.
-- asset.column = input_tokens | count | Tokens that language models read.
-- asset.column = output_tokens | count | Tokens that language models wrote.
-- asset.column = cost_usd | usd | What the answers cost.
-- asset.unique = day, intent, route, model_digest
-- asset.not_null = day, n
-- asset.test = feedback_comes_to_answers | SELECT * FROM main.interaction_daily WHERE feedback > n OR thumbs_up + thumbs_down > feedback
SELECT
    counts.day,
    counts.intent,
    counts.route,
    counts.model_digest,
    sum(counts.n)::BIGINT AS n,
    sum(counts.n * counts.mean_confidence) / nullif(sum(counts.n), 0) AS mean_confidence,
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
GROUP BY counts.day, counts.intent, counts.route, counts.model_digest
ORDER BY counts.day, counts.intent, counts.route, counts.model_digest
