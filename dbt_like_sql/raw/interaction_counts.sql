-- asset.description = One row per day and kind of answer: what the service answered, counted; no text, no customer.
-- asset.column = day | date | Day of the answers.
-- asset.column = intent | text | Intent that was answered.
-- asset.column = language | text | en, ja or mixed.
-- asset.column = route | text | rules, student or classifier.
-- asset.column = model_digest | text | Digest of the release that answered.
-- asset.column = arm | text | champion or canary.
-- asset.column = generator | text | Fingerprint of the language model and its provider; empty where none was asked.
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
-- asset.unique = day, intent, language, route, model_digest, arm, generator
-- asset.not_null = day, n
SELECT
    counts.day::DATE AS day,
    counts.intent::VARCHAR AS intent,
    counts.language::VARCHAR AS language,
    counts.route::VARCHAR AS route,
    counts.model_digest::VARCHAR AS model_digest,
    counts.arm::VARCHAR AS arm,
    counts.generator::VARCHAR AS generator,
    counts.n::BIGINT AS n,
    counts.confidence_sum::DOUBLE / nullif(counts.n, 0) AS mean_confidence,
    counts.feedback::BIGINT AS feedback,
    counts.thumbs_up::BIGINT AS thumbs_up,
    counts.thumbs_down::BIGINT AS thumbs_down,
    counts.escalated::BIGINT AS escalated,
    counts.converted::BIGINT AS converted,
    counts.errors::BIGINT AS errors,
    counts.input_tokens::BIGINT AS input_tokens,
    counts.output_tokens::BIGINT AS output_tokens,
    counts.cost_usd::DOUBLE AS cost_usd
FROM lake.drift.traffic AS counts
