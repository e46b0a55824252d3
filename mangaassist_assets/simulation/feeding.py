"""Traffic for a loop that runs: days are written as fast as they are drawn, and the loop's own sensors find them."""

import datetime as dt
from collections.abc import Callable

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.calendar import read_calendar
from mangaassist_assets.lib.drift.ingestion import digests_of_days
from mangaassist_assets.lib.messages.label_inbox import publish
from mangaassist_assets.lib.messages.queue import FOLDER, Queue
from mangaassist_assets.settings import Settings
from mangaassist_assets.simulation.people import label_queue_items
from mangaassist_assets.simulation.pool import read_pool
from mangaassist_assets.simulation.running import simulate
from mangaassist_assets.simulation.scenarios import scenario_named
from mangaassist_assets.simulation.traffic import DayOfTraffic


def feed(
    settings: Settings,
    scenario: str,
    *,
    days: int,
    per_day: int,
    seed: int,
    start: dt.date | None,
    today: dt.date,
    label: bool,
    told: Callable[[dt.date, int], None],
) -> tuple[int, dt.date]:
    """Writes simulated traffic for a loop that is running; returns how many answers, and the last day.

    Args:
        settings: of this process.
        scenario: name of one of SCENARIOS.
        days: how many.
        per_day: mean number of messages a day.
        seed: of everything drawn.
        start: the first day; None takes the one after the last there is, or begins so that it ends before `today`.
        today: the day it is.
        label: whether simulated annotators label what is open in the queue at the end of each week.
        told: the day that was written and how many answers it has.
    """
    house = House(settings.home, settings.store)
    there = digests_of_days(house.home / "interactions")
    follows = dt.date.fromisoformat(max(there)) + dt.timedelta(days=1) if there else today - dt.timedelta(days=days)
    first, pool = start or follows, read_pool(house, settings.messages.lexica)
    queue = Queue(house.home / FOLDER, settings.labelling)

    def after_day(day: DayOfTraffic, now: dt.datetime) -> None:
        told(day.day, len(day))
        if label and day.day.weekday() == 6:
            label_queue_items(queue, pool.true_intents, at=now, seed=seed)
            publish(house.home, queue.state())

    answers = simulate(
        house,
        pool,
        scenario_named(scenario),
        days=days,
        per_day=per_day,
        seed=seed,
        start=first,
        calendar=read_calendar(settings.calendar),
        canary_share=settings.release.canary_share,
        after_day=after_day,
    )
    return answers, first + dt.timedelta(days=days - 1)
