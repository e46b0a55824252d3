"""Prometheus metrics of the service: a fixed set of labels, never a text, never a client.

BentoML gives all workers of all its servers under one BENTOML_HOME the same folder of counters, and empties it whenever one
of them starts. Counters of a running service must outlive that, so the workers of one service keep them in a folder of
their own, named by the process that started them.
"""

import os
import shutil
from pathlib import Path

import psutil  # type: ignore[import-untyped]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def _own_folder() -> None:
    if FOLDER not in os.environ:
        return
    parent = psutil.Process(os.getppid())
    family = Path(os.environ[FOLDER]).parent / "mangaassist_metrics"
    own = family / f"{parent.pid}-{int(parent.create_time())}"
    own.mkdir(parents=True, exist_ok=True)
    for other in family.iterdir():
        pid = other.name.partition("-")[0]
        if other != own and not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            shutil.rmtree(other, ignore_errors=True)
    os.environ[FOLDER] = str(own)


_own_folder()

import prometheus_client  # noqa: E402
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram  # noqa: E402
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
ROUTES = ("/v1/classify", "/v1/retrieve", "/v1/feedback", "/v1/model", "/livez", "/readyz", "/metrics", "/docs.json", "/")
OTHER = "other"


class Metrics:
    """Counters of one process; `render` adds up those of all workers of the service.

    A counter that workers share costs a microsecond and more: what every request counts is kept here, and `settle` counts it once a second.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._requests = Counter("mangaassist_requests", "Requests answered.", ["route", "code"], registry=registry)
        self._seconds = Histogram(
            "mangaassist_classify_seconds",
            "Seconds from the whole request to its answer, /v1/classify.",
            buckets=(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self._messages = Counter(
            "mangaassist_messages", "Texts answered, by the part of the cascade that did.", ["route"], registry=registry
        )
        self._batch_texts = Histogram(
            "mangaassist_batch_texts",
            "Texts in one batch of the classifier.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "mangaassist_batch_seconds",
            "Seconds of one batch.",
            buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )
        self._waiting = Gauge(
            "mangaassist_waiting_texts", "Texts that wait for the classifier.", multiprocess_mode="livesum", registry=registry
        )
        self._ready = Gauge("mangaassist_ready", "1 where every worker is ready.", multiprocess_mode="livemin", registry=registry)
        self._model = Gauge(
            "mangaassist_model_info",
            "1 for the bundle that is served.",
            ["digest", "state", "provider"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._reloads = Counter("mangaassist_reloads", "Bundles taken up or refused.", ["outcome"], registry=registry)
        self._interactions = Counter(
            "mangaassist_interactions", "Records written down: answer, retrieve, feedback, shadow.", ["kind"], registry=registry
        )
        self._not_written = Counter(
            "mangaassist_interactions_not_written", "Records that could not be written down, by reason.", ["reason"], registry=registry
        )
        self._shadow = Counter("mangaassist_shadow_texts", "Texts offered to the shadow.", ["outcome"], registry=registry)
        self._canary = Counter("mangaassist_canary_requests", "Requests of the canary's sessions.", ["outcome"], registry=registry)
        self._kept: dict[Counter, int] = {}
        self._by_kind = {kind: self._interactions.labels(kind) for kind in ("answer", "retrieve", "feedback", "shadow")}
        self._by_route = {route: self._messages.labels(route) for route in ("rules", "student", "classifier")}
        self._by_answer: dict[tuple[str, int], Counter] = {}
        self._served: dict[str, tuple[str, str, str]] = {}
        for counter, values in (
            (self._reloads, ("loaded", "refused")),
            (self._not_written, ("behind", "disk", "not_open")),
            (self._shadow, ("answered", "dropped", "failed")),
            (self._canary, ("answered", "fell_back")),
        ):
            for value in values:
                counter.labels(value)

    def answered(self, route: str, code: int) -> None:
        """Counts an answer; a route that is not the service's own counts as `other`."""
        key = (route if route in ROUTES else OTHER, code)
        counter = self._by_answer.get(key)
        if counter is None:
            counter = self._by_answer[key] = self._requests.labels(*map(str, key))
        self._keep(counter, 1)

    def classified(self, routes: list[str], seconds: float) -> None:
        """Counts the texts of one answered request, by route, and its time."""
        self._seconds.observe(seconds)
        if len(routes) == 1:
            self._keep(self._by_route[routes[0]], 1)
            return
        for route, counter in self._by_route.items():
            if n := routes.count(route):
                self._keep(counter, n)

    def ran_batch(self, texts: int, seconds: float) -> None:
        self._batch_texts.observe(texts)
        self._batch_seconds.observe(seconds)

    def waiting(self, texts: int) -> None:
        self._waiting.set(texts)

    def serves(self, role: str, digest: str, state: str, provider: str) -> None:
        """Names the bundle that serves as champion, canary or shadow from now on."""
        self.leaves(role)
        self._served[role] = (digest, state, provider)
        self._model.labels(*self._served[role]).set(1)
        if role == "champion":
            self._ready.set(1)
        self._reloads.labels("loaded").inc()

    def leaves(self, role: str) -> None:
        """Nobody serves as that any more."""
        if (served := self._served.pop(role, None)) is not None:
            self._model.labels(*served).set(0)

    def refused(self) -> None:
        self._reloads.labels("refused").inc()

    def written(self, kind: str, records: int) -> None:
        """Counts records of a kind: answer, retrieve, feedback or shadow."""
        self._keep(self._by_kind[kind], records)

    def not_written(self, reason: str, records: int) -> None:
        self._not_written.labels(reason).inc(records)

    def shadow(self, outcome: str) -> None:
        """Counts a text that a shadow answered or failed on, or that was dropped."""
        self._shadow.labels(outcome).inc()

    def canary(self, outcome: str) -> None:
        """Counts a request of a canary's session: answered by it, or fallen back to the champion."""
        self._canary.labels(outcome).inc()

    def _keep(self, counter: Counter, n: int) -> None:
        self._kept[counter] = self._kept.get(counter, 0) + n

    def settle(self) -> None:
        """Counts what was kept."""
        while self._kept:
            counter, n = self._kept.popitem()
            counter.inc(n)

    def render(self) -> bytes:
        """The text exposition of all workers."""
        self.settle()
        registry = self._registry
        if registry is REGISTRY and FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return prometheus_client.generate_latest(registry)
