"""Who labels what: an append-only log of events, and the queue folded from it.

    queue/000001.json, 000002.json, ...      one event each: intents accepted, texts queued, leased, labelled, adjudicated

Of two writers one appends (`lib/event_log.py`) and the other reads the log again and decides anew, so that every operation may be
repeated and nothing is done twice.

A text is queued once, whatever the week. It is leased to as many annotators as are wanted for it and labelled by each without sight of
the others' answers. Answers that agree settle it; answers that differ are a conflict, which a person adjudicates.
"""

import datetime as dt
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput, Conflict
from mangaassist_assets.lib.event_log import append
from mangaassist_assets.lib.messages.normalising import normalise
from mangaassist_assets.lib.messages.queue_state import Item, Label, State, current

FOLDER = "queue"
MOST_ATTEMPTS = 20


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
            if append(self.folder, state.version + 1, json.dumps(stamp | event, ensure_ascii=False).encode() + b"\n"):
                return self.state()
        raise Conflict(f"{self.folder}: others kept changing the queue. Try again.")


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
