"""What is missing or stale, and real Dagster runs for it in this process.

The runs are recorded in the instance that the UI shows. They go in waves: everything that must be built and waits for
nothing outside the wave, then the question again, so that an unchanged digest ends the work below it.
"""

import datetime as dt
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    INPUT_DATA_VERSION_TAG_PREFIX,
    CachingStaleStatusResolver,
    StaleStatus,
    extract_data_version_from_entry,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.api import execute_run_iterator
from dagster._core.loader import LoadingContext, LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG

from mangaassist_assets.lib.artifacts import write_atomic
from mangaassist_assets.lib.errors import Conflict, MangaAssistError
from mangaassist_assets.reporting import CLOCK_TAG

OUR_ERRORS = f"{MangaAssistError.__module__}."
LAUNCHED_BY = {"mangaassist/launched_by": "mangaassist run"}
INSTANCE_SETTINGS = b"""# Written once by mangaassist; yours from then on.
telemetry:
  enabled: false
concurrency:
  pools:
    default_limit: 1
"""


@dataclass(frozen=True, order=True)
class Target:
    """An asset, or one partition of it, by the names people read."""

    asset: str
    partition: str | None = None

    def __str__(self) -> str:
        return f"{self.asset}[{self.partition}]" if self.partition else self.asset


@dataclass(frozen=True)
class Progress:
    """Something happened to a target: it started, it was built, or it failed with `message`; `detail` is the traceback."""

    target: Target
    state: str
    message: str = ""
    detail: str = ""


def prepare_instance(home: Path) -> Path:
    """The folder of the Dagster instance under `home`, created with its settings on first use."""
    folder = home.resolve() / "dagster"
    if not (folder / "dagster.yaml").exists():
        write_atomic(folder / "dagster.yaml", INSTANCE_SETTINGS)
    return folder


@contextmanager
def open_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance that `mangaassist ui` shows."""
    folder = prepare_instance(home)
    os.environ["DAGSTER_HOME"] = str(folder)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


@contextmanager
def only_run(home: Path) -> Iterator[None]:
    """Holds the home for one `mangaassist run`; the lock goes with the process, however that ends.

    Raises:
        Conflict: another one holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "run.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            who = lock.read().strip() or "?"
            raise Conflict(f"{home}: `mangaassist run` of process {who} is at work here. Wait for it, or choose another --home.") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def fail_abandoned_runs(instance: dg.DagsterInstance) -> int:
    """Marks runs of a killed `mangaassist run` as failed and frees their pool slots; call it under `only_run`."""
    abandoned = instance.get_runs(dg.RunsFilter(tags=LAUNCHED_BY, statuses=[*IN_PROGRESS_RUN_STATUSES, dg.DagsterRunStatus.NOT_STARTED]))
    for run in abandoned:
        instance.report_run_failed(run, "Its process ended before the run did; what it had not finished is built by the next run.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return len(abandoned)


# ── what is needed ──────────────────────────────────────────────────────────────────────────────────────────────────


def needed(definitions: dg.Definitions, instance: dg.DagsterInstance, among: Iterable[str] | None = None) -> list[Target]:
    """Targets that are missing, unproven, or stale because their code, their settings or an input's data version changed.

    Args:
        definitions: the graph.
        instance: where its runs are recorded.
        among: assets to look at, where the others are known; None looks at all.

    Unproven is what a blocking check has refused, or has not yet looked at. Staleness is Dagster's own idea of it, the one that its UI
    shows, but for days (`_stale_days`). It is asked here and nowhere else: the resolver is not part of Dagster's public interface.
    """
    graph = definitions.resolve_asset_graph()
    loaded = LoadingContextForTest(instance)
    resolver = CachingStaleStatusResolver(instance, graph, loaded)
    AssetRecord.prepare(loaded, graph.get_all_asset_keys())  # one query for all of them, instead of one each
    stale, wanted = [], None if among is None else set(among)
    with partition_loading_context(dynamic_partitions_store=instance):
        for key in graph.executable_asset_keys:
            if wanted is not None and key.to_user_string() not in wanted:
                continue
            partitions = graph.get(key).partitions_def
            names: Sequence[str | None] = partitions.get_partition_keys() if partitions else [None]
            owed = partitions is None and not (_is_proven(graph, loaded, key) and _has_read_all_days(graph, loaded, key))
            days = _stale_days(graph, loaded, key)
            stale += [
                Target(key.to_user_string(), name)
                for name in names
                if owed or (resolver.get_status(key, name) != StaleStatus.FRESH if days is None else name in days)
            ]
    order = {key.to_user_string(): rank for rank, key in enumerate(graph.toposorted_asset_keys)}
    return sorted(stale, key=lambda target: order[target.asset])


def _latest(loaded: LoadingContext, key: dg.AssetKey) -> EventLogEntry | None:
    """The latest materialisation of an asset, whichever partition."""
    record = AssetRecord.blocking_get(loaded, key)
    return record.asset_entry.last_materialization if record else None


def _is_proven(graph: BaseAssetGraph, loaded: LoadingContext, key: dg.AssetKey) -> bool:
    """Whether every blocking check of an asset has passed on its latest materialisation."""
    blocking = [check for check in graph.get_check_keys_for_assets({key}) if graph.get(check).blocking]
    if not blocking:
        return True
    event = _latest(loaded, key)
    records = loaded.instance.event_log_storage.get_latest_asset_check_execution_by_key(blocking)
    for check in blocking:
        record = records.get(check)
        if not event or not record or record.status != AssetCheckExecutionRecordStatus.SUCCEEDED:
            return False
        evaluation = record.event.dagster_event.asset_check_evaluation_data if record.event and record.event.dagster_event else None
        seen = evaluation.target_materialization_data if evaluation else None
        if not seen or seen.run_id != event.run_id:
            return False
    return True


def _stale_days(graph: BaseAssetGraph, loaded: LoadingContext, key: dg.AssetKey) -> set[str] | None:
    """The stale partitions of what reads a range of days in one run, each from the same day upstream; None for every other asset.

    Asked for all days at once, where the resolver asks several times a day. A day is stale where it is missing, older than the same day
    upstream (a run over a range does not record what each of its days was made from), or made by other code or from another version of
    what has no days.
    """
    node, log, made = graph.get(key), loaded.instance.event_log_storage, dg.DagsterEventType.ASSET_MATERIALIZATION
    daily = [parent for parent in node.parent_keys if graph.get(parent).is_partitioned]
    apart = any(graph.get(parent).partitions_def != node.partitions_def for parent in daily)
    if node.partitions_def is None or node.backfill_policy != dg.BackfillPolicy.single_run() or apart:
        return None
    own = log.get_latest_storage_id_by_partition(key, made)
    upstream = [log.get_latest_storage_id_by_partition(parent, made) for parent in daily]
    current = {CODE_VERSION_TAG: node.code_version} if node.code_version else {}
    for parent in node.parent_keys - set(daily):
        latest = _latest(loaded, parent)
        version = (extract_data_version_from_entry(latest) if latest else None) or DEFAULT_DATA_VERSION
        current[f"{INPUT_DATA_VERSION_TAG_PREFIX}/{parent.to_user_string()}"] = version.value
    fresh: set[str | None] = set()
    ids = sorted(own.values())
    for some in (ids[i : i + 500] for i in range(0, len(ids), 500)):
        for record in loaded.instance.fetch_materializations(dg.AssetRecordsFilter(key, storage_ids=some), limit=len(some)).records:
            tags = record.event_log_entry.tags or {}
            if all(tags.get(name) == version for name, version in current.items()):
                fresh.add(record.partition_key)
    days = node.partitions_def.get_partition_keys()
    return {day for day in days if day not in fresh or any(seen.get(day, 0) > own[day] for seen in upstream)}


def _has_read_all_days(graph: BaseAssetGraph, loaded: LoadingContext, key: dg.AssetKey) -> bool:
    """Whether an asset is newer than the days and weeks that it reads, of which neither a range's run nor the resolver keeps account."""
    own = _latest(loaded, key)
    for parent in graph.get(key).parent_keys:
        if isinstance(graph.get(parent).partitions_def, dg.DynamicPartitionsDefinition):
            latest = _latest(loaded, parent)
            if latest and (own is None or latest.timestamp > own.timestamp):
                return False
    return True


def next_wave(definitions: dg.Definitions, instance: dg.DagsterInstance, targets: Sequence[Target]) -> list[list[Target]]:
    """Runs to do now: one of unpartitioned assets, or one for each partition, or for each range of them where one run does a range.

    An asset may go where each of its ancestors either needs nothing (nor has an ancestor that does), or goes in the same run.
    """
    graph = definitions.resolve_asset_graph()
    wanted = {target.asset for target in targets}
    ready: set[str] = set()
    waits: set[str] = set()
    for key in graph.toposorted_asset_keys:
        node, name = graph.get(key), key.to_user_string()
        parents = {parent.to_user_string() for parent in node.parent_keys}
        partitioned = {parent.to_user_string() for parent in node.parent_keys if graph.get(parent).is_partitioned}
        together = not node.is_partitioned and not partitioned & ready
        if name in wanted and not parents & waits and (together or not parents & ready):
            ready.add(name)
        elif name in wanted or parents & (ready | waits):
            waits.add(name)
    plain = [target for target in targets if target.asset in ready and target.partition is None]
    if plain:
        return [plain]
    by_step: dict[frozenset[str], list[Target]] = {}
    for target in targets:
        if target.asset in ready:
            siblings = graph.get(dg.AssetKey.from_user_string(target.asset)).execution_set_asset_keys
            by_step.setdefault(frozenset(key.to_user_string() for key in siblings), []).append(target)
    with partition_loading_context(dynamic_partitions_store=instance):
        return [run for together in by_step.values() for run in _runs_of_step(graph, together)]


def _runs_of_step(graph: BaseAssetGraph, targets: Sequence[Target]) -> list[list[Target]]:
    """Targets of one step: a run for each partition, or for each unbroken range of them where the step takes a range."""
    node = graph.get(dg.AssetKey.from_user_string(targets[0].asset))
    if node.partitions_def is None:
        raise RuntimeError(f"{targets[0].asset} has no partitions")
    wanted = {target.partition for target in targets}
    in_one = node.backfill_policy == dg.BackfillPolicy.single_run()
    runs: list[list[str]] = []
    unbroken = False
    for name in node.partitions_def.get_partition_keys():
        if name in wanted and in_one and unbroken:
            runs[-1].append(name)
        elif name in wanted:
            runs.append([name])
        unbroken = name in wanted
    return [[target for target in targets if target.partition in names] for names in runs]


# ── doing it ────────────────────────────────────────────────────────────────────────────────────────────────────────


def bring_up_to_date(definitions: dg.Definitions, instance: dg.DagsterInstance, *, clock: dt.datetime | None = None) -> Iterator[Progress]:
    """Builds what is needed, wave after wave, and tells how it goes; ends after a wave in which something failed.

    Args:
        definitions: the graph.
        instance: where runs are recorded.
        clock: the simulated time that assets are told; None tells them when their run was created.
    """
    tried: set[Target] = set()
    open_: set[str] | None = None  # assets that are not known to be up to date; None: nothing is known
    while True:
        found = needed(definitions, instance, open_)
        wave = next_wave(definitions, instance, [target for target in found if target not in tried])
        open_ = {target.asset for target in found} | _below(definitions, (target.asset for targets in wave for target in targets))
        failed = False
        for targets in wave:
            tried |= set(targets)
            for event in execute(definitions, instance, targets, clock=clock):
                failed |= event.state == "failed"
                yield event
        if failed or not wave:
            return


def _below(definitions: dg.Definitions, names: Iterable[str]) -> set[str]:
    """Assets, and all that is made from them directly or not: what a run of them may have changed, or made stale."""
    graph = definitions.resolve_asset_graph()
    waiting = list(_with_siblings(definitions, (dg.AssetKey.from_user_string(name) for name in names)))
    found: set[dg.AssetKey] = set()
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += graph.get(key).child_keys
    return {key.to_user_string() for key in found}


def execute(
    definitions: dg.Definitions, instance: dg.DagsterInstance, targets: Sequence[Target], *, clock: dt.datetime | None = None
) -> Iterator[Progress]:
    """One recorded run, in this process, that builds `targets` (of no partition, of one, or of a range); tells how it goes."""
    keys = _with_siblings(definitions, {dg.AssetKey.from_user_string(target.asset) for target in targets})
    partition, partition_tags = _partitions_of_run(targets)
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys).with_executor_def(dg.in_process_executor)
    tags = LAUNCHED_BY | partition_tags | ({CLOCK_TAG: clock.isoformat()} if clock else {})
    run = instance.create_run_for_job(
        job, asset_selection=frozenset(keys), tags=tags, run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    )
    assets_of_step = _assets_of_steps(definitions, keys)
    step_failed, refusals, built = False, [], set()
    for event in execute_run_iterator(InMemoryJob(job), run, instance):
        names = assets_of_step.get(event.step_key or "", [])
        if event.is_step_start:
            yield from (Progress(Target(name, partition), "started") for name in names)
        elif event.is_step_materialization and event.asset_key:
            if event.asset_key not in built:  # a range has an event for each of its partitions
                yield Progress(Target(event.asset_key.to_user_string(), partition), "built")
            built.add(event.asset_key)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION and not event.asset_check_evaluation_data.passed:
            check = event.asset_check_evaluation_data
            if check.blocking and check.severity == dg.AssetCheckSeverity.ERROR:
                refusals.append(f"{check.asset_key.to_user_string()} fails its check {check.check_name}: {check.description}")
        elif event.is_step_failure:
            step_failed = True
            message, detail = _cause(event.step_failure_data.error)
            if refusals:
                message, refusals = "; ".join(refusals), []
            yield Progress(Target(names[0] if names else str(event.step_key), partition), "failed", message, detail)
        elif event.is_failure and not step_failed:
            message, detail = _cause(event.job_failure_data.error)
            yield Progress(Target("run", partition), "failed", message or event.message or "the run failed", detail)


def _partitions_of_run(targets: Sequence[Target]) -> tuple[str | None, dict[str, str]]:
    """How people read a run's partitions, and the tags by which Dagster does."""
    names = list(dict.fromkeys(target.partition for target in targets if target.partition is not None))
    if not names:
        return None, {}
    if len(names) == 1:
        return names[0], {PARTITION_NAME_TAG: names[0]}
    return f"{names[0]} to {names[-1]}", {ASSET_PARTITION_RANGE_START_TAG: names[0], ASSET_PARTITION_RANGE_END_TAG: names[-1]}


def _with_siblings(definitions: dg.Definitions, keys: Iterable[dg.AssetKey]) -> set[dg.AssetKey]:
    """With each asset those that are computed together with it."""
    graph = definitions.resolve_asset_graph()
    return {sibling for key in keys for sibling in graph.get(key).execution_set_asset_keys}


def _assets_of_steps(definitions: dg.Definitions, keys: Iterable[dg.AssetKey]) -> dict[str, list[str]]:
    graph = definitions.resolve_asset_graph()
    steps: dict[str, list[str]] = {}
    for key in sorted(keys):
        steps.setdefault(graph.get(key).assets_def.op.name, []).append(key.to_user_string())
    return steps


def _cause(error: Any) -> tuple[str, str]:
    """A person's line, and the traceback, of what Dagster recorded of an exception."""
    if error is None:
        return "", ""
    chain = [error]
    while chain[-1].cause is not None:
        chain.append(chain[-1].cause)
    ours = next((link for link in chain if link.message.startswith(OUR_ERRORS)), None)
    message = ours.message.partition(": ")[2] if ours else chain[-1].message
    return " ".join(message.split()), (ours or chain[-1]).to_string()
