-- asset.description = One row per model, slice and intent: what the classifier gets right on the messages that rules and student leave to it.
-- asset.column = model_digest | text | Digest of the classifier's bundle.
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
-- asset.unique = model_digest, slice, intent
-- asset.not_null = model_digest, slice, intent, n
-- asset.test = intervals_are_ordered | SELECT * FROM main.residual_intent_metrics WHERE ci_low > ci_high
SELECT
    evaluation.model_digest,
    evaluation.slice,
    evaluation.intent,
    evaluation.n,
    evaluation."precision",
    evaluation.recall,
    evaluation.f1,
    evaluation.accuracy,
    evaluation.ci_low,
    evaluation.ci_high,
    evaluation.auc_roc
FROM raw.intent_evaluation AS evaluation
WHERE evaluation.scope = 'residual'
ORDER BY evaluation.model_digest, evaluation.slice <> 'all', evaluation.slice, evaluation.intent <> 'all', evaluation.intent
