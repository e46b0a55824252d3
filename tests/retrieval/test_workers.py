"""Shards run in other processes, in order; a dead worker costs its own shards a repetition, and an error comes back as it was raised."""

import contextlib
import os
import socket
import sys
import time

import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput, Unavailable
from mangaassist_assets.lib.retrieval import workers as workers_module
from mangaassist_assets.lib.retrieval.embedding import embed_on_workers
from mangaassist_assets.lib.retrieval.workers import parse_workers, run_shards

FUNCTIONS = '''
import os, signal, time
import numpy as np
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

class Toy:
    space = EmbeddingSpace("toy", "0" * 64, "mean", True, 2)

    def encode(self, texts, *, queries=False):
        return np.tile(np.array([0.6, 0.8], np.float32), (len(texts), 1))

def note(folder, number):
    """Leaves a mark of this run of the shard and returns how many runs came before it."""
    before = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{before}").write_text(str(os.getpid()))
    return before

def square(task):
    folder, number = task
    note(folder, number)
    return number * number

def dies_once(task):
    folder, number = task
    if note(folder, number) == 0 and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return number * number

def dies_always(task):
    folder, number = task
    note(folder, number)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)

def refuses(task):
    folder, number = task
    note(folder, number)
    if number == 1:
        raise BadInput("no vectors", where="shard 1", remedy="Make some.")
    time.sleep(0.2)

def hangs_once(task):
    folder, number = task
    if note(folder, number) == 0 and number == 1:
        time.sleep(60)
    return number * number
'''


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module that worker processes can import, too."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "shard_functions_of_a_test.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.getcwd()]))
    sys.modules.pop("shard_functions_of_a_test", None)
    import shard_functions_of_a_test

    yield shard_functions_of_a_test
    del sys.modules["shard_functions_of_a_test"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def chunks(names):
    return pa.table({name: list(names) for name in ("chunk_id", "digest", "title", "text")})


def tasks(folder, count=4):
    return [(folder, number) for number in range(count)]


def runs(folder, number):
    return len(list(folder.glob(f"{number}-*")))


def test_results_come_in_the_order_of_the_shards_from_that_many_processes(functions, folder):
    seen = []
    assert run_shards(functions.square, tasks(folder, 6), "local:2", progress=lambda *step: seen.append(step)) == [0, 1, 4, 9, 16, 25]
    assert seen == [(n, 6) for n in range(1, 7)]
    processes = {path.read_text() for path in folder.iterdir()}
    assert 1 <= len(processes) <= 2 and str(os.getpid()) not in processes


def test_one_worker_is_this_process_and_no_shards_are_no_work(functions, folder):
    assert run_shards(functions.square, tasks(folder, 2), "local:1") == [0, 1]
    assert {path.read_text() for path in folder.iterdir()} == {str(os.getpid())}
    assert run_shards(functions.square, [], "local:3") == []


def test_a_killed_worker_costs_only_its_own_shard_a_repetition(functions, folder):
    assert run_shards(functions.dies_once, tasks(folder), "local:2") == [0, 1, 4, 9]
    assert [runs(folder, number) for number in range(4)] == [1, 2, 1, 1]


def test_a_shard_whose_worker_always_dies_is_given_up_after_three(functions, folder):
    with pytest.raises(Unavailable, match="shard 1: its worker died 3 times"):
        run_shards(functions.dies_always, tasks(folder, 2), "local:2")
    assert runs(folder, 1) == 3


def test_an_error_comes_back_as_it_was_raised_is_not_tried_again_and_spares_what_has_not_begun(functions, folder):
    with pytest.raises(BadInput, match="shard 1: no vectors. Make some.") as caught:
        run_shards(functions.refuses, tasks(folder, 40), "local:2")
    assert caught.value.remedy == "Make some."
    assert runs(folder, 1) == 1 and len(list(folder.iterdir())) < 10


@pytest.mark.parametrize("workers", ["", "local:", "local:0", "local:-1", "local:²", "ray:", "ray://", "dask", "3"])
def test_words_that_name_no_workers_are_refused(workers):
    with pytest.raises(BadInput, match="MANGAASSIST_WORKERS"):
        parse_workers(workers)


def test_kinds_of_workers():
    assert parse_workers("local:3") == ("local", 3) and parse_workers("local")[1] >= 1
    assert parse_workers("ray") == ("ray", 0) and parse_workers("ray://head:10001") == ("ray", 0)


@pytest.mark.parametrize(("failures", "told"), [(2, None), (3, "no Ray cluster answers .the client server is slow")])
def test_a_slow_cluster_is_asked_three_times(failures, told):
    class Slow:
        calls = 0

        def init(self, **options):
            self.calls += 1
            if self.calls <= failures:
                raise ConnectionError("the client server is slow")

    slow = Slow()
    with pytest.raises(Unavailable, match=told) if told else contextlib.nullcontext():
        workers_module._connect(slow, "ray://head:10001")
    assert slow.calls == 3


def test_ray_that_is_not_installed_is_told_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unavailable, match="pip install"):
        run_shards(abs, [1], "ray")


# ── a real cluster ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cluster(functions, monkeypatch):
    """A head that runs nothing and two nodes of one core, each with processes of its own."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "120")  # other tests may keep the cores busy
    quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {"num_cpus": 0, "object_store_memory": 80 << 20, "ray_client_server_port": port, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=80 << 20)
    made.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    made.client_port = port
    yield made
    with contextlib.suppress(Exception):
        made.shutdown()


def kill_node_of_shard(cluster, folder, number):
    """Ends, without a farewell, the node on which the shard runs."""
    import psutil

    mark = folder / f"{number}-0"
    end = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    parents = {process.pid for process in psutil.Process(int(mark.read_text())).parents()}
    node = next(n for n in cluster.worker_nodes if n.all_processes["raylet"][0].process.pid in parents)
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.filterwarnings("ignore")
def test_on_a_ray_cluster_a_node_killed_midway_costs_only_its_shards_and_chunks_are_embedded_by_what_is_left(
    cluster, functions, folder, tmp_path
):
    from threading import Thread

    killer = Thread(target=kill_node_of_shard, args=(cluster, folder, 1))
    killer.start()
    assert run_shards(functions.hangs_once, tasks(folder), "ray") == [0, 1, 4, 9]
    killer.join()
    assert runs(folder, 1) == 2
    assert [runs(folder, number) for number in (0, 2, 3)] == [1, 1, 1]
    with pytest.raises(BadInput, match="shard 1: no vectors. Make some."):
        run_shards(functions.refuses, tasks(tmp_path, 2), f"ray://127.0.0.1:{cluster.client_port}")
    store = embed_on_workers(chunks("abcdef"), functions.Toy, tmp_path / "made", shards=3, workers=f"ray://127.0.0.1:{cluster.client_port}")
    assert sorted(store.ids["chunk_id"].to_pylist()) == list("abcdef")
