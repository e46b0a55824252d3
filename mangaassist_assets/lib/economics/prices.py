"""A dated price list of instances, and what a million messages cost on one.

A list is a TOML file: `as_of` (the day somebody last looked), `region`, and one `[[price]]` per instance and period with `instance`,
`usd_per_hour`, `effective_from`, optionally `effective_until` (exclusive), and `source` (`list`, or who else says so).
"""

import datetime as dt
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mangaassist_assets.lib.errors import BadInput

SECONDS_PER_HOUR = 3600
KEYS = {"instance", "usd_per_hour", "effective_from", "effective_until", "source"}


@dataclass(frozen=True, slots=True)
class Price:
    """What one instance costs per hour in one period.

    Attributes:
        effective_from: first day on which it holds.
        effective_until: first day on which it no longer holds; None while it does.
        source: `list` for a public list price; anything else names who states it.
    """

    instance: str
    usd_per_hour: float
    effective_from: dt.date
    effective_until: dt.date | None = None
    source: str = "list"

    def holds_on(self, day: dt.date) -> bool:
        return self.effective_from <= day and (self.effective_until is None or day < self.effective_until)


@dataclass(frozen=True)
class PriceList:
    """Prices of one region.

    Attributes:
        as_of: the day on which somebody last compared the list with its source.
        where: the file, for messages.
    """

    as_of: dt.date
    region: str
    prices: tuple[Price, ...]
    where: str

    def lookup(self, instance: str, day: dt.date, *, source: str = "list") -> Price:
        """The price of `instance` on `day`.

        Raises:
            BadInput: no row for the instance, or none in force on that day.
        """
        rows = [price for price in self.prices if price.instance == instance and price.source == source]
        if not rows:
            known = ", ".join(sorted({price.instance for price in self.prices if price.source == source})) or "nothing"
            raise BadInput(f"no price of {instance!r} from {source!r}; it prices {known}", where=self.where, remedy="Add a row for it.")
        held = [price for price in rows if price.holds_on(day)]
        if not held:
            raise BadInput(f"no price of {instance!r} is in force on {day}", where=self.where, remedy="Add a row whose period covers it.")
        return held[0]


def usd_per_million(usd_per_hour: float, throughput_per_s: float) -> float:
    """Cost of a million messages on an instance that is kept busy, in US dollars; NaN without a throughput above zero."""
    if not throughput_per_s > 0:
        return math.nan
    return usd_per_hour / SECONDS_PER_HOUR / throughput_per_s * 1e6


def read_prices(path: Path) -> PriceList:
    """Reads a price list.

    Raises:
        BadInput: not TOML, a key or value that is not understood, or two rows that hold on the same day; the row is named.
    """
    where = str(path)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(
            f"not readable as TOML ({error})", where=where, remedy="Correct the file, or take data/instance_prices.toml."
        ) from error
    as_of, region, rows = content.get("as_of"), content.get("region"), content.get("price")
    if not _is_date(as_of) or not isinstance(region, str) or not isinstance(rows, list) or not rows:
        raise BadInput("needs as_of (a date), region and at least one [[price]]", where=where, remedy="Copy data/instance_prices.toml.")
    prices = tuple(_price(row, f"{where}, price {number}") for number, row in enumerate(rows, 1))
    for number, price in enumerate(prices, 1):
        for other in prices[: number - 1]:
            if (price.instance, price.source) == (other.instance, other.source) and _overlap(price, other):
                raise BadInput(
                    f"{price.instance} has two prices from {max(price.effective_from, other.effective_from)}",
                    where=f"{where}, price {number}",
                    remedy="End the older row with effective_until.",
                )
    return PriceList(as_of, region, prices, where)


def _overlap(one: Price, other: Price) -> bool:
    return one.holds_on(other.effective_from) or other.holds_on(one.effective_from)


def _is_date(value: Any) -> TypeGuard[dt.date]:
    return isinstance(value, dt.date) and not isinstance(value, dt.datetime)


def _price(row: Any, where: str) -> Price:
    def refuse(problem: str, remedy: str) -> BadInput:
        return BadInput(problem, where=where, remedy=remedy)

    if not isinstance(row, dict):
        raise refuse(f"{row!r} is not a table", "Write [[price]] above it.")
    if odd := set(row) - KEYS:
        raise refuse(f"unknown key {', '.join(sorted(odd))}", f"Known are {', '.join(sorted(KEYS))}.")
    instance, usd, source = row.get("instance"), row.get("usd_per_hour"), row.get("source", "list")
    start, end = row.get("effective_from"), row.get("effective_until")
    if not isinstance(instance, str) or not instance or not isinstance(source, str):
        raise refuse("instance and source are names", "Quote them.")
    if isinstance(usd, bool) or not isinstance(usd, (int, float)) or not math.isfinite(usd) or usd < 0:
        raise refuse(f"usd_per_hour = {usd!r} is no price", "Give US dollars per hour, zero or more.")
    if not _is_date(start) or not (end is None or _is_date(end)):
        raise refuse("effective_from is a date, and so is effective_until where given", "Write 2026-01-31, without quotes.")
    if end is not None and end <= start:
        raise refuse("effective_until is not after effective_from", "It is the first day on which the price no longer holds.")
    return Price(instance, float(usd), start, end, source)
