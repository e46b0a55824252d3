"""What annotators are asked, what they answered, and how often the model is right in production."""

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.messages import sampling
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.messages.agreement import agreement, suspects
from mangaassist_assets.lib.messages.label_inbox import digest_of_inbox, publish, take_in
from mangaassist_assets.lib.messages.production_accuracy import production_accuracy as measure
from mangaassist_assets.lib.messages.queue import FOLDER, Queue
from mangaassist_assets.lib.messages.queue_state import GRAPH
from mangaassist_assets.outside import LABEL_INBOX, changed
from mangaassist_assets.reporting import materialised, started
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

OWNERS = ["team:data-science"]
SETTINGS = current().labelling
TABLE = "messages/label_queue"

label_inbox = dg.AssetSpec(
    LABEL_INBOX,
    group_name="messages",
    owners=OWNERS,
    kinds={"file"},
    description="One row per label that people gave: filled exports in inbox/labels, and what `mangaassist queue` entered into the log.",
)


@dg.asset(
    deps=["low_confidence_sample", "labeled_messages", LABEL_INBOX],
    group_name="messages",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=version("1", SETTINGS),
    automation_condition=when_inputs_change().ignore(dg.AssetSelection.assets(LABEL_INBOX)),  # its sensor asks for these
)
def label_queue(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per text sent to annotators, where it stands and what it was found to be."""
    store, now = house.open(), started(context)
    queue = Queue(store.home / FOLDER, SETTINGS)
    queue.accept(store.read_table("messages/labeled_messages")["intent"].unique().to_pylist(), at=now, by=GRAPH)
    for week in store.partitions(sampling.TABLE):
        queue.enqueue(store.read_table(sampling.TABLE, partition=week), at=now, by=GRAPH)
    imports = take_in(queue, store.home, at=now, by=GRAPH)
    for imported in imports:
        context.log.info(str(imported))
    state = queue.state()
    publish(store.home, state)
    table, kappa, doubtful = state.table(now), agreement(state), suspects(state)
    parts = {"data": table, "agreement": kappa, "suspects": doubtful}
    pairs = kappa.to_pylist()[0]
    return materialised(
        digest_of([store.write_table(TABLE, part, part=name) for name, part in parts.items()]),
        table,
        show=table.select(["item_id", "text", "stratum", "state", "labels", "intent", "secondary_intent"]),
        figures={
            **state.counts(now),
            "kappa": pairs["kappa"],
            "kappa_n": pairs["n"],
            "suspects": len(doubtful),
            "refused_in_inbox": sum(len(imported.refused) for imported in imports),
        },
    )


@dg.asset(
    deps=["low_confidence_sample", "label_queue"],
    group_name="messages",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
def production_accuracy(house: HouseResource) -> dg.MaterializeResult:
    """One row per week and model that answered in it: its accuracy on the labelled control slice; no row where none is labelled."""
    store = house.open()
    table = measure(sampling.drawn(store), store.read_table(TABLE))
    last = table.to_pylist()[-1] if len(table) else {}
    return materialised(
        store.write_table("messages/production_accuracy", table),
        table,
        figures={name: last.get(name) for name in ("accuracy", "ci_low", "ci_high", "n", "expected_calibration_error")},
    )


@dg.sensor(
    target=["label_queue"],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Takes filled exports out of inbox/labels into the queue, and follows what `mangaassist queue` entered.",
)
def labels_arrived(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """See `outside.changed`."""
    return changed(context, LABEL_INBOX, digest_of_inbox(current().home), "label_queue")
