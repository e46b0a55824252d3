"""The service as people run it: `bentoml serve` in a process of its own, `bentoml build`, and the Bento somewhere else."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.segments import recover, sealed
from mangaassist_assets.lib.intents.cascade import Cascade
from mangaassist_assets.lib.release.log import ReleaseLog, Stage

from ..retrieval.packable import furnish
from .conftest import release, running, until
from .real import LABELS, PARTS, write_real_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A house with two classifiers, the first of them champion, and an index."""
    house = House(tmp_path_factory.mktemp("house"))
    house.index = furnish(house, tmp_path_factory.mktemp("encoder"))
    house.digests = [write_real_bundle(house, seed).digest for seed in (1, 2)]
    release(house.home / "releases", house.digests[0])
    return house


def environment(folder, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MANGAASSIST_", "BENTOML_", "PROMETHEUS_"))}
    return kept | {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1"} | more


def run(*arguments, folder, **variables):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment(folder, **variables), capture_output=True, text=True, timeout=120
    )


@contextlib.contextmanager
def serving(target, folder, cwd, **variables):
    """A running service as an HTTP client, with its log and its process, ended by SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    log = folder / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)],
            cwd=cwd,
            env=environment(folder, **variables),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            end = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if http.get("/readyz").status_code == 200:
                        break
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            yield http, log, process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def test_bentoml_serve_answers_takes_up_a_new_champion_and_loses_no_request(house, tmp_path):
    one, two = house.digests
    with serving("bento.service:MangaAssist", tmp_path, ROOT, MANGAASSIST_HOME=str(house.home)) as (http, log, process):
        results = http.post("/v1/classify", json={"texts": list(PARTS)}).json()["results"]
        assert [r["route"] for r in results] == list(PARTS.values())
        expected = Cascade.load(house.bundle(one)).classify(list(PARTS))
        assert [(r["intent"], r["secondary_intent"]) for r in results] == [(p.intent, p.secondary_intent) for p in expected]
        assert [r["confidence"] for r in results] == pytest.approx([p.confidence for p in expected], abs=1e-5)

        model = http.get("/v1/model").json()
        assert (model["state"], model["champion"], model["provider"]) == ("champion", one, "CPUExecutionProvider")
        for path in ("/", "/livez", "/metrics", "/docs.json", "/static_content/swagger-ui.css", "/static_content/swagger-initializer.js"):
            assert http.get(path).status_code == 200, path
        assert http.post("/v1/classify", json={"texts": ["a" * 10_000_000]}).status_code == 413
        client = f"import bentoml; print(bentoml.SyncHTTPClient('{http.base_url}').classify(texts=['hello'])['results'][0]['route'])"
        assert run("-c", client, folder=tmp_path).stdout.split()[-1] == "rules"

        codes, done = [], threading.Event()

        def ask():
            with httpx.Client(base_url=http.base_url, timeout=10) as own:
                while not done.is_set():
                    codes.append(own.post("/v1/classify", json={"texts": list(PARTS)}).status_code)

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        release(house.home / "releases", two, Stage.SHADOW)
        end = time.monotonic() + 15
        while http.get("/v1/model").json()["shadow"] != two:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        time.sleep(0.5)
        release(house.home / "releases", two)
        end = time.monotonic() + 15
        while http.get("/v1/model").json()["champion"] != two:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        time.sleep(0.2)
        done.set()
        for client in clients:
            client.join()
        assert len(codes) > 20 and set(codes) == {200}

        samples = {
            (s.name, *sorted(s.labels.values())): s.value
            for f in text_string_to_metric_families(http.get("/metrics").text)
            for s in f.samples
        }
        assert samples["mangaassist_reloads_total", "loaded"] >= 3
        assert samples["mangaassist_requests_total", "/v1/classify", "200"] == len(codes) + 2
        told = http.post("/v1/feedback", json={"request_id": results[0]["request_id"], "escalated": False})
        assert told.json() == {"accepted": True}
    text = log.read_text()
    assert "Traceback" not in text and not any(asked in text for asked in PARTS)
    records = written(house)
    assert sum(record["kind"] == "answer" for record in records) == len(PARTS) * (len(codes) + 1) + 1
    assert [r["request_id"] for r in records if r["kind"] == "feedback"] == [results[0]["request_id"]]
    shadow = [record for record in records if record["kind"] == "shadow"]
    assert shadow and {record["shadow_digest"] for record in shadow} == {two}
    assert {record["shadow_intent"] for record in shadow} <= {*LABELS}


def written(house):
    """Every record in the segments of a house."""
    days = sealed(house.home / "interactions").items()
    paths = [house.home / "interactions" / str(day) / name for day, names in days for name in names]
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def test_a_service_that_is_killed_loses_no_answer_that_anybody_got(house, tmp_path):
    house = House(shutil.copytree(house.home, tmp_path / "home", ignore=shutil.ignore_patterns("interactions")))
    got, stopped = [], threading.Event()
    with serving("bento.service:MangaAssist", tmp_path / "bento", ROOT, MANGAASSIST_HOME=str(house.home)) as (http, log, process):

        def ask():
            with httpx.Client(base_url=http.base_url, timeout=10) as own, contextlib.suppress(httpx.HTTPError):
                while not stopped.is_set():
                    got.extend(r["request_id"] for r in own.post("/v1/classify", json={"texts": list(PARTS)}).json()["results"])

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(1)
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, 10)
        stopped.set()
        for client in clients:
            client.join()
    recover(house.home / "interactions")
    names = [record["request_id"] for record in written(house) if record["kind"] == "answer"]
    assert len(got) > 50 and set(got) <= set(names) and len(names) == len(set(names))
    assert not list((house.home / "interactions" / "open").glob("*.journal"))


def test_a_built_bento_serves_where_there_is_no_house(house, tmp_path):
    built = run("-m", "bentoml", "build", "--output", "tag", folder=tmp_path, MANGAASSIST_HOME=str(house.home))
    assert built.returncode == 0, built.stdout + built.stderr
    version = re.search(r"__tag__:mangaassist:(\w+)", built.stdout)[1]
    bento = shutil.move(tmp_path / "bentoml" / "bentos" / "mangaassist" / version, tmp_path / "bento")

    champion = ReleaseLog(house.home / "releases").state().champion
    sources = sorted(p.name for p in (bento / "src").iterdir())
    assert sources == ["LICENSE", "bento", "bentofile.yaml", "data", "mangaassist_assets", "packaged"]
    assert not (bento / "src/mangaassist_assets/defs").exists()
    pins = (bento / "env/python/requirements.txt").read_text().split()
    assert f"bentoml=={metadata.version('bentoml')}" in pins and not any(p.startswith(("dagster", "torch", "great")) for p in pins)
    assert "/v1/classify" in (bento / "apis/openapi.yaml").read_text()

    elsewhere = tmp_path / "elsewhere"
    with serving(str(bento), elsewhere, tmp_path, MANGAASSIST_SERVICE__ALLOW_UNRELEASED="false") as (http, log, process):
        assert [r["route"] for r in http.post("/v1/classify", json={"texts": list(PARTS)}).json()["results"]] == list(PARTS.values())
        model = http.get("/v1/model").json()
        assert (model["state"], model["champion"]) == ("champion", champion)
        assert http.get("/docs.json").json()["info"]["version"] == version
        found = http.post("/v1/retrieve", json={"query": "Iron Sword", "k": 2, "filters": {"in_stock": True}}).json()
        assert (found["index"], found["results"][0]["document_id"]) == (house.index, "s1")
        assert (bento / "src" / ".mangaassist").exists() is False
    assert "Traceback" not in log.read_text()

    other = House(shutil.copytree(house.home, tmp_path / "other"))
    index = furnish(other, tmp_path, seed=2)
    with serving(str(bento), elsewhere, tmp_path, MANGAASSIST_HOME=str(other.home)) as (http, log, process):
        assert http.post("/v1/retrieve", json={"query": "Iron Sword"}).json()["index"] == index != house.index


def test_an_index_that_is_too_large_stays_out_of_the_bento_and_the_build_says_so(house, tmp_path):
    limit = {"MANGAASSIST_HOME": str(house.home), "MANGAASSIST_SERVICE__MOST_PACKED_BYTES": "1000"}
    built = run("-m", "bentoml", "build", folder=tmp_path, **limit)
    assert built.returncode == 0 and "service.most_packed_bytes" in built.stdout + built.stderr
    (retriever,) = tmp_path.glob("bentoml/bentos/mangaassist/*/src/packaged/retriever")
    assert [path.name for path in retriever.iterdir()] == ["absent.json"]


def test_a_bento_without_anything_to_serve_is_not_built(tmp_path):
    built = run("-m", "bentoml", "build", folder=tmp_path, MANGAASSIST_HOME=str(tmp_path))
    assert built.returncode != 0
    assert "mangaassist run" in built.stdout + built.stderr and "Traceback" not in built.stdout + built.stderr


def test_settings_that_cannot_be_end_the_command_with_one_line(tmp_path):
    variables = {"MANGAASSIST_HOME": str(tmp_path), "MANGAASSIST_SERVICE__PROVIDER": "TPU"}
    served = run("-m", "bentoml", "serve", "bento.service:MangaAssist", folder=tmp_path, **variables)
    said = served.stdout + served.stderr
    assert served.returncode != 0 and "service.provider" in said and "Traceback" not in said


def test_the_image_holds_every_package_that_the_service_imports(house, tmp_path):
    """The closure of the image's requirements, as installed here, against what a serving process has loaded."""
    bundle = house.bundles / f"sha256-{house.digests[0]}"
    script = (
        "import sys, json; from pathlib import Path; from bento.service import MangaAssist, REQUIREMENTS, Cascade; "
        "from mangaassist_assets.lib.artifacts import open_bundle; "
        f"Cascade.load(open_bundle(Path({str(bundle)!r}))).classify(['hello', 'who']); "
        "MangaAssist.shelves._load_and_warm(MangaAssist.shelves._wanted()); "
        "print(json.dumps([REQUIREMENTS, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    names, loaded = json.loads(run("-c", script, folder=tmp_path, MANGAASSIST_HOME=str(house.home)).stdout.splitlines()[-1])
    providers, seen = metadata.packages_distributions(), set()
    while names:
        name = re.split(r"[\s;<>=!\[~(]", names.pop())[0].lower().replace("_", "-")
        with contextlib.suppress(metadata.PackageNotFoundError):
            if name not in seen:
                names += [r for r in metadata.requires(name) or [] if "extra ==" not in r]
                seen.add(name)
    # ours, and what an environment brings unasked or is used where it happens to be there
    known = {"bento", "mangaassist_assets", "_distutils_hack", "setuptools", "charset_normalizer", "pandas", "pytz"}
    missing = {m for m in loaded if m in providers and m not in known and not {d.lower().replace("_", "-") for d in providers[m]} & seen}
    assert not missing
    assert {"torch", "transformers", "dagster", "great_expectations", "sklearn"}.isdisjoint(loaded)


def test_the_image_holds_what_the_settings_ask_for_besides(tmp_path):
    def pinned(**variables):
        script = "from bento.service import pins; print(*(pin.partition('==')[0] for pin in pins()))"
        return set(run("-c", script, folder=tmp_path, **variables).stdout.splitlines()[-1].split())

    plain = pinned()
    assert pinned(MANGAASSIST_RETRIEVAL__OPENSEARCH__URL="http://search:9200") == plain | {"opensearch-py"}
    assert pinned(MANGAASSIST_RETRIEVAL__ENCODER="titan") == plain | {"boto3"}


@pytest.mark.anyio
async def test_cuda_is_had_or_the_service_is_not_ready(house):
    bundle = house.bundle(house.digests[0])
    provider = "CUDAExecutionProvider"
    async with running(load=lambda _: Cascade.load(bundle, provider=provider), ready=False, provider=provider) as service:
        await until(lambda: service.pipeline.model()["state"] != "none" or service.pipeline.champion.refused, 30)
        answer = await service.http.get("/readyz")
        if answer.status_code == 200:
            assert (await service.http.get("/v1/model")).json()["provider"] == provider
        else:
            assert provider in answer.json()["error"]["message"]
            assert (await service.classify("hello")).status_code == 503


@pytest.mark.anyio
async def test_answers_do_not_hang_on_what_else_is_asked(house):
    cascade = Cascade.load(house.bundle(house.digests[0]))
    texts = [f"is volume {i} of {'a very ' * (i % 7)}long series in stock" for i in range(40)]
    async with running(load=lambda _: cascade) as service:
        together = [r["confidence"] for r in (await service.classify(*texts)).json()["results"]]
        alone = [(await service.classify(text)).json()["results"][0]["confidence"] for text in texts]
    assert together == pytest.approx(alone, abs=1e-6)
