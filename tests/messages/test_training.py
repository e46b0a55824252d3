import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.training import TRAINING_SCHEMA, assemble


def message(identifier: str, split: str = "train", source: str = "own", **more: object) -> dict[str, object]:
    row = {
        "message_id": identifier,
        "text": f"text {identifier}",
        "intent": "faq",
        "secondary_intent": None,
        "slices": ["slang"],
        "split": split,
    }
    return {**row, "source": source, "review": "unreviewed", **more}


def table(*rows: dict[str, object]) -> pa.Table:
    schema = pa.schema([*(field for field in TRAINING_SCHEMA if field.name not in ("weight", "augmented")), ("review", pa.string())])
    return pa.Table.from_pylist(list(rows), schema=schema)


def test_train_rows_weigh_what_their_source_does_and_measuring_rows_weigh_one() -> None:
    made = assemble(table(message("a", source="bitext"), message("b", "test", "bitext"), message("c")), None, {"bitext": 0.25})
    assert made.schema == TRAINING_SCHEMA
    assert made.select(["message_id", "weight", "augmented"]).to_pylist() == [
        {"message_id": "a", "weight": 0.25, "augmented": False},
        {"message_id": "b", "weight": 1.0, "augmented": False},
        {"message_id": "c", "weight": 1.0, "augmented": False},
    ]


def test_augmented_rows_follow_unless_rejected_or_already_there() -> None:
    augmented = table(
        message("a"), message("x", source="bitext"), message("y", review="rejected"), message("z", review="accepted"), message("z")
    )
    made = assemble(table(message("a")), augmented, {"bitext": 0.5}, augmented_weight=0.5)
    assert made.select(["message_id", "weight", "augmented"]).to_pylist() == [
        {"message_id": "a", "weight": 1.0, "augmented": False},
        {"message_id": "x", "weight": 0.25, "augmented": True},
        {"message_id": "z", "weight": 0.5, "augmented": True},
    ]
    assert assemble(table(message("a")), augmented, {}, require_review=True)["message_id"].to_pylist() == ["a", "z"]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_above_zero_is_refused(weight: float) -> None:
    with pytest.raises(BadInput, match="weight .* of 'own' is not above 0"):
        assemble(table(message("a")), None, {"own": weight})
    with pytest.raises(BadInput, match="'augmented'"):
        assemble(table(message("a")), None, {}, augmented_weight=weight)
