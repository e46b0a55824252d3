-- asset.description = One row per slice: what training on augmented messages changes, on the same messages.
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
-- asset.test = intervals_are_ordered | SELECT * FROM main.augmentation_lift WHERE ci_low > ci_high
SELECT
    lift.slice,
    lift.n,
    lift.accuracy_before,
    lift.accuracy_after,
    lift.change,
    lift.ci_low,
    lift.ci_high,
    lift.p_value
FROM raw.augmentation_lift AS lift
ORDER BY lift.slice <> 'all', lift.slice
