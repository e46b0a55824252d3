"""What retraining on queued labels gives back after the traffic has changed: through the real graph, seen in `production_accuracy`.

    python benchmarks/retraining.py --home HOME [--scenario slang_shift] [--per-day 1_000] [--seed 1] [--candidates rules,linear]

HOME is new: the graph is built in it on the bundled sample, and 15 weeks of simulated traffic go through it. From day 45 the scenario
changes it. The champion of the first ten weeks knows nothing of that. After them simulated annotators label what the queue holds, by
default 200 texts a week, 2% of labels wrong; the graph reads the labels, augments, trains, evaluates; a person makes the new release
champion whatever the gates say, as the question here is what labels give. Five more weeks follow, and their control slice is labelled
too.

Of each week the table has the accuracy on the labelled control slice with its interval, as `production_accuracy` says, and the share of
all of the week's answers that were right, which only the simulation knows. "before" is the last four whole weeks before the change,
"changed" those between its completion and the retrain, "after" the last four. Exit status 1 where "after" is more than a point below
"before" by the simulation's knowledge.
"""

import argparse
import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

WEEKS, RETRAIN_AFTER = 15, 10
CHANGED_FULLY = 63  # days, from which whole weeks have all of the change
START = dt.date(2026, 6, 1)  # a Monday; no season of the bundled calendar until autumn is over


def rehearse(args: argparse.Namespace) -> int:
    """In a process whose settings are those of `main`."""
    import numpy as np

    from mangaassist_assets import runs
    from mangaassist_assets.definitions import definitions
    from mangaassist_assets.lib.artifacts import House
    from mangaassist_assets.lib.messages.label_inbox import publish
    from mangaassist_assets.lib.messages.queue import FOLDER, Queue
    from mangaassist_assets.lib.metrics.report import as_markdown
    from mangaassist_assets.lib.release.log import ReleaseLog, Stage
    from mangaassist_assets.lib.statistics import proportion
    from mangaassist_assets.outside import look
    from mangaassist_assets.settings import current
    from mangaassist_assets.simulation.people import label_queue_items
    from mangaassist_assets.simulation.pool import read_pool
    from mangaassist_assets.simulation.running import midnight_after, simulate
    from mangaassist_assets.simulation.scenarios import scenario_named
    from mangaassist_assets.simulation.traffic import DayOfTraffic

    settings = current()
    house = House(settings.home)
    graph, log = definitions(), ReleaseLog(house.home / "releases")
    queue = Queue(house.home / FOLDER, settings.labelling)
    right, answers = np.zeros(WEEKS), np.zeros(WEEKS)

    with runs.only_run(settings.home), runs.open_instance(settings.home) as instance:

        def turn(now: dt.datetime) -> None:
            look(settings, instance)
            failed = [event for event in runs.bring_up_to_date(graph, instance, clock=now) if event.state == "failed"]
            if failed:
                sys.exit("\n".join(f"{event.target}: {event.message}" for event in failed))

        def make_champion(now: dt.datetime) -> None:
            release, state = house.read_table("release/release_candidate")["release"][0].as_py(), log.state()
            if release == state.champion:
                return
            if release not in state.releases:
                log.transition(state.version, release, Stage.CANDIDATE, by="benchmark", at=now, verdict=None, reason="trained")
                log.transition(log.state().version, release, Stage.HELD, by="benchmark", at=now, verdict=None, reason="not asked")
            while log.state().champion != release:  # a step each: shadow, canary, champion
                log.approve(release, by="benchmark", at=now, why="what labels give is the question")

        def label(now: dt.datetime) -> int:
            entered = label_queue_items(queue, pool.true_intents, at=now, seed=args.seed)
            publish(house.home, queue.state())
            return entered

        def after_day(day: DayOfTraffic, now: dt.datetime) -> None:
            number = (day.day - START).days
            shown = ~day.probe
            right[number // 7] += day.right[shown].sum()
            answers[number // 7] += shown.sum()
            if number == RETRAIN_AFTER * 7 - 1:
                turn(now)
                print(f"{day.day}: {label(now):,} labels entered", flush=True)
                turn(now)
                make_champion(now)

        begins = dt.datetime.combine(START, dt.time(), dt.UTC)
        turn(begins)
        make_champion(begins)
        pool = read_pool(house, settings.messages.lexica)
        simulate(
            house, pool, scenario_named(args.scenario), days=WEEKS * 7, per_day=args.per_day, seed=args.seed, start=START,
            after_day=after_day,
        )  # fmt: skip
        end = midnight_after(START + dt.timedelta(days=WEEKS * 7 - 1))
        turn(end)
        label(end)
        look(settings, instance)
        for name in ("label_queue", "production_accuracy"):  # and no more: nothing is to be trained on the last labels
            for event in runs.execute(graph, instance, [runs.Target(name)], clock=end):
                if event.state == "failed":
                    sys.exit(f"{event.target}: {event.message}")

    by_week = {}
    for row in house.read_table("messages/production_accuracy").to_pylist():
        by_week.setdefault(row["week"], []).append(row)
    rows, periods = [], {"before": range(2, 6), "changed": range(CHANGED_FULLY // 7, RETRAIN_AFTER), "after": range(WEEKS - 4, WEEKS)}
    for week in range(WEEKS):
        monday = START + dt.timedelta(days=7 * week)
        measured = " ".join(f"{r['accuracy']:.3f} [{r['ci_low']:.3f}, {r['ci_high']:.3f}] n={r['n']}" for r in by_week.get(monday, []))
        period = next((name for name, weeks in periods.items() if week in weeks), "")
        rows.append((str(monday), period, measured or "no label", f"{right[week] / answers[week]:.3f}", f"{int(answers[week]):,}"))
    print(as_markdown(("week", "", "production_accuracy", "right, of all answers", "answers"), rows))
    found = {}
    for name, weeks in periods.items():
        each = proportion(int(right[list(weeks)].sum()), int(answers[list(weeks)].sum()))
        found[name] = each.value
        control = [r for week in weeks for r in by_week.get(START + dt.timedelta(days=7 * week), [])]
        n = sum(r["n"] for r in control)
        hits = sum(r["accuracy"] * r["n"] for r in control)
        slice_of = proportion(round(hits), n)
        words = f"control slice {slice_of.value:.3f} [{slice_of.ci_low:.3f}, {slice_of.ci_high:.3f}], n = {n:,}"
        print(f"{name:8} {each.value:.3f} [{each.ci_low:.3f}, {each.ci_high:.3f}] of all answers; {words}")
    return 0 if found["after"] >= found["before"] - 0.01 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--scenario", default="slang_shift")
    parser.add_argument("--per-day", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--candidates", default="rules,linear", help="what is trained, with commas between")
    args = parser.parse_args()
    wanted = {
        "MANGAASSIST_HOME": str(args.home.resolve()),
        "MANGAASSIST_INTENTS__CANDIDATES": str(args.candidates.split(",")).replace("'", '"'),
        "MANGAASSIST_INTENTS__BENCHMARK": "{ seconds = 0.5, max_seconds = 0.5, repeats = 2 }",
        "MANGAASSIST_SIMULATION__DAYS": "0",
    }
    if any(os.environ.get(name) != value for name, value in wanted.items()):  # settings are read once, when the graph is loaded
        return subprocess.run([sys.executable, *sys.argv], env=os.environ | wanted).returncode
    if (args.home / "interactions").exists():
        sys.exit(f"{args.home} has traffic already. Name a folder that is not there yet.")
    return rehearse(args)


if __name__ == "__main__":
    sys.exit(main())
