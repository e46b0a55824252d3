-- asset.description = One row per model, true intent and predicted intent that occurred.
-- asset.column = model_digest | text | Digest of the classifier's bundle.
-- asset.column = true_intent | text | Intent by the label.
-- asset.column = predicted_intent | text | Intent by the cascade.
-- asset.column = n | count | Messages with this pair.
-- asset.unique = model_digest, true_intent, predicted_intent
-- asset.not_null = model_digest, true_intent, predicted_intent, n
SELECT
    confusion.model_digest,
    confusion.true_intent,
    confusion.predicted_intent,
    confusion.n
FROM raw.intent_confusion AS confusion
ORDER BY confusion.model_digest, confusion.true_intent, confusion.n DESC, confusion.predicted_intent
