"""Feeds an installation with simulated traffic, day by day, and lets a caller turn the loop after each day."""

import datetime as dt
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.calendar import Calendar
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.release import log
from mangaassist_assets.lib.release.log import Stage
from mangaassist_assets.lib.serving import CLASSIFIER, newest_classifier
from mangaassist_assets.simulation.pool import Model, Pool
from mangaassist_assets.simulation.records import write_segments
from mangaassist_assets.simulation.scenarios import Scenario
from mangaassist_assets.simulation.traffic import NO_SEASONS, DayOfTraffic, Serving, traffic


@dataclass
class Releases:
    """Who answers by the release log of an installation, as its service would see it; bundles are loaded once.

    Attributes:
        house: the installation.
        canary_share: of sessions.
        load: opens the model of a bundle by digest.
    """

    house: House
    canary_share: float
    load: Callable[[str], Model]
    _loaded: dict[str, Model] = field(default_factory=dict)

    def __call__(self, day: dt.date) -> Serving:
        """Champion, or the newest classifier where none was released; canary and shadow where the log has one.

        Raises:
            MissingEvidence: there is no classifier.
        """
        state = log.current(self.house.home / "releases")
        champion = state.champion or newest_classifier(self.house.bundles)
        if champion is None:
            raise MissingEvidence(f"{self.house.bundles} holds no intent classifier. Run `mangaassist run` first.")
        canary, shadow = (next(iter(state.at_stage(stage)), None) for stage in (Stage.CANARY, Stage.SHADOW))
        return Serving(
            self._model(champion),
            None if canary is None else self._model(canary),
            None if shadow is None else self._model(shadow),
            self.canary_share,
        )

    def _model(self, digest: str) -> Model:
        if digest not in self._loaded:
            self._loaded[digest] = self.load(digest)
        return self._loaded[digest]


def load_cascade(house: House) -> Callable[[str], Model]:
    """Opens cascades of an installation by digest, on the CPU."""
    from mangaassist_assets.lib.intents.cascade import Cascade

    return lambda digest: Cascade.load(house.bundle(digest, CLASSIFIER), threads=0)


def simulate(
    house: House,
    pool: Pool,
    scenario: Scenario,
    *,
    days: int,
    per_day: int,
    seed: int,
    start: dt.date,
    calendar: Calendar = NO_SEASONS,
    canary_share: float = 0.01,
    load: Callable[[str], Model] | None = None,
    done: Container[str] = (),
    after_day: Callable[[DayOfTraffic, dt.datetime], None] = lambda day, now: None,
) -> int:
    """Writes the segments of one day after another into `interactions/` of the installation; returns how many answers.

    Who answers is read from the release log at the beginning of each simulated day, so that what `after_day` releases serves the next.

    Args:
        house: the installation.
        pool: of messages, from `read_pool`.
        scenario: what changes; see `SCENARIOS`.
        days: how many.
        per_day: mean number of messages a day.
        seed: of everything drawn.
        start: the first day.
        calendar: when seasons are.
        canary_share: of sessions that a canary answers.
        load: opens a model by digest; cascades of the installation by default.
        done: days, as YYYY-MM-DD, that were written before and are passed over.
        after_day: called with the day and the simulated time, midnight after it, once its segments are there.

    Raises:
        MissingEvidence: there is no classifier to answer with.
    """
    serving = Releases(house, canary_share, load or load_cascade(house))
    answers = 0
    for day in traffic(pool, scenario, days=days, per_day=per_day, seed=seed, start=start, serving=serving, calendar=calendar):
        if day.day.isoformat() in done:
            continue
        write_segments(house.home / "interactions", day)
        answers += len(day)
        after_day(day, midnight_after(day.day))
    return answers


def midnight_after(day: dt.date) -> dt.datetime:
    """The aware time at which a UTC day is over."""
    return dt.datetime.combine(day + dt.timedelta(1), dt.time(), dt.UTC)
