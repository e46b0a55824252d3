-- asset.description = One row per source, split and intent that occurs in the labelled messages.
-- asset.column = source | text | Collection that the messages come from.
-- asset.column = licence | text | Licence of that collection.
-- asset.column = split | text | train, validation, test or golden.
-- asset.column = intent | text | Intent by the label.
-- asset.column = n | count | Messages.
-- asset.column = synthetic_n | count | Messages among them that a machine wrote.
-- asset.column = two_intent_n | count | Messages among them with a second intent.
-- asset.column = share_of_split | ratio | Share of the split's messages that these are.
-- asset.unique = source, licence, split, intent
-- asset.not_null = source, split, intent, n
SELECT
    counts.source,
    counts.licence,
    counts.split,
    counts.intent,
    counts.n,
    counts.synthetic_n,
    counts.two_intent_n,
    counts.n / sum(counts.n) OVER (PARTITION BY counts.split) AS share_of_split
FROM model.message_counts AS counts
ORDER BY counts.split, counts.source, counts.licence, counts.intent
