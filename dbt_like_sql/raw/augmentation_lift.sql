-- asset.description = One row per slice, measured with and without augmented messages.
-- asset.column = slice | text | Kind of message; all for every message.
-- asset.column = n | count | Messages of the slice.
-- asset.column = accuracy_before | ratio | Accuracy of the model trained without augmented messages.
-- asset.column = accuracy_after | ratio | Accuracy of the model trained with them, on the same messages.
-- asset.column = change | ratio change | Accuracy after less accuracy before.
-- asset.column = ci_low | ratio change | Lower end of the paired 95% interval of the change.
-- asset.column = ci_high | ratio change | Upper end of the paired 95% interval of the change.
-- asset.column = p_value | ratio | McNemar's exact test that both err equally often, corrected for the number of slices (Holm); that of all stands alone.
-- asset.unique = slice
-- asset.not_null = slice, n
SELECT
    slice::VARCHAR AS slice,
    n::BIGINT AS n,
    nullif(accuracy_before::DOUBLE, 'NaN'::DOUBLE) AS accuracy_before,
    nullif(accuracy_after::DOUBLE, 'NaN'::DOUBLE) AS accuracy_after,
    nullif(change::DOUBLE, 'NaN'::DOUBLE) AS change,
    nullif(ci_low::DOUBLE, 'NaN'::DOUBLE) AS ci_low,
    nullif(ci_high::DOUBLE, 'NaN'::DOUBLE) AS ci_high,
    nullif(p_value::DOUBLE, 'NaN'::DOUBLE) AS p_value
FROM lake.intents.augmentation_lift
