"""Every candidate trains from one table, the same each time, and what is loaded answers what was trained."""

import json

import numpy as np
import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, Unavailable
from mangaassist_assets.lib.intents.candidates import CandidateSettings, label_set, labelled, load, predictions, train
from mangaassist_assets.lib.intents.classifier import load_classifier
from mangaassist_assets.lib.intents.encoder import FineTuning
from mangaassist_assets.lib.intents.student import Distillation

RULES = '[[rule]]\nname = "hello"\nintent = "chitchat"\npattern = "(?:hello|hi|thanks)(?: .*)?"\n'
LABELS = ("chitchat", "order_tracking", "return_request")
KINDS = ("rules", "linear", "student", "tiny")


@pytest.fixture(scope="module")
def settings(saved_model):
    return CandidateSettings(
        encoders={"tiny": str(saved_model("bert"))},
        fine_tuning=FineTuning(epochs=1, batch_rows=16, max_tokens=16),
        distillation=Distillation(width=16, epochs=8, batch_rows=16, learning_rate=0.02),
    )


@pytest.fixture(scope="module")
def bundles(toy_rows, settings, tmp_path_factory):
    house = House(tmp_path_factory.mktemp("house"))
    made = {}
    for name in KINDS:
        candidate = train(name, toy_rows, settings, rules_toml=RULES)
        assert candidate.training_s > 0
        made[name] = house.write_bundle("intent_candidate", candidate.files, candidate.facts)
    return made


def share_right(bundle, rows):
    test = labelled(rows, "test", LABELS)
    return (load(bundle).scores(test.texts).primary.argmax(1) == test.primary).mean()


@pytest.mark.parametrize("name", KINDS)
def test_the_same_data_give_the_same_digest(name, bundles, toy_rows, settings, tmp_path):
    again = train(name, toy_rows, settings, rules_toml=RULES)
    assert House(tmp_path).write_bundle("intent_candidate", again.files, again.facts).digest == bundles[name].digest


def test_other_data_give_another_digest(bundles, toy_rows, settings, tmp_path):
    other = train("linear", toy_rows.slice(1), settings, rules_toml=RULES)
    assert House(tmp_path).write_bundle("intent_candidate", other.files, other.facts).digest != bundles["linear"].digest


@pytest.mark.parametrize("name", ["linear", "student", "tiny"])
def test_a_candidate_learns_the_toy_problem(name, bundles, toy_rows):
    assert share_right(bundles[name], toy_rows) >= 0.85


@pytest.mark.parametrize("name", KINDS)
def test_probabilities_sum_to_one_whatever_the_text(name, bundles):
    classifier = load(bundles[name])
    assert classifier.labels == LABELS
    scores = classifier.scores(["hello", "", "\ud83d", "おはよう", "x" * 5000])
    assert scores.primary.shape == scores.presence.shape == (5, 3)
    np.testing.assert_allclose(scores.primary.sum(1), 1, atol=1e-5)
    assert (scores.presence >= 0).all() and (scores.presence <= 1).all()
    assert classifier.scores([]).primary.shape == (0, 3)


@pytest.mark.parametrize("name", KINDS)
def test_an_answer_does_not_depend_on_its_neighbours(name, bundles, toy_rows):
    texts = labelled(toy_rows, "test", LABELS).texts
    classifier = load(bundles[name])
    alone = np.vstack([classifier.scores([text]).primary for text in texts])
    np.testing.assert_allclose(classifier.scores(texts).primary, alone, atol=1e-5)


def test_facts_say_what_it_was_made_from(bundles, settings):
    facts = bundles["tiny"].facts
    assert (facts["candidate"], facts["labels"], facts["encoder"]) == ("tiny", list(LABELS), settings.encoders["tiny"])
    assert facts["precision"] in ("float32", "int8")
    assert facts["out_of_scope_label"] is None
    assert bundles["linear"].facts["encoder"] is None
    assert len({bundle.facts["training_data"] for bundle in bundles.values()}) == 1


def test_an_unknown_candidate_is_bad_input_and_names_those_there_are(toy_rows, settings):
    with pytest.raises(BadInput, match="'gpt_9'.*linear"):
        train("gpt_9", toy_rows, settings, rules_toml=RULES)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("name", ["rules", "linear"])
def test_an_empty_split_is_bad_input_and_named(split, name, toy_rows, settings):
    rest = toy_rows.filter([s != split for s in toy_rows["split"].to_pylist()])
    with pytest.raises(BadInput, match=split):
        train(name, rest, settings, rules_toml=RULES)


def test_a_validation_split_of_unknown_intents_only_is_bad_input(make_table, settings):
    rows = make_table([("a b", "x", None, "train"), ("c d", "y", None, "train"), ("e f", "z", None, "validation")])
    with pytest.raises(BadInput, match="validation"):
        train("linear", rows, settings, rules_toml=RULES)


def test_messages_of_a_single_intent_are_bad_input(make_table, settings):
    rows = make_table([("a b", "only", None, "train"), ("c d", "only", None, "train"), ("e f", "only", None, "validation")])
    with pytest.raises(BadInput, match="only"):
        train("linear", rows, settings, rules_toml=RULES)


def test_two_intents_are_enough(make_table, settings, tmp_path):
    rows = make_table(
        [(t, i, None, s) for s in ("train", "validation") for t, i in (("red apple", "a"), ("red pear", "a"), ("blue car", "b"))] * 2
    )
    candidate = train("linear", rows, settings, rules_toml=RULES)
    scores = load(House(tmp_path).write_bundle("intent_candidate", candidate.files, candidate.facts)).scores(["red", "car"])
    assert scores.primary.argmax(1).tolist() == [0, 1]


def test_labels_are_those_of_training_rows_and_a_foreign_second_intent_is_none(make_table):
    rows = make_table([("t", "b", "q", "train"), ("u", "a", "b", "train"), ("v", "z", None, "test"), ("w", "a", "z", "test")])
    assert label_set(rows) == ("a", "b")
    assert labelled(rows, "train", ("a", "b")).second.tolist() == [-1, 1]
    test = labelled(rows, "test", ("a", "b"))
    assert (test.texts, test.primary.tolist(), test.second.tolist()) == (["w"], [0], [-1])


def test_presence_marks_both_intents(make_table):
    rows = make_table([("t", "b", None, "train"), ("u", "a", "b", "train")])
    assert labelled(rows, "train", ("a", "b")).presence(2).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("name", ["linear", "student"])
def test_the_out_of_scope_label_goes_through(name, make_table, toy_rows, tmp_path):
    rows = make_table(
        [(row["text"], "oos" if row["intent"] == "return_request" else row["intent"], None, row["split"]) for row in toy_rows.to_pylist()]
    )
    distillation = Distillation(width=16, epochs=8, batch_rows=16, learning_rate=0.02)
    settings = CandidateSettings(out_of_scope_label="oos", out_of_scope_false_alarms=0.0, distillation=distillation)
    candidate = train(name, rows, settings, rules_toml=RULES)
    assert candidate.facts["out_of_scope_label"] == "oos"
    bundle = House(tmp_path).write_bundle("intent_candidate", candidate.files, candidate.facts)
    classifier = load_classifier(bundle)
    assert classifier.out_of_scope_label == "oos"
    assert classifier.shift != 0
    validation = labelled(rows, "validation", classifier.labels)
    predicted = classifier.scores(validation.texts).primary.argmax(1)
    out = classifier.labels.index("oos")
    assert not (predicted == out)[validation.primary != out].any()  # no false alarm was allowed
    assert (predicted == out)[validation.primary == out].mean() > 0.7


def test_an_out_of_scope_label_that_no_row_has_is_none(toy_rows):
    candidate = train("linear", toy_rows, CandidateSettings(out_of_scope_label="oos"), rules_toml=RULES)
    assert candidate.facts["out_of_scope_label"] is None
    assert json.loads(candidate.files["classifier.json"])["out_of_scope_shift"] == 0


def test_an_encoder_that_cannot_be_had_is_unavailable(toy_rows, tmp_path):
    with pytest.raises(Unavailable, match=str(tmp_path)):
        train("bert_base", toy_rows, CandidateSettings(encoders={"bert_base": str(tmp_path)}), rules_toml=RULES)


def test_a_provider_that_is_not_there_is_unavailable(bundles):
    with pytest.raises(Unavailable, match="NoSuchExecutionProvider"):
        load(bundles["tiny"], provider="NoSuchExecutionProvider")


def test_a_bundle_of_another_layout_is_damaged(tmp_path):
    bundle = House(tmp_path).write_bundle("intent_candidate", {"other.json": b"{}"}, {"candidate": "linear"})
    with pytest.raises(DamagedArtifact, match="classifier.json"):
        load(bundle)


def test_predictions_cover_the_held_out_rows_in_order(bundles, toy_rows):
    classifier = load(bundles["linear"])
    found = predictions(classifier, toy_rows)
    held_out = [row for row in toy_rows.to_pylist() if row["split"] != "train"]
    assert found.column_names == ["message_id", "split", "intent", "secondary_intent", "slices", "probabilities"]
    assert found["message_id"].to_pylist() == [row["message_id"] for row in held_out]
    expected = classifier.scores([row["text"] for row in held_out]).primary
    np.testing.assert_array_equal(np.array(found["probabilities"].to_pylist(), np.float32), expected)
