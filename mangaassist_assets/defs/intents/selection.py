"""Which candidate is served, and what augmentation was worth."""

import dagster as dg
import pyarrow.compute as pc

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.intents import candidates
from mangaassist_assets.defs.intents.benchmark import choosing_splits
from mangaassist_assets.lib.intents.candidates import answered, load, predictions, train
from mangaassist_assets.lib.intents.lift import augmentation_lift as lift
from mangaassist_assets.lib.intents.plots import lift_plot, pareto_plot
from mangaassist_assets.lib.intents.selection import select
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS, RULES = current().intents, current().selection


@dg.asset(
    deps=["candidate_benchmark", "intent_candidates"],
    group_name="intents",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("1", RULES, SETTINGS.seed),
    automation_condition=when_inputs_change(),
)
def model_selection(house: HouseResource) -> dg.MaterializeResult:
    """One row per candidate: whether it was chosen and why, what a point of its accuracy costs, and which candidate dominates it."""
    store = house.open()
    benchmark = store.read_table("intents/candidate_benchmark")
    answers = {}
    for row in benchmark.to_pylist():
        if row["status"] == "measured":
            labels = store.read_table(candidates.TABLE, partition=row["candidate"])["labels"][0].as_py()
            given = answered(store.read_table(candidates.TABLE, partition=row["candidate"], part="predictions"), labels)
            answers[row["candidate"]] = given.filter(pc.is_in(given["split"], choosing_splits(given)))
    found = select(benchmark, answers, RULES, seed=SETTINGS.seed)
    return materialised(
        store.write_table("intents/model_selection", found.table),
        found.table,
        figures={"chosen": found.chosen or "none", "reason": found.reason},
        plots={"choice": pareto_plot(benchmark, found.table, RULES)},
    )


@dg.asset(
    deps=["training_messages", "intent_candidates"],
    group_name="intents",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("1", SETTINGS.lift_candidate, SETTINGS.training, candidates.RULES, SETTINGS.seed),
    pool="training",
    automation_condition=when_inputs_change(),
)
def augmentation_lift(house: HouseResource) -> dg.MaterializeResult:
    """One row per slice of held-out messages: accuracy of the same kind of model trained without and with augmented messages."""
    store, name = house.open(), SETTINGS.lift_candidate
    messages = store.read_table("messages/training_messages")
    plain = messages.filter(pc.invert(messages["augmented"]))
    trained = train(name, plain, SETTINGS.training, rules_toml=candidates.RULES)
    before = predictions(load(store.write_bundle("intent_candidate", trained.files, trained.facts)), plain)
    after = store.read_table(candidates.TABLE, partition=name, part="predictions")
    labels = store.read_table(candidates.TABLE, partition=name)["labels"][0].as_py()
    table = lift(answered(before, trained.facts["labels"]), answered(after, labels), seed=SETTINGS.seed)
    overall = table.to_pylist()[0]
    figures = {"model": name} | {key: overall[key] for key in ("accuracy_before", "accuracy_after", "change", "p_value")}
    digest = store.write_table("intents/augmentation_lift", table)
    return materialised(digest, table, rows=40, figures=figures, plots={"lift": lift_plot(table)})
