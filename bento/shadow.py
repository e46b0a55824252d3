"""A candidate beside the champion: it reads what shoppers write and answers nobody.

It has a thread of its own and works one text at a time, while no text waits for the champion's classifier. Requests only append to its
queue, which wakes nobody; where the queue is full the text is dropped and counted, and the answer goes out as always.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from bento.faults import logger, place_of
from bento.metrics import Metrics
from bento.seats import CascadeLike
from mangaassist_assets.lib.drift.interactions import Shadow as Record
from mangaassist_assets.lib.serving import Wanted

LOOK_S = 0.005  # between looks at an empty queue, or at a champion that is busy
BREATH_S = 0.0002  # after each text: the event loop has the interpreter before the next one begins
TOGETHER = 64  # records handed over at once, at most


class Shadow:
    """A loaded candidate with its thread.

    Args:
        wanted, cascade: the candidate.
        share: of texts that it reads, 0 to 1.
        most: texts that may wait.
        is_busy: whether texts wait for the champion.
        write: takes what it says; called in its thread.
        metrics: counts what it answered and what was dropped.
        seed: of the draw of texts.
    """

    def __init__(
        self,
        wanted: Wanted,
        cascade: CascadeLike,
        *,
        share: float,
        most: int,
        is_busy: Callable[[], bool],
        write: Callable[[Sequence[Record]], object],
        metrics: Metrics,
        seed: int = 0,
    ) -> None:
        self.wanted, self.cascade = wanted, cascade
        self._share, self._most, self._is_busy, self._write, self._metrics = share, most, is_busy, write, metrics
        self._draw = random.Random(seed).random
        self._queue: deque[tuple[str, str]] = deque()  # request id, text
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, texts: Sequence[str], request_ids: Sequence[str]) -> None:
        """Queues the texts of answers, or drops them; never waits."""
        for text, request_id in zip(texts, request_ids, strict=True):
            if self._draw() >= self._share:
                continue
            if len(self._queue) >= self._most:
                self._metrics.shadow("dropped")
            else:
                self._queue.append((request_id, text))

    def close(self) -> None:
        """Ends the thread after the text it is at; what waits is dropped."""
        self._closing = True

    def _work(self) -> None:
        done: list[Record] = []
        while not self._closing:
            if done and (not self._queue or len(done) >= TOGETHER):
                self._write(done)
                done = []
            if not self._queue or self._is_busy():
                time.sleep(LOOK_S)
                continue
            request_id, text = self._queue.popleft()
            done.append(self._ask(request_id, text))
            time.sleep(BREATH_S)
        if done:
            self._write(done)
        for _ in self._queue:
            self._metrics.shadow("dropped")

    def _ask(self, request_id: str, text: str) -> Record:
        digest, started = self.wanted.digest, time.perf_counter()
        try:
            prediction = self.cascade.classify_fast([text])[0] or self.cascade.classify_slow([text])[0]
        except Exception as error:
            logger.error("The shadow %s failed on a text: %s", digest[:12], place_of(error))
            self._metrics.shadow("failed")
            return Record(request_id=request_id, shadow_digest=digest)
        self._metrics.shadow("answered")
        return Record(
            request_id=request_id,
            shadow_digest=digest,
            shadow_intent=prediction.intent,
            shadow_confidence=prediction.confidence,
            shadow_latency_ms=(time.perf_counter() - started) * 1e3,
        )
