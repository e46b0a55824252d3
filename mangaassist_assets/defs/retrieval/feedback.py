"""Queries that shoppers judged without being asked."""

import dagster as dg
import pyarrow as pa

from mangaassist_assets.automation import every_week
from mangaassist_assets.defs.retrieval import catalog
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.interactions import RETRIEVALS
from mangaassist_assets.lib.retrieval.feedback import feedback_queries as judged_by_shoppers
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().retrieval.feedback
TABLE, INTERACTIONS = "retrieval/feedback_queries", "drift/interactions"
READ = ["query", "shown", "clicked", "thumbs_up"]


@dg.asset(
    deps=["interactions", "catalog_chunks"],
    group_name="retrieval",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("1", SETTINGS),
    automation_condition=every_week(),
)
def feedback_queries(house: HouseResource) -> dg.MaterializeResult:
    """One row per query that shoppers of the last months judged by what they opened or liked; `retrieval_pairs` learns from it."""
    store = house.open()
    retrievals = _latest(store)
    documents = set(store.read_table(catalog.TABLE)["document_id"].to_pylist())
    table = judged_by_shoppers(retrievals, documents, least=SETTINGS.least)
    return materialised(
        store.write_table(TABLE, table),
        table,
        show=table.select(["query", "relevant", "not_relevant"]),
        figures={"queries": len(table), "requests": len(retrievals)},
    )


def _latest(store: House) -> pa.Table:
    """What the latest days were asked for and answered."""
    days = store.partitions(INTERACTIONS)[-SETTINGS.days :]
    there = [day for day in days if store.has_table(INTERACTIONS, partition=day, part="retrievals")]
    tables = [store.read_table(INTERACTIONS, partition=day, part="retrievals").select(READ) for day in there]
    return pa.concat_tables([pa.schema([RETRIEVALS.field(name) for name in READ]).empty_table(), *tables])
