"""The weekly sample: a control slice without bias, and an uncertain part that is diverse and has known odds."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.labelling import message_id
from mangaassist_assets.lib.messages.queue import Labelling
from mangaassist_assets.lib.messages.sampling import SAMPLE, _draw, _sizes, low_confidence_sample

WEEK = dt.date(2026, 11, 16)
SMALL = Labelling(sample_per_week=60, control_per_week=20, pool=500, clusters=8)
TOPICS = ("parcel late where", "return torn volume", "coupon field broken", "recommend horror manga", "hello thanks friend")
WORDS = "naruto berserk bleach frieren vagabond monster dorohedoro akira ponyo totoro nana paradise kiss slam dunk haikyu".split()


def traffic(n=400, *, seed=1, confidence=None, texts=None):
    """Answers of one week; texts are distinct unless given."""
    rng = np.random.default_rng(seed)
    words = [" ".join(rng.choice(WORDS, 4)) for _ in range(n)]
    return pa.table(
        {
            "request_id": [f"20261116-ab-{i:06x}" for i in range(n)],
            "text": texts or [f"{TOPICS[i % 5]} {words[i]} {rng.integers(1e9)}" for i in range(n)],
            "language": ["en"] * n,
            "intent": ["faq"] * n,
            "confidence": pa.array(confidence if confidence is not None else rng.uniform(0.2, 1, n), pa.float32()),
            "model_digest": ["m1"] * n,
            "flags": pa.array([[] for _ in range(n)], pa.list_(pa.string())),
            "error": pa.array([None] * n, pa.string()),
        }
    )


def replaced(table, name, values, kind=None):
    return table.set_column(table.column_names.index(name), name, pa.array(values, kind or table.schema.field(name).type))


def part(sample, stratum):
    return [row for row in sample.to_pylist() if row["stratum"] == stratum]


def test_a_week_gives_the_numbers_that_were_asked_for_control_first():
    sample = low_confidence_sample(traffic(), [], WEEK, SMALL)
    assert sample.schema == SAMPLE
    assert sample["stratum"].to_pylist() == ["control"] * 20 + ["uncertain"] * 40
    assert len(set(sample["request_id"].to_pylist())) == 60
    assert set(sample["week"].to_pylist()) == {WEEK}
    assert sample["message_id"].to_pylist() == [message_id(text) for text in sample["text"].to_pylist()]
    assert {row["inclusion_probability"] for row in part(sample, "control")} == {20 / 400}


def test_the_same_week_is_drawn_the_same_and_another_seed_otherwise():
    table = traffic()
    assert low_confidence_sample(table, [], WEEK, SMALL).equals(low_confidence_sample(table, [], WEEK, SMALL))
    other = low_confidence_sample(table, [], WEEK, Labelling(60, 20, pool=500, clusters=8, seed=21))
    assert part(other, "control") != part(low_confidence_sample(table, [], WEEK, SMALL), "control")


def test_every_request_is_as_likely_to_be_in_the_control_slice_whatever_the_model_thought():
    table = traffic(100)
    rows = {request: i for i, request in enumerate(table["request_id"].to_pylist())}
    hits = np.zeros(100)
    for seed in range(80):
        for row in part(low_confidence_sample(table, [], WEEK, Labelling(21, 20, pool=5, clusters=2, seed=seed)), "control"):
            hits[rows[row["request_id"]]] += 1
    share = hits / 80
    assert abs(share.mean() - 0.2) < 1e-9
    assert np.abs(share - 0.2).max() < 4.5 * np.sqrt(0.2 * 0.8 / 80)
    assert abs(np.corrcoef(share, table["confidence"].to_numpy())[0, 1]) < 0.3


def test_late_segments_change_few_of_the_control_slice():
    whole = traffic(400)
    before = {row["request_id"] for row in part(low_confidence_sample(whole.slice(0, 380), [], WEEK, SMALL), "control")}
    after = {row["request_id"] for row in part(low_confidence_sample(whole, [], WEEK, SMALL), "control")}
    assert len(before & after) >= 17


def test_doubtful_messages_are_drawn_more_often_and_each_cluster_is_heard():
    sample = part(low_confidence_sample(traffic(), [], WEEK, SMALL), "uncertain")
    assert np.mean([row["confidence"] for row in sample]) < 0.52  # 0.6 in the traffic
    assert len({row["cluster"] for row in sample}) == 8


def test_near_duplicates_count_as_one_text_that_says_how_many_it_stands_for():
    texts = [f"where is my parcel, it should have come last tuesday{'!' * (i % 4)}" for i in range(300)]
    texts += traffic(100, seed=5)["text"].to_pylist()
    sample = part(low_confidence_sample(traffic(400, texts=texts), [], WEEK, SMALL), "uncertain")
    alike = [row for row in sample if row["text"].startswith("where is my parcel, it should")]
    assert len(alike) <= 1
    assert sum(row["represents"] > 1 for row in sample) == len(alike)
    everything = part(low_confidence_sample(traffic(400, texts=texts), [], WEEK, Labelling(400, 1, clusters=8)), "uncertain")
    assert max(row["represents"] for row in everything) == 300 - sum("parcel, it" in t for t in controlled(texts))


def controlled(texts):
    sample = low_confidence_sample(traffic(400, texts=texts), [], WEEK, Labelling(400, 1, clusters=8))
    taken = {row["text"] for row in part(sample, "control")}
    return [text for text in texts if text in taken]


def test_what_is_nearly_a_golden_or_labelled_text_is_not_drawn_as_uncertain():
    table = traffic(60)
    golden = [text.upper() + " ?!" for text in table["text"].to_pylist()[:30]]
    sample = low_confidence_sample(table, golden, WEEK, SMALL)
    drawn = {row["text"] for row in part(sample, "uncertain")}
    assert drawn and not drawn & set(table["text"].to_pylist()[:30])
    assert {row["text"] for row in part(sample, "control")} & set(table["text"].to_pylist()[:30])  # or accuracy would be biased


def test_probes_failures_and_answers_without_text_or_intent_are_no_part_of_it():
    table = traffic(50)
    table = replaced(table, "flags", [["probe"] if i < 10 else ["slow"] if i < 15 else None for i in range(50)])
    table = replaced(table, "error", ["timeout" if 10 <= i < 20 else None for i in range(50)])
    table = replaced(table, "text", [None if i == 20 else "" if i == 21 else t for i, t in enumerate(table["text"].to_pylist())])
    table = replaced(table, "intent", [None if i == 22 else "faq" for i in range(50)])
    sample = low_confidence_sample(table, [], WEEK, Labelling(100, 50, clusters=4))
    assert sorted(sample["request_id"].to_pylist()) == table["request_id"].to_pylist()[23:]


def test_a_week_smaller_than_the_sample_is_taken_whole_with_certainty():
    sample = low_confidence_sample(traffic(30), [], WEEK, SMALL)
    assert len(sample) == 30
    assert {row["inclusion_probability"] for row in part(sample, "uncertain")} == {1.0}
    assert len(low_confidence_sample(traffic(5), [], WEEK, SMALL)) == 5
    assert low_confidence_sample(traffic(5).slice(0, 0), [], WEEK, SMALL).schema == SAMPLE


def test_texts_are_drawn_as_often_as_their_inclusion_probability_says():
    rng = np.random.default_rng(3)
    cluster, doubt = rng.integers(0, 6, 80), rng.uniform(0.01, 0.9, 80)
    sizes = _sizes(doubt, cluster)
    hits, rounds = np.zeros(80), 1500
    for seed in range(rounds):
        drawn, probability = _draw(sizes, cluster, 25, np.random.default_rng(seed))
        assert len(drawn) == 25
        hits[drawn] += 1
    assert probability.sum() == pytest.approx(25)
    error = (hits / rounds - probability) / np.sqrt(np.maximum(probability * (1 - probability), 1e-3) / rounds)
    assert np.abs(error).max() < 4
    expected = np.bincount(cluster, probability)
    got = np.bincount(cluster[drawn], minlength=6)
    assert (np.abs(got - expected) < 1 + 1e-9).all()  # each cluster its expected number, rounded up or down


def test_a_text_that_outweighs_all_others_is_drawn_for_sure():
    sizes = np.array([100.0, 1.0, 1.0, 1.0, 1.0])
    drawn, probability = _draw(sizes, np.zeros(5, np.int64), 2, np.random.default_rng(0))
    assert 0 in drawn and probability[0] == 1
    assert probability[1:] == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    "change", [{"control_per_week": 600}, {"double_share": 1.5}, {"near_duplicate": 0.2}, {"lease_hours": 0}, {"clusters": 0}]
)
def test_settings_that_cannot_be_are_refused_by_name(change):
    with pytest.raises(BadInput, match=f"labelling.{next(iter(change))}"):
        Labelling(**change)
