"""A person's word on a release, as a file that says what it was given for.

    inbox/approvals/<name>.json             waits to be entered
    inbox/approvals/entered/<name>.json     moved the release
    inbox/approvals/refused/<name>.json     did not, and says why under "refused"

An approval names the model, its training data and its evaluation by digest, and the event of the log that put the release where it
stood. So it can be entered once, for exactly what the person saw, before it expires. The log is written before the file is moved: a
process killed in between leaves an approval that the log already holds, and the next one files it away without a second move.
"""

import datetime as dt
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from mangaassist_assets.lib.artifacts import House, digest_of, sync_folder, write_atomic
from mangaassist_assets.lib.errors import BadInput, Conflict
from mangaassist_assets.lib.release.log import ReleaseLog, State
from mangaassist_assets.lib.release.rules import ReleaseRules

INBOX = Path("inbox") / "approvals"
ENTERED, REFUSED = "entered", "refused"
LONGEST_BYTES = 65_536
CLOCKS_APART = dt.timedelta(minutes=5)
GATES = ("release/offline_gates", "release/shadow_gates", "release/canary_gates")


@dataclass(frozen=True)
class Evidence:
    """What a release is, was trained on, and has shown, by digest.

    Attributes:
        model: of its bundle.
        training_data: of the messages that it was trained on.
        evaluation: of all its judgements: offline, in shadow, in canary.
    """

    model: str
    training_data: str
    evaluation: str


@dataclass(frozen=True)
class Approval:
    """One approval.

    Attributes:
        release: digest of its bundle.
        event: number of the event that put the release where the person saw it.
        evidence: what the person saw of it.
        by, why: who approved and for which reason, each one line.
        at, expires_at: when it was given, and until when it is good.
    """

    release: str
    event: int
    evidence: Evidence
    by: str
    why: str
    at: dt.datetime
    expires_at: dt.datetime


@dataclass(frozen=True)
class Settled:
    """What became of one approval; `refused` says why it was not entered, None where it was."""

    name: str
    refused: str | None


def evidence_of(house: House, release: str) -> Evidence:
    """Digests of what a release rests on now; its bundle is verified byte by byte.

    Raises:
        MissingEvidence, DamagedArtifact: of the bundle or of a table of judgements.
    """
    bundle = house.bundle(release)
    judged: list[Any] = []
    for name in GATES:
        if house.has_table(name):
            table = house.read_table(name)
            rows = table.filter(pc.equal(table["release"], release)).drop_columns(["measured_at"]).to_pylist()
            judged.append([name, rows])
    return Evidence(release, str(bundle.facts.get("training_data", "")), digest_of(judged))


def approve(house: House, release: str, *, by: str, why: str, at: dt.datetime, rules: ReleaseRules) -> State:
    """Writes an approval of the release as it stands, enters it, and returns the log's state after it.

    Raises:
        BadInput: it cannot be approved (`State.after_approval`), or something moved between writing and entering.
        DamagedArtifact: its bundle is not what its manifest says.
    """
    log = ReleaseLog(house.home / "releases")
    state = log.state()
    state.after_approval(release)
    if not by.strip() or not why.strip():
        raise BadInput("who decides and why must be said", where="approve", remedy="Give a name and a reason.")
    by, why = " ".join(by.split()), " ".join(why.split())
    expires_at = at + dt.timedelta(hours=rules.approval_hours)
    approval = Approval(release, state.releases[release].event, evidence_of(house, release), by, why, at, expires_at)
    name = write_approval(house.home, approval)
    settled = {found.name: found.refused for found in settle(house, now=at)}
    refused = settled[name] if name in settled else _filed(house.home / INBOX, name)
    if refused:
        raise BadInput(refused, where=f"approval of {release[:12]}", remedy="Look at `mangaassist status` and decide anew.")
    return log.state()


def write_approval(home: Path, approval: Approval) -> str:
    """Puts an approval into the inbox and returns its name."""
    content = json.dumps(
        asdict(approval) | {"at": _iso(approval.at), "expires_at": _iso(approval.expires_at)}, indent=1, ensure_ascii=False
    )
    name = f"{approval.at.astimezone(dt.UTC):%Y%m%dT%H%M%S%f}-{approval.release[:12]}-{digest_of(content)[:8]}.json"
    write_atomic(home / INBOX / name, content.encode() + b"\n")
    return name


def waiting(home: Path) -> list[str]:
    """Names of the approvals that wait to be entered, oldest name first."""
    try:
        names = [entry.name for entry in os.scandir(home / INBOX) if entry.is_file() and re.fullmatch(r"[^.].*\.json", entry.name)]
    except FileNotFoundError:
        return []
    return sorted(names)


def settle(house: House, *, now: dt.datetime) -> list[Settled]:
    """Enters or refuses every approval that waits; of several processes that do so at once each waits its turn."""
    inbox = house.home / INBOX
    inbox.mkdir(parents=True, exist_ok=True)
    with (inbox / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return list(_settle(house, now))


def _settle(house: House, now: dt.datetime) -> Iterator[Settled]:
    log, inbox = ReleaseLog(house.home / "releases"), house.home / INBOX
    for name in waiting(house.home):
        content = (inbox / name).read_bytes()
        refused = _enter(log, content, lambda release: evidence_of(house, release), is_replay=(inbox / ENTERED / name).exists(), now=now)
        _file_away(inbox, name, content, refused)
        yield Settled(name, refused)


def _enter(log: ReleaseLog, content: bytes, evidence: Callable[[str], Evidence], *, is_replay: bool, now: dt.datetime) -> str | None:
    """Enters an approval; returns why not, None where the log holds it."""
    try:
        approval = parse(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"it is no approval ({type(error).__name__}); `mangaassist approve` writes them"
    if is_replay:
        return "it was entered before"
    while True:
        state = log.state()
        if is_entered(approval, state):
            return None
        if reason := refusal(approval, state, evidence, now=now):
            return reason
        try:
            log.approve(approval.release, by=approval.by, at=approval.at, why=approval.why, event=approval.event)
        except BadInput as error:
            return str(error)
        except Conflict:  # somebody else wrote; look again
            continue


def refusal(approval: Approval, state: State, evidence: Callable[[str], Evidence], *, now: dt.datetime) -> str | None:
    """Why an approval cannot be entered, in one clause; None where it can."""
    standing = state.releases.get(approval.release)
    if standing is None:
        return f"{approval.release[:12]} is no release"
    if approval.at > now + CLOCKS_APART:
        return f"it was given at {approval.at:%Y-%m-%d %H:%M} UTC, which is yet to come; set the clock right"
    if now > approval.expires_at:
        return f"it expired at {approval.expires_at:%Y-%m-%d %H:%M} UTC"
    if standing.event != approval.event:
        return f"{approval.release[:12]} was {_stage_at(approval, state)} when it was given and is {standing.to_state} by now"
    now_seen = evidence(approval.release)
    parts = (("model", "model"), ("training_data", "training data"), ("evaluation", "evaluation"))
    differ = [word for name, word in parts if getattr(now_seen, name) != getattr(approval.evidence, name)]
    return f"it was given for another {' and another '.join(differ)} than is there now" if differ else None


def is_entered(approval: Approval, state: State) -> bool:
    """Whether the log holds this very approval."""
    return any(
        (c.release, c.action, c.by, c.reason) == (approval.release, "approve", approval.by, approval.why)
        and c.at == approval.at
        and c.event > approval.event
        for c in state.history
    )


def parse(content: bytes) -> Approval:
    """An approval out of a file's bytes.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    if len(content) > LONGEST_BYTES:
        raise ValueError
    said = json.loads(content)
    at, expires_at = (dt.datetime.fromisoformat(said[name]) for name in ("at", "expires_at"))
    texts = [said["release"], said["by"], said["why"], *(said["evidence"][name] for name in ("model", "training_data", "evaluation"))]
    if not all(isinstance(text, str) for text in texts) or not all(text.strip() for text in texts[:3]):
        raise ValueError
    if at.utcoffset() is None or expires_at.utcoffset() is None or type(said["event"]) is not int:
        raise ValueError
    by, why = (" ".join(text.split()) for text in texts[1:3])
    return Approval(texts[0], said["event"], Evidence(*texts[3:]), by, why, at, expires_at)


def _stage_at(approval: Approval, state: State) -> str:
    stages = [c.to_state.value for c in state.history if c.release == approval.release and c.event <= approval.event]
    return stages[-1] if stages else "unknown"


def _file_away(inbox: Path, name: str, content: bytes, refused: str | None) -> None:
    """Moves an approval out of the inbox: as it is where it was entered, with the reason where it was refused."""
    folder = inbox / (REFUSED if refused else ENTERED)
    if refused:
        note = {"refused": refused, "approval": content[:LONGEST_BYTES].decode("utf-8", "replace")}
        write_atomic(folder / name, json.dumps(note, indent=1, ensure_ascii=False).encode() + b"\n")
    else:
        write_atomic(folder / name, content)
    (inbox / name).unlink(missing_ok=True)
    sync_folder(inbox)


def _filed(inbox: Path, name: str) -> str | None:
    """Why an approval that another process settled was refused; None where it was entered."""
    try:
        return str(json.loads((inbox / REFUSED / name).read_text("utf-8"))["refused"])
    except FileNotFoundError:
        return None


def _iso(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="microseconds")
