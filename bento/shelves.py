"""From queries to the store's documents: the retriever that serves, and its replacement while requests run.

A retriever is loaded, checked and asked once before it takes over; requests that it replaces another under finish with the one they began
with. Searching is numpy and ONNX Runtime, which let go of the interpreter, so it runs in threads beside the event loop.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from bento.faults import logger, place_of
from bento.interactions import Interactions
from bento.schemas import Found, Refusal, RetrieveReply, RetrieveRequest
from bento.seats import RETRY_REFUSED_S
from mangaassist_assets.lib.errors import BadInput, MangaAssistError, MissingEvidence
from mangaassist_assets.lib.intents.export import cores
from mangaassist_assets.lib.messages.redaction import redact
from mangaassist_assets.lib.retrieval.retriever import Retriever
from mangaassist_assets.lib.retrieval.served import ServedRetriever

IndexState = Literal["starting", "served", "none", "refused"]
WARM_UP = ("dark fantasy like Berserk", "返品はできますか")


class Shelves:
    """Serves one retriever, and replaces it when another is wanted.

    Args:
        wanted: what ought to serve; called every `poll_s` seconds in a thread; raises MangaAssistError.
        load: makes the retriever; raises MangaAssistError.
        poll_s: seconds between looks.
        max_waiting: queries in work at the same time; one more is answered 503.
        interactions: names answers and writes them down.

    Attributes:
        state: `starting` until the first look has ended; then whether an index is served, there is none, or the one there is cannot be.
    """

    def __init__(
        self,
        *,
        wanted: Callable[[], ServedRetriever],
        load: Callable[[ServedRetriever], Retriever],
        poll_s: float,
        max_waiting: int,
        interactions: Interactions,
    ) -> None:
        self.state: IndexState = "starting"
        self._interactions = interactions
        self._wanted, self._load, self._poll_s, self._max_waiting = wanted, load, poll_s, max_waiting
        self._served: tuple[ServedRetriever, Retriever] | None = None
        self._refused: tuple[ServedRetriever, float] | None = None  # which, when
        self._why_not = "The service is starting: the index is being verified and warmed. Ask again in some seconds."
        self._threads = ThreadPoolExecutor(cores(), thread_name_prefix="retrieve")
        self._in_work = 0
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to look for a retriever and returns at once."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the watch; searches that run end by themselves."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        self._threads.shutdown(wait=False)

    def model(self) -> dict[str, str | None]:
        """Digest of the index and name of its embedding space."""
        if self._served is None:
            return {"index": None, "embedding_space": None}
        return {"index": self._served[1].index_digest, "embedding_space": self._served[1].space.name}

    async def retrieve(self, asked: RetrieveRequest) -> RetrieveReply:
        """The chunks that answer.

        Raises:
            Refusal: not ready, overloaded, or the query cannot be searched.
        """
        if self._served is None:
            raise Refusal(503, "not_ready", self._why_not, 5)
        if self._in_work >= self._max_waiting:
            raise Refusal(503, "overloaded", "More is asked than the service can answer. Ask again after Retry-After seconds.", 1)
        _, retriever = self._served
        started = time.perf_counter()
        self._in_work += 1
        try:
            loop = asyncio.get_running_loop()
            hits = await loop.run_in_executor(self._threads, retriever.retrieve, redact(asked.query), asked.k, asked.filters)
        except BadInput as error:
            raise Refusal(422, "invalid_request", str(error)) from None
        finally:
            self._in_work -= 1
        results = [Found(chunk_id=h.chunk_id, document_id=h.document_id, score=h.score, title=h.title, text=h.text) for h in hits]
        latency_ms = (time.perf_counter() - started) * 1e3
        name = self._interactions.retrieved(asked.query, results, retriever.index_digest, latency_ms)
        return RetrieveReply(results=results, embedding_space=retriever.space.name, index=retriever.index_digest, request_id=name)

    async def _watch(self) -> None:
        while True:
            try:
                wanted = await asyncio.to_thread(self._wanted)
                refused = self._refused and self._refused[0] == wanted and time.monotonic() - self._refused[1] < RETRY_REFUSED_S
                if not refused and (self._served is None or wanted != self._served[0]):
                    await self._replace(wanted)
            except MissingEvidence as error:
                self._say("none", str(error))
            except MangaAssistError as error:
                self._say("refused", str(error))
            except Exception as error:  # the watch outlives whatever happens to a disk
                self._say("refused", f"Which index to serve could not be found out ({place_of(error)}).")
            await asyncio.sleep(self._poll_s)

    async def _replace(self, wanted: ServedRetriever) -> None:
        try:
            retriever = await asyncio.to_thread(self._load_and_warm, wanted)
        except Exception as error:
            self._refused = (wanted, time.monotonic())
            reason = error if isinstance(error, MangaAssistError) else place_of(error)
            self._say("refused", f"Index {wanted.index[:12]} is refused: {reason}")
            return
        self._served, self._refused, self.state = (wanted, retriever), None, "served"
        logger.info("Searching index %s of %s.", wanted.index[:12], retriever.space.name)

    def _load_and_warm(self, wanted: ServedRetriever) -> Retriever:
        retriever = self._load(wanted)
        for query in WARM_UP:
            retriever.retrieve(query, 3)
        return retriever

    def _say(self, state: IndexState, reason: str) -> None:
        if self._served is None:
            self.state = state
        if reason != self._why_not:
            self._why_not = reason
            logger.warning("%s%s", reason, " The index that was served stays in service." if self._served else "")
