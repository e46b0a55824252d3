-- asset.description = One row per week and signal: model problem or data problem, by which evidence, and what to do.
-- asset.column = period | date | Monday of the week.
-- asset.column = signal | text | What was looked at.
-- asset.column = cause | text | none, model, data, new_intent, provider or seasonal.
-- asset.column = evidence | text | What was seen, in one line.
-- asset.column = action | text | What to do.
-- asset.column = observed | own | Figure of the signal; empty where nothing was measured.
-- asset.column = threshold | own | Limit that was agreed for it.
-- asset.column = retrain | flag | Whether a retrain is due.
-- asset.column = reason | text | Why a retrain is due, or is not.
-- asset.unique = period, signal
-- asset.not_null = period, signal, cause, action, retrain
SELECT
    period::DATE AS period,
    signal::VARCHAR AS signal,
    cause::VARCHAR AS cause,
    evidence::VARCHAR AS evidence,
    action::VARCHAR AS action,
    nullif(observed::DOUBLE, 'NaN'::DOUBLE) AS observed,
    nullif(threshold::DOUBLE, 'NaN'::DOUBLE) AS threshold,
    retrain::BOOLEAN AS retrain,
    reason::VARCHAR AS reason
FROM lake.drift.drift_triage
