-- asset.description = One row per week and intent: its share of the traffic, against the week before and against what the season lets expect.
-- asset.column = week | date | Monday of the week.
-- asset.column = intent | text | Intent that was answered.
-- asset.column = n | count | Answers of the week with this intent.
-- asset.column = share | ratio | Share of the week's answers.
-- asset.column = previous_share | ratio | Share of the answers of the week before; empty where there was none.
-- asset.column = shift | ratio change | Share less the share before.
-- asset.column = baseline_share | ratio | Share that the season lets expect; empty where nothing is known of it.
-- asset.column = p_value | ratio | Probability of a shift as large where there is none.
-- asset.column = alerting | flag | Whether the shift is larger than agreed and no accident.
-- asset.column = reason | text | Why it alerts, or does not.
-- asset.unique = week, intent
-- asset.not_null = week, intent, n, alerting
SELECT
    week::DATE AS week,
    intent::VARCHAR AS intent,
    n::BIGINT AS n,
    nullif(share::DOUBLE, 'NaN'::DOUBLE) AS share,
    nullif(previous_share::DOUBLE, 'NaN'::DOUBLE) AS previous_share,
    nullif(shift::DOUBLE, 'NaN'::DOUBLE) AS shift,
    nullif(baseline_share::DOUBLE, 'NaN'::DOUBLE) AS baseline_share,
    nullif(p_value::DOUBLE, 'NaN'::DOUBLE) AS p_value,
    alerting::BOOLEAN AS alerting,
    reason::VARCHAR AS reason
FROM lake.drift.intent_share
