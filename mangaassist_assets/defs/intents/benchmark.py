"""How good, how fast and how dear each candidate is."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.intents import candidates
from mangaassist_assets.lib.economics.prices import read_prices
from mangaassist_assets.lib.intents.benchmark import MODEL_BENCHMARK, hardware, latency_histogram, measure, measured_row, skipped_row
from mangaassist_assets.lib.intents.candidates import answered, load
from mangaassist_assets.lib.intents.evaluation import HELD_OUT, evaluate
from mangaassist_assets.lib.intents.plots import latency_plot
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS, PROVIDER = current().intents, current().service.provider


@dg.asset(
    deps=["training_messages", "intent_candidates"],
    group_name="intents",
    owners=["team:ml-platform"],
    kinds={"python", "onnx"},
    code_version=version(
        "1", SETTINGS.candidates, SETTINGS.benchmark, SETTINGS.instance, SETTINGS.prices.read_text("utf-8"), SETTINGS.seed, PROVIDER
    ),
    pool="training",
    automation_condition=when_inputs_change(),
)
def candidate_benchmark(house: HouseResource) -> dg.MaterializeResult:
    """One row per candidate: accuracy on the test split, open-loop latency, throughput, size and cost; or why it was skipped."""
    store = house.open()
    messages = store.read_table("messages/training_messages")
    splits = choosing_splits(messages)
    texts = messages.filter(pc.is_in(messages["split"], splits))["text"].to_pylist()
    prices = read_prices(SETTINGS.prices)
    rows, histograms = [], {}
    for name in SETTINGS.candidates:
        candidate = store.read_table(candidates.TABLE, partition=name).to_pylist()[0]
        if candidate["status"] == "skipped":
            rows.append(skipped_row(name, candidate["reason"]))
            continue
        bundle = store.bundle(candidate["bundle_digest"], "intent_candidate")
        answers = answered(store.read_table(candidates.TABLE, partition=name, part="predictions"), candidate["labels"])
        found = evaluate(answers, model_digest=bundle.digest, labels=candidate["labels"], seed=SETTINGS.seed, splits=splits.to_pylist())
        measured = measure(load(bundle, provider=PROVIDER).scores, texts, SETTINGS.benchmark, seed=SETTINGS.seed)
        histograms[name] = latency_histogram(measured.latency_ms)
        rows.append(
            measured_row(
                name,
                measured,
                accuracy=found.accuracy.value,
                macro_f1=found.macro_f1.value,
                size_bytes=candidate["size_bytes"],
                training_s=candidate["training_s"],
                price=prices.lookup(SETTINGS.instance, prices.as_of),
                hardware=hardware(PROVIDER),
            )
        )
    table = pa.Table.from_pylist(rows, MODEL_BENCHMARK)
    shown = ["candidate", "status", "accuracy", "macro_f1", "latency_ms_p99", "throughput_per_s", "usd_per_million", "reason"]
    figures = {
        f"{row['candidate']}_{name}": row[name]
        for row in rows
        for name in ("accuracy", "latency_ms_p99", "throughput_per_s")
        if row["status"] == "measured"
    }
    return materialised(
        store.write_table("intents/candidate_benchmark", table),
        table,
        show=table.select(shown),
        figures=figures,
        plots={"latency": latency_plot(histograms, limit_ms=current().selection.latency_ms_p99)},
    )


def choosing_splits(messages: pa.Table) -> pa.Array:
    """The splits that candidates are compared on: test, as golden messages judge the release and must not have chosen it.

    Where a project has no test messages, all that are held out.
    """
    return pa.array(["test"] if "test" in messages["split"].to_pylist() else HELD_OUT)
