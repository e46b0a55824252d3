-- asset.description = One row per bin of confidence of the current classifier: a calibrated one is right as often as it says.
-- asset.column = bin_low | ratio | Lower edge of the bin.
-- asset.column = bin_high | ratio | Upper edge of the bin.
-- asset.column = n | count | Messages answered with a confidence in the bin.
-- asset.column = mean_confidence | ratio | Mean confidence of those messages.
-- asset.column = accuracy | ratio | Share of those messages with the right intent.
-- asset.unique = bin_low
-- asset.not_null = bin_low, bin_high, n
SELECT
    bins.bin_low,
    bins.bin_high,
    bins.n,
    bins.mean_confidence,
    bins.accuracy
FROM raw.intent_calibration AS bins
ORDER BY bins.bin_low
