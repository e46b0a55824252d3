"""The world outside the graph: source files, observed by content."""

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG, INPUT_DATA_VERSION_TAG_PREFIX

from mangaassist_assets.lib.messages.reading import digest_of_sources
from mangaassist_assets.settings import Settings

MESSAGE_SOURCES = dg.AssetKey("message_sources")


def observe(settings: Settings, instance: dg.DagsterInstance) -> str:
    """Records the content digest of the message sources where it differs from the last one recorded, and returns it.

    Raises:
        BadInput: a source file is missing.
    """
    digest = digest_of_sources(settings.sources.labeled_messages)
    if digest != observed(instance):
        instance.report_runless_asset_event(sighting(digest))
    return digest


def sighting(digest: str) -> dg.AssetMaterialization:
    """The event that makes what is read from the sources stale when `digest` is a new one.

    A materialisation, which is what Dagster reads the data version of an external asset from; nothing is written.
    """
    return dg.AssetMaterialization(MESSAGE_SOURCES, tags={DATA_VERSION_TAG: digest})


def observed(instance: dg.DagsterInstance) -> str | None:
    """The digest recorded last."""
    records = instance.fetch_materializations(MESSAGE_SOURCES, limit=1).records
    return (records[0].event_log_entry.tags or {}).get(DATA_VERSION_TAG) if records else None


def read_by(instance: dg.DagsterInstance, asset: str) -> str | None:
    """The digest of the sources that the latest materialisation of `asset` was made from; None where there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return (event.tags or {}).get(f"{INPUT_DATA_VERSION_TAG_PREFIX}/{MESSAGE_SOURCES.to_user_string()}") if event else None
