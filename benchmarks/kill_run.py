"""Kills `mangaassist run` at random moments, then lets one finish: it must heal, and nothing torn may be left.

    python benchmarks/kill_run.py [--kills 20] [--seed 1] [--config mangaassist.toml] [--within SECONDS]

Without --config it is the bundled sample with the candidates that train in seconds. Exit status 0 where the next run succeeds, the one
after it has nothing to do, every table reads, every bundle verifies and no temporary file is left.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from mangaassist_assets.lib.artifacts import open_bundle

RUN = [sys.executable, "-m", "mangaassist_assets.cli", "run", "--json"]


FAST = {
    "MANGAASSIST_INTENTS__CANDIDATES": '["rules", "linear"]',
    "MANGAASSIST_INTENTS__BENCHMARK": "{ seconds = 0.5, max_seconds = 0.5, repeats = 2 }",
}


def start(folder: Path, config: Path | None, home: Path) -> subprocess.Popen:
    told = {"MANGAASSIST_CONFIG": str(config.resolve())} if config else FAST
    environment = os.environ | told | {"MANGAASSIST_HOME": str(home)}
    pipe = subprocess.PIPE
    return subprocess.Popen(RUN, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def torn(home: Path) -> list[str]:
    """Files that are not whole, bundles that do not verify, and temporary files."""
    problems = [f"left over: {path}" for path in home.rglob(".*.tmp") if "dagster" not in path.parts]
    for path in (home / "lake").rglob("*.parquet"):
        try:
            pq.read_table(path)
        except Exception as error:
            problems.append(f"{path}: {error}")
    for folder in (home / "bundles").glob("sha256-*"):
        try:
            open_bundle(folder)
        except Exception as error:
            problems.append(str(error))
    return problems


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--within", type=float, help="latest kill, in seconds after the start; the time of a whole run where absent")
    told = parser.parse_args()
    draw = random.Random(told.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        within = told.within
        if within is None:
            began = time.monotonic()
            process = start(folder, told.config, folder / "whole")
            _, complaint = process.communicate()
            within = time.monotonic() - began
            print(f"a whole run takes {within:.1f} s", flush=True)
            if process.returncode:
                print(f"FALLS exit {process.returncode}: {complaint}")
                return 1
        home = folder / "home"
        kills = finished = 0
        while kills < told.kills:
            process = start(folder, told.config, home)
            wait = draw.uniform(0.0, within)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
                print(f"{kills:3}  killed after {wait:.1f} s", flush=True)
                continue
            if process.returncode:
                print(f"FALLS exit {process.returncode}: {process.communicate()[1]}")
                return 1
            finished += 1
            print(f"     finished before {wait:.1f} s; the next begins from nothing", flush=True)
            home.rename(folder / f"finished-{finished}")
        for expectation in ("heals", "has nothing left to do"):
            process = start(folder, told.config, home)
            answer, complaint = process.communicate()
            if process.returncode:
                print(f"FALLS exit {process.returncode}: {complaint}")
                return 1
            built = json.loads(answer)["built"]
            print(f"ok    the next run {expectation}: {len(built)} built")
        problems = torn(home) + ([f"built twice: {', '.join(built)}"] if built else [])
        for problem in problems:
            print(f"FALLS {problem}")
        if not problems:
            print("ok    every table reads, every bundle verifies, no temporary file is left")
        return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
