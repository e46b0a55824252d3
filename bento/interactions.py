"""What the service writes down: answers, what was retrieved, what a shadow said, and what shoppers made of it.

Each record is encoded and appended to the journal in the request's own turn of the event loop, before its reply is sent; the journal is
memory, its own thread sees to the disk. Texts are written as the models read them, without personal data; sessions as a salted hash.
"""

import asyncio
import datetime as dt
import functools
import hashlib
import itertools
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from bento.faults import logger, place_of
from bento.metrics import Metrics
from bento.schemas import FeedbackRequest, Found, Refusal
from bento.seats import Role
from mangaassist_assets.lib.artifacts import beside_of, sync_folder
from mangaassist_assets.lib.drift.interactions import PROBE, Feedback, Retrieve, Shadow, line_of
from mangaassist_assets.lib.drift.segments import day_of
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MangaAssistError, MissingEvidence
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.messages.normalising import language_of, normalise
from mangaassist_assets.lib.messages.redaction import redact

SALT_BYTES = 32
LOOK_S = 1.0  # between tries to open a journal, and between updates of the counters of what was written

encode = msgspec.json.Encoder().encode


class Answers(NamedTuple):
    """What a request was answered, and by whom.

    Attributes:
        texts: as the models read them, normalised and without personal data.
        predictions: one a text.
        digest: of the bundle that answered.
        arm: whose the session is; a canary's session is the canary's also where the champion had to answer.
        error: why the champion had to, one machine word; None where all went well.
    """

    texts: Sequence[str]
    predictions: Sequence[Prediction]
    digest: str
    arm: Role = "champion"
    error: str | None = None


class Told(NamedTuple):
    """The JSON of a ClassifyReply, and the request ids in it, in order."""

    reply: bytes
    request_ids: Sequence[str]


class JournalLike(Protocol):
    """What is needed of `lib.drift.segments.Journal`."""

    problem: str | None

    def append(self, lines: bytes) -> bool: ...
    def close(self) -> None: ...


# ── records ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class AnswerRecord(msgspec.Struct, tag_field="kind", tag="answer", gc=False):
    """What differs from one answer's record to the next: first what the shopper is told, then the rest.

    Fields of `lib.drift.interactions.Answer` that are neither here nor in `_end_of_record` are as that has them where nothing is said:
    short records are written, kept and read in half the time of whole ones.
    """

    intent: str
    confidence: float
    secondary_intent: str | None
    route: str
    request_id: str
    occurred_at: dt.datetime
    session: str | None
    text: str
    language: str
    latency_ms: float


TOLD_FROM, TOLD_TO = len(b'{"kind":"answer",'), b',"occurred_at":'  # the part of a record that is told; quotes in a label are escaped


@functools.lru_cache(64)
def _end_of_record(digest: str, arm: Role, error: str | None, probe: bool) -> bytes:
    """What the records of a bundle's answers have in common, encoded once."""
    shared: dict[str, object] = {"model_digest": digest, "arm": arm, "error": error}
    if probe:
        shared["flags"] = [PROBE]
    return b"," + encode(shared)[1:] + b"\n"


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Interactions:
    """Names answers, and writes them down where there is a house to write to.

    A house that is missing or cannot be written to is tried again each second: until then everything is answered all the same, and what
    is not written is counted by reason.

    Args:
        home: of the house; interactions lie in its folder `interactions`.
        open_journal: makes this process's journal in that folder.
        clock: aware time, UTC.
        metrics: counts what is written and what is not.
        write: False names answers and writes nothing.
        feedback_days: how old the answer may be that feedback is about.
    """

    def __init__(
        self,
        home: Path,
        *,
        open_journal: Callable[[Path], JournalLike],
        clock: Callable[[], dt.datetime],
        metrics: Metrics,
        write: bool = True,
        feedback_days: int = 30,
    ) -> None:
        self.write = write
        self._home, self._open_journal, self._clock, self._metrics, self._feedback_days = home, open_journal, clock, metrics, feedback_days
        self._journal: JournalLike | None = None
        self._salted = hashlib.sha256()
        self._ordinal, self._prefix = 0, ""
        self._random, self._numbers = secrets.token_hex(6), itertools.count(1)
        self._said = ""
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the journal, or begins to try again and again."""
        if self.write:
            await self._open()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Seals what was written; call it when the last request is answered."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        journal, self._journal = self._journal, None
        if journal is not None:
            await asyncio.to_thread(journal.close)
        self._metrics.settle()

    def session(self, session_id: str | None) -> str | None:
        """16 hex digits that stand for a session in this house, or None where there is none or nothing is written."""
        if session_id is None or self._journal is None:
            return None
        salted = self._salted.copy()
        salted.update(session_id.encode())
        return salted.hexdigest()[:16]

    def answered(self, answers: Answers, session: str | None, latency_ms: float, *, probe: bool = False) -> Told:
        """Names each text's answer, writes all down in one piece, and makes the reply of what was written: each is encoded once.

        Args:
            answers: to the texts of one request.
            session: what `session` made of the request's.
            latency_ms: from the request to its answer.
            probe: whether the texts are golden probes.
        """
        now = self._clock()
        prefix, numbers = self._prefix_of(now), self._numbers
        end = _end_of_record(answers.digest, answers.arm, answers.error, probe)
        names: list[str] = []
        told: list[bytes] = []
        lines: list[bytes] = []
        for text, p in zip(answers.texts, answers.predictions, strict=True):
            name = f"{prefix}{next(numbers):x}"
            language = language_of(text)
            line = encode(AnswerRecord(p.intent, p.confidence, p.secondary_intent, p.route, name, now, session, text, language, latency_ms))
            names.append(name)
            told.append(line[TOLD_FROM : line.index(TOLD_TO)])
            lines += line[:-1], end
        self._append("answer", b"".join(lines), len(names))
        return Told(b'{"results":[{' + b"},{".join(told) + b"}]}", names)

    def retrieved(self, query: str, found: Sequence[Found], index: str, latency_ms: float) -> str:
        """Names what a query was answered, writes it down, and returns the name."""
        now = self._clock()
        name = f"{self._prefix_of(now)}{next(self._numbers):x}"
        query = redact(normalise(query))
        record = Retrieve(
            request_id=name,
            occurred_at=now,
            query=query,
            language=language_of(query),
            retrieved=[hit["document_id"] for hit in found],
            index_digest=index,
            latency_ms=latency_ms,
        )
        self._append("retrieve", line_of(record), 1)
        return name

    def shadowed(self, records: Sequence[Shadow]) -> None:
        """Writes down what a shadow said."""
        self._append("shadow", b"".join(map(line_of, records)), len(records))

    def judged(self, told: FeedbackRequest) -> None:
        """Writes down what became of an answer.

        Raises:
            Refusal: the answer is of no day that feedback is taken for, or nothing can be written now.
        """
        now = self._clock()
        try:
            age_days = (now.date() - day_of(told.request_id)).days
        except BadInput as error:
            raise Refusal(422, "invalid_request", f"request_id is {error.problem}. {error.remedy}") from None
        if age_days < 0:
            raise Refusal(422, "not_answered_yet", "request_id is of a day to come. Send the one that came with the answer.")
        if age_days > self._feedback_days:
            raise Refusal(422, "too_late", f"The answer is {age_days} days old; feedback is taken for {self._feedback_days}.")
        record = Feedback(
            request_id=told.request_id,
            at=now,
            thumbs_up=told.thumbs_up,
            escalated=told.escalated,
            converted=told.converted,
            clicked=told.clicked,
        )
        if not self._append("feedback", line_of(record), 1):
            raise Refusal(503, "not_written", "Feedback cannot be written at present; the service's log says why. Send it again.", 5)

    def _prefix_of(self, now: dt.datetime) -> str:
        """What all names of a day begin with; it follows the clock wherever that jumps."""
        if now.toordinal() != self._ordinal:
            self._ordinal, self._prefix = now.toordinal(), f"{now:%Y%m%d}-{self._random}-"
        return self._prefix

    def _append(self, kind: str, lines: bytes, records: int) -> bool:
        if not self.write:
            return False
        journal = self._journal
        if journal is not None and journal.append(lines):
            self._metrics.written(kind, records)
            return True
        self._metrics.not_written("not_open" if journal is None else "disk" if journal.problem else "behind", records)
        return False

    # ── opening ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._metrics.settle()
            if self.write and self._journal is None:
                await self._open()
            elif self._journal is not None:
                self._say(self._journal.problem or "")

    async def _open(self) -> None:
        try:
            salt, journal = await asyncio.to_thread(self._opened)
        except Exception as error:  # whatever happens to a disk, the service answers
            told = isinstance(error, MangaAssistError | OSError)
            self._say(f"{error if told else place_of(error)}")
            return
        self._salted, self._journal = hashlib.sha256(salt), journal

    def _opened(self) -> tuple[bytes, JournalLike]:
        if not self._home.is_dir():
            raise MissingEvidence(f"{self._home}: there is no such house. `mangaassist run` makes it.")
        folder = self._home / "interactions"
        folder.mkdir(exist_ok=True)
        return salt_of(folder), self._open_journal(folder)

    def _say(self, problem: str) -> None:
        if problem != self._said and problem:
            logger.warning("Interactions: %s", problem)
        self._said = problem


def salt_of(folder: Path) -> bytes:
    """The house's salt of sessions: made once, whoever comes first, and readable by its owner alone.

    Raises:
        DamagedArtifact: there is one that nobody made here.
        OSError: it cannot be read or made.
    """
    path = folder / "salt"
    if not path.exists():
        beside = beside_of(path)
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(handle, secrets.token_bytes(SALT_BYTES))
                os.fsync(handle)
            finally:
                os.close(handle)
            try:
                os.link(beside, path)
            except FileExistsError:
                pass  # another worker came first
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(folder)
    salt = path.read_bytes()
    if len(salt) != SALT_BYTES:
        raise DamagedArtifact(f"{path}: not a salt of {SALT_BYTES} bytes. Restore it, or remove it: sessions then get other names.")
    return salt
