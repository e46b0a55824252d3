"""How days of traffic come into the graph: which have news, which of their messages are embedded, and all days as one table."""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import House, digest_of
from mangaassist_assets.lib.drift.segments import sealed
from mangaassist_assets.lib.errors import BadInput

DAYS_READ = (
    b"mangaassist.days_read"  # key of a gathered table's metadata: version of each day in it, so that rows and versions are one file
)


@dataclass(frozen=True)
class Ingestion:
    """How days of traffic are read.

    Attributes:
        every_s: least seconds between two readings of the same day, whose segments go on being sealed while it lasts.
        embedded_per_day: distinct messages of a day that are embedded, drawn anew each day.
        known_messages: training messages that the space of comparison is fitted on.
        seed: of that fit.
    """

    every_s: float = 300.0
    embedded_per_day: int = 500
    known_messages: int = 2000
    seed: int = 20

    def __post_init__(self) -> None:
        for name, least in (("every_s", 0), ("embedded_per_day", 1), ("known_messages", 100)):
            if not getattr(self, name) >= least:
                raise BadInput(f"{getattr(self, name)} cannot be used", where=f"ingestion.{name}", remedy=f"Give {least} or more.")


def digests_of_days(folder: Path) -> dict[str, str]:
    """Day, as YYYY-MM-DD -> SHA-256 over the names of its sealed segments in `folder`; a segment never changes once it has its name."""
    return {day.isoformat(): digest_of(sorted(names)) for day, names in sealed(folder).items()}


def weeks_over(days: Iterable[str]) -> list[str]:
    """Mondays, as YYYY-MM-DD, of the weeks that `days` touch, but the last: traffic of a later week tells that a week is over."""
    mondays = {day - dt.timedelta(day.weekday()) for day in map(dt.date.fromisoformat, days)}
    return [monday.isoformat() for monday in sorted(mondays)[:-1]]


def chosen(texts: Iterable[str], most: int, *, salt: str) -> list[str]:
    """At most `most` distinct texts, drawn by the hash of `salt` and text: the same ones each time, others under another salt."""
    prefix = f"{salt}\0".encode()
    return sorted(set(texts), key=lambda text: hashlib.sha256(prefix + text.encode()).digest())[:most]


def messages_to_embed(interactions: pa.Table, day: dt.date, most: int) -> tuple[list[str], NDArray[np.float64]]:
    """Distinct messages of a day, at most `most` of them, and the mean confidence (n,) that each was answered with.

    Args:
        interactions: columns INTERACTIONS; probes are left out, as is what has no text or was not answered.
        day: salts the draw, so that the days of a month are drawn independently.
        most: messages that are drawn.
    """
    flags = interactions["flags"].combine_chunks()
    probes = pc.list_parent_indices(flags).filter(pc.equal(pc.list_flatten(flags), "probe")).to_numpy()
    is_message = np.ones(len(interactions), bool)
    is_message[probes] = False
    rows = interactions.select(["text", "confidence"]).filter(pa.array(is_message))
    rows = rows.filter(pc.and_(pc.is_valid(rows["text"]), pc.is_valid(rows["confidence"])))
    by_text = rows.group_by("text", use_threads=False).aggregate([("confidence", "mean")])
    confidence = dict(zip(by_text["text"].to_pylist(), by_text["confidence_mean"].to_pylist(), strict=True))
    texts = chosen(confidence, most, salt=day.isoformat())
    return texts, np.array([confidence[text] for text in texts], np.float64)


def gather(
    house: House,
    source: str,
    into: str,
    schema: pa.Schema,
    versions: Mapping[str, str],
    *,
    part: str = "data",
    into_part: str | None = None,
) -> pa.Table:
    """All days of table `source` as one, in order of days, and publishes it as `into`; only days of another version than before are read.

    Args:
        house: where both lie.
        source: a table with a partition for each day, and a column `day`.
        into: the table that holds all days.
        schema: of the rows.
        versions: data version of each day that was made; days that are not named are not in the result.
        part: of `source`.
        into_part: of `into`; the same where None.
    """
    into_part = into_part or part
    kept, read = schema.empty_table(), dict[str, str]()
    if house.has_table(into, part=into_part):
        found = house.read_table(into, part=into_part)
        if found.schema.equals(schema):
            kept, read = found, json.loads((found.schema.metadata or {}).get(DAYS_READ, b"{}"))
    if read == dict(versions) and DAYS_READ in (kept.schema.metadata or {}):
        return kept.replace_schema_metadata(None)
    fresh = sorted(day for day, digest in versions.items() if read.get(day) != digest)
    stale = pa.array([dt.date.fromisoformat(day) for day in (set(read) - set(versions)) | set(fresh)], pa.date32())
    left = pc.is_in(kept["day"], stale)
    stays = kept.filter(pc.invert(left)) if pc.any(left).as_py() else kept
    new = [house.read_table(source, partition=day, part=part).select(schema.names).cast(schema) for day in fresh]
    table = pa.concat_tables([stays.replace_schema_metadata(None), *new]).combine_chunks()
    in_days = table["day"].combine_chunks().cast(pa.int32()).to_numpy()
    if (np.diff(in_days) < 0).any():
        table = table.take(pc.sort_indices(table["day"]))  # stable: rows of a day keep their order
    marked = table.replace_schema_metadata({DAYS_READ: json.dumps(dict(versions), sort_keys=True)})
    house.write_table(into, marked, part=into_part)
    return table
