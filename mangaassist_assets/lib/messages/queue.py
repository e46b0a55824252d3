"""Who labels what: an append-only log of events, and the queue folded from it.

    queue/000001.json, 000002.json, ...      one event each: intents accepted, texts queued, leased, labelled, adjudicated

An event is written beside its place, flushed, and linked to its number, which fails where the number is taken: of two writers one
appends and the other reads the log again and decides anew, so that every operation may be repeated and nothing is done twice.

A text is queued once, whatever the week. It is leased to as many annotators as are wanted for it and labelled by each without sight of
the others' answers. Answers that agree settle it; answers that differ are a conflict, which a person adjudicates.
"""

import datetime as dt
import errno
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from mangaassist_assets.lib.artifacts import beside_of, digest_of, sync_folder
from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact, Unavailable
from mangaassist_assets.lib.messages.normalising import normalise

FOLDER = "queue"
EVENT_NAME = re.compile(r"\d{6,}\.json")
MOST_ATTEMPTS = 20
GRAPH = "label_queue"  # the asset; events by anybody else are what people did
QUEUE = pa.schema(
    [
        ("item_id", pa.string()),
        ("week", pa.date32()),
        ("message_id", pa.string()),
        ("text", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("stratum", pa.string()),
        ("inclusion_probability", pa.float64()),
        ("state", pa.string()),
        pa.field("annotators", pa.int64(), metadata={"description": "How many independent labels are wanted."}),
        ("leased_to", pa.string()),
        ("leased_until", pa.timestamp("us", "UTC")),
        pa.field("labels", pa.int64(), metadata={"description": "Labels given so far."}),
        ("intent", pa.string()),
        ("secondary_intent", pa.string()),
    ]
)


@dataclass(frozen=True)
class Labelling:
    """How many messages a week are drawn and labelled.

    Attributes:
        sample_per_week: requests drawn from a week's traffic, the control slice among them.
        control_per_week: of those, drawn at random whatever the model thought: what production accuracy is estimated from.
        queue_per_week: of the sample, sent to annotators, control slice first.
        double_share: of what is queued, labelled by two annotators, from which their agreement is measured.
        lease_hours: how long an annotator has for what was exported.
        near_duplicate: Jaccard similarity of character 4-grams from which two texts count as one, or as labelled already.
        pool: least confident texts of the week among which the uncertain part is drawn.
        clusters: kinds of messages that the uncertain part is spread over.
        seed: of every draw.
    """

    sample_per_week: int = 500
    control_per_week: int = 100
    queue_per_week: int = 200
    double_share: float = 0.2
    lease_hours: float = 72.0
    near_duplicate: float = 0.8
    pool: int = 10_000
    clusters: int = 100
    seed: int = 20

    def __post_init__(self) -> None:
        for name in ("sample_per_week", "control_per_week", "queue_per_week", "pool", "clusters", "lease_hours"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{getattr(self, name)} is not above 0", where=f"labelling.{name}", remedy="Set a number above 0.")
        if self.control_per_week > self.sample_per_week:
            raise BadInput(
                f"{self.control_per_week} is more than sample_per_week = {self.sample_per_week}",
                where="labelling.control_per_week",
                remedy="Set it to a part of the sample.",
            )
        if not 0 <= self.double_share <= 1:
            raise BadInput(f"{self.double_share} is not a share", where="labelling.double_share", remedy="Set it between 0 and 1.")
        if not 0.5 <= self.near_duplicate <= 1:
            raise BadInput(f"{self.near_duplicate} is not 0.5..1", where="labelling.near_duplicate", remedy="Set it between 0.5 and 1.")


class ItemState(StrEnum):
    """Where an item of the queue stands."""

    WAITING = "waiting"
    LEASED = "leased"
    LABELLED = "labelled"
    CONFLICT = "conflict"
    ADJUDICATED = "adjudicated"


SETTLED = (ItemState.LABELLED, ItemState.ADJUDICATED)


class Label(NamedTuple):
    """What somebody says a text is."""

    intent: str
    secondary_intent: str | None


@dataclass(slots=True)
class Item:
    """One text to label.

    Attributes:
        predicted, confidence: what the model answered when the text was drawn.
        annotators: how many independent labels are wanted, 1 or 2.
        leases: until when, by annotator.
        labels: by annotator.
        decision: of the person who adjudicated.
    """

    item_id: str
    week: dt.date
    message_id: str
    text: str
    predicted: str
    confidence: float
    stratum: str
    inclusion_probability: float
    annotators: int
    leases: dict[str, dt.datetime] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    decision: Label | None = None

    @property
    def is_blind(self) -> bool:
        """Whether the model's answer is kept from annotators: it would sway what accuracy and agreement are measured from."""
        return self.annotators > 1 or self.stratum == "control"

    @property
    def outcome(self) -> Label | None:
        """The label that it has for good; None while labels are missing or differ."""
        if self.decision is not None:
            return self.decision
        return next(iter(self.labels.values())) if len(self.labels) >= self.annotators and not self.is_disputed else None

    @property
    def is_disputed(self) -> bool:
        return len(set(self.labels.values())) > 1

    def state(self, now: dt.datetime) -> ItemState:
        if self.decision is not None:
            return ItemState.ADJUDICATED
        if self.is_disputed:
            return ItemState.CONFLICT
        if len(self.labels) >= self.annotators:
            return ItemState.LABELLED
        return ItemState.LEASED if self.live(now) else ItemState.WAITING

    def live(self, now: dt.datetime) -> dict[str, dt.datetime]:
        """Leases that have not run out and were not answered."""
        return {name: until for name, until in self.leases.items() if until > now and name not in self.labels}

    def is_open_to(self, annotator: str, now: dt.datetime) -> bool:
        if self.decision is not None or annotator in self.labels or self.is_disputed:
            return False
        others = set(self.labels) | set(self.live(now)) - {annotator}
        return len(others) < self.annotators


@dataclass(frozen=True)
class State:
    """The log, folded.

    Attributes:
        version: number of the last event.
        items: by item id, in the order in which they were queued.
        intents: what a label may be.
        by_people: numbers of the events that were not the graph's.
    """

    version: int = 0
    items: Mapping[str, Item] = field(default_factory=dict)
    intents: frozenset[str] = frozenset()
    by_people: tuple[int, ...] = ()

    def counts(self, now: dt.datetime) -> dict[str, int]:
        """How many items stand in each state."""
        found = Counter(item.state(now) for item in self.items.values())
        return {state.value: found[state] for state in ItemState}

    def conflicts(self) -> list[Item]:
        return [item for item in self.items.values() if item.decision is None and item.is_disputed]

    def table(self, now: dt.datetime) -> pa.Table:
        """One row per item, columns QUEUE; labels are shown once they are settled."""
        rows = []
        for item in self.items.values():
            live, outcome = item.live(now), item.outcome
            rows.append(
                {
                    **{name: getattr(item, name) for name in QUEUE.names[:8]},
                    "state": item.state(now).value,
                    "annotators": item.annotators,
                    "leased_to": ", ".join(sorted(live)) or None,
                    "leased_until": max(live.values(), default=None),
                    "labels": len(item.labels),
                    "intent": outcome.intent if outcome else None,
                    "secondary_intent": outcome.secondary_intent if outcome else None,
                }
            )
        return pa.Table.from_pylist(rows, QUEUE)


class Answer(NamedTuple):
    """One row of a filled export; `row` counts from 1 as the file's reader does."""

    row: int
    annotator: str
    item_id: str
    text: str
    intent: str
    secondary_intent: str | None


class Refusal(NamedTuple):
    """One answer that was not taken: `reason` is a machine word, `detail` tells a person."""

    answer: Answer
    reason: str
    detail: str


@dataclass(frozen=True)
class Taken:
    """What became of answers: numbers of new ones and of those that were taken before, and the refused."""

    taken: int
    unchanged: int
    refused: tuple[Refusal, ...]


def current(folder: Path) -> State:
    """Folds the log in `folder`.

    Raises:
        DamagedArtifact: an event is missing or cannot be read.
    """
    version = 0
    items: dict[str, Item] = {}
    intents: set[str] = set()
    by_people: list[int] = []
    for version, content in _events(folder):
        try:
            event = json.loads(content)
            _enter(event, items, intents)
            if event["by"] != GRAPH:
                by_people.append(version)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(folder, version) from error
    return State(version, items, frozenset(intents), tuple(by_people))


class _Head(msgspec.Struct):
    by: str
    intents: list[str] = msgspec.field(default_factory=list)


def glance(folder: Path) -> tuple[frozenset[str], tuple[int, ...]]:
    """`intents` and `by_people` of the state alone, ten times as fast as folding: what sensors look at each minute.

    Raises:
        DamagedArtifact: an event is missing or cannot be read.
    """
    decoder, intents = msgspec.json.Decoder(_Head), set[str]()
    by_people: list[int] = []
    for number, content in _events(folder):
        try:
            head = decoder.decode(content)
        except msgspec.MsgspecError as error:
            raise _damaged(folder, number) from error
        intents.update(head.intents)
        if head.by != GRAPH:
            by_people.append(number)
    return frozenset(intents), tuple(by_people)


@dataclass(frozen=True)
class Queue:
    """Writes the log in `folder`. `at` carries a time zone, `by` says who acts; every method may be repeated without harm.

    All raise Conflict where others kept writing in between, and DamagedArtifact where the log cannot be trusted.
    """

    folder: Path
    settings: Labelling = Labelling()

    def state(self) -> State:
        return current(self.folder)

    def accept(self, intents: Iterable[str], *, at: dt.datetime, by: str) -> State:
        """Lets labels be one of `intents` as well."""
        wanted = {" ".join(intent.split()) for intent in intents} - {""}
        return self._change(
            lambda state: {"kind": "intents", "intents": sorted(wanted - state.intents)} if wanted - state.intents else None, at, by
        )

    def enqueue(self, sample: pa.Table, *, at: dt.datetime, by: str) -> State:
        """Queues texts of one week's sample, columns of `sampling.SAMPLE`: the control slice, then the uncertain part as far as room is.

        A text that was ever queued is not queued again. Where only some of a stratum find room, a hash chooses, and the inclusion
        probability says so. Which items two annotators label is a hash's choice among all.
        """
        rows = sample.to_pylist()

        def decide(state: State) -> dict[str, Any] | None:
            known = {item.message_id for item in state.items.values()}
            weeks = Counter(item.week for item in state.items.values())
            fresh = {row["message_id"]: row for row in reversed(rows) if row["message_id"] not in known}
            room = self.settings.queue_per_week - sum(weeks[week] for week in {row["week"] for row in rows})
            chosen: list[dict[str, Any]] = []
            for stratum in ("control", "uncertain"):
                of_it = sorted((row for row in fresh.values() if row["stratum"] == stratum), key=lambda row: digest_of(row["message_id"]))
                some = of_it[: max(0, room - len(chosen))]
                chosen += [row | {"inclusion_probability": row["inclusion_probability"] * (len(some) / len(of_it))} for row in some]
            if not chosen:
                return None
            twice = sorted(chosen, key=lambda row: digest_of(f"twice {row['message_id']}"))[
                : math.ceil(self.settings.double_share * len(chosen))
            ]
            doubled = {row["message_id"] for row in twice}
            return {"kind": "queued", "items": [_queued(row, 1 + (row["message_id"] in doubled)) for row in chosen]}

        return self._change(decide, at, by)

    def lease(self, annotator: str, count: int, *, at: dt.datetime) -> list[Item]:
        """At most `count` items for one annotator: those that they hold, renewed, then what is open, control slice first, oldest first."""
        annotator = _name(annotator)
        until = at + dt.timedelta(hours=self.settings.lease_hours)
        found: list[str] = []

        def decide(state: State) -> dict[str, Any] | None:
            open_ = [item for item in state.items.values() if item.is_open_to(annotator, at)]
            open_.sort(key=lambda item: (annotator not in item.live(at), item.stratum != "control", item.week))  # stable: else as queued
            found[:] = [item.item_id for item in open_[:count]]
            return {"kind": "leased", "annotator": annotator, "until": until.isoformat(), "items": list(found)} if found else None

        state = self._change(decide, at, annotator)
        return [state.items[item_id] for item_id in found]

    def label(self, answers: Sequence[Answer], *, at: dt.datetime, by: str) -> Taken:
        """Enters what annotators answered, and says which answers were refused and why; the others are taken."""
        found: list[Taken] = []

        def decide(state: State) -> dict[str, Any] | None:
            labels, unchanged, refused, seen = [], 0, [], set()
            for answer in answers:
                problem = _problem(state, answer, at, (answer.annotator, answer.item_id) in seen)
                seen.add((answer.annotator, answer.item_id))
                if problem is not None:
                    refused.append(Refusal(answer, *problem))
                elif answer.annotator in state.items[answer.item_id].labels:
                    unchanged += 1
                else:
                    labels.append(answer)
            found[:] = [Taken(len(labels), unchanged, tuple(refused))]
            entered = [[a.item_id, a.annotator, a.intent, a.secondary_intent] for a in labels]
            return {"kind": "labelled", "labels": entered} if entered else None

        self._change(decide, at, by)
        return found[0]

    def adjudicate(self, item_id: str, label: Label, *, at: dt.datetime, by: str, why: str) -> State:
        """A person decides what an item is: a conflict, or a label that they hold to be wrong.

        Raises:
            BadInput: an unknown item or intent, an item without a label, or no reason.
        """
        if not why.strip():
            raise BadInput("why must be said", where="adjudicate", remedy="Give a reason.")

        def decide(state: State) -> dict[str, Any] | None:
            item = state.items.get(item_id)
            if item is None or not (item.labels or item.decision):
                problem = "is no item of the queue" if item is None else "has no label yet"
                raise BadInput(problem, where=f"item {item_id!r}", remedy="`mangaassist queue status` lists what waits for a decision.")
            for intent in filter(None, label):
                if intent not in state.intents:
                    raise BadInput(f"{intent!r} is no intent", where="adjudicate", remedy=f"Use one of {', '.join(sorted(state.intents))}.")
            if item.decision == label:
                return None
            return {"kind": "adjudicated", "item_id": item_id, "label": list(label), "why": " ".join(why.split())}

        return self._change(decide, at, by)

    def _change(self, decide: Callable[[State], dict[str, Any] | None], at: dt.datetime, by: str) -> State:
        """Appends what `decide` makes of the state, deciding anew where somebody else appended first; nothing where it says None."""
        if at.utcoffset() is None:
            raise BadInput(f"{at} has no time zone", where="queue", remedy="Pass an aware time, such as datetime.now(timezone.utc).")
        by = _name(by)
        for _ in range(MOST_ATTEMPTS):
            state = self.state()
            event = decide(state)
            if event is None:
                return state
            stamp = {"version": state.version + 1, "at": at.astimezone(dt.UTC).isoformat(timespec="microseconds"), "by": by}
            if self._append(state.version + 1, stamp | event):
                return self.state()
        raise Conflict(f"{self.folder}: others kept changing the queue. Try again.")

    def _append(self, number: int, event: Mapping[str, Any]) -> bool:
        """False where the number was taken meanwhile."""
        path = self.folder / f"{number:06d}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = beside_of(path)
        try:
            with beside.open("wb") as stream:
                stream.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.link(beside, path)  # the swap: it fails where the number is taken
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            raise Unavailable(
                f"{self.folder}: its file system has no hard links; set MANGAASSIST_HOME to a folder on a local disk."
            ) from error
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(self.folder)
        return True


# ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _problem(state: State, answer: Answer, at: dt.datetime, repeated: bool) -> tuple[str, str] | None:
    """Reason and detail of why an answer is refused, None where it is taken or was taken before."""
    item = state.items.get(answer.item_id)
    if item is None:
        return "unknown_item", f"{answer.item_id!r} was never exported"
    if repeated:
        return "duplicate", "the item stands in the file before"
    if normalise(answer.text) != item.text:
        return "edited_text", "the text is not the one that was exported"
    for intent in filter(None, (answer.intent, answer.secondary_intent)):
        if intent not in state.intents:
            return "unknown_intent", f"{intent!r} is none of {', '.join(sorted(state.intents))}"
    before = item.labels.get(answer.annotator)
    if before is not None:
        same = before == Label(answer.intent, answer.secondary_intent)
        return None if same else ("already_labelled", f"{answer.annotator} said {before.intent} before; adjudicate to change it")
    if answer.annotator not in item.leases:
        return "not_leased", f"it was not exported for {answer.annotator or 'nobody'}"
    if item.leases[answer.annotator] <= at:
        return (
            "expired_lease",
            f"the lease ended {item.leases[answer.annotator]:%Y-%m-%d %H:%M} UTC; export again, then import this file again",
        )
    return None


def _name(name: str) -> str:
    joined = " ".join(name.split())
    if not joined:
        raise BadInput("who acts must be said", where="queue", remedy="Give a name.")
    return joined


def _queued(row: Mapping[str, Any], annotators: int) -> dict[str, Any]:
    return {
        "item_id": f"q{row['week']:%y%m%d}-{row['message_id']}",
        "week": row["week"].isoformat(),
        "message_id": row["message_id"],
        "text": row["text"],
        "predicted": row["intent"],
        "confidence": row["confidence"],
        "stratum": row["stratum"],
        "inclusion_probability": row["inclusion_probability"],
        "annotators": annotators,
    }


def _enter(event: Mapping[str, Any], items: dict[str, Item], intents: set[str]) -> None:
    """Enters one event into what the events before it made."""
    kind = event["kind"]
    if kind == "intents":
        intents.update(event["intents"])
    elif kind == "queued":
        for row in event["items"]:
            items[row["item_id"]] = Item(**(row | {"week": dt.date.fromisoformat(row["week"])}))
    elif kind == "leased":
        until = dt.datetime.fromisoformat(event["until"])
        for item_id in event["items"]:
            items[item_id].leases[event["annotator"]] = until
    elif kind == "labelled":
        for item_id, annotator, intent, secondary in event["labels"]:
            items[item_id].labels[annotator] = Label(intent, secondary)
    elif kind == "adjudicated":
        items[event["item_id"]].decision = Label(*event["label"])
    else:
        raise ValueError(kind)


def _events(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of every event, in order; DamagedArtifact where one is missing."""
    names = [name for name in os.listdir(folder) if EVENT_NAME.fullmatch(name)] if folder.is_dir() else []
    for expected, (number, name) in enumerate(sorted((int(name.partition(".")[0]), name) for name in names), 1):
        if number != expected:
            raise DamagedArtifact(f"{folder}: event {expected} is missing. Restore it from a backup.")
        yield number, (folder / name).read_bytes()


def _damaged(folder: Path, number: int) -> DamagedArtifact:
    return DamagedArtifact(f"{folder}: event {number} cannot be read. Restore it from a backup; delete it where it is the last one.")
