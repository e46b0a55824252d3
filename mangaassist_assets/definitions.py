"""The code location: everything under `defs/`, the house, and the sensor that keeps the graph up."""

from pathlib import Path

import dagster as dg

from mangaassist_assets.automation import automation_sensor
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current


@dg.definitions
def definitions() -> dg.Definitions:
    """Loads `defs/` with the settings of this process."""
    settings = current()
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent / "defs"),
        dg.Definitions(
            resources={"house": HouseResource(home=str(settings.home), store=settings.store)},
            sensors=[automation_sensor],
        ),
    )
