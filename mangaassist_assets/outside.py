"""What the graph reads but does not make: source files and the release log, known to it by the digest of their content."""

from collections.abc import Mapping

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG, INPUT_DATA_VERSION_TAG_PREFIX

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.drift.ingestion import digests_of_days, weeks_over
from mangaassist_assets.lib.drift.segments import recover
from mangaassist_assets.lib.messages.label_inbox import digest_of_inbox, inbox_source
from mangaassist_assets.lib.messages.reading import Source, digest_of_sources
from mangaassist_assets.lib.release.log import BY_PEOPLE, current
from mangaassist_assets.lib.retrieval.documents import digest_of_catalog
from mangaassist_assets.lib.retrieval.pairs import digest_of_queries
from mangaassist_assets.partitions import DAYS, WEEKS
from mangaassist_assets.settings import Settings

CATALOG_SOURCES = dg.AssetKey("catalog_sources")
QUERY_SOURCES = dg.AssetKey("query_sources")
MESSAGE_SOURCES = dg.AssetKey("message_sources")
RELEASE_LOG = dg.AssetKey("release_log")
INTERACTION_SEGMENTS = dg.AssetKey("interaction_segments")
LABEL_INBOX = dg.AssetKey("label_inbox")
MOST_ATTEMPTS = 3


def look(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Records what changed outside since it was last recorded, so that what is read from it becomes stale.

    Raises:
        BadInput: a source file is missing.
    """
    found = {
        MESSAGE_SOURCES: digest_of_sources(labelled_sources(settings)),
        CATALOG_SOURCES: digest_of_catalog(settings.sources.catalog),
        QUERY_SOURCES: digest_of_queries(settings.sources.retrieval_pairs),
        RELEASE_LOG: digest_of_releases(settings),
        LABEL_INBOX: digest_of_inbox(settings.home),
    }
    for key, digest in found.items():
        event = instance.get_latest_materialization_event(key)
        if event is None or (event.tags or {}).get(DATA_VERSION_TAG) != digest:
            instance.report_runless_asset_event(sighting(key, digest))
    recover(settings.home / "interactions")
    there = digests_of_days(settings.home / "interactions")
    days = changed_days(there, instance)
    instance.add_dynamic_partitions(DAYS.name, sorted(days))
    for day in sorted(days):
        instance.report_runless_asset_event(sighting(INTERACTION_SEGMENTS, days[day], day))
    instance.add_dynamic_partitions(WEEKS.name, weeks_over(there))


def labelled_sources(settings: Settings) -> tuple[Source, ...]:
    """The configured files of labelled messages, and behind them what came back from the label queue."""
    inbox = inbox_source(settings.home)
    return settings.sources.labeled_messages if inbox is None else (*settings.sources.labeled_messages, inbox)


def changed_days(found: Mapping[str, str], instance: dg.DagsterInstance) -> dict[str, str]:
    """Of days of traffic, each with the digest of its sealed segments' names: those that were last recorded with another, or never."""
    recorded = instance.event_log_storage.get_latest_tags_by_partition(
        INTERACTION_SEGMENTS, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {day: digest for day, digest in found.items() if recorded.get(day, {}).get(DATA_VERSION_TAG) != digest}


def sighting(key: dg.AssetKey, digest: str, partition: str | None = None) -> dg.AssetMaterialization:
    """The event that makes what reads `key` stale where `digest` is a new one.

    A materialisation, which is what Dagster reads the data version of an external asset from; nothing is written.
    """
    return dg.AssetMaterialization(key, partition=partition, tags={DATA_VERSION_TAG: digest})


def digest_of_releases(settings: Settings) -> str:
    """Digest of what people decided, and of champions that a canary made; what the offline gates decide is known to the graph anyway."""
    history = current(settings.home / "releases").history
    told = [c for c in history if c.action in BY_PEOPLE or (c.action == "advance" and c.to_state == "champion")]
    return digest_of([[change.event, change.release, change.to_state] for change in told])


def read_by(instance: dg.DagsterInstance, asset: str, key: dg.AssetKey) -> str | None:
    """The digest of `key` that the latest materialisation of `asset` was made from; None where there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return (event.tags or {}).get(f"{INPUT_DATA_VERSION_TAG_PREFIX}/{key.to_user_string()}") if event else None


def changed(context: dg.SensorEvaluationContext, key: dg.AssetKey, digest: str, asset: str) -> dg.SensorResult | dg.SkipReason:
    """What a sensor on files answers: asks once for each new content, and again up to MOST_ATTEMPTS where that run failed.

    Args:
        context: of the sensor; run keys are remembered for ever.
        key: the external asset that stands for the files.
        digest: of their content now.
        asset: the one that reads them.
    """
    read = read_by(context.instance, asset, key)
    if read is None:
        return dg.SkipReason(f"{asset} was never built. Build it once: `mangaassist run`.")
    if read == digest:
        return dg.SkipReason("nothing changed")
    tags = {f"mangaassist/{key.to_user_string()}": digest[:40]}
    failed = context.instance.get_runs_count(dg.RunsFilter(tags=tags, statuses=[dg.DagsterRunStatus.FAILURE]))
    if failed >= MOST_ATTEMPTS:
        return dg.SkipReason(f"{failed} runs on this content failed; correct the sources.")
    request = dg.RunRequest(run_key=f"{digest}-{failed}", tags=tags)
    return dg.SensorResult(run_requests=[request], asset_events=[sighting(key, digest)])
