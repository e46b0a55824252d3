"""Who is champion, and how that came about: an append-only log of events, and the state folded from it.

    releases/000001.json, 000002.json, ...      one event each: who moved which releases to which states, when, on what verdict and why

Of two writers who read the same version one appends and the other gets a Conflict, whatever processes they are; see
`lib/event_log.py`. An event may move several releases at once: a new champion, the one it retires, and those that were measured against
that one. Each event carries the digest of the one before, so that a log with a hole or an altered event in its midst is refused; an
unreadable last event (a disk that lied about flushing) is ignored and reported.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from mangaassist_assets.lib import event_log
from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact
from mangaassist_assets.lib.verdicts import Verdict

ROLLOUT = pa.schema(
    [
        ("step", pa.int64()),
        ("event", pa.int64()),
        ("action", pa.string()),
        ("release", pa.string()),
        ("from_state", pa.string()),
        ("to_state", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("by", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
    ]
)


class Stage(StrEnum):
    """Where a release stands."""

    CANDIDATE = "candidate"
    OFFLINE_PASSED = "offline_passed"
    SHADOW = "shadow"
    CANARY = "canary"
    HELD = "held"
    REJECTED = "rejected"
    CHAMPION = "champion"
    RETIRED = "retired"
    ROLLED_BACK = "rolled_back"


ALLOWED: Mapping[Stage | None, frozenset[Stage]] = MappingProxyType(
    {
        None: frozenset({Stage.CANDIDATE}),
        Stage.CANDIDATE: frozenset({Stage.OFFLINE_PASSED, Stage.HELD, Stage.REJECTED}),
        Stage.OFFLINE_PASSED: frozenset({Stage.SHADOW, Stage.CHAMPION, Stage.REJECTED}),
        Stage.SHADOW: frozenset({Stage.CANARY, Stage.REJECTED, Stage.RETIRED, Stage.CANDIDATE}),
        Stage.CANARY: frozenset({Stage.HELD, Stage.CHAMPION, Stage.ROLLED_BACK, Stage.REJECTED, Stage.CANDIDATE}),
        Stage.HELD: frozenset({Stage.CANDIDATE, Stage.SHADOW, Stage.CANARY, Stage.CHAMPION, Stage.REJECTED}),
        Stage.REJECTED: frozenset({Stage.CANDIDATE, Stage.SHADOW, Stage.CANARY, Stage.CHAMPION, Stage.REJECTED}),
        Stage.CHAMPION: frozenset({Stage.RETIRED, Stage.ROLLED_BACK}),
        Stage.RETIRED: frozenset({Stage.CANDIDATE, Stage.SHADOW, Stage.CHAMPION}),
        Stage.ROLLED_BACK: frozenset({Stage.CANARY, Stage.CHAMPION}),
    }
)
EARNED: Mapping[Stage, frozenset[Stage]] = MappingProxyType(  # where gates may take a release from; only people skip a step
    {
        Stage.SHADOW: frozenset({Stage.OFFLINE_PASSED}),
        Stage.CANARY: frozenset({Stage.SHADOW}),
        Stage.CHAMPION: frozenset({Stage.OFFLINE_PASSED, Stage.CANARY}),
    }
)
BY_PEOPLE = frozenset({"approve", "reject", "rollback"})
WITHOUT_GATES = frozenset({"approve", "rollback"})


@dataclass(frozen=True, slots=True)
class Change:
    """One release moved from one stage to another.

    Attributes:
        event: number of the event that moved it; changes of one event happened together.
        action: what was done: transition, promote (offline gates), advance (shadow or canary), approve, reject or rollback.
        verdict: of the gates, None where a person decided or nothing was asked.
    """

    event: int
    action: str
    release: str
    from_state: Stage | None
    to_state: Stage
    at: dt.datetime
    by: str
    verdict: Verdict | None
    reason: str


@dataclass(frozen=True)
class State:
    """The log, folded.

    Attributes:
        version: number of the last event; what a writer must expect.
        champion: digest of the release that serves, None where none was ever made champion.
        releases: the last change of each release.
        history: every change, in order.
        torn: numbers of events that cannot be read and that nothing rests on.
        tip: digest of the last readable event, which the next one names; empty before the first.
    """

    version: int = 0
    champion: str | None = None
    releases: Mapping[str, Change] = field(default_factory=dict)
    history: tuple[Change, ...] = ()
    torn: tuple[int, ...] = ()
    tip: str = ""

    def stage(self, release: str) -> Stage | None:
        return self.releases[release].to_state if release in self.releases else None

    def at_stage(self, *stages: Stage) -> list[str]:
        """Releases that stand there, in the order in which they arrived."""
        standing = [change for change in self.releases.values() if change.to_state in stages]
        return [change.release for change in sorted(standing, key=lambda change: change.event)]

    @property
    def candidates(self) -> list[str]:
        return self.at_stage(Stage.CANDIDATE, Stage.OFFLINE_PASSED)

    @property
    def held(self) -> list[str]:
        return self.at_stage(Stage.HELD)

    @property
    def on_the_way(self) -> list[str]:
        """Releases that live traffic is, or was, measuring against the champion: in shadow, in canary, or held after it."""
        held = [release for release in self.held if self.releases[release].from_state is Stage.CANARY]
        return [*self.at_stage(Stage.SHADOW, Stage.CANARY), *held]

    def stopped_at(self, release: str) -> Stage | None:
        """The stage in which a held, rejected, retired or rolled back release last stood on its way; else where it stands."""
        ends = (Stage.HELD, Stage.REJECTED, Stage.RETIRED, Stage.ROLLED_BACK)
        stages = [change.to_state for change in self.history if change.release == release]
        return next((stage for stage in reversed(stages) if stage not in ends), None)

    def after_verdict(self, release: str, verdict: Verdict, *, event: int, approval: bool) -> Stage | None:
        """Where what live traffic said takes a release in shadow or canary; None where it stays.

        Shadow: PASS goes on to the canary, once no other release is in it; FAIL rejects. Canary: PASS is held for a person's approval,
        or becomes champion where `approval` is False; FAIL rolls the canary back, the champion having served all along. INCONCLUSIVE
        leaves either where it is. So does a verdict on a release that no longer stands where event number `event` put it: it was entered
        before, or is of an earlier attempt.
        """
        standing = self.releases.get(release)
        if standing is None or standing.event != event or verdict is Verdict.INCONCLUSIVE:
            return None
        if standing.to_state is Stage.SHADOW:
            if verdict is Verdict.FAIL:
                return Stage.REJECTED
            return None if self.at_stage(Stage.CANARY) else Stage.CANARY
        if standing.to_state is Stage.CANARY:
            return Stage.ROLLED_BACK if verdict is Verdict.FAIL else Stage.HELD if approval else Stage.CHAMPION
        return None

    def after_approval(self, release: str) -> Stage:
        """Where a person's approval takes a release: one step on from where it stands or stopped.

        One that was champion, or comes while none serves, becomes champion. One that a newer release displaced from shadow, or that a
        canary rolled back, returns to the stage that it did not finish.

        Raises:
            BadInput: it is unknown, champion already, or has not been judged yet; or another release is in the canary it would enter.
        """
        standing = self.releases.get(release)
        judged = any(change.release == release and change.verdict is not None for change in self.history)
        if standing is None or standing.to_state is Stage.CHAMPION or not (judged or standing.to_state is not Stage.CANDIDATE):
            problem = "is no release" if standing is None else "has not been judged yet" if not judged else "is champion already"
            raise BadInput(f"{release[:12]} {problem}", where="approve", remedy="`mangaassist status` lists what can be approved.")
        stopped = self.stopped_at(release)
        unfinished = standing.to_state in (Stage.RETIRED, Stage.ROLLED_BACK)
        if self.champion is None or stopped in (None, Stage.CHAMPION):
            return Stage.CHAMPION
        if stopped in (Stage.CANDIDATE, Stage.OFFLINE_PASSED) or (stopped is Stage.SHADOW and unfinished):
            return Stage.SHADOW
        if stopped is Stage.CANARY and not unfinished:
            return Stage.CHAMPION
        if others := [other for other in self.at_stage(Stage.CANARY) if other != release]:
            raise BadInput(
                f"{others[0][:12]} is in canary, one at a time", where="approve", remedy="Wait for it, or `mangaassist reject` it first."
            )
        return Stage.CANARY

    @property
    def previous(self) -> str | None:
        """The champion that a rollback would return to: the last one that was retired in the ordinary way and still is."""
        champions = [change.release for change in self.history if change.to_state is Stage.CHAMPION]
        return next((release for release in reversed(champions) if self.stage(release) is Stage.RETIRED), None)


def current(releases: Path) -> State:
    """Folds the log in folder `releases`; a thousand events take less than a tenth of a second.

    Raises:
        DamagedArtifact: an event that later ones rest on is missing, altered or impossible.
    """
    version, champion, tip = 0, None, ""
    standing: dict[str, Change] = {}
    history: list[Change] = []
    torn: list[int] = []
    for version, content in event_log.events(releases):
        try:
            follows, changes = _parse(version, content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            torn.append(version)
            continue
        if follows != tip:
            raise DamagedArtifact(f"{releases}: what event {version} rests on is missing or altered. Restore the log from a backup.")
        try:
            champion = _enter(changes, standing, champion)
        except BadInput as error:
            raise DamagedArtifact(f"{releases}: event {version} is impossible ({error.problem}). Restore the log from a backup.") from error
        history += changes
        tip = hashlib.sha256(content).hexdigest()
    return State(version, champion, MappingProxyType(standing), tuple(history), tuple(torn), tip)


def rollout(state: State) -> pa.Table:
    """One row per change, in order of `step`, columns ROLLOUT; changes with the same `event` happened together."""
    rows = [
        {
            "step": step,
            "event": change.event,
            "action": change.action,
            "release": change.release,
            "from_state": change.from_state,
            "to_state": change.to_state.value,
            "at": change.at,
            "by": change.by,
            "verdict": change.verdict,
            "reason": change.reason,
        }
        for step, change in enumerate(state.history, 1)
    ]
    return pa.Table.from_pylist(rows, ROLLOUT)


@dataclass(frozen=True)
class ReleaseLog:
    """Writes the log in folder `releases`.

    Every method returns the state after it and raises Conflict where somebody else moved first, BadInput where the move is not
    allowed, and DamagedArtifact where the log cannot be trusted. `at` carries a time zone; `reason` and `why` are one line.
    """

    releases: Path

    def state(self) -> State:
        return current(self.releases)

    def transition(
        self, expected_version: int, release: str, to_state: Stage, *, by: str, at: dt.datetime, verdict: Verdict | None, reason: str
    ) -> State:
        """Moves one release, if the log still is at `expected_version`; a new champion retires the old one in the same event."""
        state = self._expect(expected_version)
        return self._append(state, "transition", _moves(state, release, [to_state]), by=by, at=at, verdict=verdict, reason=reason)

    def promote(self, release: str, verdict: Verdict, *, against: str | None, by: str, at: dt.datetime, reason: str) -> State:
        """Enters what the offline gates said: FAIL rejects, INCONCLUSIVE holds, PASS lets the release into shadow.

        Where no champion serves there is nothing to compare with in shadow or canary, and PASS makes it champion. A release that is in
        shadow already retires in the same event: the newer one takes its place, for only the newest will ever serve.

        Nothing is entered where nothing would change: for the champion itself; for a release on its way through shadow and canary, or
        that they ended; for one that people rejected, rolled back or replaced, which only they bring back; for a verdict that was
        entered before.

        Args:
            release: digest of its bundle.
            verdict: of all gates together.
            against: the champion that the gates compared with; Conflict where another one serves by now.
            by: the asset that decided.
            at: when.
            reason: what the gates found.
        """
        state = self.state()
        passed = Stage.CHAMPION if state.champion is None else Stage.SHADOW
        target = {Verdict.PASS: passed, Verdict.INCONCLUSIVE: Stage.HELD, Verdict.FAIL: Stage.REJECTED}[verdict]
        standing = state.releases.get(release)
        if standing is not None and (_is_beyond_offline(standing) or (standing.to_state is target and standing.verdict is verdict)):
            return state
        if state.champion != against:
            raise Conflict(
                f"the gates compared {release[:12]} with {_short(against)}, but {_short(state.champion)} is champion by now. Judge again."
            )
        path = [Stage.OFFLINE_PASSED, target] if verdict is Verdict.PASS else [target]
        if standing is None or standing.to_state not in (Stage.CANDIDATE, Stage.OFFLINE_PASSED):
            path.insert(0, Stage.CANDIDATE)
        elif standing.to_state is Stage.OFFLINE_PASSED and verdict is Verdict.PASS:
            path.remove(Stage.OFFLINE_PASSED)
        return self._append(state, "promote", _moves(state, release, path), by=by, at=at, verdict=verdict, reason=reason)

    def advance(self, release: str, verdict: Verdict, *, event: int, approval: bool, by: str, at: dt.datetime, reason: str) -> State:
        """Enters what live traffic said of a release in shadow or canary (`State.after_verdict`), where that moves it."""
        state = self.state()
        target = state.after_verdict(release, verdict, event=event, approval=approval)
        if target is None:
            return state
        return self._append(state, "advance", _moves(state, release, [target]), by=by, at=at, verdict=verdict, reason=reason)

    def approve(self, release: str, *, by: str, at: dt.datetime, why: str, event: int | None = None) -> State:
        """A person moves a release on by one step (`State.after_approval`), whatever the gates said.

        Where `event` is given the release must stand where that event put it, or somebody moved first: Conflict.
        """
        state = self.state()
        target = state.after_approval(release)
        if event is not None and state.releases[release].event != event:
            raise Conflict(
                f"{release[:12]} moved to {state.stage(release)} since this was decided. Read `mangaassist status` and decide anew."
            )
        path = [Stage.OFFLINE_PASSED, target] if state.stage(release) is Stage.CANDIDATE else [target]
        return self._append(state, "approve", _moves(state, release, path), by=by, at=at, verdict=None, reason=why)

    def reject(self, release: str, *, by: str, at: dt.datetime, why: str) -> State:
        """A person rejects a release for good: no later verdict of the gates brings it back."""
        state = self.state()
        return self._append(state, "reject", _moves(state, release, [Stage.REJECTED]), by=by, at=at, verdict=None, reason=why)

    def rollback(self, *, by: str, at: dt.datetime, why: str) -> State:
        """Returns to the champion before: it serves again and the present one is rolled back, in one event."""
        state = self.state()
        if state.champion is None or state.previous is None:
            raise BadInput("there is no champion before this one to return to", where="rollback", remedy="Approve another release instead.")
        moves = [(state.champion, Stage.ROLLED_BACK), (state.previous, Stage.CHAMPION), *_judged_anew(state, state.previous)]
        return self._append(state, "rollback", moves, by=by, at=at, verdict=None, reason=why)

    def _expect(self, version: int) -> State:
        state = self.state()
        if state.version != version:
            raise Conflict(
                f"the release log is at event {state.version}, not {version}: somebody moved first. Read it again and decide anew."
            )
        return state

    def _append(
        self,
        state: State,
        action: str,
        moves: Sequence[tuple[str, Stage]],
        *,
        by: str,
        at: dt.datetime,
        verdict: Verdict | None,
        reason: str,
    ) -> State:
        if at.utcoffset() is None:
            raise BadInput(f"{at} has no time zone", where=action, remedy="Pass an aware time, such as datetime.now(timezone.utc).")
        if not by.strip() or not reason.strip():
            raise BadInput("who decided and why must be said", where=action, remedy="Give a name and a reason.")
        number, changes, stages = state.version + 1, [], {release: change.to_state for release, change in state.releases.items()}
        for release, to_state in moves:
            if (stages.get(release), to_state) == (Stage.OFFLINE_PASSED, Stage.CHAMPION) and state.champion and action not in WITHOUT_GATES:
                raise _refusal(f"{release[:12]} must pass shadow and canary, for {state.champion[:12]} serves")
            changes.append(Change(number, action, release, stages.get(release), to_state, at, by, verdict, " ".join(reason.split())))
            stages[release] = to_state
        _enter(changes, dict(state.releases), state.champion)
        content = _serialise(state.tip, changes)
        if not event_log.append(self.releases, number, content):
            raise Conflict(f"event {number} of the release log was written by somebody else. Read it again and decide anew.")
        return self.state()


# ── folding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_beyond_offline(standing: Change) -> bool:
    """Whether the offline gates have no more say: live traffic measures the release, or that or a person has decided on it."""
    if standing.to_state in (Stage.SHADOW, Stage.CANARY, Stage.CHAMPION, Stage.ROLLED_BACK):
        return True
    if standing.to_state is Stage.CANDIDATE:
        return False
    ended_live = standing.to_state in (Stage.HELD, Stage.REJECTED) and standing.from_state in (Stage.SHADOW, Stage.CANARY)
    return ended_live or standing.action in BY_PEOPLE


def _moves(state: State, release: str, path: Sequence[Stage]) -> list[tuple[str, Stage]]:
    """Moves of one release along `path`, and of those that make room for it.

    Before it becomes champion, the one that is retires, and those measured against that one are candidates again. Before it enters
    shadow, the one that is there retires.
    """
    before = [(release, stage) for stage in path[:-1]]
    room: list[tuple[str, Stage]] = []
    if path[-1] is Stage.CHAMPION and state.champion is not None:
        room = [(state.champion, Stage.RETIRED), *_judged_anew(state, release)]
    elif path[-1] is Stage.SHADOW:
        room = [(other, Stage.RETIRED) for other in state.at_stage(Stage.SHADOW) if other != release]
    return [*before, *room, (release, path[-1])]


def _judged_anew(state: State, champion: str) -> list[tuple[str, Stage]]:
    return [(other, Stage.CANDIDATE) for other in state.on_the_way if other != champion]


def _enter(changes: Sequence[Change], standing: dict[str, Change], champion: str | None) -> str | None:
    """Enters an event into `standing`, the last change of each release, and returns who is champion after it.

    BadInput where a change starts from another stage, is not allowed, or leaves another number of champions than one, or several
    releases in shadow or in canary. A champion straight from the offline gates while another served is accepted: logs hold some from
    before there was a shadow. No writer makes one.
    """
    champions = {champion} - {None}
    for change in changes:
        before = standing[change.release].to_state if change.release in standing else None
        if change.from_state != before:
            raise _refusal(f"{change.release[:12]} is {before or 'unknown'}, not {change.from_state or 'unknown'}")
        unearned = before not in EARNED.get(change.to_state, {before}) and change.action not in WITHOUT_GATES
        again = change.to_state is Stage.REJECTED and before is Stage.REJECTED and change.action != "reject"
        if change.to_state not in ALLOWED[before] or unearned or again:
            raise _refusal(f"{change.release[:12]} is {before or 'unknown'} and cannot become {change.to_state} by {change.action}")
        standing[change.release] = change
        champions.discard(change.release)
        if change.to_state is Stage.CHAMPION:
            champions.add(change.release)
    if len(champions) > 1 or (champion is not None and not champions):
        raise _refusal(f"there would be {len(champions)} champions")
    for stage in {change.to_state for change in changes} & {Stage.SHADOW, Stage.CANARY}:
        if (crowd := sum(change.to_state is stage for change in standing.values())) > 1:
            raise _refusal(f"there would be {crowd} releases in {stage}")
    return next(iter(champions), None)


def _refusal(problem: str) -> BadInput:
    return BadInput(problem, where="release log", remedy="`mangaassist status` shows where each release stands.")


def _short(release: str | None) -> str:
    return "no champion" if release is None else release[:12]


# ── bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _serialise(follows: str, changes: Sequence[Change]) -> bytes:
    first = changes[0]
    event = {
        "version": first.event,
        "follows": follows,
        "action": first.action,
        "by": first.by,
        "at": first.at.astimezone(dt.UTC).isoformat(timespec="microseconds"),
        "verdict": first.verdict,
        "reason": first.reason,
        "changes": [{"release": c.release, "from_state": c.from_state, "to_state": c.to_state} for c in changes],
    }
    return json.dumps(event, indent=1, ensure_ascii=False).encode() + b"\n"


def _parse(number: int, content: bytes) -> tuple[str, list[Change]]:
    event = json.loads(content)
    at = dt.datetime.fromisoformat(event["at"])
    verdict = None if event["verdict"] is None else Verdict(event["verdict"])
    if event["version"] != number or at.utcoffset() is None or not event["changes"]:
        raise ValueError
    changes = [
        Change(
            number,
            str(event["action"]),
            str(change["release"]),
            None if change["from_state"] is None else Stage(change["from_state"]),
            Stage(change["to_state"]),
            at,
            str(event["by"]),
            verdict,
            str(event["reason"]),
        )
        for change in event["changes"]
    ]
    return str(event["follows"]), changes
