"""What an asset's page in the UI shows: its table, its figures over time, its plots."""

import base64
import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from mangaassist_assets.lib.columns import MEANINGS
from mangaassist_assets.lib.metrics.report import markdown

CLOCK_TAG = "mangaassist/clock"


def materialised(
    digest: str,
    table: pa.Table,
    *,
    asset: str | None = None,
    show: pa.Table | None = None,
    rows: int = 12,
    figures: Mapping[str, float | int | str | None] | None = None,
    plots: Mapping[str, bytes] | None = None,
) -> dg.MaterializeResult:
    """The result of an asset that wrote `table`.

    Args:
        digest: of all content that was written; it becomes the data version.
        table: gives row count and column schema.
        asset: its name, where several are built together.
        show: the part of the table to look at; all columns of `table` where None.
        rows: how many rows of it.
        figures: numbers that the UI charts over time, and words; those that were not measured are left out.
        plots: PNG images by title.
    """
    metadata: dict[str, Any] = {
        "dagster/row_count": len(table),
        "dagster/column_schema": dg.TableSchema([dg.TableColumn(f.name, str(f.type), meaning(f)) for f in table.schema]),
        "preview": dg.MetadataValue.md(markdown(table if show is None else show, rows)),
    }
    for name, value in (figures or {}).items():
        if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            metadata[name] = value
    for title, png in (plots or {}).items():
        metadata[title] = dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
    return dg.MaterializeResult(asset_key=asset, data_version=dg.DataVersion(digest), metadata=metadata)


def meaning(field: pa.Field) -> str | None:
    """What a column means: what its schema says, or what its name means everywhere."""
    said = (field.metadata or {}).get(b"description")
    return said.decode() if said else MEANINGS.get(field.name)


def started(context: dg.AssetExecutionContext) -> dt.datetime:
    """When the run was created, or the simulated time that its tag names: the only clock that assets know."""
    if CLOCK_TAG in context.run.tags:
        return dt.datetime.fromisoformat(context.run.tags[CLOCK_TAG])
    record = context.instance.get_run_record_by_id(context.run.run_id)
    if record is None:
        raise RuntimeError(f"run {context.run.run_id} is not recorded")
    return record.create_timestamp.astimezone(dt.UTC)
