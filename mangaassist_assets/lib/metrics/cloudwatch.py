"""The figures of `main.monitoring` as CloudWatch metrics, each sent once.

CloudWatch adds up whatever comes for the same metric and minute and takes nothing back. So a figure is sent when its day, week or month is
over, and what was sent is remembered. What a later reading changes of it stays in the warehouse, and is counted as revised.
"""

import datetime as dt
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput, Unavailable

# docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference: PutMetricData, MetricDatum, Dimension
OLDEST: Final = dt.timedelta(days=14)
MOST_FIGURES: Final = 1000  # in one call
MOST_BYTES: Final = 1_000_000
LARGEST: Final = 2.0**360
MOST_CHARS: Final = 1024  # of a dimension's value
NAMESPACE: Final = r"(?!:|AWS/)(?=.*[^ ])[A-Za-z0-9 ._/#:-]{1,255}"

DIMENSIONS: Final = ("intent", "cause", "stage")
UNITS: Final = {"count": "Count", "ms": "Milliseconds", "per second": "Count/Second"}  # CloudWatch has no unit for the others
SENT: Final = pa.schema(
    [
        ("figure", pa.string()),
        ("metric", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("value", pa.float64()),
        ("sent_at", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True)
class CloudWatchSettings:
    """Where figures go.

    Attributes:
        namespace: of all metrics; "" sends nothing.
        region: of the endpoint; None takes the one that AWS is configured with.
        attempts: tries of one call that is throttled or fails on CloudWatch's side; waits between them are botocore's.
        timeout_s: longest wait for one answer.
    """

    namespace: str = ""
    region: str | None = None
    attempts: int = 5
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.namespace and not re.fullmatch(NAMESPACE, self.namespace):
            remedy = "Use letters, digits, blanks and . - _ / # : in at most 255 characters, neither : nor AWS/ first."
            raise BadInput(f"{self.namespace!r} is no name", where="cloudwatch.namespace", remedy=remedy)
        if not (self.attempts >= 1 and 0 < self.timeout_s <= 60):
            raise BadInput(
                f"attempts {self.attempts}, timeout_s {self.timeout_s} cannot be used",
                where="cloudwatch",
                remedy="Give 1 or more attempts and a timeout up to 60 s.",
            )


class Owed(NamedTuple):
    """A figure to send: as CloudWatch wants it, and as it is remembered, columns SENT."""

    datum: dict[str, Any]
    row: dict[str, Any]


def send(
    figures: pa.Table,
    sent: pa.Table,
    settings: CloudWatchSettings,
    *,
    now: dt.datetime,
    remember: Callable[[pa.Table], object],
    client: Any = None,
) -> dict[str, int]:
    """Sends what was not sent yet and counts what became of every figure.

    A process that dies between a call and `remember` sends that call's figures again: SampleCount and Sum count them twice, Average,
    Minimum and Maximum are right.

    Args:
        figures: the rows of `main.monitoring`.
        sent: what `remember` was given last, columns SENT; figures that are too old to be sent again are left out of the next one.
        settings: where to.
        now: figures of a time to come are not over; one without a time of its own is of now.
        remember: stores what was sent so far; called after every call that CloudWatch took.
        client: a `cloudwatch` client; None makes one of boto3.

    Returns:
        Figures by what became of them: `sent`; or `sent_before`, `revised` (sent before with another value), `not_over`, `too_old`,
        `not_measured`, `unfit` (not finite, too large, or a dimension that is not ASCII).

    Raises:
        Unavailable: no credentials, no region, no access, or CloudWatch did not take it in `attempts` tries.
    """
    known = {row["figure"]: row["value"] for row in sent.to_pylist()}
    rows = [row for row in sent.to_pylist() if row["at"] is None or row["at"] > now - OLDEST]
    counts = Counter[str]()
    owed: list[Owed] = []
    for figure in figures.to_pylist():
        name = _name(figure, settings)
        outcome = _judge(figure, known.get(name), now)
        counts[outcome] += 1
        if outcome == "owed":
            row = {"figure": name, "metric": figure["metric"], "at": figure["at"], "value": figure["value"], "sent_at": now}
            owed.append(Owed(_datum(figure, now), row))
    if owed:
        client = client or connect(settings)
    for batch in _batches(owed):
        _put(client, settings, [each.datum for each in batch])
        done = {each.row["figure"] for each in batch}
        rows = [row for row in rows if row["figure"] not in done] + [each.row for each in batch]
        remember(pa.Table.from_pylist(rows, SENT))
    counts["sent"] = counts.pop("owed", 0)
    return dict(counts)


def connect(settings: CloudWatchSettings) -> Any:
    """A `cloudwatch` client that tries again by botocore's standard mode.

    Raises:
        Unavailable: no region is configured.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    retries = {"mode": "standard", "total_max_attempts": settings.attempts}
    config = Config(retries=retries, connect_timeout=settings.timeout_s, read_timeout=settings.timeout_s)
    try:
        return boto3.client("cloudwatch", region_name=settings.region, config=config)
    except BotoCoreError as error:
        raise Unavailable(f"CloudWatch: {' '.join(str(error).split())}") from error


def _put(client: Any, settings: CloudWatchSettings, data: Sequence[Mapping[str, Any]]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.put_metric_data(Namespace=settings.namespace, MetricData=data)
    except ClientError as error:
        told = error.response.get("Error", {})
        reason = " ".join(str(told.get("Message", "")).split())
        raise Unavailable(f"CloudWatch, {settings.namespace}: {told.get('Code', '')}. {reason}") from error
    except BotoCoreError as error:
        raise Unavailable(f"CloudWatch, {settings.namespace}: {' '.join(str(error).split())}") from error


# ── what is owed ────────────────────────────────────────────────────────────────────────────────────────────────────


def _name(figure: Mapping[str, Any], settings: CloudWatchSettings) -> str:
    """The same for the same metric, dimensions and time, sent to the same place."""
    at = figure["at"].isoformat() if figure["at"] else None
    return digest_of([settings.namespace, settings.region, figure["metric"], *(figure[name] for name in DIMENSIONS), at])


def _judge(figure: Mapping[str, Any], before: float | None, now: dt.datetime) -> str:
    value, at = figure["value"], figure["at"]
    if value is None:
        return "not_measured"
    if not (math.isfinite(value) and abs(value) <= LARGEST and all(map(_is_fit, _dimensions(figure).values()))):
        return "unfit"
    if at is None:
        return "sent_before" if before == value else "owed"
    if before is not None:
        return "sent_before" if before == value else "revised"
    if at > now:
        return "not_over"
    return "owed" if at > now - OLDEST + dt.timedelta(hours=1) else "too_old"  # an hour for the call and its tries


def _is_fit(text: str) -> bool:
    return text.isascii() and text.isprintable() and bool(text.strip()) and len(text) <= MOST_CHARS


def _dimensions(figure: Mapping[str, Any]) -> dict[str, str]:
    return {name: figure[name] for name in DIMENSIONS if figure[name] is not None}


def _datum(figure: Mapping[str, Any], now: dt.datetime) -> dict[str, Any]:
    return {
        "MetricName": figure["metric"],
        "Dimensions": [{"Name": name, "Value": value} for name, value in _dimensions(figure).items()],
        "Timestamp": figure["at"] or now,
        "Value": figure["value"],
        "Unit": UNITS.get(figure["unit"], "None"),
    }


def _batches(owed: Iterable[Owed]) -> Iterator[list[Owed]]:
    """Parts that CloudWatch takes in one call."""
    batch: list[Owed] = []
    size = 0
    for each in owed:
        length = len(json.dumps(each.datum, default=str))  # what is sent, JSON or CBOR, writes times shorter
        if len(batch) == MOST_FIGURES or size + length > MOST_BYTES - 1000:  # some room for what stands around the data
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += length
    if batch:
        yield batch
