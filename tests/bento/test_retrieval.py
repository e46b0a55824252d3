"""/v1/retrieve answers from the index that the pointer names, takes up a new one between requests, and refuses what cannot be searched."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.retrieval.retriever import Hit
from mangaassist_assets.lib.retrieval.served import ServedRetriever

from .conftest import running, until

pytestmark = pytest.mark.anyio


class Shelf:
    """A retriever that finds what it is asked for, by the name of its index."""

    def __init__(self, name):
        self.index_digest, self.space = name, SimpleNamespace(name=f"space-of-{name}")
        self.asked, self.gate = [], threading.Event()
        self.gate.set()

    def retrieve(self, query, k, filters=None):
        self.gate.wait(10)
        if "nonsense" in (filters or {}):
            raise BadInput("unknown filter 'nonsense'", where="filters", remedy="Known filters: in_stock.")
        self.asked.append((query, k, filters))
        return [Hit(f"{self.index_digest}#{i}", self.index_digest, 0.5, "title", query) for i in range(k)]


class World:
    """What is wanted now, and the shelves that were loaded."""

    def __init__(self):
        self.now, self.loaded = ServedRetriever("one", "b1"), {}

    def __call__(self):
        return self.now

    def load(self, served):
        if served.index == "broken":
            raise DamagedArtifact("index broken: not whole")
        return self.loaded.setdefault(served.index, Shelf(served.index))


async def ask(service, **body):
    return await service.http.post("/v1/retrieve", json=body)


async def test_a_query_gives_chunks_with_space_and_index():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        answer = await ask(service, query="JJK box set", k=2, filters={"in_stock": True, "language": "en"})
        assert answer.status_code == 200
        body = answer.json()
        assert [hit["chunk_id"] for hit in body["results"]] == ["one#0", "one#1"]
        assert set(body) == {"results", "embedding_space", "index", "request_id"}
        assert set(body["results"][0]) == {"chunk_id", "document_id", "score", "title", "text"}
        assert (body["embedding_space"], body["index"]) == ("space-of-one", "one")
        assert world.loaded["one"].asked[-1] == ("JJK box set", 2, {"in_stock": True, "language": "en"})
        model = (await service.http.get("/v1/model")).json()
        assert (model["index"], model["embedding_space"]) == ("one", "space-of-one")


async def test_what_identifies_a_shopper_is_not_searched_for():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        await ask(service, query="is one piece shipped to me@example.com")
        assert "example.com" not in world.loaded["one"].asked[-1][0]


async def test_a_new_index_takes_over_without_a_failed_request():
    world, statuses = World(), []
    async with running(shelf=world, retriever=world.load) as service:

        async def go_on():
            while "two" not in world.loaded or len(statuses) < 50:
                statuses.append((await ask(service, query="berserk")).status_code)

        asking = asyncio.create_task(go_on())
        await asyncio.sleep(0.02)
        world.now = ServedRetriever("two", "b2")
        await asking
        assert set(statuses) == {200}
        assert (await ask(service, query="berserk")).json()["index"] == "two"


async def test_changes_beside_the_same_index_take_over_too():
    world, bundles = World(), []

    def load(served):
        bundles.append(served.bundle)
        return Shelf(served.index)

    async with running(shelf=world, retriever=load) as service:
        world.now = ServedRetriever("one", "b2")
        await until(lambda: bundles == ["b1", "b2"])
        assert (await ask(service, query="berserk")).json()["index"] == "one"


async def test_a_damaged_index_is_refused_and_the_old_one_serves_on():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        world.now = ServedRetriever("broken", "b3")
        await asyncio.sleep(0.1)
        assert (await ask(service, query="berserk")).json()["index"] == "one"
        world.now = ServedRetriever("three", "b4")
        await until(lambda: "three" in world.loaded)


async def test_bad_requests_get_one_clear_message():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        for content, status, code in [
            (b"{", 400, "invalid_json"),
            (b'{"query": 5}', 422, "invalid_request"),
            (b"{}", 422, "invalid_request"),
            (b'{"query": "a", "more": 1}', 422, "invalid_request"),
            (b'{"query": "\\ud800"}', 400, "lone_surrogate"),
            (b'{"query": "a", "filters": {"nonsense": "x"}}', 422, "invalid_request"),
        ]:
            answer = await service.http.post("/v1/retrieve", content=content, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), content
        assert (await service.http.get("/v1/retrieve")).status_code == 405


async def test_without_an_index_it_is_not_ready_and_says_what_to_do():
    async with running() as service:
        answer = await ask(service, query="berserk")
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert (await service.classify("rules hello")).status_code == 200
        ready = await service.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "index": "none"})


async def test_readiness_waits_for_the_index_and_not_for_one_that_cannot_be_loaded():
    world, gate = World(), threading.Event()

    def load(served):
        gate.wait(10)
        return world.load(served)

    async with running(shelf=world, retriever=load, ready=False) as service:
        await until(lambda: service.pipeline.model()["state"] == "champion")
        ready = await service.http.get("/readyz")
        assert ready.status_code == 503 and "index" in ready.json()["error"]["message"]
        assert (await service.classify("rules hello")).status_code == 200
        gate.set()
        await until(lambda: service.web._shelves.state == "served")
        assert (await service.http.get("/readyz")).json()["index"] == "served"
        world.now = ServedRetriever("broken", "b3")
        await asyncio.sleep(0.05)
        assert (await service.http.get("/readyz")).json()["index"] == "served", "the old one serves on"
    world.now = ServedRetriever("broken", "b3")
    async with running(shelf=world, retriever=load, ready=False) as service:
        await until(lambda: service.pipeline.model()["state"] == "champion" and service.web._shelves.state == "refused")
        ready = await service.http.get("/readyz")
        assert (ready.status_code, ready.json()["index"]) == (200, "refused")


async def test_more_than_can_be_answered_is_refused_at_once():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        world.loaded["one"].gate.clear()
        waiting = [asyncio.create_task(ask(service, query="berserk")) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert (await ask(service, query="berserk")).json()["error"]["code"] == "overloaded"
        world.loaded["one"].gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
