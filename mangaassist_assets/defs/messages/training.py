"""What classifiers are trained and measured on."""

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.messages.training import assemble
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current()


@dg.asset(
    deps=["labeled_messages", "augmented_messages"],
    group_name="messages",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("1", SETTINGS.messages.training),
    automation_condition=when_inputs_change(),
)
def training_messages(house: HouseResource) -> dg.MaterializeResult:
    """One row per message that candidates are trained or measured on, with its weight: labelled and augmented ones."""
    store, settings = house.open(), SETTINGS.messages.training
    table = assemble(
        store.read_table("messages/labeled_messages"),
        store.read_table("messages/augmented_messages"),
        settings.weights,
        augmented_weight=settings.augmented_weight,
        require_review=settings.require_review,
    )
    splits, augmented = table["split"].to_pylist(), table["augmented"].to_pylist()
    return materialised(
        store.write_table("messages/training_messages", table),
        table,
        show=table.select(["text", "intent", "split", "source", "weight", "augmented"]),
        figures={f"{split}_rows": splits.count(split) for split in sorted(set(splits))} | {"augmented_rows": sum(augmented)},
    )
