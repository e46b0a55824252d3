"""The cascade answers with its cheapest sure part, in order, and costs no more accuracy than was stated."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.artifacts import House, open_bundle
from mangaassist_assets.lib.errors import DamagedArtifact, Unavailable
from mangaassist_assets.lib.intents.calibration import Presence
from mangaassist_assets.lib.intents.candidates import CandidateSettings, LabelledTexts, labelled, load, train
from mangaassist_assets.lib.intents.cascade import KIND, Cascade, assemble, choose_thresholds, sure_rows
from mangaassist_assets.lib.intents.encoder import FineTuning
from mangaassist_assets.lib.intents.prediction import Scores
from mangaassist_assets.lib.intents.rules import Rules
from mangaassist_assets.lib.intents.student import Distillation

RULES = '[[rule]]\nname = "hello"\nintent = "chitchat"\npattern = "(?:hello|thanks)(?: .*)?"\n'
LABELS = ("chitchat", "order_tracking", "return_request")
LOSS = 0.02


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def parts(house, toy_rows):
    """Candidate bundles, and what the cascade is assembled with."""
    small = CandidateSettings(distillation=Distillation(width=16, epochs=8, batch_rows=16, learning_rate=0.02))
    made = {name: train(name, toy_rows, small, rules_toml=RULES) for name in ("linear", "rules")}
    bundles = {name: house.write_bundle("intent_candidate", c.files, c.facts) for name, c in made.items()}
    rows = [labelled(toy_rows, split, LABELS) for split in ("train", "validation")]
    return bundles["linear"], bundles["rules"], *rows, ["where is my refund", "my book please", "hello again"], small


@pytest.fixture(scope="module")
def built(house, parts):
    assembled = assemble(*parts, accuracy_loss=LOSS)
    return house.write_bundle(KIND, assembled.files, assembled.facts)


@pytest.fixture(scope="module")
def cascade(built):
    return Cascade.load(built)


@pytest.fixture(scope="module")
def messages(toy_rows):
    odd = ["", "zq", "refund parcel hello order", "いつ届きますか", "where book", "\ud83d", "x" * 3000]
    return labelled(toy_rows, "test", LABELS).texts + odd


def test_it_says_what_it_is(cascade, built, parts):
    assert (cascade.labels, cascade.out_of_scope_label) == (LABELS, None)
    assert (cascade.digest, cascade.provider) == (built.digest, "CPUExecutionProvider")
    assert built.facts["candidate_bundle"] == parts[0].digest
    assert built.facts["accuracy_loss"] == LOSS


def test_assembling_twice_gives_the_same_digest(built, parts, tmp_path):
    again = assemble(*parts, accuracy_loss=LOSS)
    assert House(tmp_path).write_bundle(KIND, again.files, again.facts).digest == built.digest


def test_without_a_student_the_classifier_answers_what_the_rules_leave_open(house, parts, messages):
    assembled = assemble(*parts, with_student=False)
    alone = Cascade.load(house.write_bundle(KIND, assembled.files, assembled.facts))
    assert alone.student is None and not any(name.startswith("student/") for name in assembled.files)
    assert Counter(prediction.route for prediction in alone.classify(messages)).keys() == {"rules", "classifier"}
    assert alone.thresholds["share_rules"] + alone.thresholds["share_classifier"] == 1


def test_each_part_answers_what_it_should(cascade, messages):
    by_route = Counter(prediction.route for prediction in cascade.classify(messages))
    assert set(by_route) == {"rules", "student", "classifier"}
    rule = cascade.classify(["Hello!"])[0]
    assert (rule.intent, rule.secondary_intent, rule.route) == ("chitchat", None, "rules")
    assert 0.9 < rule.confidence < 1


def test_answers_come_in_order_and_do_not_depend_on_company(cascade, messages):
    together = cascade.classify(messages)
    assert len(together) == len(messages)
    for text, prediction in zip(messages, together, strict=True):
        (alone,) = cascade.classify([text])
        assert (alone.intent, alone.secondary_intent, alone.route) == (prediction.intent, prediction.secondary_intent, prediction.route)
        assert alone.confidence == pytest.approx(prediction.confidence, abs=1e-5)
    assert [p.intent for p in cascade.classify(messages[::-1])] == [p.intent for p in together[::-1]]


def test_classify_is_the_fast_answer_or_else_the_slow_one(cascade, messages):
    fast, slow, whole = cascade.classify_fast(messages), cascade.classify_slow(messages), cascade.classify(messages)
    assert None in fast
    assert {p.route for p in slow} == {"classifier"}
    for quick, careful, answer in zip(fast, slow, whole, strict=True):
        expected = quick or careful
        assert (answer.intent, answer.route) == (expected.intent, expected.route)
        assert answer.confidence == pytest.approx(expected.confidence, abs=1e-5)


def test_no_texts_give_no_answers(cascade):
    assert cascade.classify([]) == cascade.classify_fast([]) == cascade.classify_slow([]) == []


def test_the_slow_answer_is_that_of_the_chosen_candidate(cascade, parts, messages):
    scores = load(parts[0]).scores(messages)
    assert [p.intent for p in cascade.classify_slow(messages)] == [LABELS[i] for i in scores.primary.argmax(1)]
    np.testing.assert_allclose([p.confidence for p in cascade.classify_slow(messages)], scores.primary.max(1), atol=1e-5)


def test_the_student_answers_only_when_sure(cascade, messages):
    scores = cascade.student.scores(messages)
    for row, prediction in enumerate(cascade.classify_fast(messages)):
        if prediction is not None and prediction.route == "student":
            assert scores.primary[row].max() >= cascade.thresholds["student_confidence"] - 1e-6
            assert prediction.intent == LABELS[scores.primary[row].argmax()]


def test_the_stated_loss_holds_on_validation(cascade, parts):
    validation = parts[3]
    truth = [LABELS[i] for i in validation.primary]
    open_rows = [i for i, text in enumerate(validation.texts) if cascade.rules.match(text) is None]

    def right(found):
        return np.mean([found[i].intent == truth[i] for i in open_rows])

    assert right(cascade.classify(validation.texts)) >= right(cascade.classify_slow(validation.texts)) - LOSS - 1e-9


def test_the_stated_shares_are_those_of_validation(cascade, parts):
    routes = Counter(prediction.route for prediction in cascade.classify(parts[3].texts))
    for route in ("rules", "student", "classifier"):
        assert cascade.thresholds[f"share_{route}"] == pytest.approx(routes[route] / len(parts[3].texts), abs=1e-9)


def test_threads_get_the_same_answers(cascade, messages):
    expected = [p.intent for p in cascade.classify(messages)]
    with ThreadPoolExecutor(4) as pool:
        assert all([p.intent for p in found] == expected for found in pool.map(cascade.classify, [messages] * 12))


@pytest.mark.parametrize(
    "name", ["cascade.json", "student/student.safetensors", "student/tokenizer.json", "classifier/linear.safetensors", "rules/rules.toml"]
)
def test_a_flipped_byte_is_a_damaged_artifact(name, built, parts, tmp_path):
    files = {str(p.relative_to(built.path)): p.read_bytes() for p in built.path.rglob("*") if p.is_file() and p.name != "manifest.json"}
    copy = House(tmp_path).write_bundle(KIND, files, built.facts)
    content = bytearray((copy.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy.path / name).write_bytes(content)
    with pytest.raises(DamagedArtifact, match=name):
        Cascade.load(open_bundle(copy.path, KIND))


def test_the_out_of_scope_label_is_the_classifiers(house, make_table, toy_rows):
    renamed = {"chitchat": "oos"}
    rows = make_table([(r["text"], renamed.get(r["intent"], r["intent"]), None, r["split"]) for r in toy_rows.to_pylist()])
    distillation = Distillation(width=8, epochs=2, batch_rows=16)
    small = CandidateSettings(distillation=distillation, out_of_scope_label="oos", out_of_scope_false_alarms=0.05)
    made = {name: train(name, rows, small, rules_toml=RULES) for name in ("linear", "rules")}
    bundles = [house.write_bundle("intent_candidate", c.files, c.facts) for c in made.values()]
    labels = ("oos", "order_tracking", "return_request")
    assembled = assemble(*bundles, labelled(rows, "train", labels), labelled(rows, "validation", labels), [], small)
    found = Cascade.load(house.write_bundle(KIND, assembled.files, assembled.facts))
    assert found.out_of_scope_label == "oos"
    assert found.classify(["hello hello hi thanks"])[0].intent == "oos"


def test_an_encoder_answers_the_same_in_the_cascade_and_refuses_a_missing_provider(house, toy_rows, saved_model, parts, messages):
    small = CandidateSettings(
        encoders={"tiny": str(saved_model("distilbert"))},
        fine_tuning=FineTuning(epochs=1, batch_rows=16, max_tokens=16),
        distillation=Distillation(width=8, epochs=2, batch_rows=16),
    )
    candidate = train("tiny", toy_rows, small, rules_toml=RULES)
    bundle = house.write_bundle("intent_candidate", candidate.files, candidate.facts)
    assembled = assemble(bundle, parts[1], parts[2], parts[3], [], small)
    built = house.write_bundle(KIND, assembled.files, assembled.facts)
    found = Cascade.load(built, threads=2).classify_slow(messages)
    scores = load(bundle).scores(messages)
    assert [p.intent for p in found] == [LABELS[i] for i in scores.primary.argmax(1)]
    with pytest.raises(Unavailable, match="NoSuchExecutionProvider"):
        Cascade.load(built, provider="NoSuchExecutionProvider")


# ── the threshold, with a student and a teacher made up ──────────────────────────────────────────────────────────


class Given:
    """A student that answers with given probabilities."""

    def __init__(self, primary, presence=None):
        self.presence = Presence(1.0, 0.0, (0.8,) * primary.shape[1])
        self._scores = Scores(primary, np.zeros_like(primary) if presence is None else presence)

    def scores(self, texts):
        return self._scores


NONE = np.full(300, -1)


def made_up(seed, n, k, skill):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    answers = []
    for strength in (skill, 3.0):
        logits = rng.normal(size=(n, k)) * 2
        logits[np.arange(n), truth] += strength
        exponent = np.exp(logits)
        answers.append((exponent / exponent.sum(1, keepdims=True)).astype(np.float32))
    weights = rng.choice([0.5, 1.0], n).astype(np.float32)
    return answers, LabelledTexts([f"message {i}" for i in range(n)], truth, np.full(n, -1), weights)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), n=st.integers(1, 200), skill=st.floats(-1, 5), loss=st.sampled_from([0.0, 0.003, 0.05]))
def test_the_chosen_threshold_keeps_weighted_accuracy_and_macro_f1_within_the_loss(seed, n, skill, loss):
    from sklearn.metrics import accuracy_score, f1_score

    (student, teacher), validation = made_up(seed, n, 4, skill)
    found = choose_thresholds(Rules([], [], LABELS), Given(student), Scores(teacher, teacher), np.full(n, -1), validation, loss)
    sure = student.max(1) >= found["student_confidence"]
    together = np.where(sure, student.argmax(1), teacher.argmax(1))

    def quality(predicted):
        truth, weights = validation.primary, validation.weights
        return (
            accuracy_score(truth, predicted, sample_weight=weights),
            f1_score(truth, predicted, sample_weight=weights, average="macro", zero_division=0.0),
        )

    for cascaded, alone in zip(quality(together), quality(teacher.argmax(1)), strict=True):
        assert cascaded >= alone - loss - 1e-6
    assert sum(found[f"share_{route}"] for route in ("rules", "student", "classifier")) == pytest.approx(1)


def test_a_student_that_is_always_wrong_is_silent():
    (student, teacher), validation = made_up(0, 300, 4, -9)
    found = choose_thresholds(Rules([], [], LABELS), Given(student), Scores(teacher, teacher), NONE, validation, 0.003)
    assert found["student_confidence"] > 0.9
    assert found["share_student"] < 0.05


def test_a_student_as_good_as_the_classifier_answers_nearly_all():
    (_, teacher), validation = made_up(0, 300, 4, 0)
    found = choose_thresholds(Rules([], [], LABELS), Given(teacher), Scores(teacher, teacher), NONE, validation, 0.0)
    assert found["share_student"] > 0.95


def test_the_student_may_not_hide_second_intents_that_the_classifier_finds():
    (_, teacher), validation = made_up(0, 300, 4, 0)
    second = (validation.primary + 1) % 4
    hidden = np.arange(300) < 60  # the student is right about the first intent and sees a second in a third of these only
    presence = np.where(np.arange(300)[:, None] % 3 == 0, 0.3, 0.001) * hidden[:, None] * np.ones((1, 4))
    both = LabelledTexts(validation.texts, validation.primary, np.where(hidden, second, -1), validation.weights)
    found_second = np.where(hidden, second, -1)
    student = Given(teacher, presence.astype(np.float32))
    strict = choose_thresholds(Rules([], [], LABELS), student, Scores(teacher, teacher), found_second, both, 0.003)
    lenient = choose_thresholds(Rules([], [], LABELS), student, Scores(teacher, teacher), found_second, both, 1.0)
    assert strict["share_student"] < lenient["share_student"]


def test_of_messages_with_two_intents_the_student_answers_a_tenth_at_most():
    (_, teacher), validation = made_up(0, 300, 4, 0)
    second = np.where(np.arange(300) < 100, (validation.primary + 1) % 4, -1)
    both = LabelledTexts(validation.texts, validation.primary, second, validation.weights)
    nobody_finds_them = np.full(300, -1)
    found = choose_thresholds(Rules([], [], LABELS), Given(teacher), Scores(teacher, teacher), nobody_finds_them, both, 0.0)
    sure = sure_rows(Scores(teacher, np.zeros_like(teacher)), found["student_confidence"], found["student_second"])
    assert 0 < (sure & (second >= 0)).sum() <= 10


def test_thresholds_stop_at_the_first_that_costs_too_much():
    """Ten sure and right, then ten wrong, then many right: the student goes no further than the wrong ones."""
    n = 100
    confidence = np.linspace(0.99, 0.4, n)
    student = np.stack([confidence, 1 - confidence], 1).astype(np.float32)
    student[60:] = student[60:, ::-1]
    truth = np.zeros(n, np.int64)
    truth[60:] = 1
    truth[10:20] = 1
    teacher = np.eye(2, dtype=np.float32)[truth]
    validation = LabelledTexts(["text"] * n, truth, np.full(n, -1), np.ones(n, np.float32))
    found = choose_thresholds(Rules([], [], LABELS), Given(student), Scores(teacher, teacher), np.full(n, -1), validation, 0.0)
    assert found["share_student"] == pytest.approx(0.1, abs=0.01)


def test_a_sign_of_a_second_intent_leaves_the_message_to_the_classifier():
    primary = np.array([[0.99, 0.01], [0.99, 0.01], [0.6, 0.4]], np.float32)
    presence = np.array([[0.9, 0.1], [0.9, 0.5], [0.9, 0.1]], np.float32)
    assert sure_rows(Scores(primary, presence), 0.9, 0.4).tolist() == [True, False, False]
    assert sure_rows(Scores(primary[:0], presence[:0]), 0.9, 0.4).tolist() == []


def test_thresholds_are_stored_as_numbers(built):
    assert all(isinstance(value, float) for value in json.loads(built.file("cascade.json").read_text()).values())
