-- asset.description = One row per labelled message, without its text: what customers wrote stays in the lake.
-- asset.column = message_id | text | First 16 hex digits of the SHA-256 of the normalised text.
-- asset.column = intent | text | Intent by the label.
-- asset.column = secondary_intent | text | Second intent, where the message has two.
-- asset.column = split | text | train, validation, test or golden.
-- asset.column = source | text | Collection that the message comes from.
-- asset.column = licence | text | Licence of that collection.
-- asset.column = synthetic | flag | Whether a machine wrote it.
-- asset.column = language | text | en, ja or mixed.
-- asset.unique = message_id
-- asset.not_null = message_id, intent, split, source
-- asset.accepted = split | train, validation, test, golden
SELECT
    message_id::VARCHAR AS message_id,
    intent::VARCHAR AS intent,
    secondary_intent::VARCHAR AS secondary_intent,
    split::VARCHAR AS split,
    source::VARCHAR AS source,
    licence::VARCHAR AS licence,
    synthetic::BOOLEAN AS synthetic,
    language::VARCHAR AS language
FROM lake.messages.labeled_messages
