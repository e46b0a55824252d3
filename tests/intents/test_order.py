"""Of two intents in a message the one that is served first is told by its halves, as validation has shown."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mangaassist_assets.lib.intents.calibration import Presence
from mangaassist_assets.lib.intents.candidates import CandidateSettings, LabelledTexts, calibrate
from mangaassist_assets.lib.intents.linear import train_linear
from mangaassist_assets.lib.intents.order import Order, fit_order, halves, leads
from mangaassist_assets.lib.intents.prediction import Scores

LABELS = ("order", "refund", "stock")
WORDS = {"order": "where is my parcel", "refund": "give my money back", "stock": "do you sell naruto"}


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("where is it? i want a refund", "where is it?", "i want a refund"),
        ("refund this and tell me where the other one is", "refund this", "and tell me where the other one is"),
        ("注文はどこ。返品したい", "注文はどこ。", "返品したい"),
        ("hi. where is my order, i want my money back", "hi. where is my order,", "i want my money back"),
        ("abcdef", "abc", "def"),
        ("wow!", "wo", "w!"),
        ("a", "", "a"),
        ("", "", ""),
    ],
)
def test_a_message_is_cut_between_clauses_near_its_middle(text, begin, end):
    assert halves(text) == (begin, end)


@given(st.text(max_size=80))
def test_halves_hold_all_of_a_message_but_white_space(text):
    assert "".join("".join(halves(text)).split()) == "".join(text.split())


def test_leads_are_log_odds_of_the_whole_the_halves_and_the_presence():
    def expert(texts):
        return np.array([[3.0, 1.0, 0.0] if "parcel" in text else [0.0, 2.0, 0.0] for text in texts], np.float32)

    scores = Scores(np.array([[0.6, 0.3, 0.1]], np.float32), np.array([[0.9, 0.45, 0.1]], np.float32))
    found = leads(["where is my parcel, give my money back"], scores, np.array([0]), np.array([1]), expert)
    np.testing.assert_allclose(found, [[np.log(2), 2.0, -2.0, np.log(2)]], rtol=1e-5)


def test_two_intents_share_anew_what_they_had_together_and_the_rest_stays():
    order = Order((0.0, -1.0, 1.0, 0.0), 0.0)
    primary = np.array([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4]], np.float32)
    ahead = np.array([[0.7, -2.0, 2.0, 0.0], [0.7, 9.0, 0.0, 0.0]], np.float32)
    divided = order.divide(primary, np.array([0, 0]), np.array([1, 2]), ahead)
    np.testing.assert_allclose(divided.sum(1), 1, rtol=1e-6)
    assert divided[0].argmax() == 1 and divided[0, 2] == np.float32(0.1)
    assert divided[1].argmax() == 0 and divided[1, 1] == np.float32(0.1)
    assert Order.from_json(order.to_json()) == order


def test_few_messages_or_one_order_teach_nothing():
    ahead = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    assert fit_order(ahead[:20], ahead[:20, 1] < 0) is None
    assert fit_order(ahead, np.zeros(60, bool)) is None
    assert fit_order(ahead, ahead[:, 1] < 0).weights[1] < -0.5


class Blind:
    """An expert that knows which intents are there, and always names the one that the alphabet has first."""

    def logits(self, texts):
        there = np.array([[WORDS[label] in text for label in LABELS] for text in texts], np.float32)
        return 2 * there - np.arange(3, dtype=np.float32) / 10, 8 * there - 4


def test_calibration_learns_the_order_and_a_classifier_answers_by_it():
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    texts = [f"{WORDS[LABELS[a]]}, {WORDS[LABELS[b]]} number {i}" for i in range(20) for a, b in pairs]
    first, second = (np.array([pair[side] for _ in range(20) for pair in pairs]) for side in (0, 1))
    rows = LabelledTexts(texts, first, second, np.ones(len(texts), np.float32))
    single = [f"{WORDS[label]} number {i}" for i in range(20) for label in LABELS]
    linear = train_linear(single, np.tile(np.arange(3), 20), np.ones(60, np.float32), classes=3)
    classifier = calibrate(LABELS, rows, CandidateSettings(), main=Blind(), linear=linear)
    without = dataclasses.replace(classifier, order=None)
    assert (without.scores(texts).primary.argmax(1) == first).mean() == 0.5
    assert (classifier.scores(texts).primary.argmax(1) == first).mean() > 0.95
    alone = np.vstack([classifier.scores([text]).primary for text in texts[:12]])
    np.testing.assert_allclose(alone, classifier.scores(texts[:12]).primary, atol=1e-6)


def test_a_message_with_one_intent_keeps_its_probabilities():
    linear = train_linear([*WORDS.values()] * 2, np.arange(6) % 3, np.ones(6, np.float32), classes=3)
    nothing = LabelledTexts(list(WORDS.values()), np.arange(3), np.full(3, -1), np.ones(3, np.float32))
    plain = calibrate(LABELS, nothing, CandidateSettings(), main=Blind(), linear=linear)
    ordered = dataclasses.replace(plain, order=Order((0.0, -1.0, 1.0, 0.0), 0.0), presence=Presence(1.0, 0.0, (0.5,) * 3))
    assert plain.order is None
    np.testing.assert_array_equal(ordered.scores(["do you sell naruto"]).primary, plain.scores(["do you sell naruto"]).primary)
