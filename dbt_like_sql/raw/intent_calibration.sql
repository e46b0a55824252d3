-- asset.description = One row per bin of confidence of the current classifier.
-- asset.column = bin_low | ratio | Lower edge of the bin.
-- asset.column = bin_high | ratio | Upper edge of the bin.
-- asset.column = n | count | Messages answered with a confidence in the bin.
-- asset.column = mean_confidence | ratio | Mean confidence of those messages.
-- asset.column = accuracy | ratio | Share of those messages with the right intent.
-- asset.unique = bin_low
-- asset.not_null = bin_low, bin_high, n
SELECT
    bin_low::DOUBLE AS bin_low,
    bin_high::DOUBLE AS bin_high,
    n::BIGINT AS n,
    nullif(mean_confidence::DOUBLE, 'NaN'::DOUBLE) AS mean_confidence,
    nullif(accuracy::DOUBLE, 'NaN'::DOUBLE) AS accuracy
FROM lake.intents.intent_evaluation__calibration
