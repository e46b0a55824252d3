"""A shadow reads along and delays nobody; a canary answers its sessions, and the champion does where it cannot."""

import asyncio
import json
import threading
import time

import pytest

from bento import seats
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.release.assignment import in_canary
from mangaassist_assets.lib.serving import Lineup, Wanted

from .conftest import StandIn, running, until

pytestmark = pytest.mark.anyio
LATE_S = 1.0  # answers come in milliseconds; what is held up here would take ten seconds


class World:
    """A house of bundles, each with a stand-in of its name; a test says which is champion, canary and shadow."""

    def __init__(self, home):
        self.house, self.cascades = House(home), {}
        self.champion = self.bundle("champion")
        self.canary = self.shadow = None

    def bundle(self, name, cascade=None):
        digest = self.house.write_bundle("intent_classifier", {"name.json": json.dumps(name).encode()}, {"name": name}).digest
        self.cascades[digest] = cascade or StandIn(name)
        return digest

    def damage(self, digest):
        (self.house.bundles / f"sha256-{digest}" / "name.json").write_text("other")

    def __call__(self):
        def wanted(digest, state):
            return Wanted(digest, state, lambda: self.house.bundle(digest, "intent_classifier")) if digest else None

        return Lineup(wanted(self.champion, "champion"), wanted(self.canary, "canary"), wanted(self.shadow, "shadow"))

    def load(self, bundle):
        return self.cascades[bundle.digest]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def serve(world, **knobs):
    return running(wanted=world, load=world.load, **knobs)


def sessions(release, share, chosen, service):
    """Session ids that are, or are not, in a canary."""
    hashed = service.pipeline.interactions.session
    return (name for i in range(10_000) if in_canary(hashed(name := f"visit-{i}"), release, share) is chosen)


async def answerer(service, text, session_id=None):
    return (await service.classify(text, session_id=session_id)).json()["results"][0]["secondary_intent"].partition(":")[0]


# ── shadow ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_shadow_reads_what_the_champion_answered_and_answers_nobody(world):
    world.shadow = world.bundle("shadow")
    async with serve(world) as service:
        await until(lambda: service.pipeline.model()["shadow"] == world.shadow)
        texts = ["rules 1", "student 2", "other me@example.com"]
        results = [r for text in texts for r in (await service.classify(text)).json()["results"]]
        assert {r["secondary_intent"].partition(":")[0] for r in results} == {"champion"}
        await until(lambda: len(service.notes.records("shadow")) == 3)
        records = service.notes.records("shadow")
        assert [r["request_id"] for r in records] == [r["request_id"] for r in results]
        for record in records:
            assert set(record) == {"kind", "request_id", "shadow_digest", "shadow_intent", "shadow_confidence", "shadow_latency_ms"}
            assert (record["shadow_digest"], record["shadow_intent"], record["shadow_confidence"]) == (world.shadow, "faq", 0.5)
            assert record["shadow_latency_ms"] > 0
        assert world.cascades[world.shadow].batches == [["other <EMAIL>"]]
        assert service.metric("mangaassist_shadow_texts_total", outcome="answered") == 3
        model = (await service.http.get("/v1/model")).json()
        assert (model["champion"], model["canary"], model["shadow"]) == (world.champion, None, world.shadow)


async def test_a_shadow_that_hangs_delays_no_answer_and_what_it_cannot_read_is_counted(world):
    world.shadow = world.bundle("shadow")
    async with serve(world, max_shadow_texts=10) as service:
        await until(lambda: service.pipeline.model()["shadow"])
        world.cascades[world.shadow].gate.clear()
        started = time.monotonic()
        for i in range(50):
            assert (await service.classify(f"other {i}")).status_code == 200
        assert time.monotonic() - started < LATE_S
        assert 35 <= service.metric("mangaassist_shadow_texts_total", outcome="dropped") <= 40
        world.cascades[world.shadow].gate.set()
        await until(lambda: len(service.notes.records("shadow")) >= 10)


async def test_a_shadow_waits_while_texts_wait_for_the_champion(world):
    world.shadow = world.bundle("shadow")
    async with serve(world) as service:
        await until(lambda: service.pipeline.model()["shadow"])
        champion = world.cascades[world.champion]
        champion.gate.clear()
        held = [asyncio.create_task(service.classify(f"held {i}")) for i in range(2)]
        await until(lambda: service.metric("mangaassist_waiting_texts") == 0 or len(champion.batches) == 0)
        await asyncio.sleep(0.01)
        held.append(asyncio.create_task(service.classify("waits")))
        await until(lambda: service.metric("mangaassist_waiting_texts") == 1)
        await service.classify("rules 1")
        await asyncio.sleep(0.05)
        assert not service.notes.records("shadow")
        champion.gate.set()
        await asyncio.gather(*held)
        await until(lambda: len(service.notes.records("shadow")) == 4)


async def test_a_shadow_reads_its_share(world):
    world.shadow = world.bundle("shadow")
    async with serve(world, shadow_share=0.25, max_shadow_texts=1000) as service:
        await until(lambda: service.pipeline.model()["shadow"])
        await service.classify(*["rules"] * 250)
        await asyncio.sleep(0.1)
        await until(lambda: not service.pipeline.shadow.served._queue)
        await asyncio.sleep(0.05)
        assert 40 < len(service.notes.records("shadow")) < 90


async def test_what_a_shadow_fails_on_is_written_without_an_answer(world, caplog):
    world.shadow = world.bundle("shadow")
    world.cascades[world.champion].classify_slow = lambda texts: [StandIn("champion")._answer(t, "classifier") for t in texts]
    async with serve(world) as service:
        await until(lambda: service.pipeline.model()["shadow"])
        assert (await service.classify("poison private@example.org")).status_code == 200
        await until(lambda: service.notes.records("shadow"))
        (record,) = service.notes.records("shadow")
        assert (record["shadow_intent"], record["shadow_confidence"], record["shadow_latency_ms"]) == (None, None, None)
        assert service.metric("mangaassist_shadow_texts_total", outcome="failed") == 1
        assert "ValueError" in caplog.text and "private" not in caplog.text


async def test_a_shadow_leaves_when_it_is_not_wanted_and_takes_its_thread_along(world):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "shadow" and thread not in before]

    before = set(threading.enumerate())
    world.shadow = world.bundle("shadow")
    async with serve(world) as service:
        await until(lambda: service.pipeline.model()["shadow"] and len(threads()) == 1)
        world.shadow = world.bundle("another")
        await until(lambda: service.pipeline.model()["shadow"] == world.shadow and len(threads()) == 1)
        world.shadow = None
        await until(lambda: service.pipeline.model()["shadow"] is None and not threads())
        assert await answerer(service, "other") == "champion"


async def test_without_interactions_nobody_is_beside_the_champion(world):
    world.shadow = world.canary = world.bundle("other")
    async with serve(world, interactions=False) as service:
        await asyncio.sleep(0.05)
        assert (service.pipeline.model()["canary"], service.pipeline.model()["shadow"]) == (None, None)


# ── canary ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_canary_answers_its_sessions_and_no_others(world):
    world.canary = world.bundle("canary")
    async with serve(world, canary_share=0.2) as service:
        await until(lambda: service.pipeline.model()["canary"] == world.canary)
        seen = {}
        for i in range(300):
            session = f"visit-{i % 100}"
            name = await answerer(service, ("rules", "other")[i % 2], session)
            assert seen.setdefault(session, name) == name, "a session is answered by one model"
        chosen = {session for session, name in seen.items() if name == "canary"}
        hashed = service.pipeline.interactions.session
        assert chosen == {s for s in seen if in_canary(hashed(s), world.canary, 0.2)} and 5 < len(chosen) < 40
        assert await answerer(service, "rules") == "champion", "without a session there is nobody to compare"
        for record in service.notes.records("answer"):
            arm = "canary" if record["model_digest"] == world.canary else "champion"
            assert (record["arm"], record["error"]) == (arm, None)
            assert record["secondary_intent"].startswith(arm)
        assert service.metric("mangaassist_canary_requests_total", outcome="answered") == 3 * len(chosen)
        digest = world.canary
        assert service.metric("mangaassist_model_info", digest=digest, state="canary", provider="CPUExecutionProvider") == 1


@pytest.mark.parametrize(("text", "error"), [("poison", "classifier_failed"), ("late", "deadline"), ("rules crash", "internal_error")])
async def test_where_a_canary_errs_the_champion_answers_and_the_record_says_why(world, text, error, caplog):
    class Broken(StandIn):
        def classify_fast(self, texts):
            if "crash" in texts[0]:
                raise KeyError(texts[0])
            return super().classify_fast(texts)

    world.canary = world.bundle("canary", Broken("canary"))
    world.cascades[world.champion].classify_slow = lambda texts: [StandIn("champion")._answer(t, "classifier") for t in texts]
    async with serve(world, deadline_s=0.2) as service:
        await until(lambda: service.pipeline.model()["canary"])
        if text == "late":
            world.cascades[world.canary].gate.clear()
        session = next(sessions(world.canary, 0.5, True, service))
        answer = await service.classify(text, session_id=session)
        world.cascades[world.canary].gate.set()
        assert answer.status_code == 200 and answer.json()["results"][0]["secondary_intent"].startswith("champion")
        (record,) = service.notes.records("answer")
        assert (record["arm"], record["model_digest"], record["error"]) == ("canary", world.champion, error)
        assert service.metric("mangaassist_canary_requests_total", outcome="fell_back") == 1
        assert text not in caplog.text or text == "late"


async def test_a_request_that_is_wrong_is_refused_in_a_canary_as_anywhere(world):
    world.canary = world.bundle("canary")
    async with serve(world) as service:
        await until(lambda: service.pipeline.model()["canary"])
        session = next(sessions(world.canary, 0.5, True, service))
        answer = await service.classify("rules", "", session_id=session)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "empty_text")
        assert service.metric("mangaassist_canary_requests_total", outcome="fell_back") == 0


async def test_bundles_beside_the_champion_that_are_damaged_are_refused_and_named(world, caplog):
    world.canary, world.shadow = world.bundle("canary"), world.bundle("shadow")
    world.damage(world.canary)
    world.damage(world.shadow)
    async with serve(world) as service:
        await until(lambda: service.pipeline.model()["shadow_refused"] == world.shadow)
        model = (await service.http.get("/v1/model")).json()
        assert (model["canary"], model["canary_refused"], model["shadow"], model["refused"]) == (None, world.canary, None, None)
        assert (await service.http.get("/readyz")).status_code == 200
        assert f"{world.canary[:12]} (canary) is refused" in caplog.text
        session = next(sessions(world.canary, 0.5, True, service))
        assert await answerer(service, "rules", session) == "champion"
        (record,) = service.notes.records("answer")
        assert (record["arm"], record["model_digest"], record["error"]) == ("canary", world.champion, "not_loaded")
        other = next(sessions(world.canary, 0.5, False, service))
        assert await answerer(service, "rules", other) == "champion"
        assert service.notes.records("answer")[-1]["arm"] == "champion"


async def test_a_canary_that_is_rolled_back_leaves_at_once_and_one_that_passes_takes_over_without_a_failed_request(world, monkeypatch):
    monkeypatch.setattr(seats, "RETRY_REFUSED_S", 0.05)
    bad, good = world.bundle("bad"), world.bundle("good")
    world.canary, statuses, done = bad, [], asyncio.Event()
    async with serve(world, canary_share=0.5) as service:

        async def client(i):
            while not done.is_set():
                statuses.append((await service.classify("rules", "other", session_id=f"visit-{i}")).status_code)

        clients = [asyncio.create_task(client(i)) for i in range(8)]
        await until(lambda: service.pipeline.model()["canary"] == bad)
        world.canary = None
        await until(lambda: service.pipeline.model()["canary"] is None)
        assert await answerer(service, "rules", next(sessions(bad, 0.5, True, service))) == "champion"
        world.canary = good
        await until(lambda: service.pipeline.model()["canary"] == good)
        world.champion, world.canary = good, None
        await until(lambda: service.pipeline.model()["champion"] == good)
        done.set()
        await asyncio.gather(*clients)
        assert await answerer(service, "rules", "visit-1") == "good"
        assert set(statuses) == {200}
        assert service.metric("mangaassist_requests_total", route="/v1/classify", code="200") == len(statuses) + 2
