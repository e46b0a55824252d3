"""The decisive figures in CloudWatch, where that is what watches."""

import functools

import dagster as dg

from mangaassist_assets.automation import every_day, when_inputs_change
from mangaassist_assets.defs.metrics import tables
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.metrics.cloudwatch import SENT, send
from mangaassist_assets.lib.metrics.warehouse import lake_name
from mangaassist_assets.reporting import CLOCK_TAG, materialised, started
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS = current().cloudwatch
TABLE = "metrics/cloudwatch_metrics"
(MONITORING,) = (file for file in tables.FILES if file.name == "main.monitoring")


@dg.asset(
    deps=[tables.key_of(MONITORING.name)],
    group_name="metrics",
    owners=["team:data-platform"],
    kinds={"cloudwatch"},
    code_version=version("1", SETTINGS.namespace, SETTINGS.region),
    automation_condition=when_inputs_change() | every_day() if SETTINGS.namespace else when_inputs_change(),
)
def cloudwatch_metrics(context: dg.AssetExecutionContext, house: HouseResource) -> dg.MaterializeResult:
    """One row per figure that CloudWatch was sent, of the last two weeks; none where `cloudwatch.namespace` is empty.

    A run on simulated time sends nothing: its now is not CloudWatch's.
    """
    store = house.open()
    sent = store.read_table(TABLE) if store.has_table(TABLE) else SENT.empty_table()
    off = "cloudwatch.namespace is empty" if not SETTINGS.namespace else "simulated time" if CLOCK_TAG in context.run.tags else None
    if off:
        return materialised(digest_of([]), sent, figures={"off": off})
    remember = functools.partial(store.write_table, TABLE)
    counts = send(store.read_table(lake_name(MONITORING)), sent, SETTINGS, now=started(context), remember=remember)
    sent = store.read_table(TABLE) if store.has_table(TABLE) else sent
    return materialised(digest_of(sorted(sent["figure"].to_pylist())), sent, figures=counts)
