"""An installation is fed day by day, and people answer from the truth."""

import datetime as dt

import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.segments import sealed
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.messages.labelling import message_id
from mangaassist_assets.lib.messages.queue import Queue
from mangaassist_assets.lib.messages.sampling import SAMPLE
from mangaassist_assets.lib.release.log import ReleaseLog
from mangaassist_assets.lib.verdicts import Verdict
from mangaassist_assets.simulation.people import label_queue_items
from mangaassist_assets.simulation.pool import Style
from mangaassist_assets.simulation.running import midnight_after, simulate
from mangaassist_assets.simulation.scenarios import scenario_named
from mangaassist_assets.simulation.wording import EVENT_INTENT
from tests.simulation.conftest import Reader

MONDAY = dt.date(2026, 1, 12)
NOW = dt.datetime(2026, 1, 20, tzinfo=dt.UTC)


def test_each_day_is_there_before_the_loop_turns_and_a_release_serves_from_the_next_on(pool, tmp_path):
    house, releases = House(tmp_path), ReleaseLog(tmp_path / "releases")
    releases.promote("a" * 64, Verdict.PASS, against=None, by="test", at=NOW, reason="first")
    served = []

    def after(day, now):
        assert day.day in sealed(tmp_path / "interactions") and now == midnight_after(day.day)
        served.append((day.champion, day.shadow.digest if day.shadow else None))
        if day.day == MONDAY:
            releases.promote("b" * 64, Verdict.PASS, against="a" * 64, by="test", at=now, reason="second")

    answers = simulate(house, pool, scenario_named("steady"), days=3, per_day=60, seed=1, start=MONDAY, load=Reader, after_day=after)
    assert served == [("a" * 64, None), ("a" * 64, "b" * 64), ("a" * 64, "b" * 64)] and answers > 100


def test_a_home_without_a_classifier_is_told_what_to_do(pool, tmp_path):
    with pytest.raises(MissingEvidence, match="mangaassist run"):
        simulate(House(tmp_path), pool, scenario_named("steady"), days=1, per_day=10, seed=1, start=MONDAY)


def queue_with(pool, tmp_path) -> Queue:
    queue = Queue(tmp_path / "queue")
    queue.accept([name for name in pool.intents if name != EVENT_INTENT], at=NOW, by="label_queue")
    texts = [text for text, style in zip(pool.texts, pool.style, strict=True) if style in (Style.EVENT, Style.CASUAL)][-60:]
    rows = [
        {
            "week": MONDAY,
            "request_id": f"20260112-x-{number:x}",
            "message_id": message_id(text),
            "text": text,
            "language": "en",
            "intent": "faq",
            "confidence": 0.4,
            "model_digest": "a" * 64,
            "stratum": "uncertain",
            "inclusion_probability": 0.5,
            "cluster": 1,
            "represents": 1,
        }
        for number, text in enumerate([*texts, "a text that nobody simulated"])
    ]
    queue.enqueue(SAMPLE.empty_table().from_pylist(rows, SAMPLE), at=NOW, by="label_queue")
    return queue


def test_people_label_from_the_truth_accept_what_is_new_and_settle_conflicts(pool, tmp_path):
    queue = queue_with(pool, tmp_path)
    assert label_queue_items(queue, pool.true_intents, at=NOW, seed=1, slip_rate=0.3) > 60
    state = queue.state()
    outcomes = {item.text: item.outcome for item in state.items.values() if item.outcome}
    right = [outcome.intent == pool.true_intents[text][0] for text, outcome in outcomes.items()]
    assert EVENT_INTENT in state.intents and len(outcomes) == 60 and not state.conflicts()
    assert 0.5 < sum(right) / len(right) < 1


def test_labelling_twice_enters_nothing_new(pool, tmp_path):
    queue = queue_with(pool, tmp_path)
    label_queue_items(queue, pool.true_intents, at=NOW, seed=1)
    version = queue.state().version
    assert label_queue_items(queue, pool.true_intents, at=NOW, seed=1) == 0
    assert queue.state().version <= version + 2
