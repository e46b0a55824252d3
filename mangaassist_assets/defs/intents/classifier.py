"""The cascade that is served."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.intents import candidates
from mangaassist_assets.lib.artifacts import Bundle, House
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents.candidates import labelled
from mangaassist_assets.lib.intents.cascade import KIND, Cascade, assemble
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().intents


@dg.asset(
    deps=["training_messages", "augmented_messages", "intent_candidates", "candidate_benchmark", "model_selection"],
    group_name="intents",
    owners=["team:data-science"],
    kinds={"python", "onnx"},
    code_version=version("2", SETTINGS.training, SETTINGS.accuracy_loss),
    pool="training",
    automation_condition=when_inputs_change(),
)
def intent_classifier(house: HouseResource) -> dg.MaterializeResult:
    """One row per classifier bundle: the chosen candidate behind rules and a distilled student, with the shares they answer."""
    store = house.open()
    chosen = served_candidate(store.read_table("intents/model_selection"), store.read_table("intents/candidate_benchmark"))
    bundle = cascade_around(store, chosen)
    cascade = Cascade.load(bundle)
    row = {"bundle_digest": bundle.digest, "candidate": chosen, "labels": list(cascade.labels), "accuracy_loss": SETTINGS.accuracy_loss}
    table = pa.Table.from_pylist([row | cascade.thresholds | {"size_bytes": bundle.size_bytes}])
    store.write_table("intents/intent_classifier", table)
    return materialised(bundle.digest, table, figures=cascade.thresholds | {"size_mb": bundle.size_bytes / 1e6, "candidate": chosen})


def cascade_around(store: House, candidate: str) -> Bundle:
    """The bundle of the cascade whose classifier is that candidate."""
    bundles = {
        name: store.bundle(store.read_table(candidates.TABLE, partition=name)["bundle_digest"][0].as_py(), "intent_candidate")
        for name in ("rules", candidate)
    }
    rows = store.read_table("messages/training_messages")
    labels = bundles[candidate].facts["labels"]
    augmented = store.read_table("messages/augmented_messages")
    unlabelled = augmented.filter(pc.invert(pc.is_in(augmented["message_id"], rows["message_id"].combine_chunks())))["text"].to_pylist()
    built = assemble(
        bundles[candidate],
        bundles["rules"],
        labelled(rows, "train", labels),
        labelled(rows, "validation", labels),
        unlabelled,
        SETTINGS.training,
        accuracy_loss=SETTINGS.accuracy_loss,
    )
    return store.write_bundle(KIND, built.files, built.facts)


def served_candidate(selection: pa.Table, benchmark: pa.Table) -> str:
    """The chosen candidate; where none keeps the limits, the most accurate, which the release's gates will then judge.

    Raises:
        MissingEvidence: no candidate was measured.
    """
    chosen = [row["candidate"] for row in selection.to_pylist() if row["chosen"]]
    measured = [row for row in benchmark.to_pylist() if row["status"] == "measured" and row["candidate"] != "rules"]
    if not chosen and not measured:
        raise MissingEvidence("no candidate was measured; `candidate_benchmark` says why each was skipped.")
    return chosen[0] if chosen else max(measured, key=lambda row: row["accuracy"])["candidate"]
