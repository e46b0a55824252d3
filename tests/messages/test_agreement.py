"""Agreement of annotators, and labels that are likely wrong."""

import datetime as dt
import math

import numpy as np
import pytest

from mangaassist_assets.lib.messages.agreement import AGREEMENT, SUSPECTS, agreement, cohens_kappa, spread, suspect_labels, suspects
from mangaassist_assets.lib.messages.queue_state import Item, Label, State

INTENTS = ("chitchat", "faq", "order_tracking", "promotion")


def item(i, labels, *, predicted="faq", confidence=0.9, annotators=1, decision=None):
    return Item(
        f"q{i}", dt.date(2026, 11, 16), f"t{i}", f"text {i}", predicted, confidence, "control", 0.1, annotators, {}, labels, decision
    )


def state(*items):
    return State(items={i.item_id: i for i in items})


def test_kappa_is_the_one_of_the_textbook():
    # Cohen (1960), as computed by scikit-learn as well
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(1)
    first = rng.choice(INTENTS, 300)
    second = np.where(rng.uniform(size=300) < 0.8, first, rng.choice(INTENTS, 300))
    found = cohens_kappa(list(first), list(second))
    assert found.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.ci_low < found.value < found.ci_high and found.n == 300


def test_perfect_agreement_on_few_items_proves_little():
    few, many = (cohens_kappa(["faq", "chitchat"] * n, ["faq", "chitchat"] * n) for n in (5, 200))
    assert few.value == many.value == few.ci_high == 1.0
    assert few.ci_low < 0.5 < 0.97 < many.ci_low


def test_agreement_by_chance_is_a_kappa_of_zero():
    assert cohens_kappa(["faq", "faq", "chitchat", "chitchat"], ["faq", "chitchat"] * 2).value == 0.0


@pytest.mark.parametrize(("first", "second"), [([], []), (["faq"] * 5, ["faq"] * 5)])
def test_what_cannot_be_judged_is_not_measured(first, second):
    found = cohens_kappa(first, second)
    assert not found.is_measured and math.isnan(found.value)


def test_answers_that_do_not_align_are_refused():
    with pytest.raises(ValueError, match="align"):
        cohens_kappa(["faq"], [])


def test_the_interval_covers_the_true_kappa():
    rng = np.random.default_rng(7)
    agree, k, n = 0.85, 4, 60
    truth = (agree + (1 - agree) / k - 1 / k) / (1 - 1 / k)
    covered = 0
    for _ in range(400):
        first = rng.integers(0, k, n)
        second = np.where(rng.uniform(size=n) < agree, first, rng.integers(0, k, n))
        found = cohens_kappa(first.astype(str).tolist(), second.astype(str).tolist())
        covered += found.ci_low <= truth <= found.ci_high
    assert covered / 400 > 0.93


def test_the_table_has_a_row_for_all_and_for_each_pair_before_adjudication():
    same = {"aiko": Label("faq", None), "ben": Label("faq", None)}
    other = {"ben": Label("chitchat", None), "aiko": Label("chitchat", "faq")}
    split = {"ben": Label("faq", None), "chiyo": Label("promotion", None)}
    table = agreement(
        state(
            item(1, same, annotators=2),
            item(2, other, annotators=2),
            item(3, split, annotators=2, decision=Label("faq", None)),
            item(4, {"aiko": Label("faq", None)}),
        )
    )
    assert table.schema == AGREEMENT
    rows = {row["annotators"]: row for row in table.to_pylist()}
    assert {name: (row["n"], row["agreement"]) for name, row in rows.items()} == {
        "all": (3, pytest.approx(2 / 3)),
        "aiko, ben": (2, 1.0),
        "ben, chiyo": (1, 0.0),
    }
    assert agreement(State()).to_pylist() == [
        {"annotators": "all", "n": 0, "agreement": None, "kappa": None, "ci_low": None, "ci_high": None}
    ]


def planted(n=200, wrong=10, seed=3):
    """Settled items whose labels the model confirms, but for `wrong` of them."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(INTENTS, n)
    labels = [INTENTS[(INTENTS.index(t) + 1) % 4] if i < wrong else t for i, t in enumerate(truth)]
    return [
        item(i, {"aiko": Label(str(labels[i]), None)}, predicted=str(truth[i]), confidence=float(rng.uniform(0.7, 0.99))) for i in range(n)
    ]


def test_planted_errors_come_first_among_the_suspects():
    pytest.importorskip("cleanlab")
    table = suspects(state(*planted()))
    assert table.schema == SUSPECTS
    found = table["item_id"].to_pylist()
    errors = {f"q{i}" for i in range(10)}
    assert set(found[:7]) <= errors and len(found) <= 14
    assert table["rank"].to_pylist() == list(range(1, len(found) + 1))
    assert table["label_quality"].to_pylist() == sorted(table["label_quality"].to_pylist())


def test_what_a_person_adjudicated_is_no_suspect():
    pytest.importorskip("cleanlab")
    items = planted()
    items[0].decision = items[0].outcome
    assert "q0" not in suspects(state(*items))["item_id"].to_pylist()


def test_few_labels_or_one_intent_give_no_suspects():
    assert len(suspects(state(*planted(20, 2)))) == 0
    assert len(suspects(state(*(item(i, {"aiko": Label("faq", None)}) for i in range(50))))) == 0
    assert len(suspects(State())) == 0


def test_confidence_is_spread_into_a_distribution():
    table = spread([0, 2], [0.7, 1.2], 4)
    assert table.sum(1) == pytest.approx([1, 1])
    assert table[0] == pytest.approx([0.7, 0.1, 0.1, 0.1]) and table[1] == pytest.approx([0, 0, 1, 0])


def test_quality_is_the_probability_of_the_given_label():
    pytest.importorskip("cleanlab")
    probabilities = spread([0, 1, 0, 1], [0.9, 0.9, 0.8, 0.7], 2)
    quality, _ = suspect_labels(np.array([0, 1, 1, 1]), probabilities)
    assert quality == pytest.approx([0.9, 0.9, 0.2, 0.7])
