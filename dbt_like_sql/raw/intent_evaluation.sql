-- asset.description = One row per model, scope, slice and intent, as measured; NaN read as not measured.
-- asset.column = model_digest | text | Digest of the classifier's bundle.
-- asset.column = scope | text | cascade: all messages, whoever answered; residual: the messages that reach the classifier, answered by it alone.
-- asset.column = slice | text | Kind of message; all for every held-out message, split:<split> and language:<language> for parts of them.
-- asset.column = intent | text | Intent; all for every intent together.
-- asset.column = n | count | Held-out messages of that slice and intent.
-- asset.column = precision | ratio | Share of the messages given this intent that have it; where intent is all, the mean over intents.
-- asset.column = recall | ratio | Share of the messages with this intent that were given it; where intent is all, the mean over intents.
-- asset.column = f1 | ratio | Harmonic mean of precision and recall; where intent is all, the mean over intents (macro F1).
-- asset.column = accuracy | ratio | Share of the messages with the right intent.
-- asset.column = ci_low | ratio | Lower end of the 95% interval of accuracy where intent is all, else of f1.
-- asset.column = ci_high | ratio | Upper end of the 95% interval of accuracy where intent is all, else of f1.
-- asset.column = auc_roc | ratio | Area under the ROC curve of the intent against the rest; where intent is all, the mean over intents.
-- asset.unique = model_digest, scope, slice, intent
-- asset.not_null = model_digest, scope, slice, intent, n
-- asset.accepted = scope | cascade, residual
SELECT
    model_digest::VARCHAR AS model_digest,
    scope::VARCHAR AS scope,
    slice::VARCHAR AS slice,
    intent::VARCHAR AS intent,
    n::BIGINT AS n,
    nullif("precision"::DOUBLE, 'NaN'::DOUBLE) AS "precision",
    nullif(recall::DOUBLE, 'NaN'::DOUBLE) AS recall,
    nullif(f1::DOUBLE, 'NaN'::DOUBLE) AS f1,
    nullif(accuracy::DOUBLE, 'NaN'::DOUBLE) AS accuracy,
    nullif(ci_low::DOUBLE, 'NaN'::DOUBLE) AS ci_low,
    nullif(ci_high::DOUBLE, 'NaN'::DOUBLE) AS ci_high,
    nullif(auc_roc::DOUBLE, 'NaN'::DOUBLE) AS auc_roc
FROM lake.intents.intent_evaluation
