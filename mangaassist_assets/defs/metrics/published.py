"""The database that people query and the page that they read."""

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.defs.metrics import tables
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.metrics.report import as_markdown, decision_tables, write_report
from mangaassist_assets.lib.metrics.warehouse import build
from mangaassist_assets.resources import HouseResource

MAIN = [file for file in tables.FILES if file.schema == "main"]


@dg.asset(
    deps=[tables.key_of(file.name) for file in MAIN],
    group_name="metrics",
    owners=["team:data-platform"],
    kinds={"duckdb"},
    code_version=digest_of([file.digest for file in MAIN])[:16],
    automation_condition=when_inputs_change(),
)
def metrics_warehouse(house: HouseResource) -> dg.MaterializeResult:
    """One row per metric table: `warehouse/metrics.duckdb`, where every table and column has a comment with its unit.

    A fresh file takes the old one's place in one rename, so that nobody who reads it waits or sees half of it.
    """
    opened = house.open()
    published = build(MAIN, opened, opened.home / "warehouse" / "metrics.duckdb")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(published.rows),
            "path": dg.MetadataValue.path(published.path),
            "size_bytes": published.path.stat().st_size,
            "tables": dg.MetadataValue.md(
                as_markdown(["table", "rows", "one row per"], ((f.table, published.rows[f.table], f.description) for f in MAIN))
            ),
        },
        data_version=dg.DataVersion(published.digest),
    )


@dg.asset(
    deps=[metrics_warehouse],
    group_name="metrics",
    owners=["team:data-platform"],
    kinds={"html"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
def decision_report(house: HouseResource) -> dg.MaterializeResult:
    """One row per decision table: `report/index.html`, one page that needs nothing else to be read, printed or sent."""
    home = house.open().home
    digest = write_report(home / "warehouse" / "metrics.duckdb", home / "report" / "index.html")
    shown = decision_tables(home / "warehouse" / "metrics.duckdb")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(shown),
            "path": dg.MetadataValue.path(home / "report" / "index.html"),
            **{table.title.lower(): dg.MetadataValue.md(as_markdown(table.headers, table.rows)) for table in shown},
        },
        data_version=dg.DataVersion(digest),
    )
