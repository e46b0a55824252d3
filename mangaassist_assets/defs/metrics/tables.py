"""One asset for each file of `dbt_like_sql/`, its claims as checks, all run by one step: the work is small, a process is not."""

from collections.abc import Iterator

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.metrics.report import markdown
from mangaassist_assets.lib.metrics.sql_files import SqlFile, lake_source, read_sql_files
from mangaassist_assets.lib.metrics.warehouse import Outcome, run_files
from mangaassist_assets.resources import HouseResource

FILES = read_sql_files()


def key_of(reference: str) -> dg.AssetKey:
    """The asset behind a table as SQL names it; raw and main tables bear names of assets upstream, so their keys have the schema."""
    source = lake_source(reference)
    return dg.AssetKey([source.asset] if source else reference.split("."))


def spec_of(file: SqlFile) -> dg.AssetSpec:
    """What the graph knows of a file before it has run."""
    return dg.AssetSpec(
        key_of(file.name),
        deps={key_of(reference) for reference in file.inputs},
        description=f"{file.description}\n\n```sql\n{file.sql}\n```",
        group_name="metrics",
        owners=["team:data-platform"],
        kinds={"duckdb", "sql"},
        tags={"layer": file.schema},
        code_version=file.digest[:16],
        automation_condition=when_inputs_change(),
        skippable=True,
    )


def checks_of(file: SqlFile) -> list[dg.AssetCheckSpec]:
    """The claims about a file's table; those about a main table stop what would publish it."""
    return [
        dg.AssetCheckSpec(
            test.name,
            asset=key_of(file.name),
            description=f"Rows that break it:\n\n```sql\n{test.sql}\n```",
            blocking=file.schema == "main",
        )
        for test in file.tests
    ]


def schema_of(outcome: Outcome) -> dg.TableSchema:
    """Names, types and meanings of the columns of a result."""
    types = {field.name: str(field.type) for field in outcome.table.schema}
    return dg.TableSchema([dg.TableColumn(column.name, types[column.name], column.comment) for column in outcome.file.columns])


def lineage_of(file: SqlFile) -> dg.TableColumnLineage:
    """Which columns of which assets each column is computed from."""
    return dg.TableColumnLineage(
        {column: [dg.TableColumnDep(key_of(table), name) for table, name in sources] for column, sources in file.lineage.items()}
    )


def events_of(outcome: Outcome) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """The result where it was stored, and a verdict on every claim about it."""
    file, table = outcome.file, outcome.table
    if outcome.digest is not None:
        yield dg.MaterializeResult(
            key_of(file.name),
            metadata={
                "dagster/row_count": table.num_rows,
                "dagster/column_schema": schema_of(outcome),
                "dagster/column_lineage": lineage_of(file),
                "preview": dg.MetadataValue.md(markdown(table)),
            },
            data_version=dg.DataVersion(outcome.digest),
        )
    for name, rows in outcome.failing.items():
        yield dg.AssetCheckResult(
            asset_key=key_of(file.name),
            check_name=name,
            passed=rows.num_rows == 0,
            severity=dg.AssetCheckSeverity.ERROR if file.schema == "main" else dg.AssetCheckSeverity.WARN,
            metadata={"failing_rows": rows.num_rows, **({"rows": dg.MetadataValue.md(markdown(rows))} if rows.num_rows else {})},
        )


@dg.multi_asset(
    name="metric_tables",
    specs=[spec_of(file) for file in FILES],
    check_specs=[check for file in FILES for check in checks_of(file)],
    can_subset=True,
)
def metric_tables(context: dg.AssetExecutionContext, house: HouseResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Runs the selected files, each after those that it reads."""
    wanted = [file for file in FILES if key_of(file.name) in context.selected_asset_keys]
    for outcome in run_files(wanted, house.open()):
        yield from events_of(outcome)
