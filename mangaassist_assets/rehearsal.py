"""Months of simulated traffic through the real graph: what the loop does, seen before there are any shoppers.

The traffic is simulated, and so are the people: one opens the shop with the small model, sends the better one into shadow, and makes it
champion when the canary has been watched. Everything else is what runs in production: segments, the graph's own runs, gates, reports. Runs
are told the simulated time. A rehearsal that was killed goes on at the day it had not finished.
"""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from mangaassist_assets.defs.intents.classifier import cascade_around
from mangaassist_assets.lib.artifacts import House, write_atomic
from mangaassist_assets.lib.drift.calendar import read_calendar
from mangaassist_assets.lib.drift.ingestion import digests_of_days
from mangaassist_assets.lib.release.approvals import approve
from mangaassist_assets.lib.release.log import ReleaseLog, Stage
from mangaassist_assets.outside import look
from mangaassist_assets.runs import Progress, Target, bring_up_to_date
from mangaassist_assets.settings import Settings
from mangaassist_assets.simulation.pool import read_pool
from mangaassist_assets.simulation.running import midnight_after, simulate
from mangaassist_assets.simulation.scenarios import scenario_named
from mangaassist_assets.simulation.settings import SimulationSettings
from mangaassist_assets.simulation.traffic import DayOfTraffic

BY = "simulation"
SHADOW_ON, CANARY_BY, WATCHED_BY, APPROVED_ON = 7, 15, 18, 22  # days: a week in shadow, some in canary, then a person's word
WHY_SHADOW = "it answers more held-out messages right than what serves; a week in shadow will tell"
WHY_CHAMPION = "the canary has too few sessions to decide, and nothing speaks against it"
SMALL = "linear"  # the candidate that opens the shop

Show = Callable[[Progress], None]


@dataclass(frozen=True)
class Plan:
    """One rehearsal, as it is kept in the home: what, and from which day."""

    scenario: str
    days: int
    per_day: int
    seed: int
    start: str

    @property
    def first(self) -> dt.datetime:
        """The midnight with which it begins."""
        return dt.datetime.combine(dt.date.fromisoformat(self.start), dt.time(), dt.UTC)

    @property
    def last_day(self) -> str:
        return (self.first.date() + dt.timedelta(days=self.days - 1)).isoformat()


def planned(home: Path, wanted: SimulationSettings, today: dt.date) -> Plan | None:
    """The rehearsal that this home owes: the one that was begun, or a new one that ends before `today` where there is no traffic at all.

    None where none is wanted, it is done, or real traffic is there.
    """
    note, there = home / "interactions" / "rehearsal.json", digests_of_days(home / "interactions")
    if note.exists():
        plan = Plan(**json.loads(note.read_text("utf-8")))
        return None if plan.last_day in there else plan
    if not wanted.days or there:
        return None
    first = today - dt.timedelta(days=wanted.days)
    plan = Plan(wanted.scenario, wanted.days, wanted.per_day, wanted.seed, (first - dt.timedelta(days=first.weekday())).isoformat())
    write_atomic(note, json.dumps(asdict(plan)).encode())
    return plan


def rehearse(definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, plan: Plan, show: Show) -> None:
    """Lives through the days of a plan that are not over yet.

    Args:
        definitions: the graph, up to date, so that there is a classifier.
        instance: where runs are recorded.
        settings: of this process.
        plan: which days.
        show: told of everything that is built.
    """
    house = House(settings.home, settings.store)
    release = house.read_table("release/release_candidate")["release"][0].as_py()
    log = ReleaseLog(house.home / "releases")
    if log.state().champion is None:
        _open_shop(house, log, plan.first)

    def turn(clock: dt.datetime) -> None:
        look(settings, instance)
        for event in bring_up_to_date(definitions, instance, clock=clock):
            show(event)

    def after_day(day: DayOfTraffic, now: dt.datetime) -> None:
        number, stage = (day.day - plan.first.date()).days, log.state().stage(release)
        if number == SHADOW_ON and stage in (Stage.HELD, Stage.REJECTED, Stage.CANDIDATE):
            approve(
                house,
                release,
                by=BY,
                why=WHY_SHADOW,
                at=now,
                rules=settings.release,
            )
        elif number in (CANARY_BY, WATCHED_BY) and stage in (Stage.SHADOW, Stage.CANARY):
            turn(now)
        elif number == APPROVED_ON and stage in (Stage.CANARY, Stage.HELD):
            approve(
                house,
                release,
                by=BY,
                why=WHY_CHAMPION,
                at=now,
                rules=settings.release,
            )

    target = Target("simulated traffic", f"{plan.start} to {plan.last_day}")
    show(Progress(target, "started"))
    simulate(
        house,
        read_pool(house, settings.messages.lexica),
        scenario_named(plan.scenario),
        days=plan.days,
        per_day=plan.per_day,
        seed=plan.seed,
        start=plan.first.date(),
        calendar=read_calendar(settings.calendar),
        canary_share=settings.release.canary_share,
        done=digests_of_days(house.home / "interactions"),
        after_day=after_day,
    )
    show(Progress(target, "built"))
    turn(midnight_after(dt.date.fromisoformat(plan.last_day)))


def _open_shop(house: House, log: ReleaseLog, now: dt.datetime) -> None:
    """The small model serves first, because somebody decides so: the gates are not asked. It is as fast as a student would be."""
    bundle = cascade_around(house, SMALL, with_student=False)
    version = log.state().version
    for stage, reason in ((Stage.CANDIDATE, "the small model, for the shop to open with"), (Stage.HELD, "no gate was asked")):
        version = log.transition(version, bundle.digest, stage, by=BY, at=now, verdict=None, reason=reason).version
    log.approve(bundle.digest, by=BY, at=now, why="the shop opens")
