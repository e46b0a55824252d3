"""The service against a plain typed BentoML endpoint with the same bundle, or against itself without writing interactions, in one run.

    python benchmarks/serve.py [--peer bentoml] [--rounds 4] [--seconds 3] [--bundle DIR]
    python benchmarks/serve.py --peer silent

Both run under `bentoml serve`, one worker each, on loopback, in houses of their own; the load generator shares their cores. Rounds go own,
peer, peer, own; a ratio is the median over pairs of neighbours. Texts are the test split of the house's labelled messages. What writing
costs is also given in processor time a request, of the whole service with all its threads, which other work on the machine disturbs least.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from mangaassist_assets import settings
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.serving import newest_classifier

ROOT = Path(__file__).resolve().parent.parent
OWN = "bento.service:MangaAssist"
PEERS = {  # target, variables
    "bentoml": ("benchmarks.serve_plain:Plain", {}),
    "silent": (OWN, {"MANGAASSIST_SERVICE__INTERACTIONS": "false"}),
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def served(target, bundle, scratch, variables):
    """Port and process of a `bentoml serve` of the target, ready to answer; its log is shown where it never is."""
    port = free_port()
    home = Path(scratch, f"house-{port}")
    home.mkdir()
    env = os.environ | {
        "MANGAASSIST_BUNDLE": str(bundle),
        "MANGAASSIST_HOME": str(home),
        "BENTOML_HOME": str(Path(scratch, f"bentoml-{port}")),
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    log = Path(scratch, f"{port}.log")
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=stream, start_new_session=True)
    try:
        for _ in range(240):
            time.sleep(0.5)
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).read()
                break
        else:
            raise SystemExit(f"{target} was not ready within two minutes:\n{log.read_text()[-2000:]}")
        yield port, psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def processor_s(process):
    """User and system seconds of a service with all its processes."""
    return sum(sum(member.cpu_times()[:2]) for member in (process, *process.children(recursive=True)))


def load(port, kind, bodies, seconds, **options):
    command = [sys.executable, str(ROOT / "benchmarks/load.py"), str(port), kind, str(bodies), "--seconds", str(seconds)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def routes(port, texts):
    """The texts by the part of the cascade that answers them."""
    found = {"rules": [], "student": [], "classifier": []}
    for i in range(0, len(texts), 64):
        body = json.dumps({"texts": texts[i : i + 64]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/classify", body, {"content-type": "application/json"})
        answers = json.load(urllib.request.urlopen(request, timeout=60))["results"]
        for text, answer in zip(texts[i : i + 64], answers, strict=True):
            found[answer["route"]].append(text)
    return found


def inside(port):
    """Requests counted by the service's own clock: within a millisecond, and in all."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    pick = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if not line.startswith("#")}
    return pick['mangaassist_classify_seconds_bucket{le="0.001"}'], pick["mangaassist_classify_seconds_count"]


def messages(house, limit=1500):
    table = house.read_table("messages/labeled_messages")
    return [text for text, split in zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True) if split == "test"][:limit]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=list(PEERS), default="bentoml")
    parser.add_argument("--rounds", type=int, default=4, help="pairs of an own and a peer round")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--bundle", type=Path, help="folder of an intent classifier; the newest of the house by default")
    parser.add_argument("--texts", type=Path, help="JSON list of texts; the test split of the house by default")
    a = parser.parse_args()
    house = House(settings.current().home)
    bundle = a.bundle or house.bundles / f"sha256-{newest_classifier(house.bundles)}"
    texts = json.loads(a.texts.read_text()) if a.texts else messages(house)

    with (
        tempfile.TemporaryDirectory() as scratch,
        served(OWN, bundle, scratch, {}) as (own, own_process),
        served(PEERS[a.peer][0], bundle, scratch, PEERS[a.peer][1]) as (peer, peer_process),
    ):
        processes = {own: own_process, peer: peer_process}
        by_route = routes(own, texts)

        def bodies(name, lists):
            path = Path(scratch, f"{name}.json")
            path.write_text(json.dumps(lists))
            return path

        mixed = bodies("mixed", [[t] for t in texts])
        rules = bodies("rules", [[t] for t in by_route["rules"]])
        sixty_four = bodies("sixty_four", [texts[i : i + 64] for i in range(0, len(texts) - 63, 64)])
        for port in (own, peer):
            load(port, "closed", mixed, 1)

        rows = {}

        def compare(name, measure, kind, path, **options):
            pairs = []
            for r in range(a.rounds):
                got = {}
                for port in (own, peer) if r % 2 == 0 else (peer, own):
                    before = processor_s(processes[port])
                    got[port] = load(port, kind, path, a.seconds, **options)
                    got[port]["processor_us"] = (processor_s(processes[port]) - before) / got[port]["answers"] * 1e6
                pairs.append((got[own], got[peer]))
            rows[name] = [pairs, measure]

        compare("one text, mixed traffic, 8 connections", "per_s", "closed", mixed, connections=8)
        if by_route["rules"]:
            compare("one text, rules only, 8 connections", "per_s", "closed", rules, connections=8)
            compare("one text, rules only, 1 connection", "p99_ms", "closed", rules, connections=1)
        compare("one text, mixed traffic, 200/s", "p99_ms", "open", mixed, rate=200)
        compare("64 texts a request, 2 connections", "per_s", "closed", sixty_four, connections=2)

        before = inside(own)
        if by_route["rules"]:
            load(own, "closed", rules, a.seconds, connections=1)
        within, asked = (after - old for after, old in zip(inside(own), before, strict=True))

    share = {k: len(v) / len(texts) for k, v in by_route.items()}
    cpu = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    print(f"{cpu}, {len(os.sched_getaffinity(0))} cores, client included; bundle {bundle.name[7:19]}")
    print(f"{len(texts)} texts: " + ", ".join(f"{v:.0%} {k}" for k, v in share.items()))
    print(f"{'':42} {'own':>10} {a.peer:>10} {'ratio':>8}   errors")
    for name, (pairs, measure) in rows.items():
        mine, theirs = ([p[i][measure] for p in pairs] for i in (0, 1))
        ratio = statistics.median(m / t if measure == "per_s" else t / m for m, t in zip(mine, theirs, strict=True))
        errors = "/".join(str(sum(p[i]["errors"] for p in pairs)) for i in (0, 1))
        scale, unit = (64, "messages/s") if name.startswith("64") else (1, "requests/s" if measure == "per_s" else "ms P99")
        print(
            f"{name:42} {statistics.median(mine) * scale:10.2f} {statistics.median(theirs) * scale:10.2f} {ratio:7.1f}x   {errors:8} {unit}"
        )
    if a.peer == "silent":
        for name, (pairs, _) in rows.items():
            mine, theirs = (statistics.median(p[i]["processor_us"] for p in pairs) for i in (0, 1))
            cost = statistics.median(p[0]["processor_us"] / p[1]["processor_us"] for p in pairs) - 1
            print(f"{name:42} {mine:10.1f} {theirs:10.1f} {cost:+8.1%}   processor microseconds a request")
    print(
        f"rules, one connection, the service's own clock: {within:.0f} of {asked:.0f} requests within 1 ms ({within / max(asked, 1):.2%})"
    )


if __name__ == "__main__":
    main()
