"""Times of the year in which other messages than usual are expected, from a TOML file such as data/calendar.toml."""

import datetime as dt
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mangaassist_assets.lib.errors import BadInput

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
RANGE, RULE = {"from", "until"}, {"month", "weekday", "nth", "first_day", "last_day"}
ALLOWANCES = {"share_shift", "kl_nats"}


@dataclass(frozen=True)
class Season:
    """One stretch of one year.

    Attributes:
        first, last: its days, both included.
        share_shift: how far an intent's share may move because of it.
        kl_nats: how far messages may differ because of it.
    """

    name: str
    first: dt.date
    last: dt.date
    share_shift: float
    kl_nats: float


@dataclass(frozen=True)
class Calendar:
    """The seasons of all years that matter; an empty one knows none."""

    seasons: tuple[Season, ...] = ()

    def between(self, first: dt.date, last: dt.date) -> Season | None:
        """The season that touches any day from `first` to `last` and excuses most; None where none does."""
        touching = [season for season in self.seasons if season.first <= last and first <= season.last]
        return max(touching, key=lambda season: season.share_shift, default=None)


NO_SEASONS = Calendar()


def read_calendar(path: Path, *, years: range = range(2015, 2051)) -> Calendar:
    """Reads a calendar and lays its yearly seasons out over `years`.

    Raises:
        BadInput: not TOML, or a season that is not understood; it is named.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"not readable as TOML ({error})", where=str(path), remedy="Correct it, or take data/calendar.toml.") from error
    rows = content.get("season", [])
    if set(content) - {"season"} or not isinstance(rows, list):
        raise BadInput("holds more than seasons", where=str(path), remedy="Write [[season]] above each.")
    seasons: list[Season] = []
    for number, row in enumerate(rows, 1):
        try:
            seasons += _seasons(row, years)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"not understood ({error})", where=f"{path}, season {number}", remedy="Compare data/calendar.toml.") from error
    return Calendar(tuple(sorted(seasons, key=lambda season: (season.first, season.name))))


def _seasons(row: dict[str, Any], years: range) -> list[Season]:
    given = set(row) - ALLOWANCES - {"name"}
    if given not in (RANGE, RULE):
        raise ValueError(f"needs either {', '.join(sorted(RANGE))} or {', '.join(sorted(RULE))}, has {', '.join(sorted(given)) or 'none'}")
    allowances = {name: float(row[name]) for name in sorted(ALLOWANCES)}
    if not all(value >= 0 for value in allowances.values()):
        raise ValueError("an allowance is below 0")
    if given == RULE:
        spans = [_around(row, year) for year in years]
    elif isinstance(row["from"], dt.date):
        spans = [(row["from"], row["until"])]
    else:
        spans = [_yearly(row["from"], row["until"], year) for year in years]
    if any(first > last for first, last in spans):
        raise ValueError("ends before it begins")
    return [Season(str(row["name"]), first, last, **allowances) for first, last in spans]


def _yearly(begin: str, end: str, year: int) -> tuple[dt.date, dt.date]:
    """From one month-day to another, in the next year where the second comes first."""
    first = dt.date.fromisoformat(f"{year}-{begin}")
    last = dt.date.fromisoformat(f"{year}-{end}")
    return first, last if last >= first else dt.date.fromisoformat(f"{year + 1}-{end}")


def _around(row: dict[str, Any], year: int) -> tuple[dt.date, dt.date]:
    """Days around the nth weekday of a month."""
    start = dt.date(year, row["month"], 1)
    days = (WEEKDAYS.index(row["weekday"].lower()) - start.weekday()) % 7 + 7 * (row["nth"] - 1)
    anchor = start + dt.timedelta(days)
    return anchor + dt.timedelta(row["first_day"]), anchor + dt.timedelta(row["last_day"])
