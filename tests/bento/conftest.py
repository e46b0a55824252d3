import asyncio
import contextlib
import datetime as dt
import json
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from bento.interactions import Interactions
from bento.metrics import Metrics
from bento.pipeline import Pipeline
from bento.shelves import Shelves
from bento.web import Web
from mangaassist_assets.lib.artifacts import Bundle
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.release.log import ReleaseLog, Stage
from mangaassist_assets.lib.serving import Lineup, ServiceSettings, Wanted
from mangaassist_assets.lib.verdicts import Verdict

DIGEST = "d" * 64
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


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


class Notes:
    """A journal in memory, with room or without."""

    def __init__(self):
        self.lines, self.problem, self.room, self.closed = [], None, True, False

    def append(self, lines):
        assert lines.endswith(b"\n") and threading.current_thread() is threading.main_thread()
        if self.room:
            self.lines.append(lines)
        return self.room

    def close(self):
        self.closed = True

    def records(self, kind):
        return [r for lines in self.lines for line in lines.splitlines() if (r := json.loads(line))["kind"] == kind]


@contextlib.asynccontextmanager
async def running(cascade=None, **knobs):
    """A pipeline and its web application around a stand-in, in a house of its own, started and stopped."""
    with tempfile.TemporaryDirectory() as home:
        async with running_in(Path(home), cascade, **knobs) as service:
            yield service


@contextlib.asynccontextmanager
async def running_in(
    home,
    cascade=None,
    *,
    wanted=None,
    load=None,
    ready=True,
    retriever=None,
    shelf=None,
    journal=None,
    clock=lambda: NOW,
    canary_share=0.5,
    **knobs,
):
    """The same in a house that there is, or is not."""
    knobs = {"runners": 1, "poll_s": 0.01} | knobs
    settings, notes = ServiceSettings(**knobs), Notes()
    cascade = cascade or StandIn()
    bundle = Bundle(None, DIGEST, "intent_classifier", {})
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    interactions = Interactions(
        home,
        open_journal=journal or (lambda folder: notes),
        clock=clock,
        metrics=metrics,
        write=settings.interactions,
        feedback_days=settings.feedback_days,
    )
    pipeline = Pipeline(
        settings,
        wanted=wanted or (lambda: Lineup(Wanted(DIGEST, "champion", lambda: bundle))),
        load=load or (lambda _: cascade),
        metrics=metrics,
        interactions=interactions,
        canary_share=canary_share,
    )
    shelves = Shelves(
        wanted=shelf or no_index,
        load=retriever or (lambda _: None),
        poll_s=knobs["poll_s"],
        max_waiting=2,
        interactions=interactions,
    )
    await interactions.start()
    await pipeline.start()
    await shelves.start()
    if ready:
        await until(lambda: pipeline.model()["state"] != "none" and shelves.state != "starting")
    if ready and shelf:
        await until(lambda: shelves.model()["index"])
    try:
        yield Running(pipeline, Web(pipeline, shelves), metrics, registry, cascade, notes)
    finally:
        await pipeline.stop()
        await shelves.stop()
        await interactions.stop()


def no_index():
    raise MissingEvidence("no index serves yet. Run `mangaassist run`.")


class Running:
    def __init__(self, pipeline, web, metrics, registry, cascade, notes):
        self.pipeline, self.web, self.metrics, self.registry = pipeline, web, metrics, registry
        self.cascade, self.notes = cascade, notes
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://service")

    async def classify(self, *texts, session_id=None, probe=False):
        body = {"texts": list(texts)} | ({"session_id": session_id} if session_id else {}) | ({"probe": True} if probe else {})
        return await self.http.post("/v1/classify", json=body)

    async def feedback(self, **told):
        return await self.http.post("/v1/feedback", json=told)

    def metric(self, name, **labels):
        self.metrics.settle()
        return self.registry.get_sample_value(name, labels) or 0.0


def release(releases, digest, stage=Stage.CHAMPION):
    """Takes a release to a stage: through the gates, and on by a person's word."""
    book = ReleaseLog(releases)
    state = book.promote(digest, Verdict.PASS, against=book.state().champion, by="gates", at=NOW, reason="better")
    while state.stage(digest) is not stage:
        state = book.approve(digest, by="a person", at=NOW, why="it is good")


async def until(condition, seconds=5.0):
    """Waits for a condition; a test that waits for ever says nothing."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.002)
