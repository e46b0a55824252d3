"""Seconds and peak memory of `mangaassist run`: from nothing, and again with nothing changed.

    python benchmarks/run_time.py [--config mangaassist.toml]     # in this environment, with a home of its own
    python benchmarks/run_time.py --clone                         # git clone, then `make run` twice: the install counts

Memory is the largest sum of resident sizes over the process and all it starts, looked at five times a second; pages that processes
share count once for each, so it is an upper bound.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.metrics.report import as_markdown

ROOT = Path(__file__).resolve().parent.parent


def resident_bytes(process: psutil.Process) -> int:
    """Resident bytes of a process and everything below it; what ends meanwhile counts nothing."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, int, str]:
    """Seconds, peak bytes and the last line of output of a command; a failure ends the benchmark."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        child = psutil.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while child.poll() is None:
            peak = max(peak, resident_bytes(child))
            time.sleep(0.2)
        seconds = time.perf_counter() - began
        output.seek(0)
        lines = output.read().strip().splitlines()
    if child.returncode:
        raise SystemExit("\n".join([*lines[-30:], f"{' '.join(command)}: status {child.returncode}"]))
    return seconds, peak, next((line for line in reversed(lines) if " built in " in line or "Nothing to do" in line), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="settings to build; the bundled sample by default")
    parser.add_argument("--clone", action="store_true", help="a fresh clone of the last commit and `make run`, instead of this environment")
    args = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MANGAASSIST_", "DAGSTER_"))}
    if args.config:
        environment["MANGAASSIST_CONFIG"] = str(args.config.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "work")
        if args.clone:
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
            command = ["make", "run"]
        else:
            folder.mkdir()
            command = [sys.executable, "-m", "mangaassist_assets.cli", "run"]
            environment["MANGAASSIST_HOME"] = str(folder / ".mangaassist")
        rows = []
        for name in ("from nothing", "again, nothing changed"):
            seconds, peak, said = timed(command, folder, environment)
            rows.append((name, f"{seconds:.1f}", f"{peak / 2**30:.2f}", said))
            print(f"{name}: {seconds:.1f} s, {peak / 2**30:.2f} GiB; {said}", flush=True)
    print()
    print(as_markdown((f"`{'make' if args.clone else 'mangaassist'} run`", "seconds", "peak GiB", "it says"), rows))
    print(f"\n{hardware('torch')}")


if __name__ == "__main__":
    main()
