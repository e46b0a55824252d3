"""The whole loop with real processes and a compressed clock: shoppers, service, sensors, annotators, a person who approves.

    python benchmarks/live_loop.py --home HOME [--minutes 25] [--kills 3] [--seed 1]

HOME is new, or was left by this file: the graph is built in it on the bundled sample with candidates that train in seconds, and
rehearsed, so that a champion serves and its label queue waits to be labelled. That takes some minutes, which do not count. Then
`mangaassist ui`, which brings the daemon, and `mangaassist serve` are started. A client asks the service without pause, in sessions, and
gives feedback that depends on whether the answer was right. After a minute simulated annotators label the queue; from there on the
sensors do the rest: labels, retrain, gates, shadow, canary. A person approves whatever waits for one. Meanwhile service, daemon or a run
is killed with SIGKILL, --kills times, at random; what ended is started again.

Exit status 0 where the new release serves in the running service, exactly one champion stands in a log that folds, nothing was promoted
twice, every answer that a client received is in `interactions`, and no request failed but those that a killed service left.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
from live import SERVE, Processes, bring_up_to_date, say, seconds_of

FAST = {
    "MANGAASSIST_INTENTS__CANDIDATES": '["rules", "linear"]',
    "MANGAASSIST_INTENTS__BENCHMARK": "{ seconds = 0.5, max_seconds = 0.5, repeats = 2 }",
    "MANGAASSIST_RELEASE__SHADOW_DAYS": "0.0005",
    "MANGAASSIST_RELEASE__SHADOW_SESSIONS": "100",
    "MANGAASSIST_RELEASE__CANARY_HOURS": "0.01",
    "MANGAASSIST_RELEASE__CANARY_SESSIONS": "100",
    "MANGAASSIST_RELEASE__CANARY_SHARE": "0.5",
    "MANGAASSIST_RELEASE__ESCALATION": "0.15",  # margins as compressed as the clock: minutes have too few sessions for points
    "MANGAASSIST_RELEASE__THUMBS_UP": "0.15",
    "MANGAASSIST_INGESTION__EVERY_S": "30",
    "MANGAASSIST_SERVICE__JOURNAL": "{ seal_s = 5.0 }",
}


class Shoppers:
    """Sessions that ask the service without pause."""

    def __init__(self, truth: dict[str, str], seed: int) -> None:
        self.truth, self.texts, self.rng = truth, sorted(truth), random.Random(seed)
        self.acknowledged: list[str] = []
        self.outcomes, self.arms = Counter(), Counter()
        self.unreachable_until = 0.0
        self.done = False

    async def shop(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{SERVE}", timeout=15) as client:
            while not self.done:
                session = f"shopper-{number}-{self.rng.random()}"
                for _ in range(self.rng.randint(1, 3)):
                    await self._ask(client, session)
                    await asyncio.sleep(0.15)

    async def _ask(self, client: httpx.AsyncClient, session: str) -> None:
        text = self.rng.choice(self.texts)
        try:
            reply = await client.post("/v1/classify", json={"texts": [text], "session_id": session})
        except httpx.HTTPError as error:
            self.outcomes["away" if time.monotonic() < self.unreachable_until else f"failed: {type(error).__name__}"] += 1
            await asyncio.sleep(0.5)
            return
        if reply.status_code != 200:
            self.outcomes["away" if time.monotonic() < self.unreachable_until else f"failed: {reply.status_code}"] += 1
            return
        self.outcomes["answered"] += 1
        [answer] = reply.json()["results"]
        self.acknowledged.append(answer["request_id"])
        right = answer["intent"] == self.truth[text]
        if self.rng.random() < 0.5:
            said = {"request_id": answer["request_id"], "thumbs_up": self.rng.random() < (0.85 if right else 0.3), "escalated": False}
            with contextlib.suppress(httpx.HTTPError):
                await client.post("/v1/feedback", json=said)


async def live(args: argparse.Namespace) -> int:
    import datetime as dt

    from mangaassist_assets.lib.artifacts import House
    from mangaassist_assets.lib.messages.label_inbox import publish
    from mangaassist_assets.lib.messages.queue import FOLDER, Labelling, Queue
    from mangaassist_assets.lib.release.approvals import approve
    from mangaassist_assets.lib.release.log import Stage, current
    from mangaassist_assets.lib.release.rules import ReleaseRules
    from mangaassist_assets.simulation.people import label_queue_items
    from mangaassist_assets.simulation.pool import read_pool

    rng, home = random.Random(args.seed), args.home.resolve()
    house, releases = House(home), home / "releases"
    settling_s = seconds_of(bring_up_to_date(home, FAST))
    began = time.monotonic()
    say(began, f"the graph is up to date after {settling_s:.0f} s; minutes count from here")
    known = set(current(releases).releases)
    pool = read_pool(house, Path(__file__).parents[1] / "data" / "lexica")
    truth = {text: first for text, (first, _) in pool.true_intents.items()}
    processes, shoppers = Processes(home, FAST), Shoppers(truth, args.seed)
    processes.keep_up()
    shoppers.unreachable_until = time.monotonic() + 60
    asking = [asyncio.create_task(shoppers.shop(number)) for number in range(4)]
    labelled, stages, killed = False, dict[str, Stage](), 0
    kill_at = sorted(rng.uniform(150, args.minutes * 60 * 0.6) for _ in range(args.kills))
    served = None
    try:
        while time.monotonic() - began < args.minutes * 60:
            await asyncio.sleep(2)
            processes.keep_up()
            state, now = current(releases), dt.datetime.now(dt.UTC)
            if not labelled and time.monotonic() - began > 60:
                queue = Queue(home / FOLDER, Labelling())
                n = label_queue_items(queue, pool.true_intents, at=now, seed=args.seed)
                publish(home, queue.state())
                labelled = True
                say(began, f"annotators entered {n} labels")
            for release, change in state.releases.items():
                if stages.get(release) != change.to_state:
                    stages[release] = change.to_state
                    say(began, f"{release[:12]} is {change.to_state}: {change.by}, {change.reason[:100]}")
            new = [r for r in state.releases if r not in known]
            waiting = [r for r in new if state.stage(r) in (Stage.HELD, Stage.REJECTED) and state.releases[r].action != "approve"]
            for release in waiting:
                approve(house, release, by="live loop", why="the loop is what is tried here", at=now, rules=ReleaseRules())
            if kill_at and time.monotonic() - began > kill_at[0]:
                kill_at.pop(0)
                shoppers.unreachable_until = time.monotonic() + 45
                say(began, f"killed {processes.kill_one(rng)}")
                killed += 1
            if state.champion in new:
                with contextlib.suppress(httpx.HTTPError):
                    served = httpx.get(f"http://127.0.0.1:{SERVE}/v1/model", timeout=5).json()["champion"]
                if served == state.champion and not kill_at:
                    say(began, f"the running service answers with {served[:12]}")
                    break
        await asyncio.sleep(10)
        shoppers.done = True
        await asyncio.gather(*asking)
    finally:
        processes.stop()
    bring_up_to_date(home, FAST)
    days = house.partitions("drift/interactions")[-3:]
    stored = Counter(name for day in days for name in house.read_table("drift/interactions", partition=day)["request_id"].to_pylist())
    lost = [name for name in shoppers.acknowledged if not stored[name]]
    twice = [name for name in shoppers.acknowledged if stored[name] > 1]
    state = current(releases)
    promotions = Counter(change.release for change in state.history if change.to_state is Stage.CHAMPION and change.release not in known)
    failures = {name: n for name, n in shoppers.outcomes.items() if name.startswith("failed")}
    say(began, f"{len(shoppers.acknowledged):,} answers, {len(lost)} lost, {len(twice)} stored twice; kills {killed}")
    say(began, f"requests {dict(shoppers.outcomes)}")
    say(began, f"champions {len(state.at_stage(Stage.CHAMPION))}, new ones {dict(promotions)}, served {served and served[:12]}")
    once = len(state.at_stage(Stage.CHAMPION)) == 1 and max(promotions.values(), default=0) == 1
    fine = once and not lost and not twice and not failures
    return 0 if fine and served == state.champion else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    return asyncio.run(live(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
