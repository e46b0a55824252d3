import asyncio
import contextlib
import threading
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry

from bento.metrics import Metrics
from bento.pipeline import Pipeline
from bento.shelves import Shelves
from bento.web import Web
from mangaassist_assets.lib.artifacts import Bundle
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.serving import ServiceSettings, Wanted

DIGEST = "d" * 64


@pytest.fixture
def anyio_backend():
    return "asyncio"


class StandIn:
    """A cascade whose answers say what was asked: the intent of a text is its first word."""

    labels = ("faq", "chitchat", "order_tracking")
    out_of_scope_label = None
    thresholds = {"student_confidence": 0.9}

    def __init__(self, name="one", provider="CPUExecutionProvider", seconds=0.0):
        self.name, self.provider, self.seconds = name, provider, seconds
        self.batches, self.warm = [], False
        self.gate = threading.Event()
        self.gate.set()

    def classify_fast(self, texts):
        return [self._answer(t, r) if (r := t.split()[0]) in ("rules", "student") else None for t in texts]

    def classify_slow(self, texts):
        if not self.warm:
            self.warm = len(texts) == 1
            return [self._answer(t, "classifier") for t in texts]
        self.gate.wait(10)
        time.sleep(self.seconds)
        self.batches.append(list(texts))
        if any("poison" in t for t in texts):
            raise ValueError(f"cannot read {texts}")
        return [self._answer(t, "classifier") for t in texts]

    def _answer(self, text, route):
        return Prediction("faq", 0.5, f"{self.name}: {text}", route)


@contextlib.asynccontextmanager
async def running(cascade=None, *, wanted=None, load=None, ready=True, retriever=None, shelf=None, **knobs):
    """A pipeline and its web application around a stand-in, started and stopped."""
    knobs = {"runners": 1, "poll_s": 0.01} | knobs
    cascade = cascade or StandIn()
    bundle = Bundle(None, DIGEST, "intent_classifier", {})
    registry = CollectorRegistry()
    pipeline = Pipeline(
        ServiceSettings(**knobs),
        wanted=wanted or (lambda: Wanted(DIGEST, "champion", lambda: bundle)),
        load=load or (lambda _: cascade),
        metrics=Metrics(registry),
    )
    shelves = Shelves(wanted=shelf or no_index, load=retriever or (lambda _: None), poll_s=knobs["poll_s"], max_waiting=2)
    await pipeline.start()
    await shelves.start()
    if ready:
        await until(lambda: pipeline.model()["state"] != "none")
    if ready and shelf:
        await until(lambda: shelves.model()["index"])
    try:
        yield Running(pipeline, Web(pipeline, shelves), registry, cascade)
    finally:
        await pipeline.stop()
        await shelves.stop()


def no_index():
    raise MissingEvidence("no index serves yet. Run `mangaassist run`.")


class Running:
    def __init__(self, pipeline, web, registry, cascade):
        self.pipeline, self.web, self.registry, self.cascade = pipeline, web, registry, cascade
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://service")

    async def classify(self, *texts):
        return await self.http.post("/v1/classify", json={"texts": list(texts)})

    def metric(self, name, **labels):
        return self.registry.get_sample_value(name, labels) or 0.0


async def until(condition, seconds=5.0):
    """Waits for a condition; a test that waits for ever says nothing."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.002)
