"""Labelled messages out of the files that people bring, and what was refused of them."""

from collections.abc import Iterator

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.messages.labelling import check_trainable, label_messages
from mangaassist_assets.lib.messages.reading import digest_of_sources
from mangaassist_assets.outside import MESSAGE_SOURCES, changed, labelled_sources
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

OWNERS = ["team:data-science"]
SETTINGS = current()
CODE_VERSION = version("1", SETTINGS.messages.limits)

message_sources = dg.AssetSpec(
    MESSAGE_SOURCES,
    group_name="messages",
    owners=OWNERS,
    kinds={"file"},
    description="One row per labelled message of the configured files, as people wrote them. Data version: the digest of their bytes.",
)


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "labeled_messages",
            deps=[MESSAGE_SOURCES],
            group_name="messages",
            owners=OWNERS,
            kinds={"python", "parquet"},
            code_version=CODE_VERSION,
            automation_condition=when_inputs_change().ignore(dg.AssetSelection.assets(MESSAGE_SOURCES)),  # its sensor asks for these
            description="One row per labelled message: normalised, redacted, free of duplicates, in one split for good.",
        ),
        dg.AssetSpec(
            "rejected_messages",
            deps=[MESSAGE_SOURCES],
            group_name="messages",
            owners=OWNERS,
            kinds={"python", "parquet"},
            code_version=CODE_VERSION,
            automation_condition=when_inputs_change().ignore(dg.AssetSelection.assets(MESSAGE_SOURCES)),
            description="One row per row of the sources that was refused, with file, row and reason.",
        ),
    ],
)
def labelled(house: HouseResource) -> Iterator[dg.MaterializeResult]:
    """Reads, cleans, redacts and splits the sources."""
    store = house.open()
    result = label_messages(labelled_sources(SETTINGS), SETTINGS.messages.limits)
    check_trainable(result.table, out_of_scope=result.out_of_scope_label, min_train_rows=SETTINGS.messages.limits.min_train_rows)
    counts, refused = result.counts, result.counts["rejected_by_reason"]
    yield materialised(
        store.write_table("messages/labeled_messages", result.table),
        result.table,
        asset="labeled_messages",
        show=result.table.select(["text", "intent", "secondary_intent", "split", "source", "language"]),
        figures={"intents": len(counts["by_intent"]), **{f"{split}_rows": n for split, n in counts["by_split"].items()}},
    )
    yield materialised(
        store.write_table("messages/rejected_messages", result.rejected),
        result.rejected,
        asset="rejected_messages",
        figures={"share_rejected": counts["rejected"] / counts["read"], **{f"rejected_{reason}": n for reason, n in refused.items()}},
    )


@dg.sensor(
    target=["labeled_messages", "rejected_messages"],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reads the message sources anew when a file, a label map or a source's settings changed.",
)
def message_sources_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """See `outside.changed`."""
    return changed(context, MESSAGE_SOURCES, digest_of_sources(labelled_sources(SETTINGS)), "labeled_messages")
