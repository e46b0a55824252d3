"""What training on augmented messages changed, slice by slice, on the same messages."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents.evaluation import HELD_OUT, slice_masks
from mangaassist_assets.lib.statistics import holm, mcnemar_p_value, paired_difference

LIFT = pa.schema(
    [
        ("slice", pa.string()),
        ("n", pa.int64()),
        *((name, pa.float64()) for name in ("accuracy_before", "accuracy_after", "change", "ci_low", "ci_high", "p_value")),
    ]
)


def augmentation_lift(before: pa.Table, after: pa.Table, *, seed: int, splits: tuple[str, ...] = HELD_OUT) -> pa.Table:
    """One row per slice that holds a message, `all` first, columns LIFT.

    Args:
        before: answers of the model trained without augmented messages: message_id, predicted.
        after: answers of the model trained with them: message_id, split, intent (true), predicted, slices, language where known.
        seed: of the intervals.
        splits: of the messages that count.

    ci_low..ci_high is the paired bootstrap interval of the change. p_value is McNemar's exact test; that of `all` stands alone, those of
    the slices are adjusted for their number (Holm).

    Raises:
        MissingEvidence: a held-out message was answered by one of the two models only, or there is none.
    """
    table = after.filter(pc.is_in(after["split"], pa.array(splits, pa.string())))
    earlier = dict(zip(before["message_id"].to_pylist(), before["predicted"].to_pylist(), strict=True))
    messages = table["message_id"].to_pylist()
    unpaired = sum(message not in earlier for message in messages)
    if unpaired or not messages:
        raise MissingEvidence(
            f"{unpaired or 'all'} of {len(messages)} held-out messages lack an answer before augmentation; measure both models anew."
        )
    true = np.array(table["intent"].to_pylist(), object)
    was_right = np.array([earlier[message] for message in messages], object) == true
    is_right = np.array(table["predicted"].to_pylist(), object) == true
    rows: list[dict[str, object]] = []
    p_values: list[float] = []
    for name, mask in slice_masks(table).items():
        if not mask.any():
            continue
        first, second = was_right[mask], is_right[mask]
        change = paired_difference(first, second, seed=seed)
        rows.append(
            {
                "slice": name,
                "n": int(mask.sum()),
                "accuracy_before": float(first.mean()),
                "accuracy_after": float(second.mean()),
                "change": change.value,
                "ci_low": change.ci_low,
                "ci_high": change.ci_high,
            }
        )
        p_values.append(mcnemar_p_value(first, second))
    for row, p_value in zip(rows, [p_values[0], *holm(p_values[1:])], strict=True):
        row["p_value"] = p_value
    return pa.Table.from_pylist(rows, LIFT)
