"""The table that candidates are trained and measured on: labelled and augmented messages with a weight for each row."""

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mangaassist_assets.lib.errors import BadInput

TRAINING_SCHEMA = pa.schema(
    [
        ("message_id", pa.string()),
        ("text", pa.string()),
        ("intent", pa.string()),
        ("secondary_intent", pa.string()),
        ("slices", pa.list_(pa.string())),
        ("split", pa.string()),
        ("source", pa.string()),
        ("weight", pa.float32()),
        ("augmented", pa.bool_()),
    ]
)


def assemble(
    labeled: pa.Table,
    augmented: pa.Table | None,
    weights: Mapping[str, float],
    *,
    augmented_weight: float = 1.0,
    require_review: bool = False,
) -> pa.Table:
    """One row per message of TRAINING_SCHEMA: all labelled messages, then the augmented ones that may be used.

    A train row weighs what its source does, an augmented row that times `augmented_weight`; rows of other splits weigh 1,
    because they measure. An augmented message whose text is also a labelled one is left out.

    Args:
        labeled: labeled_messages.
        augmented: augmented_messages, or None.
        weights: by source, 1 where absent; a source that is not in the data is nobody's mistake.
        augmented_weight: factor for augmented rows.
        require_review: True takes accepted augmented rows only; False takes all that nobody rejected.

    Raises:
        BadInput: a weight is not a finite number above 0.
    """
    for name, weight in {**weights, "augmented": augmented_weight}.items():
        if not (math.isfinite(weight) and weight > 0):
            raise BadInput(f"weight {weight} of {name!r} is not above 0", where="weights", remedy="Set it above 0, or remove the source.")
    rows = [_row(row, weights.get(row["source"], 1.0) if row["split"] == "train" else 1.0, augmented=False) for row in labeled.to_pylist()]
    known = {row["message_id"] for row in rows}
    usable = {"accepted"} if require_review else {"accepted", "unreviewed"}
    for row in augmented.to_pylist() if augmented is not None else []:
        if row["review"] in usable and row["message_id"] not in known:
            known.add(row["message_id"])
            rows.append(_row(row, weights.get(row["source"], 1.0) * augmented_weight, augmented=True))
    return pa.Table.from_pylist(rows, schema=TRAINING_SCHEMA)


def _row(row: Mapping[str, Any], weight: float, *, augmented: bool) -> dict[str, Any]:
    taken = {name: row[name] for name in ("message_id", "text", "intent", "secondary_intent", "slices", "split", "source")}
    return {**taken, "weight": weight, "augmented": augmented}
