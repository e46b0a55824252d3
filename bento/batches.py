"""Batches for the classifier: an idle one starts at once with what is there, and what arrives while it computes is the next batch.

A batch takes a few texts of each request in turn, so that a long request does not hold up the short ones.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bento.faults import logger, place_of
from bento.metrics import Metrics
from bento.schemas import Refusal
from mangaassist_assets.lib.intents.prediction import Prediction

QUANTUM = 16  # texts that one request puts into a batch before the next request has its turn
LONGEST_TOKENS = 128  # longer texts cost the classifier no more than this


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
