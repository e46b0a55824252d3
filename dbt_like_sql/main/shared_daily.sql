-- asset.description = One row per day: what data science and engineering answer for together.
-- asset.column = day | date | Day of the answers.
-- asset.column = n | count | Answers; probes are left out.
-- asset.column = rated_n | count | Answers that a customer liked or disliked.
-- asset.column = escalation_rate | ratio | Share of the answers after which a person had to take over.
-- asset.column = thumbs_up_rate | ratio | Share of the rated answers that the customer liked.
-- asset.column = hallucination_rate | ratio | Share of the answers that were found to claim what no document says; empty where none was looked at.
-- asset.column = conversion_rate | ratio | Share of the answers after which the customer bought.
-- asset.unique = day
-- asset.not_null = day, n
SELECT
    answers.day,
    answers.n,
    answers.thumbs_up + answers.thumbs_down AS rated_n,
    answers.escalated / nullif(answers.n, 0) AS escalation_rate,
    answers.thumbs_up / nullif(answers.thumbs_up + answers.thumbs_down, 0) AS thumbs_up_rate,
    NULL::DOUBLE AS hallucination_rate,
    answers.converted / nullif(answers.n, 0) AS conversion_rate
FROM model.answers_by_day AS answers
ORDER BY answers.day
