"""What is to be done next with the releases on their way, from what is known: one function, which changes nothing.

Whoever asks, asks again and does one move at a time. A process that is killed between two moves leaves a log from which the next one
reads on; a move that was made already is not due any more.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import Conflict
from mangaassist_assets.lib.release import approvals
from mangaassist_assets.lib.release.approvals import Approval, Evidence
from mangaassist_assets.lib.release.log import ReleaseLog, Stage, State
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.verdicts import Verdict

REPORTS = {Stage.SHADOW: "release/shadow_report", Stage.CANARY: "release/canary_report"}
VERDICT = pa.schema(
    [
        ("release", pa.string()),
        ("event", pa.int64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Judged:
    """What a report says of a release in shadow or canary; `event` is the one that put it there."""

    release: str
    event: int
    verdict: Verdict
    reason: str
    by: str


@dataclass(frozen=True)
class Move:
    """A transition that is due: by a verdict, or by the approval that has this name."""

    release: str
    from_state: Stage
    to_state: Stage
    judged: Judged | None = None
    approval: str | None = None


def next_move(
    state: State,
    judged: Sequence[Judged],
    waiting: Sequence[tuple[str, Approval]],
    evidence: Callable[[str], Evidence],
    *,
    rules: ReleaseRules,
    now: dt.datetime,
) -> Move | None:
    """The next transition, None where nothing is due.

    Args:
        state: the log.
        judged: what the reports say.
        waiting: approvals by name, oldest first; people go before reports.
        evidence: what a release rests on now.
        rules: whether a passed canary waits for a person.
        now: when it is asked.
    """
    for name, approval in waiting:
        if not approvals.is_entered(approval, state) and approvals.refusal(approval, state, evidence, now=now) is None:
            return Move(approval.release, state.releases[approval.release].to_state, state.after_approval(approval.release), approval=name)
    for found in judged:
        target = state.after_verdict(found.release, found.verdict, event=found.event, approval=rules.approval)
        if target is not None:
            return Move(found.release, state.releases[found.release].to_state, target, judged=found)
    return None


def move_on(house: House, judged: Sequence[Judged], *, rules: ReleaseRules, now: dt.datetime) -> State:
    """Does all that is due and returns the state after it; several processes may do so at once."""
    log = ReleaseLog(house.home / "releases")
    approvals.settle(house, now=now)
    while True:
        state = log.state()
        move = next_move(state, judged, (), lambda release: approvals.evidence_of(house, release), rules=rules, now=now)
        if move is None or move.judged is None:
            return state
        try:
            found = move.judged
            log.advance(found.release, found.verdict, event=found.event, approval=rules.approval, by=found.by, at=now, reason=found.reason)
        except Conflict:  # somebody else wrote; look again
            continue


def verdict_row(judged: Judged) -> pa.Table:
    """The part `verdict` of a report: one row, columns VERDICT."""
    row = {"release": judged.release, "event": judged.event, "verdict": judged.verdict.value, "reason": judged.reason}
    return pa.Table.from_pylist([row], VERDICT)


def read_verdicts(house: House) -> list[Judged]:
    """What the stored reports say, shadow first; none where none was made."""
    found = []
    for name in REPORTS.values():
        if house.has_table(name, part="verdict"):
            for row in house.read_table(name, part="verdict").to_pylist():
                by = name.rsplit("/", 1)[-1]
                found.append(Judged(row["release"], row["event"], Verdict(row["verdict"]), row["reason"], by))
    return found


def outlook(state: State, judged: Sequence[Judged]) -> list[str]:
    """A line for each release that is on its way or waits for a person: where it stands and what it waits for."""
    said = {(found.release, found.event): f"{found.verdict}: {found.reason}" for found in judged}
    lines = []
    for release in state.at_stage(Stage.SHADOW, Stage.CANARY):
        standing = state.releases[release]
        heard = said.get((release, standing.event), "nothing measured yet")
        lines.append(f"{release[:12]} is in {standing.to_state} since {standing.at:%Y-%m-%d %H:%M} UTC. {heard}")
    for release in state.held:
        lines.append(f"{release[:12]} waits: `mangaassist approve {release[:12]} --why ...`, or reject. {state.releases[release].reason}")
    return lines
