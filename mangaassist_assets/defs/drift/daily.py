"""A day of traffic: what was answered, what it adds up to, and where its messages lie."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg
import pyarrow as pa

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.drift.sealing import OUTPUTS
from mangaassist_assets.defs.drift.space import probe_labels, space_of
from mangaassist_assets.lib.artifacts import House, digest_of
from mangaassist_assets.lib.drift.counts import COUNTS, count_day
from mangaassist_assets.lib.drift.expectations import DailyChecks, Day, expectation_names
from mangaassist_assets.lib.drift.ingestion import messages_to_embed
from mangaassist_assets.lib.drift.interactions import INTERACTIONS, read_day
from mangaassist_assets.lib.drift.moments import MOMENTS, day_moments
from mangaassist_assets.outside import INTERACTION_SEGMENTS
from mangaassist_assets.partitions import DAYS
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

OWNERS = ["team:data-platform"]
SETTINGS = current().ingestion
READ_BY_SENSOR = when_inputs_change().ignore(dg.AssetSelection.assets(INTERACTION_SEGMENTS))  # its sensor asks for these
SHOWN = {
    "interactions": ["occurred_at", "text", "intent", "confidence", "route", "latency_ms", "thumbs_up"],
    "interaction_counts": ["day", "intent", "language", "route", "n", "feedback", "thumbs_up", "escalated", "errors"],
    "message_moments": ["day", "n", "far"],
}

interaction_segments = dg.AssetSpec(
    INTERACTION_SEGMENTS,
    partitions_def=DAYS,
    group_name="drift",
    owners=OWNERS,
    kinds={"file"},
    description="One row per answer or word on it, in files that the service has sealed. Data version of a day: the digest of their names.",
)


def spec_of(name: str, description: str, deps: list[dg.AssetKey | str]) -> dg.AssetSpec:
    """One of the tables of a day."""
    return dg.AssetSpec(
        name,
        deps=deps,
        partitions_def=DAYS,
        group_name="drift",
        owners=OWNERS,
        kinds={"python", "parquet"},
        code_version=version("3", SETTINGS.embedded_per_day),
        automation_condition=READ_BY_SENSOR,
        description=description,
    )


@dataclass
class Summary:
    """What a run says of the days of one table: days of a range share one digest.

    Attributes:
        digests: of each day.
        rows: of all days.
        last: the last day's table.
    """

    last: pa.Table
    digests: list[str] = field(default_factory=list)
    rows: int = 0

    def add(self, digest: str, table: pa.Table) -> None:
        """Takes up another day."""
        self.digests.append(digest)
        self.rows, self.last = self.rows + table.num_rows, table

    def result(self, name: str) -> dg.MaterializeResult:
        """What Dagster is told."""
        digest = self.digests[0] if len(self.digests) == 1 else digest_of(self.digests)
        result = materialised(digest, self.last, asset=name, show=self.last.select(SHOWN[name]), figures={"days": len(self.digests)})
        metadata = {**(result.metadata or {}), "dagster/row_count": self.rows}
        return dg.MaterializeResult(asset_key=name, data_version=result.data_version, metadata=metadata)


@dg.multi_asset(
    name="day_of_traffic",
    specs=[
        spec_of(
            "interactions",
            "One row per answer of the day, redacted, with what became of it; searches, and what could not be read, lie beside.",
            [INTERACTION_SEGMENTS, "drift_space"],
        ),
        spec_of(
            "interaction_counts",
            "One row per day, intent, language, route, model, arm and generator: sums of the day's answers, without golden probes.",
            [INTERACTION_SEGMENTS, "drift_space"],
        ),
        spec_of(
            "message_moments",
            "One row per day and space: moments and histograms of the day's distinct messages, from which months are added up.",
            [INTERACTION_SEGMENTS, "drift_space"],
        ),
    ],
    check_specs=[dg.AssetCheckSpec(name, asset="interactions", blocking=True) for name in expectation_names()],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def day_of_traffic(context: dg.AssetExecutionContext, house: HouseResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Reads the day's segments, or those of a range of days one after the other; memory holds one day."""
    store = house.open()
    labels = probe_labels(store)
    space, encoder = space_of(store)
    made = {name: Summary(schema.empty_table()) for name, schema in zip(OUTPUTS, (INTERACTIONS, COUNTS, MOMENTS), strict=True)}
    checks = DailyChecks()
    for key in context.partition_keys:
        day = dt.date.fromisoformat(key)
        found = read_day(store.home / "interactions", day)
        checks.add(Day(day, found.table, found.quarantined.num_rows, found.retrievals.num_rows))
        counts, figures = count_day(found.table, day, probe_labels=labels, ingested=found.counts)
        texts, confidence = messages_to_embed(found.table, day, SETTINGS.embedded_per_day)
        moments = day_moments(space, encoder.encode(texts, queries=True), confidence, day)
        for name, parts in (
            ("interactions", {"data": found.table, "quarantined": found.quarantined, "retrievals": found.retrievals}),
            ("interaction_counts", {"data": counts, "day": figures}),
            ("message_moments", {"data": moments}),
        ):
            made[name].add(write_day(store, name, key, parts), parts["data"])
    for name, summary in made.items():
        yield summary.result(name)
    for name, days in checks.broken().items():
        yield dg.AssetCheckResult(asset_key="interactions", check_name=name, passed=not days, description="; ".join(days[:5]) or "holds")


def write_day(store: House, name: str, day: str, parts: dict[str, pa.Table]) -> str:
    """Writes the parts of a day's table; returns one digest of their content."""
    return digest_of([store.write_table(f"drift/{name}", table, partition=day, part=part) for part, table in parts.items()])
