"""Labelled messages out of the files that people bring, and what was refused of them."""

from collections.abc import Iterator

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.messages.labelling import check_trainable, label_messages
from mangaassist_assets.lib.messages.reading import digest_of_sources
from mangaassist_assets.outside import MESSAGE_SOURCES, read_by, sighting
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

OWNERS = ["team:data-science"]
SETTINGS = current()
CODE_VERSION = version("1", SETTINGS.messages.limits)
MOST_ATTEMPTS = 3

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
    result = label_messages(SETTINGS.sources.labeled_messages, SETTINGS.messages.limits)
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
    """Asks once for each new content, and again up to MOST_ATTEMPTS where that run failed: run keys are remembered for ever."""
    digest = digest_of_sources(SETTINGS.sources.labeled_messages)
    read = read_by(context.instance, "labeled_messages")
    if read is None:
        return dg.SkipReason("labeled_messages was never built. Build it once: `mangaassist run`.")
    if read == digest:
        return dg.SkipReason("nothing changed")
    tags = {"mangaassist/sources": digest[:40]}
    failed = context.instance.get_runs_count(dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.FAILURE]))
    if failed >= MOST_ATTEMPTS:
        return dg.SkipReason(f"{failed} runs on this content failed; correct the sources.")
    request = dg.RunRequest(run_key=f"{digest}-{failed}", tags=tags)
    return dg.SensorResult(run_requests=[request], asset_events=[sighting(MESSAGE_SOURCES, digest)])
