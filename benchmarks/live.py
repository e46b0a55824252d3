"""Real processes for what is tried live: `mangaassist ui`, which brings the daemon, and `mangaassist serve`."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

UI, SERVE = 3011, 3010
CLI = [sys.executable, "-m", "mangaassist_assets.cli"]


class Processes:
    """What is started, and started again when it ends."""

    def __init__(self, home: Path, settings: dict[str, str]) -> None:
        self.commands = {"ui": [*CLI, "ui", "--port", str(UI)], "serve": [*CLI, "serve", "--port", str(SERVE)]}
        self.environment, self.log = os.environ | settings | {"MANGAASSIST_HOME": str(home)}, home
        self.running: dict[str, subprocess.Popen] = {}

    def keep_up(self) -> None:
        for name, command in self.commands.items():
            if name not in self.running or self.running[name].poll() is not None:
                stream = (self.log / f"{name}.log").open("a")
                self.running[name] = subprocess.Popen(
                    command, env=self.environment, stdout=stream, stderr=stream, start_new_session=True, cwd=Path(__file__).parents[1]
                )

    def kill_one(self, rng: random.Random) -> str:
        """SIGKILL to a random process: of the service, the daemon, or a run."""
        target = rng.choice(["serve", "ui"])
        family = [p for p in psutil.Process(self.running[target].pid).children(recursive=True) if p.is_running()]
        wanted = [p for p in family if target == "serve" or "daemon" in " ".join(p.cmdline()) or "execute_run" in " ".join(p.cmdline())]
        victim = rng.choice(wanted or family)
        name = " ".join(victim.cmdline())[-60:]
        victim.kill()
        return f"{target}: {name}"

    def stop(self) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def bring_up_to_date(home: Path, settings: dict[str, str]) -> subprocess.CompletedProcess:
    """`mangaassist run`, whose last line tells what it did."""
    command, environment = [*CLI, "run", "--json"], os.environ | settings | {"MANGAASSIST_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def seconds_of(done: subprocess.CompletedProcess) -> float:
    """How long a `mangaassist run` took."""
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def say(began: float, words: str) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {words}", flush=True)
