"""New pairs dropped into a folder while shoppers search: the adapter is trained, the index swaps, the service takes it up.

    python benchmarks/live_retrieval.py --home HOME [--minutes 10] [--seed 1]

HOME is a copy of one that `mangaassist run` has built on the bundled sample; it is changed. Its queries are read from a folder beside the
bundled ones. `mangaassist ui`, which brings the daemon, and `mangaassist serve` are started; four clients ask `/v1/retrieve` without pause.
After a minute a file with new queries falls into the folder: nicknames that nothing in the catalogue explains. From there on sensors and
automation conditions do the rest.

Exit status 0 where the running service answers with another index, no request failed, and more of the nicknames find their series first.
"""

import argparse
import asyncio
import gzip
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
from live import SERVE, Processes, bring_up_to_date, say

DATA = Path(__file__).parents[1] / "data"
WORDS = "quiet crooked velvet seventh hollow salted paper thunder lantern copper winter borrowed tangled mirror orchard gravel".split()
THINGS = "tale road boys garden knife oath diary river gang picnic crown ledger promise choir summer engine".split()


def nicknames(rng: random.Random, n: int) -> dict[str, str]:
    """Nickname -> series that it shall find."""
    with gzip.open(DATA / "catalog" / "series.jsonl.gz", "rt", encoding="utf-8") as lines:
        series = sorted(json.loads(line)["series_id"] for line in lines)
    names = [f"the {word} {thing}" for word in WORDS for thing in THINGS]
    return dict(zip(rng.sample(names, n), rng.sample(series, n), strict=True))


class Searchers:
    """Clients that search without pause."""

    def __init__(self, queries: list[str], seed: int) -> None:
        self.queries, self.rng = queries, random.Random(seed)
        self.outcomes, self.indexes = Counter(), Counter()
        self.latency_ms: list[float] = []
        self.done = False

    async def search(self) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{SERVE}", timeout=15) as client:
            while not self.done:
                began = time.perf_counter()
                try:
                    reply = await client.post("/v1/retrieve", json={"query": self.rng.choice(self.queries), "k": 3})
                    outcome = "answered" if reply.status_code == 200 else f"failed: {reply.status_code}"
                except httpx.HTTPError as error:
                    outcome = f"failed: {type(error).__name__}"
                self.outcomes[outcome] += 1
                if outcome == "answered":
                    self.latency_ms.append((time.perf_counter() - began) * 1e3)
                    self.indexes[reply.json()["index"]] += 1
                await asyncio.sleep(0.1)


def first_found(names: dict[str, str]) -> int:
    """How many nicknames find their series first."""
    found = 0
    with httpx.Client(base_url=f"http://127.0.0.1:{SERVE}", timeout=15) as client:
        for name, series in names.items():
            results = client.post("/v1/retrieve", json={"query": name, "k": 1}).json()["results"]
            found += bool(results) and results[0]["document_id"] == series
    return found


async def live(args: argparse.Namespace) -> int:
    began, home, rng = time.monotonic(), args.home.resolve(), random.Random(args.seed)
    dropped = home / "queries"
    dropped.mkdir(exist_ok=True)
    names = nicknames(rng, 60)
    files = [DATA / "retrieval" / f"{name}.jsonl.gz" for name in ("queries", "general")]
    bundled = [json.loads(line) for file in files for line in gzip.open(file, "rt", encoding="utf-8")]
    (dropped / "bundled.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bundled), "utf-8")
    config = home / "live.toml"
    config.write_text('[sources.retrieval_pairs]\nname = "dropped"\npaths = ["queries/*.jsonl"]\nlicence = "own"\n')
    settings = {"MANGAASSIST_CONFIG": str(config)}
    bring_up_to_date(home, settings)
    say(began, "the graph is up to date with the bundled queries read from the folder")
    processes = Processes(home, settings)
    processes.keep_up()
    searchers = Searchers([row["query"] for row in bundled], args.seed)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{SERVE}", timeout=15) as client:
        for _ in range(240):
            await asyncio.sleep(0.5)
            try:
                if (await client.get("/readyz")).status_code == 200:
                    break
            except httpx.HTTPError:
                continue
    before = await asyncio.to_thread(first_found, names)
    searching = [asyncio.create_task(searchers.search()) for _ in range(4)]
    try:
        await asyncio.sleep(60)
        [old] = searchers.indexes
        say(began, f"index {old[:12]} answers; {before} of {len(names)} nicknames find their series first. Now the file falls in")
        lines = [
            {"query_id": f"nick-{i}-{form}", "query": text, "relevant": [series], "split": "train"}
            for i, (name, series) in enumerate(names.items())
            for form, text in enumerate((name, f"have you got {name}", f"{name} volume 1"))
        ]
        beside = dropped / ".nicknames.tmp"
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        beside.rename(dropped / "nicknames.jsonl")
        fell = time.monotonic()
        while time.monotonic() - began < args.minutes * 60 and len(searchers.indexes) < 2:
            await asyncio.sleep(1)
        say(began, f"{len(searchers.indexes)} indexes have answered, {time.monotonic() - fell:.0f} s after the file came")
        await asyncio.sleep(20)
        searchers.done = True
        await asyncio.gather(*searching)
        after = await asyncio.to_thread(first_found, names)
    finally:
        processes.stop()
    failures = {name: n for name, n in searchers.outcomes.items() if name != "answered"}
    ordered = sorted(searchers.latency_ms)
    say(
        began,
        f"requests {dict(searchers.outcomes)}; P50 {ordered[len(ordered) // 2]:.1f} ms, P99 {ordered[len(ordered) * 99 // 100]:.1f} ms",
    )
    say(began, f"answers by index { ({digest[:12]: n for digest, n in searchers.indexes.items()}) }")
    say(began, f"nicknames that find their series first: {before} before, {after} after, of {len(names)}")
    return 0 if len(searchers.indexes) == 2 and not failures and after > before else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    return asyncio.run(live(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
