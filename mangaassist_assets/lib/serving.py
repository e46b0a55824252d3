"""What a service may be asked, how it runs, and which bundles it ought to serve."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mangaassist_assets.lib.artifacts import MANIFEST, Bundle, House, open_bundle
from mangaassist_assets.lib.drift.segments import JournalSettings
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.release import log
from mangaassist_assets.lib.release.log import Stage

CLASSIFIER = "intent_classifier"
PACKAGED = "packaged.json"
PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")

State = Literal["champion", "unreleased", "pinned", "canary", "shadow"]


@dataclass(frozen=True)
class ServiceSettings:
    """How the service runs and what it accepts; the section `[service]` of the settings.

    Attributes:
        provider: ONNX Runtime execution provider; a service that cannot have it is not ready, it never falls back.
        runners: batches that run at the same time, one thread each; 0 takes one a core, and two where a GPU computes.
        allow_unreleased: with no champion released, serve the newest classifier and say so; otherwise answer 503.
        poll_s: seconds between looks at the release log.
        max_request_bytes: longest request body, in bytes.
        max_texts: most texts in one request.
        max_text_chars: longest text, in characters.
        max_requests: requests in work at the same time; one more is answered 503.
        max_waiting_texts: texts waiting for the classifier; a request that would pass it is answered 503.
        max_batch_tokens: estimated tokens that one batch may hold, padding included.
        body_s: seconds in which a request's body has to arrive.
        deadline_s: seconds after which a request that the classifier has not answered is given up with 503.
        interactions: whether answers are written down; without, there is no feedback, no shadow and no canary.
        journal: how they are.
        feedback_days: how many days after its answer feedback is taken.
        shadow_share: part of the texts that a shadow reads, 0 to 1.
        max_shadow_texts: texts that may wait for the shadow; one more is dropped.
        most_packed_bytes: largest retriever, index and texts and encoder together, that travels in a Bento.
    """

    provider: str = "CPUExecutionProvider"
    runners: int = 0
    allow_unreleased: bool = True
    poll_s: float = 1.0
    max_request_bytes: int = 1 << 20
    max_texts: int = 256
    max_text_chars: int = 4_000
    max_requests: int = 256
    max_waiting_texts: int = 4_096
    max_batch_tokens: int = 256
    body_s: float = 10.0
    deadline_s: float = 10.0
    interactions: bool = True
    journal: JournalSettings = JournalSettings()
    feedback_days: int = 30
    shadow_share: float = 1.0
    max_shadow_texts: int = 256
    most_packed_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise BadInput(f"unknown provider {self.provider!r}", where="service.provider", remedy=f"Use one of {', '.join(PROVIDERS)}.")
        for name, value in dataclasses.asdict(self).items():
            if name not in ("provider", "runners", "allow_unreleased", "interactions", "journal", "shadow_share") and value <= 0:
                raise BadInput(f"{value} is not above zero", where=f"service.{name}", remedy="Give a positive number.")
        if self.runners < 0:
            raise BadInput(f"{self.runners} is below zero", where="service.runners", remedy="Give 0 for one a core, or a positive number.")
        if not 0 <= self.shadow_share <= 1:
            raise BadInput(f"{self.shadow_share} is no share", where="service.shadow_share", remedy="Give a number from 0 to 1.")


@dataclass(frozen=True)
class Wanted:
    """The bundle that ought to be served.

    Attributes:
        digest: of the bundle; equal digests are the same bytes.
        state: `champion` was released; `unreleased` is the newest classifier where none was; `pinned` was named by path; `canary` and
            `shadow` run beside a champion.
        open: opens and verifies the bundle; raises DamagedArtifact or MissingEvidence.
    """

    digest: str
    state: State
    open: Callable[[], Bundle]


@dataclass(frozen=True)
class Lineup:
    """What ought to be served now.

    Attributes:
        champion: answers; where none was released, the bundle that stands in for it.
        canary: answers its share of sessions instead; only beside a released champion.
        shadow: reads along and answers nobody; likewise.
    """

    champion: Wanted
    canary: Wanted | None = None
    shadow: Wanted | None = None


def wanted_bundle(
    house: House, *, champion: str | None, pinned: Path | None = None, packaged: Path | None = None, allow_unreleased: bool
) -> Wanted:
    """Decides what to serve: the pinned bundle, else the champion, else the packaged bundle, else the newest unreleased one.

    Args:
        house: the installation whose bundles are served.
        champion: digest that the release log names, None where nothing was released.
        pinned: folder of a bundle that somebody named; it wins over everything.
        packaged: folder written by `pack_bundle`; may be absent.
        allow_unreleased: whether a bundle that was never released may be served.

    Raises:
        MissingEvidence: there is nothing to serve; the message names the remedy.
    """
    if pinned is not None:
        return Wanted(_digest_in_name(pinned), "pinned", lambda: open_bundle(pinned, CLASSIFIER))
    if champion is not None:
        return Wanted(champion, "champion", lambda: house.bundle(champion, CLASSIFIER))
    if packaged is not None and (found := _packaged(packaged)) is not None:
        digest, state = found
        if state == "champion" or allow_unreleased:
            return Wanted(digest, state, lambda: open_bundle(packaged / f"sha256-{digest}", CLASSIFIER))
    if not allow_unreleased:
        raise MissingEvidence(
            "No champion is released. `mangaassist status` says what is missing; service.allow_unreleased serves without."
        )
    newest = newest_classifier(house.bundles)
    if newest is None:
        raise MissingEvidence(f"{house.bundles} holds no intent classifier. Run `mangaassist run`, or name a bundle in MANGAASSIST_BUNDLE.")
    return Wanted(newest, "unreleased", lambda: house.bundle(newest, CLASSIFIER))


def newest_classifier(bundles: Path) -> str | None:
    """Digest of the intent classifier whose manifest was written last; None where there is none."""
    found = []
    for manifest in bundles.glob(f"sha256-*/{MANIFEST}"):
        try:
            if json.loads(manifest.read_text("utf-8"))["kind"] == CLASSIFIER:
                found.append((manifest.stat().st_mtime_ns, _digest_in_name(manifest.parent)))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a whole bundle; it is refused by name when somebody asks for it
    return max(found)[1] if found else None


def pack_bundle(wanted: Wanted, folder: Path) -> None:
    """Copies a verified bundle into `folder`, to travel with a Bento; `packaged.json`, written last, names it and its state."""
    bundle = wanted.open()
    shutil.copytree(bundle.path, folder / bundle.path.name)
    (folder / PACKAGED).write_text(json.dumps({"digest": bundle.digest, "state": wanted.state}))


class Lookout:
    """Says again and again what ought to be served, and reads nothing while nothing has changed.

    Args:
        house: the installation whose champion is served.
        allow_unreleased, pinned, packaged: as for `wanted_bundle`.
    """

    def __init__(self, house: House, *, allow_unreleased: bool, pinned: Path | None = None, packaged: Path | None = None) -> None:
        self._house, self._allow_unreleased, self._pinned, self._packaged = house, allow_unreleased, pinned, packaged
        self._releases = house.home / "releases"
        self._seen: object = None
        self._last: Lineup | None = None

    def __call__(self) -> Lineup:
        """What ought to be served now; raises MissingEvidence where there is nothing."""
        seen = _listing(self._releases), _listing(self._house.bundles)
        if self._last is None or seen != self._seen:
            self._last = self._look()
            self._seen = seen
        return self._last

    def _look(self) -> Lineup:
        released = None if self._pinned else log.current(self._releases)
        champion = wanted_bundle(
            self._house,
            champion=released.champion if released else None,
            pinned=self._pinned,
            packaged=self._packaged,
            allow_unreleased=self._allow_unreleased,
        )
        if released is None or released.champion is None:
            return Lineup(champion)
        return Lineup(champion, self._beside(released, Stage.CANARY, "canary"), self._beside(released, Stage.SHADOW, "shadow"))

    def _beside(self, released: log.State, stage: Stage, state: State) -> Wanted | None:
        """The release that stands there; of several the one that came last."""
        standing = released.at_stage(stage)
        return Wanted(standing[-1], state, lambda: self._house.bundle(standing[-1], CLASSIFIER)) if standing else None


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of what lies directly in a folder; empty where there is none."""
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except FileNotFoundError:
        return []
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in entries)


def _packaged(folder: Path) -> tuple[str, State] | None:
    try:
        noted = json.loads((folder / PACKAGED).read_text("utf-8"))
        digest, state = noted["digest"], noted["state"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedArtifact(f"{folder / PACKAGED}: not readable ({type(error).__name__}). Build the Bento again.") from error
    return str(digest), "champion" if state == "champion" else "unreleased"


def _digest_in_name(folder: Path) -> str:
    return folder.name.removeprefix("sha256-")
