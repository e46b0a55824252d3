"""What people do in the loop, from the truth that only the simulation knows: label, accept an intent that is new, settle conflicts."""

import datetime as dt
from collections.abc import Mapping, Sequence

import numpy as np

from mangaassist_assets.lib.messages.queue import Answer, Queue
from mangaassist_assets.lib.messages.queue_state import Item, Label

Truth = Mapping[str, tuple[str, str | None]]  # text -> true first and second intent
ANNOTATORS = ("Aiko", "Ben")
LEAD = "Chiyo"  # accepts intents and settles conflicts
SLIP_RATE = 0.02  # of labels that an annotator gets wrong: another intent, drawn at random


def label_queue_items(
    queue: Queue, truth: Truth, *, at: dt.datetime, seed: int, annotators: Sequence[str] = ANNOTATORS, slip_rate: float = SLIP_RATE
) -> int:
    """Labels everything that is open in the queue, settles all conflicts, and returns how many labels were entered.

    Intents that the truth knows and the queue does not are accepted first, as a person would who sees that messages fit no label.
    A text that is not in `truth` keeps its place in the queue.

    Args:
        queue: of the installation.
        truth: true first and second intent of each text of the pool.
        at: the simulated time.
        seed: of who slips, and where.
        annotators: two or more, for items that two have to label.
        slip_rate: share of labels that are wrong, 0..1.
    """
    rng = np.random.default_rng([seed, int(at.timestamp())])
    state = queue.state()
    waiting = [item.text for item in state.items.values() if item.outcome is None and item.text in truth]
    needed = {truth[text][0] for text in waiting}
    if needed - state.intents:
        queue.accept(needed, at=at, by=LEAD)
    intents = sorted(state.intents | needed)
    entered = 0
    for annotator in annotators:
        items = [item for item in queue.lease(annotator, len(state.items), at=at) if item.text in truth]
        answers = [_answer(row, annotator, item, truth, intents, rng.random() < slip_rate, rng) for row, item in enumerate(items, 1)]
        if answers:
            entered += queue.label(answers, at=at, by=annotator).taken
    for item in queue.state().conflicts():
        if item.text in truth:
            queue.adjudicate(item.item_id, Label(*truth[item.text]), at=at, by=LEAD, why="read again")
    return entered


def _answer(row: int, annotator: str, item: Item, truth: Truth, intents: Sequence[str], slips: bool, rng: np.random.Generator) -> Answer:
    first, second = truth[item.text]
    if slips and len(intents) > 1:
        first, second = str(rng.choice([intent for intent in intents if intent != first])), None
    return Answer(row, annotator, item.item_id, item.text, first, second)
