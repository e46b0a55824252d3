"""A release is judged on what is labelled, and moves on its way to champion or does not."""

import math

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import House, digest_of, digest_of_table
from mangaassist_assets.lib.intents.benchmark import hardware, measure
from mangaassist_assets.lib.intents.cascade import KIND, Cascade
from mangaassist_assets.lib.intents.evaluation import HELD_OUT
from mangaassist_assets.lib.release.gates import offline_gates as judge_release
from mangaassist_assets.lib.release.log import ReleaseLog, Stage
from mangaassist_assets.lib.release.log import current as fold
from mangaassist_assets.lib.release.progress import move_on, read_verdicts
from mangaassist_assets.lib.statistics import Estimate, finite_or_none
from mangaassist_assets.lib.verdicts import Verdict
from mangaassist_assets.outside import RELEASE_LOG
from mangaassist_assets.reporting import materialised, started
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS, LIMITS, PROVIDER, RULES = current().intents, current().gates, current().service.provider, current().release
OWNERS = ["team:ml-platform"]
VERDICT = pa.schema([(name, pa.string()) for name in ("release", "verdict", "reason", "against")])


@dg.asset(
    deps=["intent_classifier", "training_messages"],
    group_name="release",
    owners=OWNERS,
    kinds={"python", "onnx"},
    code_version=version("1", SETTINGS.benchmark, SETTINGS.seed, PROVIDER),
    pool="training",
    automation_condition=when_inputs_change(),
)
def release_candidate(house: HouseResource) -> dg.MaterializeResult:
    """One row per release that asks to be judged: the classifier's bundle, and how fast it answers here, loaded as it is served."""
    store = house.open()
    made = store.read_table("intents/intent_classifier").to_pylist()[0]
    messages = store.read_table("messages/training_messages")
    texts = messages.filter(pc.is_in(messages["split"], pa.array(HELD_OUT)))["text"].to_pylist()
    cascade = Cascade.load(store.bundle(made["bundle_digest"], KIND), provider=PROVIDER)
    found = measure(cascade.classify, texts, SETTINGS.benchmark, seed=SETTINGS.seed)
    row = {"release": made["bundle_digest"], "candidate": made["candidate"], "hardware": hardware(PROVIDER), "rate_per_s": found.rate_per_s}
    for name, estimate in (("latency_ms_p99", found.latency_ms_p99), ("throughput_per_s", found.throughput_per_s)):
        row |= {name: estimate.value, f"{name}_low": finite_or_none(estimate.ci_low), f"{name}_high": finite_or_none(estimate.ci_high)}
        row |= {f"{name}_n": estimate.n}
    table = pa.Table.from_pylist([row])
    figures = {name: row[name] for name in ("release", "latency_ms_p99", "throughput_per_s")}
    return materialised(store.write_table("release/release_candidate", table), table, figures=figures)


@dg.asset(
    deps=["release_candidate", "intent_evaluation", RELEASE_LOG],
    group_name="release",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=version("1", LIMITS, SETTINGS.seed),
    automation_condition=when_inputs_change(),
)
def offline_gates(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per gate of the release: agreed threshold, observed value, interval and verdict, paired with the champion before it."""
    store = house.open()
    candidate = store.read_table("release/release_candidate").to_pylist()[0]
    state = fold(store.home / "releases")
    against = state.champion if state.champion != candidate["release"] else state.previous
    predictions = store.read_table("intents/intent_evaluation", part="predictions")
    found = judge_release(
        candidate["release"],
        predictions,
        labels=store.bundle(candidate["release"], KIND).facts["labels"],
        champion=answers_of(store, against) if against else None,
        latency_ms_p99=estimate_of(candidate, "latency_ms_p99"),
        throughput_per_s=estimate_of(candidate, "throughput_per_s"),
        limits=LIMITS,
        seed=SETTINGS.seed,
    )
    table = found.table(started(context))
    verdict = {"release": found.release, "verdict": found.verdict.value, "reason": found.reason, "against": state.champion}
    store.write_table("release/offline_gates", table)
    store.write_table("release/offline_gates", pa.Table.from_pylist([verdict], VERDICT), part="verdict")
    verdicts = table["verdict"].to_pylist()
    return materialised(
        digest_of([digest_of_table(table.drop_columns(["measured_at"])), verdict]),
        table,
        show=table.drop_columns(["release", "measured_at"]),
        rows=60,
        figures={"verdict": found.verdict.value} | {f"gates_{word.lower()}": verdicts.count(word) for word in Verdict},
    )


@dg.asset_check(asset="offline_gates")
def every_gate_passes(house: HouseResource) -> dg.AssetCheckResult:
    """Every gate passes, so that the release goes on to shadow, or serves if it is the first, without a person deciding."""
    found = house.open().read_table("release/offline_gates", part="verdict").to_pylist()[0]
    return dg.AssetCheckResult(
        passed=found["verdict"] == Verdict.PASS, severity=dg.AssetCheckSeverity.WARN, description=f"{found['verdict']}: {found['reason']}"
    )


@dg.asset(
    deps=["offline_gates", "shadow_report", "canary_report"],
    group_name="release",
    owners=OWNERS,
    kinds={"json"},
    code_version=version("2", RULES.approval),
    automation_condition=when_inputs_change(),
)
def champion(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per release in the log, where it stands since when; verdicts of gates, shadow and canary move those they judged."""
    store = house.open()
    found = store.read_table("release/offline_gates", part="verdict").to_pylist()[0]
    ReleaseLog(store.home / "releases").promote(
        found["release"],
        Verdict(found["verdict"]),
        against=found["against"],
        by="offline_gates",
        at=started(context),
        reason=found["reason"],
    )
    state = move_on(store, read_verdicts(store), rules=RULES, now=started(context))
    rows = [
        {"release": release, "stage": change.to_state.value, "since": change.at, "by": change.by, "reason": change.reason}
        for release, change in state.releases.items()
    ]
    table = pa.Table.from_pylist(rows)
    store.write_table("release/champion", table)
    figures = {"champion": state.champion or "none", "verdict": found["verdict"], "reason": found["reason"], "event": state.version}
    figures |= {
        stage.value: ", ".join(release[:12] for release in state.at_stage(stage)) or "none" for stage in (Stage.SHADOW, Stage.CANARY)
    }
    return materialised(digest_of(state.tip), table, figures=figures)


def answers_of(store: House, release: str) -> pa.Table:
    """What another release answers to the same messages, loaded from its own bundle."""
    messages = store.read_table("messages/training_messages").select(["message_id", "text", "split"])
    messages = messages.filter(pc.is_in(messages["split"], pa.array(HELD_OUT)))
    answers = Cascade.load(store.bundle(release, KIND)).classify(messages["text"].to_pylist())
    return messages.select(["message_id"]).append_column("predicted", pa.array([answer.intent for answer in answers], pa.string()))


def estimate_of(row: dict[str, float | None], name: str) -> Estimate | None:
    """An estimate out of the columns it was stored in; a bound that is null is none."""
    value, low, high, n = (row[key] for key in (name, f"{name}_low", f"{name}_high", f"{name}_n"))
    if value is None:
        return None
    return Estimate(value, -math.inf if low is None else low, math.inf if high is None else high, int(n or 0))
