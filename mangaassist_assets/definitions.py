"""The code location: everything under `defs/`, the house, and the sensors.

Modules are listed by Dagster's loaders of assets and checks: `load_from_defs_folder` also imports the component plug-ins of every
installed integration, which takes longer than all of this.
"""

import dagster as dg

from mangaassist_assets.automation import automation_sensor
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current


@dg.definitions
def definitions() -> dg.Definitions:
    """Loads `defs/` with the settings of this process."""
    settings = current()
    from mangaassist_assets import alerts, defs, retraining
    from mangaassist_assets.defs.drift.sealing import segments_sealed
    from mangaassist_assets.defs.messages.labelled import message_sources_changed
    from mangaassist_assets.defs.messages.queue import labels_arrived
    from mangaassist_assets.defs.release.log import release_log_changed
    from mangaassist_assets.defs.release.progress import approvals_arrived, release_progress
    from mangaassist_assets.defs.retrieval.catalog import catalog_sources_changed
    from mangaassist_assets.defs.retrieval.pairs import query_sources_changed

    return dg.Definitions(
        assets=dg.load_assets_from_package_module(defs, include_specs=True),
        asset_checks=dg.load_asset_checks_from_package_module(defs),
        executor=dg.in_process_executor,  # a process a step would cost seconds, and most steps take less
        resources={"house": HouseResource(home=str(settings.home), store=settings.store)},
        jobs=[retraining.retrain],
        schedules=[retraining.retrain_monthly],
        sensors=[
            automation_sensor,
            message_sources_changed,
            catalog_sources_changed,
            query_sources_changed,
            segments_sealed,
            labels_arrived,
            retraining.drift_to_retrain,
            approvals_arrived,
            release_progress,
            release_log_changed,
            alerts.run_failures_to_webhook,
            alerts.drift_to_webhook,
        ],
    )
