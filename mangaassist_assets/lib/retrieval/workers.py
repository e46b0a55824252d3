"""Shards of work in other processes: a pool on this machine, or a Ray cluster.

A shard function does its work on disk and may be run again, so that a worker that dies costs its shards a repetition and the other shards
nothing. What the function raises is the caller's to see, and is never tried again.
"""

import logging
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any, Literal, TypeVar

from mangaassist_assets.lib.errors import BadInput, Unavailable

ATTEMPTS = 3
Shard = TypeVar("Shard")
Result = TypeVar("Result")


def run_shards(
    function: Callable[[Shard], Result],
    shards: Iterable[Shard],
    workers: str,
    *,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> list[Result]:
    """Runs `function` on every shard and returns the results in the order of the shards.

    Args:
        function: at the top of a module, or otherwise picklable; it may be run twice on one shard, on Ray even while a lost
            node is still at it.
        shards: its arguments, picklable.
        workers: `local:N` for N processes, `local:1` for this one, `local` for one a core; `ray://host:10001` for that cluster; `ray` for
            the cluster of RAY_ADDRESS, or one started here.
        progress: told after each shard how many are done, and of how many.

    Raises:
        BadInput: `workers` is none of these.
        Unavailable: Ray is not installed or cannot be reached, or a shard's worker died three times.
        Exception: whatever `function` raised first; shards that have not begun are left out.
    """
    kind, count = parse_workers(workers)
    tasks = list(shards)
    if kind == "ray":
        return _on_ray(function, tasks, workers, progress)
    if min(count, len(tasks)) > 1:
        return _on_processes(function, tasks, min(count, len(tasks)), progress)
    results = []
    for task in tasks:
        results.append(function(task))
        progress(len(results), len(tasks))
    return results


def parse_workers(workers: str) -> tuple[Literal["local", "ray"], int]:
    """Kind and number of processes, 0 for Ray; raises BadInput."""
    kind, _, rest = workers.partition(":")
    if workers == "ray" or (kind == "ray" and rest.startswith("//") and len(rest) > 2):
        return "ray", 0
    if workers == "local":
        return "local", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if kind == "local" and rest.isascii() and rest.isdigit() and int(rest) > 0:
        return "local", int(rest)
    raise BadInput(f"{workers!r} names no workers", where="MANGAASSIST_WORKERS", remedy='Set it to "local:2", "ray" or "ray://host:10001".')


# ── this machine ────────────────────────────────────────────────────────────────────────────────────────────────────


def _on_processes(
    function: Callable[[Shard], Result], tasks: Sequence[Shard], count: int, progress: Callable[[int, int], None]
) -> list[Result]:
    """Pools of one process each: the death of a process breaks its pool, and with one big pool it would end all shards under way."""
    threads_each = max(1, parse_workers("local")[1] // count)

    def pool() -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that ONNX Runtime's and faiss's threads hold
        return ProcessPoolExecutor(1, context, initializer=_limit_threads, initargs=(threads_each,))

    pools: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
    for _ in range(count):
        pools.put(pool())

    def run(number: int) -> Result:
        for _ in range(ATTEMPTS):
            mine = pools.get()
            try:
                return mine.submit(function, tasks[number]).result()
            except BrokenProcessPool:
                mine.shutdown(wait=True)
                mine = pool()
            finally:
                pools.put(mine)
        raise Unavailable(f"shard {number}: its worker died {ATTEMPTS} times. See whether the machine ran out of memory, and run again.")

    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(run, number) for number in range(len(tasks))]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done, len(tasks))
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            threads.shutdown(wait=True)
            while not pools.empty():
                pools.get().shutdown(wait=True)


def _limit_threads(count: int) -> None:
    """Shares the cores out: OpenMP reads this when the library that uses it is loaded, which is after a worker has started."""
    os.environ.setdefault("OMP_NUM_THREADS", str(count))


# ── Ray ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _on_ray(
    function: Callable[[Shard], Result], tasks: Sequence[Shard], workers: str, progress: Callable[[int, int], None]
) -> list[Result]:
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise Unavailable(f"workers {workers}: Ray is not installed; `pip install ray[client]`") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, workers)
    remote: Any = ray.remote(max_retries=ATTEMPTS - 1, num_cpus=1)(function)
    references = [remote.remote(task) for task in tasks]
    waiting, results = list(references), {}
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            results[ready[0]] = ray.get(ready[0])
            progress(len(results), len(tasks))
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise Unavailable(f"workers {workers}: a shard's worker died {ATTEMPTS} times ({type(error).__name__}). Run again.") from error
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if ours:
            ray.shutdown()
    return [results[reference] for reference in references]


def _connect(ray: Any, workers: str) -> None:
    """Tries again where a cluster is there but slow: its client server gives a new client's process 30 seconds to start."""
    for attempt in range(ATTEMPTS):
        try:
            ray.init(address=None if workers == "ray" else workers, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # the client raises ConnectionError, gRPC and RuntimeError alike
            if attempt + 1 == ATTEMPTS:
                raise Unavailable(f"workers {workers}: no Ray cluster answers ({' '.join(str(error).split())[:200]})") from error
