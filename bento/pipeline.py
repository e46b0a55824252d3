"""From texts to intents: the bundle that is served, its replacement while requests run, and batches for the classifier.

Rules and student answer on the event loop, in microseconds. What they leave goes to a batcher: an idle classifier starts at
once with what is there, and what arrives while it computes makes up the next batch. Each bundle has a batcher of its own, so
a new one takes the next request while the old one answers those it has.
"""

import asyncio
import gc
import itertools
import logging
import math
import os
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bento.metrics import Metrics
from bento.schemas import ModelReply, Refusal
from mangaassist_assets.lib.artifacts import Bundle
from mangaassist_assets.lib.errors import DamagedArtifact, MangaAssistError, Unavailable
from mangaassist_assets.lib.intents.export import CPU, cores
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.messages.normalising import normalise
from mangaassist_assets.lib.messages.redaction import redact
from mangaassist_assets.lib.serving import ServiceSettings, Wanted

logger = logging.getLogger("bentoml.mangaassist")  # below bentoml's, whose level and handler the server sets up

RETRY_REFUSED_S = 30.0
ON_A_DEVICE = 2  # batches at once where a device computes: one is prepared while the other runs
QUANTUM = 16  # texts that one request puts into a batch before the next request has its turn
INLINE_TEXTS, INLINE_CHARS = 64, 4_000  # what rules and student read before other requests have their turn
LONGEST_TOKENS = 128  # longer texts cost the classifier no more than this

WARM_UP = (
    "where is my order",
    "おすすめの漫画は?",
    "I want to send vol. 3 back, and is the One Piece box set on sale?",
    "long " * 400,
    "😀",
)


class CascadeLike(Protocol):
    """What the pipeline needs of `lib.intents.cascade.Cascade`."""

    labels: tuple[str, ...]
    out_of_scope_label: str | None
    provider: str
    thresholds: dict[str, float]

    def classify_fast(self, texts: Sequence[str]) -> list[Prediction | None]: ...
    def classify_slow(self, texts: Sequence[str]) -> list[Prediction]: ...


class HungUp(Exception):
    """Nobody waits for the answer any more."""


# ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Asked:
    """Texts of one request that wait for the classifier.

    Attributes:
        answer: their predictions, in order.
        taken: how many are in a batch already.
        left: how many are not answered yet.
    """

    __slots__ = ("answer", "left", "predictions", "taken", "texts")

    def __init__(self, texts: Sequence[str], answer: "asyncio.Future[list[Prediction]]") -> None:
        self.texts, self.answer = texts, answer
        self.taken, self.left = 0, len(texts)
        self.predictions: list[Prediction] = [None] * len(texts)  # type: ignore[list-item]


@dataclass(slots=True)
class Part:
    """A run of one request's texts within a batch."""

    asked: Asked
    start: int
    stop: int

    @property
    def texts(self) -> Sequence[str]:
        return self.asked.texts[self.start : self.stop]


class Batcher:
    """Runs the classifier on batches, in threads of its own; everything else happens on the event loop.

    Args:
        classify: predictions of texts, in order; called by `runners` threads at once.
        runners: batches at the same time.
        max_tokens: estimated tokens in one batch, padding included.
        metrics: counts batches and what waits.
    """

    def __init__(self, classify: Callable[[Sequence[str]], list[Prediction]], *, runners: int, max_tokens: int, metrics: Metrics) -> None:
        self._classify, self._max_tokens, self._metrics = classify, max_tokens, metrics
        self._threads = ThreadPoolExecutor(runners, thread_name_prefix="classifier")
        self._runners = self._free = runners
        self._queue: deque[Asked] = deque()
        self._loop = asyncio.get_running_loop()
        self._scheduled = self._closing = False
        self._seconds_per_text = 0.005
        self.waiting = 0

    def ask(self, texts: Sequence[str]) -> Asked:
        """Queues the texts of one request."""
        asked = Asked(texts, self._loop.create_future())
        self._queue.append(asked)
        self._count(len(texts))
        if not self._scheduled:  # once per turn of the loop: requests that arrive together go together
            self._scheduled = True
            self._loop.call_soon(self._start)
        return asked

    def give_up(self, asked: Asked) -> None:
        """Takes back the texts that no batch holds yet."""
        asked.answer.cancel()
        self._drop(asked)

    def seconds_to_empty(self) -> float:
        """When the texts that wait now will be answered, at the pace of recent batches."""
        return self.waiting * self._seconds_per_text / self._runners

    def close(self) -> None:
        """Ends the threads when all that was asked is answered."""
        self._closing = True
        self._end_if_drained()

    def _start(self) -> None:
        self._scheduled = False
        while self._free and (batch := self._next_batch()):
            self._free -= 1
            started = time.perf_counter()
            running = self._loop.run_in_executor(self._threads, self._run, [part.texts for part in batch])
            running.add_done_callback(lambda done, batch=batch, started=started: self._finish(done, batch, started))  # type: ignore[misc]

    def _next_batch(self) -> list[Part]:
        """A few texts of each request in turn, so that a long request does not hold up the short ones."""
        batch: list[Part] = []
        size, widest = 0, 0
        while self._queue:
            asked = self._queue.popleft()
            start, stop, full = asked.taken, min(asked.taken + QUANTUM, len(asked.texts)), False
            while asked.taken < stop and not full:
                wider = max(widest, tokens(asked.texts[asked.taken]))
                full = size > 0 and wider * (size + 1) > self._max_tokens
                if not full:
                    widest, size, asked.taken = wider, size + 1, asked.taken + 1
            if asked.taken > start:
                batch.append(Part(asked, start, asked.taken))
            if full:
                self._queue.appendleft(asked)
                break
            if asked.taken < len(asked.texts):
                self._queue.append(asked)
        self._count(-size)
        return batch

    def _run(self, parts: list[Sequence[str]]) -> list[list[Prediction] | Exception]:
        """Predictions of each part. Where the batch fails, each part is tried alone: one text must not fail its neighbours."""
        try:
            predictions = self._classify(list(itertools.chain.from_iterable(parts)))
            ends = list(itertools.accumulate(map(len, parts)))
            return [predictions[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]
        except Exception as error:
            return [error] if len(parts) == 1 else [self._run([part])[0] for part in parts]

    def _finish(self, done: "asyncio.Future[list[list[Prediction] | Exception]]", batch: list[Part], started: float) -> None:
        self._free += 1
        seconds, size = time.perf_counter() - started, sum(part.stop - part.start for part in batch)
        self._seconds_per_text += 0.1 * (seconds / size - self._seconds_per_text)
        self._metrics.ran_batch(size, seconds)
        for part, outcome in zip(batch, done.result(), strict=True):
            asked = part.asked
            if asked.answer.done():
                continue
            if isinstance(outcome, Exception):
                logger.error("The classifier failed on %d texts: %s", part.stop - part.start, place_of(outcome))
                asked.answer.set_exception(
                    Refusal(503, "classifier_failed", "The classifier failed on a text of this request. Ask again.", 1)
                )
                self._drop(asked)
                continue
            asked.predictions[part.start : part.stop] = outcome
            asked.left -= len(outcome)
            if not asked.left:
                asked.answer.set_result(asked.predictions)
        self._start()
        self._end_if_drained()

    def _drop(self, asked: Asked) -> None:
        self._count(asked.taken - len(asked.texts))
        asked.taken = len(asked.texts)

    def _end_if_drained(self) -> None:
        if self._closing and not self._queue and self._free == self._runners:
            self._threads.shutdown(wait=False)

    def _count(self, change: int) -> None:
        self.waiting += change
        self._metrics.waiting(self.waiting)


def tokens(text: str) -> int:
    """Rough number of tokens of a text, with the two that mark its ends."""
    return min((len(text) // 4 if text.isascii() else len(text.encode()) // 3) + 3, LONGEST_TOKENS)


def place_of(error: BaseException) -> str:
    """Type and innermost line of an error. Its message may quote a shopper's text and is never logged."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + (f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else "")


# ── the bundle that is served ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Served:
    """A verified and warmed bundle with its batcher."""

    wanted: Wanted
    cascade: CascadeLike
    batcher: Batcher


class Pipeline:
    """Serves one bundle, and replaces it when another is wanted.

    Args:
        settings: limits and pace.
        wanted: what ought to be served now; called every `poll_s` seconds in a thread; raises MangaAssistError.
        load: makes a cascade of a verified bundle; raises Unavailable where the provider cannot be had.
        metrics: where answers, batches and bundles are counted.
    """

    def __init__(
        self, settings: ServiceSettings, *, wanted: Callable[[], Wanted], load: Callable[[Bundle], CascadeLike], metrics: Metrics
    ) -> None:
        self.settings, self.metrics = settings, metrics
        self._wanted, self._load = wanted, load
        self._runners = settings.runners or (cores() if settings.provider == CPU else ON_A_DEVICE)
        self._served: Served | None = None
        self._why_not = "The service is starting: the bundle is being verified and warmed. Ask again in some seconds."
        self._refused: tuple[str, float] | None = None  # digest, when
        self._watching: asyncio.Task[None] | None = None
        self._in_work = 0
        self._prefix, self._numbers = os.urandom(6).hex(), itertools.count(1)

    async def start(self) -> None:
        """Begins to look for a bundle and returns at once; `served` raises until it is there."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the watch; batches that run end by themselves."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._served is not None:
            self._served.batcher.close()

    # ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def served(self) -> Served:
        """The bundle in service; a Refusal that names the remedy where there is none."""
        if self._served is None:
            raise Refusal(503, "not_ready", self._why_not, 5)
        return self._served

    def model(self) -> ModelReply:
        """What is served, for people and deployers."""
        served, refused = self._served, self._refused[0] if self._refused else None
        if served is None:
            return ModelReply(
                state="none",
                digest=None,
                champion=None,
                refused=refused,
                labels=[],
                out_of_scope_label=None,
                provider=self.settings.provider,
                thresholds={},
                index=None,
                embedding_space=None,
            )
        digest, state = served.wanted.digest, served.wanted.state
        return ModelReply(
            state=state,
            digest=digest,
            champion=digest if state == "champion" else None,
            refused=refused,
            labels=list(served.cascade.labels),
            out_of_scope_label=served.cascade.out_of_scope_label,
            provider=served.cascade.provider,
            thresholds=dict(served.cascade.thresholds),
            index=None,
            embedding_space=None,
        )

    def request_id(self) -> str:
        """A name that no other answer of any worker has."""
        return f"{self._prefix}-{next(self._numbers):x}"

    async def classify(self, texts: Sequence[str], hang_up: Callable[[], Awaitable[Any]] | None = None) -> list[Prediction]:
        """Predictions of texts, in order.

        Args:
            texts: at least one, within the limits.
            hang_up: awaited while the classifier works; returns when the client has gone.

        Raises:
            Refusal: not ready, overloaded, past the deadline, or a text has nothing to read.
            HungUp: the client has gone.
        """
        served = self.served()
        if self._in_work >= self.settings.max_requests:
            raise self._overloaded(served)
        self._in_work += 1
        try:
            clean: list[str] = []
            predictions: list[Prediction | None] = []
            for share in _shares(texts):
                if predictions:
                    await asyncio.sleep(0)
                normal = [redact(normalise(text)) for text in share]  # the form that the classifier was trained on
                if not all(normal):
                    raise Refusal(422, "empty_text", f"texts[{len(clean) + normal.index('')}] is empty. Leave it out.")
                clean += normal
                predictions += served.cascade.classify_fast(normal)
            left = [place for place, prediction in enumerate(predictions) if prediction is None]
            if left:
                slow = await self._classify_slowly(served, [clean[place] for place in left], hang_up)
                for place, prediction in zip(left, slow, strict=True):
                    predictions[place] = prediction
            return predictions  # type: ignore[return-value]
        finally:
            self._in_work -= 1

    async def _classify_slowly(self, served: Served, texts: list[str], hang_up: Callable[[], Awaitable[Any]] | None) -> list[Prediction]:
        batcher, deadline_s = served.batcher, self.settings.deadline_s
        if batcher.waiting + len(texts) > self.settings.max_waiting_texts or batcher.seconds_to_empty() > deadline_s:
            raise self._overloaded(served)
        asked = batcher.ask(texts)
        gone = asyncio.ensure_future(hang_up()) if hang_up else None
        try:
            await asyncio.wait({asked.answer, gone} if gone else {asked.answer}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if asked.answer.done():
                return asked.answer.result()
            if gone and gone.done():
                raise HungUp
            late = f"The classifier did not answer within {deadline_s:g} seconds. Ask again, with fewer texts."
            raise Refusal(503, "deadline", late, self._later(served))
        finally:
            if not asked.answer.done():
                batcher.give_up(asked)
            if gone:
                gone.cancel()

    def _overloaded(self, served: Served) -> Refusal:
        return Refusal(
            503, "overloaded", "More is asked than the service can answer. Ask again after Retry-After seconds.", self._later(served)
        )

    def _later(self, served: Served) -> int:
        return min(60, max(1, math.ceil(served.batcher.seconds_to_empty())))

    # ── replacement ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except MangaAssistError as error:
                self._say(str(error))
            except Exception as error:  # the watch outlives whatever happens to a disk
                self._say(f"What to serve could not be found out ({place_of(error)}). Look at the log of releases and the bundles.")
            await asyncio.sleep(self.settings.poll_s)

    def _say(self, reason: str) -> None:
        """Keeps a reason, and logs it when it is another than the last."""
        if reason != self._why_not:
            self._why_not = reason
            logger.warning("%s%s", reason, " What was served stays in service." if self._served else "")

    async def _look(self) -> None:
        wanted, served = await asyncio.to_thread(self._wanted), self._served
        if served is not None:
            if wanted.digest == served.wanted.digest:
                if wanted.state != served.wanted.state:
                    self._served = replace(served, wanted=wanted)
                    self._announce(self._served)
                return
            if wanted.state == "unreleased" and served.wanted.state == "champion":
                return  # the log may be out of reach for a moment; only another release replaces a champion
        if self._refused and self._refused[0] == wanted.digest and time.monotonic() - self._refused[1] < RETRY_REFUSED_S:
            return
        try:
            cascade = await asyncio.to_thread(self._load_and_warm, wanted)
        except Exception as error:
            self._refused = (wanted.digest, time.monotonic())
            self.metrics.refused()
            self._say(f"Bundle {wanted.digest[:12]} is refused: {error if isinstance(error, MangaAssistError) else place_of(error)}")
            return
        batcher = Batcher(cascade.classify_slow, runners=self._runners, max_tokens=self.settings.max_batch_tokens, metrics=self.metrics)
        self._served, self._refused = Served(wanted, cascade, batcher), None
        self._announce(self._served)
        if served is not None:
            served.batcher.close()

    def _announce(self, served: Served) -> None:
        digest, state = served.wanted.digest, served.wanted.state
        self.metrics.serves(digest, state, served.cascade.provider)
        if state == "unreleased":
            logger.warning("Serving %s, which is not released: no champion has been. See service.allow_unreleased.", digest[:12])
        else:
            logger.info("Serving %s (%s) on %s.", digest[:12], state, served.cascade.provider)

    def _load_and_warm(self, wanted: Wanted) -> CascadeLike:
        """Verifies every byte, loads, and answers a few texts on each route before anybody's request does."""
        bundle = wanted.open()
        cascade = self._load(bundle)
        if cascade.provider != self.settings.provider:
            asked, had = self.settings.provider, cascade.provider
            raise Unavailable(f"{asked} was asked for, {had} was had. Install the provider, or set service.provider.")
        known = {*cascade.labels, cascade.out_of_scope_label}
        answers = [*cascade.classify_fast(WARM_UP), *cascade.classify_slow(WARM_UP), *cascade.classify_slow(WARM_UP[:1])]
        if any(answer is not None and (answer.intent not in known or not 0 <= answer.confidence <= 1) for answer in answers):
            raise DamagedArtifact(f"{bundle.path}: it answers with labels or confidences that it cannot have. Train it again.")
        if self._served is None:
            gc.collect()
            gc.freeze()  # the imports' objects live for ever; a collection that walks them all would hold up requests
        return cascade


def _shares(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of texts that rules and student read in one go."""
    start, chars = 0, 0
    for place, text in enumerate(texts):
        if place > start and (place - start >= INLINE_TEXTS or chars + len(text) > INLINE_CHARS):
            yield texts[start:place]
            start, chars = place, 0
        chars += len(text)
    yield texts[start:] if start else texts
