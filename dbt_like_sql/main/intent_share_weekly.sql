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
-- asset.test = an_alert_has_evidence | SELECT * FROM main.intent_share_weekly WHERE alerting AND (p_value IS NULL OR shift IS NULL)
SELECT
    found.week,
    found.intent,
    found.n,
    found.share,
    found.previous_share,
    found.shift,
    found.baseline_share,
    found.p_value,
    found.alerting,
    found.reason
FROM raw.intent_share_weekly AS found
ORDER BY found.week, found.intent
