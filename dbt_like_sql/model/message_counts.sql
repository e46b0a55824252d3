-- asset.description = One row per source, split and intent that occurs.
-- asset.column = source | text | Collection that the messages come from.
-- asset.column = licence | text | Licence of that collection.
-- asset.column = split | text | train, validation, test or golden.
-- asset.column = intent | text | Intent by the label.
-- asset.column = n | count | Messages.
-- asset.column = synthetic_n | count | Messages among them that a machine wrote.
-- asset.column = two_intent_n | count | Messages among them with a second intent.
-- asset.unique = source, licence, split, intent
-- asset.not_null = source, split, intent, n
SELECT
    messages.source,
    messages.licence,
    messages.split,
    messages.intent,
    count(*) AS n,
    count(*) FILTER (WHERE messages.synthetic) AS synthetic_n,
    count(messages.secondary_intent) AS two_intent_n
FROM raw.labeled_messages AS messages
GROUP BY ALL
