"""Kills a rebuild of the chunk index at random moments; the one that is let finish must have gone on, and give the same bytes.

    python benchmarks/kill_rebuild.py [--n 300_000] [--kills 10] [--seed 1]

Exit status 0 where the index has the digest of one that was never disturbed and no temporary file is left.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from index_scale import LowRank, write_vectors

from mangaassist_assets.lib.retrieval.rebuild import IndexSettings, rebuild
from mangaassist_assets.lib.retrieval.workers import run_shards


def build(folder: Path, name: str, n: int) -> str:
    """The digest of the index of `n` drawn vectors, built in `folder/name` by two workers."""
    source = write_vectors(folder, n, 384)
    return rebuild(source, LowRank(384, 0.3), folder / name, IndexSettings(), run=partial(run_shards, workers="local:2")).name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=300_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        print(build(args.build, "killed", args.n))
        return 0
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        calm = build(folder, "calm", args.n)
        seconds = time.perf_counter() - began
        print(f"undisturbed: {seconds:.1f} s, {calm[:20]}", flush=True)
        command = [sys.executable, __file__, "--n", str(args.n), "--build", name]
        killed = 0
        while killed < args.kills:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
            after = rng.uniform(1.0, seconds)
            try:
                process.communicate(timeout=after)
                shutil.rmtree(folder / "killed")  # it was done before its turn came: once more
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                killed += 1
                print(f"killed after {after:.1f} s", flush=True)
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        left = [path for path in (folder / "killed").rglob(".*.tmp")]
        print(f"{killed} kills, then {finished[:20]}; left over: {len(left)}")
        return 0 if finished == calm and killed and not left else 1


if __name__ == "__main__":
    sys.exit(main())
