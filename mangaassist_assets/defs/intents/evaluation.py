"""How well the cascade answers."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.intents.cascade import KIND, Cascade
from mangaassist_assets.lib.intents.evaluation import evaluate
from mangaassist_assets.lib.intents.plots import calibration_plot, confusion_plot, slice_plot
from mangaassist_assets.lib.messages.normalising import language_of
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().intents


@dg.asset(
    deps=["training_messages", "intent_classifier"],
    group_name="intents",
    owners=["team:data-science"],
    kinds={"python", "onnx"},
    code_version=version("1", SETTINGS.seed),
    automation_condition=when_inputs_change(),
)
def intent_evaluation(house: HouseResource) -> dg.MaterializeResult:
    """One row per scope, slice and intent of the cascade: precision, recall, F1, accuracy and AUC-ROC on held-out messages."""
    store = house.open()
    bundle = store.bundle(store.read_table("intents/intent_classifier")["bundle_digest"][0].as_py(), KIND)
    cascade = Cascade.load(bundle)
    messages = store.read_table("messages/training_messages")
    held_out = messages.filter(pc.not_equal(messages["split"], "train"))
    texts = held_out["text"].to_pylist()
    answers = cascade.classify(texts)
    predictions = held_out.select(["message_id", "split", "intent", "secondary_intent", "slices"])
    for name, column in {
        "predicted": [answer.intent for answer in answers],
        "confidence": [answer.confidence for answer in answers],
        "predicted_secondary": pa.array([answer.secondary_intent for answer in answers], pa.string()),
        "route": [answer.route for answer in answers],
        "language": [language_of(text) for text in texts],
    }.items():
        predictions = predictions.append_column(name, column if isinstance(column, pa.Array) else pa.array(column))
    found = evaluate(
        predictions,
        model_digest=bundle.digest,
        labels=cascade.labels,
        seed=SETTINGS.seed,
        out_of_scope_label=cascade.out_of_scope_label,
    )
    parts = {"data": found.metrics, "confusion": found.confusion, "calibration": found.calibration, "predictions": predictions}
    digests = [store.write_table("intents/intent_evaluation", table, part=part) for part, table in parts.items()]
    return materialised(
        digest_of(digests),
        found.metrics,
        show=found.metrics.filter(pc.equal(found.metrics["slice"], "all")).drop_columns(["model_digest", "slice"]),
        rows=30,
        figures={
            "accuracy": found.accuracy.value,
            "macro_f1": found.macro_f1.value,
            "expected_calibration_error": found.calibration_error.value,
            "both_intents_found": found.both_intents.value,
            "share_residual": found.residual.value,
        },
        plots={
            "confusion": confusion_plot(found.confusion),
            "calibration": calibration_plot(found.calibration, found.calibration_error),
            "slices": slice_plot(found.metrics),
        },
    )
