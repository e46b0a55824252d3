"""What assets are handed from outside: where bytes live."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from mangaassist_assets.lib.artifacts import House


class HouseResource(dg.ConfigurableResource):
    """The lake and the bundles: a local folder, or its twin on S3."""

    home: str = Field(description="Local home folder; also the cache of bundles where `store` is remote.")
    store: str | None = Field(default=None, description="`s3://bucket/prefix` for lake and bundles; empty keeps them under `home`.")

    def open(self) -> House:
        return House(Path(self.home), self.store)
