"""The store's documents, cut into what is searched."""

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.retrieval.chunking import CHUNKS, chunk_documents
from mangaassist_assets.lib.retrieval.documents import digest_of_catalog, read_documents
from mangaassist_assets.outside import CATALOG_SOURCES, changed
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

OWNERS = ["team:data-science"]
SETTINGS = current()
TABLE = "retrieval/catalog_chunks"

catalog_sources = dg.AssetSpec(
    CATALOG_SOURCES,
    group_name="retrieval",
    owners=OWNERS,
    kinds={"file"},
    description="One row per document of the configured files, as the store wrote them. Data version: the digest of their bytes.",
)


@dg.asset(
    deps=[CATALOG_SOURCES],
    group_name="retrieval",
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=version("1", SETTINGS.retrieval.chunking),
    automation_condition=when_inputs_change().ignore(dg.AssetSelection.assets(CATALOG_SOURCES)),  # its sensor asks for this one
)
def catalog_chunks(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per chunk of the catalogue and the policies, with the span of the document it comes from; unchanged documents keep theirs."""
    store = house.open()
    previous = store.read_table(TABLE) if store.has_table(TABLE) else None
    documents, rejected = read_documents(SETTINGS.sources.catalog)
    for row in rejected[:20]:
        context.log.warning("%s row %d is left out (%s): %s", row.file, row.row, row.reason, row.detail)
    usable = previous if previous is not None and previous.schema.equals(CHUNKS) else None
    chunked = chunk_documents(documents, usable, SETTINGS.retrieval.chunking)
    figures = {"documents": len(documents), "documents_kept": chunked.kept, "documents_cut": chunked.cut, "documents_gone": chunked.gone}
    return materialised(
        store.write_table(TABLE, chunked.table),
        chunked.table,
        show=chunked.table.select(["chunk_id", "title", "text", "aliases", "in_stock"]),
        figures=figures | {"documents_rejected": len(rejected)},
    )


@dg.sensor(
    target=["catalog_chunks"],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Cuts the catalogue anew when a file or a source's settings changed.",
)
def catalog_sources_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """See `outside.changed`."""
    return changed(context, CATALOG_SOURCES, digest_of_catalog(SETTINGS.sources.catalog), "catalog_chunks")
