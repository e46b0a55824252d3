"""What a week of traffic is worth labelling."""

import datetime as dt

import dagster as dg
import pyarrow as pa

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import House, digest_of
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.messages.sampling import READ, SAMPLE
from mangaassist_assets.lib.messages.sampling import low_confidence_sample as draw
from mangaassist_assets.partitions import WEEKS
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().labelling
TABLE = "messages/low_confidence_sample"
INTERACTIONS = "drift/interactions"


@dg.multi_asset(
    name="weeks_to_label",
    specs=[
        dg.AssetSpec(
            "low_confidence_sample",
            deps=[dg.AssetDep("interactions", partition_mapping=dg.IdentityPartitionMapping())],
            partitions_def=WEEKS,
            group_name="messages",
            owners=["team:data-science"],
            kinds={"python", "parquet"},
            code_version=version("1", SETTINGS),
            automation_condition=when_inputs_change().ignore(dg.AssetSelection.assets("interactions")),
            description="One row per request of a week to label: a random control slice, and doubtful ones spread over kinds of messages.",
        )
    ],
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def low_confidence_sample(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """Draws the sample of each week of the run.

    A week is drawn once, when it is over and its partition comes into being. Its Monday's interactions stand for all seven days' in the
    graph; texts that have a label by then are left out, but labels that arrive later do not draw it anew.
    """
    store = house.open()
    labelled = store.read_table("messages/labeled_messages")["text"].to_pylist()
    weeks = [dt.date.fromisoformat(week) for week in context.partition_keys]
    samples = [draw(_interactions(store, week), labelled, week, SETTINGS) for week in weeks]
    digests = [store.write_table(TABLE, sample, partition=week.isoformat()) for week, sample in zip(weeks, samples, strict=True)]
    table = pa.concat_tables(samples)
    control = table["stratum"].to_pylist().count("control")
    return materialised(
        digest_of(digests),
        table,
        show=table.select(["text", "intent", "confidence", "stratum", "inclusion_probability", "represents"]),
        figures={"control": control, "uncertain": len(table) - control},
    )


def _interactions(store: House, week: dt.date) -> pa.Table:
    """The week's answers, of the days that there are."""
    days = [(week + dt.timedelta(days=n)).isoformat() for n in range(7)]
    there = [day for day in days if store.has_table(INTERACTIONS, partition=day)]
    if not there:
        raise MissingEvidence(f"{INTERACTIONS} has no day of the week of {week}. Run `mangaassist run`.")
    return pa.concat_tables([store.read_table(INTERACTIONS, partition=day).select(READ) for day in there])


def drawn(store: House) -> pa.Table:
    """Every week's sample; no row before the first week is over."""
    return store.read_partitions(TABLE).cast(SAMPLE) if store.partitions(TABLE) else SAMPLE.empty_table()
