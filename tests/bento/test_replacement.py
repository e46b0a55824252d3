import asyncio
import json
import logging

import pytest

from bento import seats
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import MissingEvidence, Unavailable
from mangaassist_assets.lib.serving import Lineup, wanted_bundle

from .conftest import StandIn, running, until

pytestmark = pytest.mark.anyio


class Releases:
    """A house whose champion a test names; bundles are real, their cascade is a stand-in called by the bundle's name."""

    def __init__(self, home, **knobs):
        self.house, self.champion, self.knobs, self.loaded = House(home), None, {"allow_unreleased": False} | knobs, []

    def bundle(self, name):
        return self.house.write_bundle("intent_classifier", {"name.json": json.dumps(name).encode()}, {"name": name}).digest

    def wanted(self):
        return Lineup(wanted_bundle(self.house, champion=self.champion, **self.knobs))

    def load(self, bundle):
        self.loaded.append(bundle.facts["name"])
        return StandIn(bundle.facts["name"], seconds=0.002)


@pytest.fixture
def releases(tmp_path):
    return Releases(tmp_path)


def serve(releases, **knobs):
    return running(wanted=releases.wanted, load=releases.load, **knobs)


async def answerer(service, text="who"):
    return (await service.classify(text)).json()["results"][0]["secondary_intent"]


async def test_a_new_champion_is_taken_up_under_load_without_a_failed_request(releases):
    releases.champion, later = releases.bundle("one"), [releases.bundle(name) for name in ("two", "three")]
    async with serve(releases) as service:
        seen, done = [], False

        async def client(kind):
            while not done:
                answer = await service.classify(f"{kind} text", "classifier's text")
                assert answer.status_code == 200, answer.text
                names = {r["secondary_intent"].split(":")[0] for r in answer.json()["results"]}
                assert len(names) == 1, "one request is answered by one bundle"
                seen.append(names.pop())

        clients = [asyncio.create_task(client(kind)) for kind in ("rules", "student", "other", "other")]
        for digest in later:
            await asyncio.sleep(0.05)
            releases.champion = digest
            await until(lambda digest=digest: service.pipeline.model()["digest"] == digest)
        await asyncio.sleep(0.05)
        done = True
        await asyncio.gather(*clients)
        assert [name for i, name in enumerate(seen) if not i or seen[i - 1] != name][0] == "one"
        assert seen[-1] == "three" and set(seen) == {"one", "two", "three"}
        assert service.metric("mangaassist_reloads_total", outcome="loaded") == 3
        assert service.metric("mangaassist_model_info", digest=later[0], state="champion", provider="CPUExecutionProvider") == 0
        assert service.metric("mangaassist_model_info", digest=later[1], state="champion", provider="CPUExecutionProvider") == 1


async def test_requests_in_work_are_finished_by_the_bundle_that_began_them(releases):
    releases.champion = releases.bundle("one")
    async with serve(releases) as service:
        first = service.pipeline.served().cascade
        first.gate.clear()
        held = [asyncio.create_task(answerer(service, f"held {i}")) for i in range(50)]
        await until(lambda: service.pipeline._in_work == 50)
        releases.champion = releases.bundle("two")
        await until(lambda: service.pipeline.model()["digest"] == releases.champion)
        assert await answerer(service) == "two: who"
        first.gate.set()
        assert await asyncio.gather(*held) == [f"one: held {i}" for i in range(50)]


async def test_a_champion_with_one_flipped_byte_is_refused_and_the_old_one_serves(releases, caplog, monkeypatch):
    monkeypatch.setattr(seats, "RETRY_REFUSED_S", 0.2)
    old, new = releases.bundle("one"), releases.bundle("two")
    target = releases.house.bundles / f"sha256-{new}" / "name.json"
    whole = target.read_bytes()
    target.write_bytes(bytes([whole[0], whole[1] ^ 1]) + whole[2:])
    releases.champion = old
    async with serve(releases) as service:
        releases.champion = new
        await until(lambda: service.metric("mangaassist_reloads_total", outcome="refused") >= 1)
        assert await answerer(service) == "one: who"
        assert (await service.http.get("/readyz")).status_code == 200
        model = (await service.http.get("/v1/model")).json()
        assert (model["digest"], model["champion"], model["refused"]) == (old, old, new)
        assert "name.json is not the file that was written" in caplog.text and "stays in service" in caplog.text
        await asyncio.sleep(0.1)
        assert service.metric("mangaassist_reloads_total", outcome="refused") == 1, "not again at every look"
        target.write_bytes(whole)
        await until(lambda: service.pipeline.model()["digest"] == new)
        assert (await service.http.get("/v1/model")).json()["refused"] is None
        assert releases.loaded == ["one", "two"]


@pytest.mark.parametrize(
    "fault",
    [
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "model.pkl").write_bytes(b"\x80\x04."),
        lambda folder: (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace("name.json", "../name.json")),
    ],
    ids=["torn manifest", "no manifest", "a pickle", "a path out of the bundle"],
)
async def test_a_bundle_that_is_not_what_was_written_is_never_loaded(releases, fault):
    digest = releases.bundle("one")
    fault(releases.house.bundles / f"sha256-{digest}")
    releases.champion = digest
    async with serve(releases, ready=False) as service:
        await until(lambda: service.metric("mangaassist_reloads_total", outcome="refused") == 1)
        answer = await service.http.get("/readyz")
        assert answer.status_code == 503 and digest[:12] in answer.json()["error"]["message"]
        assert (await service.http.get("/livez")).status_code == 200
        assert not releases.loaded


async def test_with_nothing_released_the_service_lives_and_names_the_remedy(releases):
    releases.bundle("candidate")
    async with serve(releases, ready=False) as service:
        await until(lambda: "mangaassist status" in service.pipeline.champion.why_not)
        for path in ("/readyz", "/ping"):
            answer = await service.http.get(path)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        refused = await service.classify("rules 1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert "mangaassist status" in refused.json()["error"]["message"]
        assert (await service.http.get("/livez")).status_code == 200
        assert (await service.http.get("/v1/model")).json()["state"] == "none"
        assert (await service.http.get("/metrics")).status_code == 200
        assert service.metric("mangaassist_ready") == 0
        releases.champion = releases.bundle("released")
        await until(lambda: service.metric("mangaassist_ready") == 1)
        assert await answerer(service) == "released: who"


async def test_an_empty_house_says_which_command_fills_it(tmp_path):
    async with serve(Releases(tmp_path, allow_unreleased=True), ready=False) as service:
        await until(lambda: "mangaassist run" in service.pipeline.champion.why_not)
        assert (await service.http.get("/readyz")).status_code == 503


async def test_an_unreleased_classifier_serves_a_laptop_and_says_so_until_a_release(tmp_path, caplog):
    releases = Releases(tmp_path, allow_unreleased=True)
    digest = releases.bundle("candidate")
    async with serve(releases) as service:
        model = (await service.http.get("/v1/model")).json()
        assert (model["state"], model["digest"], model["champion"]) == ("unreleased", digest, None)
        assert "not released" in caplog.text
        assert service.metric("mangaassist_model_info", digest=digest, state="unreleased", provider="CPUExecutionProvider") == 1
        releases.champion = digest
        await until(lambda: service.pipeline.model()["state"] == "champion")
        assert releases.loaded == ["candidate"], "the same bytes are not loaded again"
        assert service.metric("mangaassist_model_info", digest=digest, state="unreleased", provider="CPUExecutionProvider") == 0


async def test_a_champion_outlives_a_log_or_a_disk_that_cannot_be_read(releases, caplog):
    releases.champion = releases.bundle("one")
    errors = [MissingEvidence("nothing is released"), OSError("no such device"), None]

    def wanted():
        if releases.champion is None and errors[0]:
            raise errors[0]
        return releases.wanted()

    async with running(wanted=wanted, load=releases.load) as service:
        releases.champion = None
        await until(lambda: "nothing is released" in caplog.text)
        errors.pop(0)
        await until(lambda: "OSError" in caplog.text)
        assert "no such device" not in caplog.text
        errors.pop(0)
        releases.knobs["allow_unreleased"] = True
        releases.bundle("newer, never released")
        await asyncio.sleep(0.05)
        assert await answerer(service) == "one: who"
        assert len(caplog.records) == len({r.getMessage() for r in caplog.records}), "each reason once"


async def test_a_provider_that_was_asked_for_and_not_had_is_not_ready(releases):
    def without(bundle):
        raise Unavailable("CUDAExecutionProvider is not in this ONNX Runtime. Install onnxruntime-gpu, or set service.provider.")

    releases.champion = releases.bundle("one")
    for load in (without, lambda bundle: StandIn(provider="CPUExecutionProvider")):
        async with running(wanted=releases.wanted, load=load, ready=False, provider="CUDAExecutionProvider") as service:
            await until(lambda: service.metric("mangaassist_reloads_total", outcome="refused") == 1)
            ready, answer = await service.http.get("/readyz"), await service.classify("rules 1")
            assert ready.status_code == answer.status_code == 503
            assert "CUDAExecutionProvider" in ready.json()["error"]["message"]


@pytest.mark.parametrize("wrong", [("not a label", 0.5), ("faq", float("nan")), ("faq", 1.5)])
async def test_a_bundle_that_answers_nonsense_is_not_taken_up(releases, wrong):
    class Nonsense(StandIn):
        def _answer(self, text, route):
            return super()._answer(text, route).__class__(wrong[0], wrong[1], None, route)

    releases.champion = releases.bundle("one")
    async with running(wanted=releases.wanted, load=lambda _: Nonsense(), ready=False) as service:
        await until(lambda: service.metric("mangaassist_reloads_total", outcome="refused") == 1)
        assert (await service.http.get("/readyz")).status_code == 503


async def test_an_error_while_loading_is_named_by_type_and_place(releases, caplog):
    def broken(bundle):
        raise RuntimeError("a text of training: my address is 1 High Street")

    releases.champion = releases.bundle("one")
    with caplog.at_level(logging.INFO):
        async with running(wanted=releases.wanted, load=broken, ready=False) as service:
            await until(lambda: service.metric("mangaassist_reloads_total", outcome="refused") == 1)
    assert "RuntimeError at" in caplog.text and "High Street" not in caplog.text
