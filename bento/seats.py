"""The places that a bundle serves from (champion, canary, shadow), and how one bundle takes over from another while requests run.

A bundle is verified, loaded and warmed before it takes a seat; until then whoever sat there serves on.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

from bento.faults import logger, place_of
from bento.metrics import Metrics
from mangaassist_assets.lib.artifacts import Bundle
from mangaassist_assets.lib.errors import DamagedArtifact, MangaAssistError, Unavailable
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.serving import Wanted

Role = Literal["champion", "canary", "shadow"]

RETRY_REFUSED_S = 30.0
WARM_UP = (
    "where is my order",
    "おすすめの漫画は?",
    "I want to send vol. 3 back, and is the One Piece box set on sale?",
    "long " * 400,
    "😀",
)


class CascadeLike(Protocol):
    """What the service needs of `lib.intents.cascade.Cascade`."""

    labels: tuple[str, ...]
    out_of_scope_label: str | None
    provider: str
    thresholds: dict[str, float]

    def classify_fast(self, texts: Sequence[str]) -> list[Prediction | None]: ...
    def classify_slow(self, texts: Sequence[str]) -> list[Prediction]: ...


class AtWork(Protocol):
    """A loaded bundle with what runs it; `close` lets it finish what it was asked."""

    wanted: Wanted
    cascade: CascadeLike

    def close(self) -> None: ...


R = TypeVar("R", bound=AtWork)


class Seat(Generic[R]):
    """Holds one bundle at work, and replaces it when another is wanted.

    Args:
        role: champion, canary or shadow. A champion serves until another is ready; the others leave as soon as they are not wanted.
        load: verifies, loads and warms; runs in a thread.
        run: puts a loaded bundle to work.
        metrics: told of bundles that come, go and are refused.

    Attributes:
        served: the bundle at work, None where the seat is empty.
        refused: digest of the wanted bundle that could not be loaded; None where there is none.
        why_not: why the seat is empty, or not held by what is wanted; one line with a remedy.
    """

    def __init__(
        self, role: Role, *, load: Callable[[Wanted], CascadeLike], run: Callable[[Wanted, CascadeLike], R], metrics: Metrics
    ) -> None:
        self._role, self._load, self._run, self._metrics = role, load, run, metrics
        self.served: R | None = None
        self.refused: str | None = None
        self.why_not = "The service is starting: the bundle is being verified and warmed. Ask again in some seconds."
        self._refused_at = 0.0

    @property
    def digest(self) -> str | None:
        """Of the bundle at work."""
        return None if self.served is None else self.served.wanted.digest

    async def fill(self, wanted: Wanted | None) -> None:
        """Gives the seat to the bundle that is wanted, or nobody. Where it is refused, `refused` and `why_not` say so."""
        if self._role != "champion" and self.served is not None and (wanted is None or wanted.digest != self.digest):
            self._seat(None)
        if wanted is None or wanted.digest == self.digest:
            self.refused = None
            if wanted is not None and self.served is not None and wanted.state != self.served.wanted.state:
                self.served.wanted = wanted
                self._announce(self.served)
        elif wanted.digest != self.refused or time.monotonic() - self._refused_at >= RETRY_REFUSED_S:
            try:
                cascade = await asyncio.to_thread(self._load, wanted)
            except Exception as error:
                self._refuse(wanted, error)
            else:
                self._seat(self._run(wanted, cascade))

    def say(self, reason: str) -> None:
        """Keeps a reason, and logs it when it is another than the last."""
        if reason != self.why_not:
            self.why_not = reason
            logger.warning("%s%s", reason, " What was served stays in service." if self.served else "")

    def close(self) -> None:
        """Ends what is at work; what runs finishes by itself."""
        if self.served is not None:
            self.served.close()

    def _seat(self, comer: R | None) -> None:
        leaver, self.served, self.refused = self.served, comer, None
        if comer is not None:
            self._announce(comer)
        else:
            self._metrics.leaves(self._role)
        if leaver is not None:
            leaver.close()

    def _refuse(self, wanted: Wanted, error: Exception) -> None:
        self.refused, self._refused_at = wanted.digest, time.monotonic()
        self._metrics.refused()
        reason = error if isinstance(error, MangaAssistError) else place_of(error)
        self.say(f"Bundle {wanted.digest[:12]} ({wanted.state}) is refused: {reason}")

    def _announce(self, served: R) -> None:
        digest, state = served.wanted.digest, served.wanted.state
        self._metrics.serves(self._role, digest, state, served.cascade.provider)
        if state == "unreleased":
            logger.warning("Serving %s, which is not released: no champion has been. See service.allow_unreleased.", digest[:12])
        else:
            logger.info("Serving %s (%s) on %s.", digest[:12], state, served.cascade.provider)


def load_and_warm(wanted: Wanted, load: Callable[[Bundle], CascadeLike], provider: str) -> CascadeLike:
    """Verifies every byte, loads, and answers a few texts on each route before anybody's request does.

    Raises:
        DamagedArtifact, MissingEvidence: the bundle is not what was written, or answers nonsense.
        Unavailable: it does not run on the provider asked for.
    """
    bundle = wanted.open()
    cascade = load(bundle)
    if cascade.provider != provider:
        raise Unavailable(f"{provider} was asked for, {cascade.provider} was had. Install the provider, or set service.provider.")
    known = {*cascade.labels, cascade.out_of_scope_label}
    answers = [*cascade.classify_fast(WARM_UP), *cascade.classify_slow(WARM_UP), *cascade.classify_slow(WARM_UP[:1])]
    if any(answer is not None and (answer.intent not in known or not 0 <= answer.confidence <= 1) for answer in answers):
        raise DamagedArtifact(f"{bundle.path}: it answers with labels or confidences that it cannot have. Train it again.")
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()  # the imports' objects live for ever; a collection that walks them all would hold up requests
    return cascade
