"""Live traffic, session by session: what a release in shadow or canary is judged on.

Sessions are the unit, not messages: those of one conversation share their shopper and their trouble, so they are no independent
evidence. What a session had of something is a number from 0 to 1: the share of its messages, of its ratings, or whether it happened.
"""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.release.sequential import Tally

COLUMNS = (
    "request_id",
    "occurred_at",
    "session",
    "intent",
    "model_digest",
    "arm",
    "latency_ms",
    "flags",
    "shadow_digest",
    "shadow_intent",
    "shadow_latency_ms",
    "error",
    "thumbs_up",
    "escalated",
)


def answers_since(interactions: pa.Table, since: dt.datetime) -> pa.Table:
    """The columns that are judged on, of the answers from `since` on; probes are no traffic."""
    found = interactions.select(list(COLUMNS))
    found = found.filter(pc.greater_equal(found["occurred_at"], pa.scalar(since, pa.timestamp("us", "UTC"))))
    is_probe = pc.fill_null(pc.match_substring(pc.binary_join(found["flags"], " "), "probe"), False)
    return found.filter(pc.invert(is_probe)).drop_columns(["flags"])


def tally(sessions: pa.Table, had: str, of: str, where: NDArray[np.bool_]) -> Tally:
    """Mean share of `had` among `of` over the sessions `where`, of those that have any of `of`."""
    numerator, denominator = (sessions[name].to_numpy()[where].astype(np.float64) for name in (had, of))
    some = denominator > 0
    return Tally(int(some.sum()), float((numerator[some] / denominator[some]).sum()))
