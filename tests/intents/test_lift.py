"""Lift is paired: the same messages before and after, each slice with its own interval and an adjusted p-value."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.intents.lift import LIFT, augmentation_lift
from mangaassist_assets.lib.statistics import holm, mcnemar_p_value

N = 400


def answers(slang_right, other_right, *, seed):
    rng = np.random.default_rng(seed)
    slang = np.arange(N) % 4 == 0
    right = rng.random(N) < np.where(slang, slang_right, other_right)
    return pa.table(
        {
            "message_id": [f"{i:04d}" for i in range(N)],
            "split": np.where(np.arange(N) % 2, "golden", "test").tolist(),
            "intent": ["faq"] * N,
            "predicted": np.where(right, "faq", "chitchat").tolist(),
            "slices": [["slang"] if s else ["plain", "typo"] for s in slang],
        }
    )


BEFORE, AFTER = answers(0.6, 0.9, seed=1), answers(0.95, 0.9, seed=2)


def rows(before=BEFORE, after=AFTER, **options):
    table = augmentation_lift(before, after, seed=3, **options)
    assert table.schema.equals(LIFT)
    return {r["slice"]: r for r in table.to_pylist()}


def test_all_comes_first_and_every_slice_and_split_has_a_row():
    assert list(rows()) == ["all", "plain", "slang", "typo", "split:golden", "split:test"]


def test_a_slice_that_got_better_shows_it_and_one_that_did_not_does_not():
    found = rows()
    assert found["slang"]["ci_low"] > 0.1 and found["slang"]["p_value"] < 0.001
    assert found["plain"]["ci_low"] < 0 < found["plain"]["ci_high"] and found["plain"]["p_value"] > 0.05
    for r in found.values():
        assert r["change"] == pytest.approx(r["accuracy_after"] - r["accuracy_before"])
        assert r["ci_low"] <= r["change"] <= r["ci_high"]


def test_p_values_of_slices_are_adjusted_for_their_number_and_that_of_all_is_not():
    right = [np.array(t["predicted"].to_pylist()) == "faq" for t in (BEFORE, AFTER)]
    masks = {name: np.array([name in s for s in AFTER["slices"].to_pylist()]) for name in ("plain", "slang", "typo")}
    masks |= {f"split:{name}": np.array(AFTER["split"].to_pylist()) == name for name in ("golden", "test")}
    raw = [mcnemar_p_value(right[0][m], right[1][m]) for m in masks.values()]
    found = rows()
    assert [found[name]["p_value"] for name in masks] == pytest.approx(holm(raw))
    assert found["all"]["p_value"] == pytest.approx(mcnemar_p_value(*right))


def test_messages_are_paired_by_identity_and_not_by_order():
    shuffled = BEFORE.take(pa.array(np.random.default_rng(5).permutation(N)))
    assert rows(shuffled) == rows()


def test_only_held_out_messages_count():
    train = AFTER.set_column(1, "split", pa.array(["train"] * 200 + ["test"] * 200))
    assert rows(after=train)["all"]["n"] == 200
    assert list(rows(splits=("golden",)))[-1] == "split:golden"


def test_a_message_that_only_one_model_answered_is_refused():
    with pytest.raises(MissingEvidence, match="1 of 400"):
        rows(BEFORE.slice(1))
    with pytest.raises(MissingEvidence, match="all of 0"):
        rows(after=AFTER.filter(pc.equal(AFTER["split"], "nowhere")))


def test_no_change_is_a_change_of_zero_with_a_p_value_of_one():
    for r in rows(AFTER, AFTER).values():
        assert (r["change"], r["ci_low"], r["ci_high"], r["p_value"]) == (0.0, 0.0, 0.0, 1.0)
