"""What a tick of each sensor costs with 10,000 segments in the house.

    python benchmarks/sensors.py --home HOME [--segments 10_000] [--rounds 5]

HOME is a copy of one that `mangaassist run` has built; it is changed: segments of an hour of answers each are added, over days before its
traffic, as if they had been read. A tick that asks for a run is answered as the daemon would, with its cursor kept, so that the ticks
measured find nothing new, which is what nearly every tick finds. Exit status 1 where the median of one is above 200 ms.
"""

import argparse
import datetime as dt
import os
import subprocess
import sys
import time
from pathlib import Path

LIMIT_MS = 200.0
SEGMENTS_A_DAY = 24


def add_segments(folder: Path, segments: int) -> None:
    """Adds segments of a few lines over as many days as they fill, before the first day that is there."""
    first = min(dt.date.fromisoformat(path.name) for path in folder.iterdir() if path.name[:2] == "20")
    some = next((folder / first.isoformat()).glob("*.jsonl")).read_bytes().splitlines(keepends=True)[:20]
    there = sum(1 for _ in folder.glob("20*/*.jsonl"))
    for number in range(max(0, segments - there)):
        day = first - dt.timedelta(days=1 + number // SEGMENTS_A_DAY)
        (folder / day.isoformat()).mkdir(exist_ok=True)
        lines = [line.replace(f"{first:%Y%m%d}-".encode(), f"{day:%Y%m%d}-".encode()) for line in some]
        (folder / day.isoformat() / f"1-bench-{number:06d}.jsonl").write_bytes(b"".join(lines))


def ticks(rounds: int) -> int:
    """In a process whose settings are those of `main`."""
    import dagster as dg
    import numpy as np

    from mangaassist_assets import runs
    from mangaassist_assets.definitions import definitions
    from mangaassist_assets.lib.intents.benchmark import hardware
    from mangaassist_assets.lib.metrics.report import as_markdown
    from mangaassist_assets.resources import HouseResource
    from mangaassist_assets.settings import current

    settings, loaded, rows, slow = current(), definitions(), [], False
    segments = sum(1 for _ in (settings.home / "interactions").glob("20*/*.jsonl"))
    with runs.open_instance(settings.home) as instance:
        for sensor in loaded.sensors or []:
            if isinstance(sensor, dg.AutomationConditionSensorDefinition) or sensor.sensor_type.value == "RUN_STATUS":
                continue
            cursor, took, said = None, [], ""
            for turn in range(rounds + 2):
                context = dg.build_sensor_context(
                    instance=instance,
                    cursor=cursor,
                    resources={"house": HouseResource(home=str(settings.home))},
                    repository_def=loaded.get_repository_def(),
                    sensor_name=sensor.name,
                )
                began = time.perf_counter()
                found = sensor.evaluate_tick(context)
                if turn >= 2:  # the first two may ask for what is due
                    took.append((time.perf_counter() - began) * 1e3)
                cursor, said = found.cursor or cursor, found.skip_message or f"{len(found.run_requests or [])} runs asked for"
            median = float(np.median(took))
            slow |= median > LIMIT_MS
            rows.append((sensor.name, f"{median:.1f}", f"{max(took):.1f}", said[:80]))
    print(as_markdown((f"{segments:,} segments", "median ms", "most ms", "what the last said"), rows))
    print(f"\n{hardware('pyarrow')}, {os.getloadavg()[0]:.1f} processes wanting them")
    return int(slow)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    wanted = {"MANGAASSIST_HOME": str(args.home.resolve())}
    if os.environ.get("MANGAASSIST_HOME") != wanted["MANGAASSIST_HOME"]:  # settings are read once, when the graph is loaded
        add_segments(args.home / "interactions", args.segments)
        return subprocess.run([sys.executable, *sys.argv], env=os.environ | wanted).returncode
    return ticks(args.rounds)


if __name__ == "__main__":
    sys.exit(main())
