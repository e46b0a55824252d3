"""The answers of one day after another: who asked what, when, what was answered, and how people took it.

All rates below are assumptions of the simulation, stated once here and in `docs/simulation.md`; nothing in the project is fitted to them.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.drift.calendar import Calendar
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.release.assignment import in_canary
from mangaassist_assets.simulation.pool import Answers, Model, Pool, Style
from mangaassist_assets.simulation.scenarios import Scenario

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

WEEKDAY_VOLUME: Final = (0.95, 0.93, 0.95, 0.98, 1.05, 1.10, 1.04)  # Monday first
VOLUME_SPREAD = 0.05  # standard deviation of the log of a day's volume
HOURLY_VOLUME: Final = (3, 2, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 5, 5, 5, 5, 6, 7, 8, 9, 9, 7, 5)  # of the hours of a UTC day
SESSION_LENGTHS: Final = (0.55, 0.25, 0.13, 0.07)  # of sessions with 1, 2, 3, 4 messages
BETWEEN_S = 40.0  # mean seconds between the messages of a session

# Of the ten intents of the sample; where a pool has other ones, they come as often as among its messages.
INTENT_SHARE: Final[Mapping[str, float]] = {
    "product_discovery": 0.16,
    "product_question": 0.14,
    "recommendation": 0.14,
    "faq": 0.12,
    "order_tracking": 0.16,
    "return_request": 0.08,
    "promotion": 0.07,
    "checkout_help": 0.06,
    "escalation": 0.03,
    "chitchat": 0.04,
}
INTENT_CONCENTRATION = (
    3_000.0  # of the Dirichlet distribution of a day's intent mix: a share of 10% has a standard deviation of 0.55 points
)
STYLE_SHARE: Final = {Style.STOCK: 0.50, Style.PLAIN: 0.26, Style.CASUAL: 0.17, Style.JAPANESE: 0.07}
STYLE_CONCENTRATION = 3_000.0
SECOND_INTENT_WEIGHT = 0.25  # of a message with two intents, against one with one
POPULARITY_SPREAD = 0.7  # standard deviation of the log of how often a message comes, within its intent and style
POPULARITY_MEMORY = 0.9  # correlation of that from one day to the next, for the part that moves
POPULARITY_MOVES = 0.3  # standard deviation of the part that moves
SEASON_RAMP_DAYS = 3

LATENCY_MS: Final = (0.06, 0.35, 9.0)  # medians of rules, student, classifier
LATENCY_SPREAD = 0.45  # standard deviation of the log
ERROR_RATE, BAD_ERROR_RATE = 0.001, 0.03
ERROR: Final = "deadline"
THUMB_RATE = 0.08  # of answers with a thumb
UP_RIGHT, UP_WRONG = 0.85, 0.30  # of thumbs that point up, where the answer was right, and wrong
ESCALATED_RIGHT, ESCALATED_WRONG, ESCALATED_ASKED, ESCALATED_ERROR = 0.04, 0.20, 0.35, 0.40  # asked: the message wanted a person
CONVERTED_RIGHT, CONVERTED_WRONG = 0.05, 0.01
POOR_UP, POOR_ESCALATED = 0.75, 1.6  # factors on thumbs up and on escalation where another provider writes, or a bad release answers
FEEDBACK_S = 240.0  # mean seconds from answer to feedback
GENERATORS: Final = ("grounded-v1", "grounded-v2")
PROBES_A_DAY = 100
NO_SEASONS: Final = Calendar()


@dataclass(frozen=True)
class Serving:
    """Which releases answer on a day.

    Attributes:
        champion: answers all that the canary does not.
        canary: answers `canary_share` of sessions, as `in_canary` draws them.
        shadow: answers everything beside the champion, seen by nobody.
    """

    champion: Model
    canary: Model | None = None
    shadow: Model | None = None
    canary_share: float = 0.01


@dataclass(frozen=True)
class DayOfTraffic:
    """All answers of a UTC day in order of time, probes among them; arrays of length n.

    Attributes:
        pool: where `message` points to.
        run: eight hex digits that keep the request ids of one simulation apart from another's.
        message: positions in the pool.
        at_us: microseconds since midnight.
        session: ids of 64 bits; 0 for probes, which have none.
        probe: whether the message is a golden probe.
        canary: whether the canary answered.
        intent, second, route, confidence, latency_ms: of the answer.
        failed: whether it failed; intent and confidence then mean nothing.
        thumb: 1 up, 0 down, -1 none.
        escalated, converted: what came of it.
        feedback_us: microseconds from the answer to the feedback, -1 where there is none.
        champion, canary_digest, shadow: digests of who answered; the shadow with its answers.
        generator: fingerprint of what writes replies.
    """

    pool: Pool = field(repr=False)
    day: dt.date
    run: str
    message: Ints
    at_us: Ints
    session: NDArray[np.uint64]
    probe: Bools
    canary: Bools
    intent: Ints
    second: Ints
    route: Ints
    confidence: NDArray[np.float32]
    latency_ms: NDArray[np.float32]
    failed: Bools
    thumb: Ints
    escalated: Bools
    converted: Bools
    feedback_us: Ints
    champion: str
    canary_digest: str | None
    shadow: Answers | None
    shadow_latency_ms: NDArray[np.float32]
    generator: str

    def __len__(self) -> int:
        return len(self.message)

    @property
    def right(self) -> Bools:
        """Whether the first intent is the true one."""
        right: Bools = (self.intent == self.pool.truth[self.message]) & ~self.failed
        return right

    def to_interactions(self) -> pa.Table:
        """The day as the table of interactions, feedback and shadow joined; see `records.py`."""
        from mangaassist_assets.simulation.records import interactions_of

        return interactions_of(self)


def traffic(
    pool: Pool,
    scenario: Scenario,
    *,
    days: int,
    per_day: int,
    seed: int,
    start: dt.date,
    serving: Serving | Callable[[dt.date], Serving],
    calendar: Calendar = NO_SEASONS,
    bad: Model | None = None,
) -> Iterator[DayOfTraffic]:
    """Yields one day after another; equal arguments give equal traffic, and the first days do not depend on `days`.

    Args:
        pool: messages to draw from.
        scenario: what changes.
        days: how many.
        per_day: mean number of messages a day; weekdays and chance move it. Probes come on top.
        seed: of everything drawn.
        start: the first day.
        serving: who answers; a function is asked at the beginning of each day.
        calendar: when seasons are, for scenarios with seasonal factors.
        bad: in the scenario `bad_release`, the release that answers everything from `from_day` on; without it the canary is the bad one.

    Raises:
        BadInput: fewer than one day or one message.
    """
    if days < 1 or per_day < 1:
        raise BadInput(f"{days} days of {per_day} messages", where="simulation", remedy="Ask for one day and one message, or more.")
    rng = np.random.default_rng([seed, *scenario.name.encode()])
    run = hashlib.sha256(f"{scenario.name} {seed} {start}".encode()).hexdigest()[:8]
    mix = _Mix(pool, scenario, calendar, rng)
    probes = np.flatnonzero(pool.style == Style.PROBE)
    probes = np.sort(rng.choice(probes, min(PROBES_A_DAY, len(probes)), replace=False))
    faulty: str | None = None  # the release that has the fault: another one, or the one before, has not
    for number in range(days):
        day = start + dt.timedelta(number)
        now = serving(day) if callable(serving) else serving
        changed = number >= scenario.from_day
        if scenario.bad_release and bad is not None and changed:
            now = Serving(bad, now.canary, now.shadow, now.canary_share)
        volume = per_day * WEEKDAY_VOLUME[day.weekday()] * np.exp(rng.normal(0, VOLUME_SPREAD))
        sizes = _sessions(max(1, int(rng.poisson(volume))), rng)
        message = mix.draw(day, number, int(sizes.sum()))
        worse: Literal["nobody", "canary", "everybody"] = "nobody"
        if scenario.bad_release and changed:
            worse = "everybody" if bad is not None else "canary"
        if scenario.fault and changed and faulty is None:
            faulty = now.champion.digest
        conditions = _Conditions(faulty == now.champion.digest, scenario.provider and changed, worse)
        yield _answered(pool, day, run, message, sizes, probes, now, conditions, rng)


@dataclass(frozen=True)
class _Conditions:
    """What is wrong on a day.

    Attributes:
        fault: texts reach the champion cut.
        provider: another provider writes the replies.
        worse: who is answered by a bad release.
    """

    fault: bool
    provider: bool
    worse: Literal["nobody", "canary", "everybody"]


class _Mix:
    """How often each message of the pool comes on a day."""

    def __init__(self, pool: Pool, scenario: Scenario, calendar: Calendar, rng: np.random.Generator) -> None:
        self.scenario, self.calendar, self.rng = scenario, calendar, rng
        self.names = pool.intents[: int(pool.truth.max()) + 1]  # a model may have added others behind them
        usual = (pool.style != Style.PROBE) & (pool.style != Style.EVENT)
        counts = np.bincount(pool.truth[usual], minlength=len(self.names)).astype(np.float64)
        share = np.array([INTENT_SHARE.get(intent, 0.0) for intent in self.names])
        share = np.where(counts > 0, share, 0.0)
        self.share = share / share.sum() if share.sum() > 0.5 else counts / counts.sum()
        self.cell = pool.truth * len(Style) + pool.style
        self.cells = len(self.names) * len(Style)
        self.event = pool.truth[pool.style == Style.EVENT][:1]
        self.popularity = rng.normal(0, POPULARITY_SPREAD, len(pool)) + np.log(np.where(pool.also >= 0, SECOND_INTENT_WEIGHT, 1.0))
        self.moving = rng.normal(0, POPULARITY_MOVES, len(pool))
        self.there = np.bincount(self.cell, minlength=self.cells).reshape(-1, len(Style)) > 0

    def draw(self, day: dt.date, number: int, n: int) -> Ints:
        """(n,) positions of messages."""
        self.moving = POPULARITY_MEMORY * self.moving + self.rng.normal(
            0, POPULARITY_MOVES * np.sqrt(1 - POPULARITY_MEMORY**2), len(self.moving)
        )
        weight = np.exp(self.popularity + self.moving)
        within = weight / np.bincount(self.cell, weight, self.cells)[self.cell]
        edges = np.cumsum(within * self._cell_shares(day, number).ravel()[self.cell])
        drawn: Ints = np.searchsorted(edges, self.rng.random(n) * edges[-1], side="right").astype(np.int64)
        return drawn

    def _cell_shares(self, day: dt.date, number: int) -> Floats:
        """(intents, styles) share of all messages; styles that an intent lacks give theirs to those it has."""
        intents = self.rng.dirichlet(np.maximum(self.share * INTENT_CONCENTRATION, 1e-9))
        intents = intents * np.array([1 + (self.scenario.seasonal.get(name, 1.0) - 1) * self._season(day) for name in self.names])
        intents /= intents.sum()
        usual = self.rng.dirichlet(np.array(list(STYLE_SHARE.values())) * STYLE_CONCENTRATION)
        reached, change = self.scenario.reached(number), self.scenario
        gains = {Style.CASUAL: change.casual, Style.NEW_SLANG: change.new_slang, Style.JAPANESE: change.japanese}
        styles = np.zeros(len(Style))
        styles[list(STYLE_SHARE)] = usual * (1 - reached * sum(gains.values()))
        for style, gain in gains.items():
            styles[style] += reached * gain
        cells = intents[:, None] * styles[None] * self.there
        total = cells.sum(1, keepdims=True)
        cells = cells / np.where(total > 0, total, 1) * intents[:, None]
        if len(self.event) and change.events:
            cells *= 1 - reached * change.events
            cells[self.event[0], Style.EVENT] = reached * change.events
        found: Floats = cells
        return found

    def _season(self, day: dt.date) -> float:
        """How much of a season is there, 0..1: it comes and goes within SEASON_RAMP_DAYS."""
        season = self.calendar.between(day, day)
        if season is None:
            return 0.0
        return min(1.0, ((day - season.first).days + 1) / SEASON_RAMP_DAYS, ((season.last - day).days + 1) / SEASON_RAMP_DAYS)


def _sessions(messages: int, rng: np.random.Generator) -> Ints:
    """Sizes of sessions that together have about `messages` messages."""
    lengths = np.arange(1, len(SESSION_LENGTHS) + 1)
    mean = float((lengths * SESSION_LENGTHS).sum())
    return rng.choice(lengths, max(1, round(messages / mean)), p=SESSION_LENGTHS)


def _moments_of_day(sizes: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """For each message the microsecond of the day, and the number of its session; messages of one session follow each other."""
    hours = rng.choice(24, len(sizes), p=np.array(HOURLY_VOLUME) / sum(HOURLY_VOLUME))
    begun = (hours + rng.random(len(sizes))) * 3.6e9
    session = np.repeat(np.arange(len(sizes)), sizes)
    waited = rng.exponential(BETWEEN_S * 1e6, len(session))
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    waited[first] = 0
    passed = np.cumsum(waited)
    at = begun[session] + passed - passed[first][session]
    return np.minimum(at, 86_400e6 - 1).astype(np.int64), session


def _answered(
    pool: Pool,
    day: dt.date,
    run: str,
    message: Ints,
    sizes: Ints,
    probes: Ints,
    serving: Serving,
    conditions: _Conditions,
    rng: np.random.Generator,
) -> DayOfTraffic:
    """Answers the day's messages and the probes, and lets people react."""
    at, number = _moments_of_day(sizes, rng)
    ids = rng.integers(1, 2**64, len(sizes), dtype=np.uint64)
    in_arm = np.zeros(len(sizes), bool)
    if serving.canary is not None:
        in_arm = np.array([in_canary(f"{s:016x}", serving.canary.digest, serving.canary_share) for s in ids.tolist()])
    n, m = len(message), len(probes)
    message = np.concatenate([message, probes])
    probe = np.arange(n + m) >= n
    at = np.concatenate([at, rng.integers(0, 86_400_000_000, m)])
    session = np.concatenate([ids[number], np.zeros(m, np.uint64)])
    canary = np.concatenate([in_arm[number], np.zeros(m, bool)])
    order = np.lexsort((message, at))
    message, at, session, probe, canary = message[order], at[order], session[order], probe[order], canary[order]

    answers = pool.answers(serving.champion, message, cut=conditions.fault)
    intent, second, route = answers.intent[message], answers.second[message], answers.route[message]
    confidence = answers.confidence[message]
    if serving.canary is not None and canary.any():
        rows = message[canary]
        other = pool.answers(serving.canary, rows)
        intent[canary], second[canary], route[canary] = other.intent[rows], other.second[rows], other.route[rows]
        confidence[canary] = other.confidence[rows]
    n += m
    worse = np.full(n, conditions.worse == "everybody") | (canary & (conditions.worse == "canary"))
    failed = rng.random(n) < np.where(worse, BAD_ERROR_RATE, ERROR_RATE)
    right = (intent == pool.truth[message]) & ~failed
    latency = np.array(LATENCY_MS)[route] * np.exp(rng.normal(0, LATENCY_SPREAD, n))

    disliked = worse | conditions.provider
    asked = pool.truth[message] == (pool.intents.index("escalation") if "escalation" in pool.intents else -1)
    escalates = np.where(failed, ESCALATED_ERROR, np.where(asked, ESCALATED_ASKED, np.where(right, ESCALATED_RIGHT, ESCALATED_WRONG)))
    escalates = np.minimum(1, escalates * np.where(disliked, POOR_ESCALATED, 1.0))
    up = np.where(right, UP_RIGHT, UP_WRONG) * np.where(disliked, POOR_UP, 1.0)
    thumb = np.where((rng.random(n) < THUMB_RATE) & ~probe & ~failed, rng.random(n) < up, -1).astype(np.int64)
    escalated = (rng.random(n) < escalates) & ~probe
    converted = (rng.random(n) < np.where(right, CONVERTED_RIGHT, CONVERTED_WRONG)) & ~probe & ~escalated & ~failed
    spoken = (thumb >= 0) | escalated | converted
    feedback = np.where(spoken, rng.exponential(FEEDBACK_S * 1e6, n), -1).astype(np.int64)
    shadow = pool.answers(serving.shadow, message) if serving.shadow is not None else None
    shadow_latency = np.full(n, np.nan, np.float32)
    if shadow is not None:
        shadow_latency = (np.array(LATENCY_MS)[shadow.route[message]] * np.exp(rng.normal(0, LATENCY_SPREAD, n))).astype(np.float32)
    return DayOfTraffic(
        pool,
        day,
        run,
        message,
        at,
        session,
        probe,
        canary,
        intent,
        second,
        route,
        confidence,
        latency.astype(np.float32),
        failed,
        thumb,
        escalated,
        converted,
        feedback,
        serving.champion.digest,
        None if serving.canary is None else serving.canary.digest,
        shadow,
        shadow_latency,
        GENERATORS[conditions.provider],
    )
