"""From texts to intents: who answers a request, and the limits that it is answered within.

Rules and student answer on the event loop, in microseconds; what they leave goes to the bundle's batcher. A canary's sessions are answered
by the canary, and by the champion where that fails; a shadow reads what the champion answered, afterwards.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bento.batches import Batcher
from bento.faults import logger, place_of
from bento.interactions import Answers, Interactions
from bento.metrics import Metrics
from bento.schemas import ClassifyRequest, ModelReply, Refusal
from bento.seats import CascadeLike, Seat, load_and_warm
from bento.shadow import Shadow
from mangaassist_assets.lib.artifacts import Bundle
from mangaassist_assets.lib.drift.interactions import Shadow as Record
from mangaassist_assets.lib.errors import MangaAssistError
from mangaassist_assets.lib.intents.export import CPU, cores
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.messages.normalising import normalise
from mangaassist_assets.lib.messages.redaction import redact
from mangaassist_assets.lib.release.assignment import in_canary
from mangaassist_assets.lib.serving import Lineup, ServiceSettings, Wanted

ON_A_DEVICE = 2  # batches at once where a device computes: one is prepared while the other runs
INLINE_TEXTS, INLINE_CHARS = 64, 4_000  # what rules and student read before other requests have their turn

HangUp = Callable[[], Awaitable[Any]]  # returns when the client has gone


class HungUp(Exception):
    """Nobody waits for the answer any more."""


@dataclass
class Served:
    """A verified and warmed bundle with its batcher."""

    wanted: Wanted
    cascade: CascadeLike
    batcher: Batcher

    def close(self) -> None:
        """Ends the batcher when it has answered what it was asked."""
        self.batcher.close()


class Pipeline:
    """Answers with the champion, and runs a canary and a shadow beside it.

    Args:
        settings: limits and pace.
        wanted: what ought to be served now; called every `poll_s` seconds in a thread; raises MangaAssistError.
        load: makes a cascade of a verified bundle; raises Unavailable where the provider cannot be had.
        metrics: where answers, batches and bundles are counted.
        interactions: names answers and writes them down.
        canary_share: of sessions, 0 to 1.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        wanted: Callable[[], Lineup],
        load: Callable[[Bundle], CascadeLike],
        metrics: Metrics,
        interactions: Interactions,
        canary_share: float,
    ) -> None:
        self.settings, self.metrics, self.interactions = settings, metrics, interactions
        self._wanted, self._canary_share = wanted, canary_share
        self._runners = settings.runners or (cores() if settings.provider == CPU else ON_A_DEVICE)

        def warm(bundle: Wanted) -> CascadeLike:
            return load_and_warm(bundle, load, settings.provider)

        self.champion = Seat("champion", load=warm, run=self._run, metrics=metrics)
        self.canary = Seat("canary", load=warm, run=self._run, metrics=metrics)
        self.shadow = Seat("shadow", load=warm, run=self._run_shadow, metrics=metrics)
        self._watching: asyncio.Task[None] | None = None
        self._in_work = 0

    async def start(self) -> None:
        """Begins to look for a bundle and returns at once; `served` raises until it is there."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the watch; batches that run end by themselves."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        for seat in (self.shadow, self.canary, self.champion):
            seat.close()

    def served(self) -> Served:
        """The champion in service; a Refusal that names the remedy where there is none."""
        if self.champion.served is None:
            raise Refusal(503, "not_ready", self.champion.why_not, 5)
        return self.champion.served

    def model(self) -> ModelReply:
        """What is served, for people and deployers."""
        served = self.champion.served
        cascade = served and served.cascade
        state = served.wanted.state if served else "none"
        return ModelReply(
            state=state,
            digest=self.champion.digest,
            champion=self.champion.digest if state == "champion" else None,
            canary=self.canary.digest,
            shadow=self.shadow.digest,
            refused=self.champion.refused,
            canary_refused=self.canary.refused,
            shadow_refused=self.shadow.refused,
            labels=list(cascade.labels) if cascade else [],
            out_of_scope_label=cascade.out_of_scope_label if cascade else None,
            provider=cascade.provider if cascade else self.settings.provider,
            thresholds=dict(cascade.thresholds) if cascade else {},
            index=None,
            embedding_space=None,
        )

    # ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, asked: ClassifyRequest, hang_up: HangUp | None = None) -> bytes:
        """Classifies the texts of a request, writes down what is answered, and returns the JSON of the ClassifyReply.

        Args:
            asked: texts, session, and whether they are probes.
            hang_up: awaited while the classifier works.

        Raises:
            Refusal, HungUp: as for `classify`.
        """
        started = time.perf_counter()
        session = None if asked.probe else self.interactions.session(asked.session_id)  # without one the champion answers
        answers = await self.classify(asked.texts, session, hang_up)
        seconds = time.perf_counter() - started
        told = self.interactions.answered(answers, session, seconds * 1e3, probe=asked.probe)
        if (shadow := self.shadow.served) is not None and answers.arm == "champion" and not asked.probe:
            shadow.offer(answers.texts, told.request_ids)
        self.metrics.classified([p.route for p in answers.predictions], seconds)
        return told.reply

    async def classify(self, texts: Sequence[str], session: str | None = None, hang_up: HangUp | None = None) -> Answers:
        """Predictions of texts, in order, from one bundle.

        Args:
            texts: at least one, within the limits.
            session: decides whether a canary answers.
            hang_up: awaited while the classifier works.

        Raises:
            Refusal: not ready, overloaded, past the deadline, or a text has nothing to read.
            HungUp: the client has gone.
        """
        champion = self.served()
        if self._in_work >= self.settings.max_requests:
            raise self._overloaded(champion)
        self._in_work += 1
        try:
            release = self.canary.digest or self.canary.refused
            if release is not None and in_canary(session, release, self._canary_share):
                return await self._classify_in_canary(champion, texts, hang_up)
            return Answers(*await self._ask(champion, texts, hang_up, self.settings.deadline_s), champion.wanted.digest)
        finally:
            self._in_work -= 1

    async def _classify_in_canary(self, champion: Served, texts: Sequence[str], hang_up: HangUp | None) -> Answers:
        """The canary's answer, for which it has half of the time; where it has none, the champion's, and the canary's error with it."""
        canary, half_s = self.canary.served, self.settings.deadline_s / 2
        error = "not_loaded"
        if canary is not None:
            try:
                answers = Answers(*await self._ask(canary, texts, hang_up, half_s), canary.wanted.digest, "canary")
                self.metrics.canary("answered")
                return answers
            except HungUp:
                raise
            except Refusal as refusal:
                if refusal.status != 503:
                    raise
                error = refusal.code
            except Exception as fault:
                logger.error("The canary %s failed: %s", canary.wanted.digest[:12], place_of(fault))
                error = "internal_error"
        self.metrics.canary("fell_back")
        return Answers(*await self._ask(champion, texts, hang_up, half_s), champion.wanted.digest, "canary", error)

    async def _ask(
        self, served: Served, texts: Sequence[str], hang_up: HangUp | None, deadline_s: float
    ) -> tuple[list[str], list[Prediction]]:
        """Texts in the form that the classifier was trained on, and what a bundle says to them."""
        clean: list[str] = []
        predictions: list[Prediction | None] = []
        for share in _shares(texts):
            if predictions:
                await asyncio.sleep(0)
            normal = [redact(normalise(text)) for text in share]
            if not all(normal):
                raise Refusal(422, "empty_text", f"texts[{len(clean) + normal.index('')}] is empty. Leave it out.")
            clean += normal
            predictions += served.cascade.classify_fast(normal)
        left = [place for place, prediction in enumerate(predictions) if prediction is None]
        if left:
            slow = await self._ask_classifier(served, [clean[place] for place in left], hang_up, deadline_s)
            for place, prediction in zip(left, slow, strict=True):
                predictions[place] = prediction
        return clean, predictions  # type: ignore[return-value]

    async def _ask_classifier(self, served: Served, texts: list[str], hang_up: HangUp | None, deadline_s: float) -> list[Prediction]:
        batcher = served.batcher
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

    # ── who serves ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except MangaAssistError as error:
                self.champion.say(str(error))
            except Exception as error:  # the watch outlives whatever happens to a disk
                reason = f"What to serve could not be found out ({place_of(error)}). Look at the log of releases and the bundles."
                self.champion.say(reason)
            await asyncio.sleep(self.settings.poll_s)

    async def _look(self) -> None:
        lineup, served = await asyncio.to_thread(self._wanted), self.champion.served
        if served is not None and served.wanted.state == "champion" and lineup.champion.state == "unreleased":
            return  # the log may be out of reach for a moment; only another release replaces a champion
        await self.champion.fill(lineup.champion)
        beside = lineup if self.interactions.write else Lineup(lineup.champion)  # nobody could judge what is not written down
        await self.canary.fill(beside.canary)
        await self.shadow.fill(beside.shadow)

    def _run(self, wanted: Wanted, cascade: CascadeLike) -> Served:
        settings = self.settings
        return Served(
            wanted,
            cascade,
            Batcher(cascade.classify_slow, runners=self._runners, max_tokens=settings.max_batch_tokens, metrics=self.metrics),
        )

    def _run_shadow(self, wanted: Wanted, cascade: CascadeLike) -> Shadow:
        loop = asyncio.get_running_loop()

        def is_busy() -> bool:
            return self.champion.served is not None and self.champion.served.batcher.waiting > 0

        def write(records: Sequence[Record]) -> None:
            loop.call_soon_threadsafe(self.interactions.shadowed, records)

        return Shadow(
            wanted,
            cascade,
            share=self.settings.shadow_share,
            most=self.settings.max_shadow_texts,
            is_busy=is_busy,
            write=write,
            metrics=self.metrics,
        )


def _shares(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of texts that rules and student read in one go."""
    start, chars = 0, 0
    for place, text in enumerate(texts):
        if place > start and (place - start >= INLINE_TEXTS or chars + len(text) > INLINE_CHARS):
            yield texts[start:place]
            start, chars = place, 0
        chars += len(text)
    yield texts[start:] if start else texts
