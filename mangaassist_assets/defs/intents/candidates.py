"""Classifiers to choose from, each trained by itself."""

import dagster as dg
import pyarrow as pa

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import Unavailable
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.intents.candidates import load, predictions, train
from mangaassist_assets.lib.intents.hub import require_weights
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().intents
CANDIDATES = dg.StaticPartitionsDefinition(list(SETTINGS.candidates))
RULES = SETTINGS.rules.read_text("utf-8")
TABLE = "intents/intent_candidates"
SCHEMA = pa.schema(
    [
        ("candidate", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("bundle_digest", pa.string()),
        ("training_s", pa.float64()),
        ("size_bytes", pa.int64()),
        ("hardware", pa.string()),
        ("labels", pa.list_(pa.string())),
    ]
)


@dg.asset(
    partitions_def=CANDIDATES,
    deps=["training_messages"],
    group_name="intents",
    owners=["team:data-science"],
    kinds={"python", "torch", "onnx"},
    code_version=version("2", SETTINGS.training, SETTINGS.hub, RULES),
    pool="training",
    automation_condition=when_inputs_change(),
)
def intent_candidates(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per candidate: the bundle it was trained to, or why it was skipped; and its answers to the held-out messages."""
    store, name = house.open(), context.partition_key
    rows = store.read_table("messages/training_messages")
    row = {"candidate": name, "hardware": hardware("torch")}
    try:
        if encoder := SETTINGS.training.encoders.get(name):
            require_weights(encoder, SETTINGS.hub)
        trained = train(name, rows, SETTINGS.training, rules_toml=RULES)
    except Unavailable as error:
        context.log.warning("%s is skipped: %s", name, error)
        row |= {"status": "skipped", "reason": str(error)}
        digest = digest_of(row["reason"])
    else:
        bundle = store.write_bundle("intent_candidate", trained.files, trained.facts)
        answers = predictions(load(bundle, threads=0), rows)
        digest = digest_of([bundle.digest, store.write_table(TABLE, answers, partition=name, part="predictions")])
        row |= {"status": "measured", "bundle_digest": bundle.digest, "training_s": trained.training_s}
        row |= {"size_bytes": bundle.size_bytes, "labels": trained.facts["labels"]}
    table = pa.Table.from_pylist([row], SCHEMA)
    store.write_table(TABLE, table, partition=name)
    figures = {"training_s": row.get("training_s"), "size_mb": row.get("size_bytes", 0) / 1e6, "status": row["status"]}
    return materialised(digest, table, show=table.drop_columns(["labels"]), figures=figures)
