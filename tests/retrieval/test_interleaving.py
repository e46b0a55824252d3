"""Two rankers share a list fairly, a shopper stays where he was assigned, and the better ranker is found."""

import random

import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.interleaving import assigned_arm, interleave, preference


def test_an_assignment_is_stable_and_follows_the_shares():
    arms = [assigned_arm(f"session-{i}", "adapter", {"base": 0.8, "adapted": 0.2}) for i in range(5_000)]
    assert arms == [assigned_arm(f"session-{i}", "adapter", {"base": 0.8, "adapted": 0.2}) for i in range(5_000)]
    assert 0.18 < arms.count("adapted") / 5_000 < 0.22


def test_two_experiments_assign_independently():
    shares = {"a": 0.5, "b": 0.5}
    same = sum(assigned_arm(f"s{i}", "one", shares) == assigned_arm(f"s{i}", "two", shares) for i in range(4_000))
    assert 0.46 < same / 4_000 < 0.54


def test_an_arm_without_a_share_gets_nobody_and_odd_shares_are_refused():
    assert {assigned_arm(f"s{i}", "e", {"a": 0.0, "b": 1.0}) for i in range(100)} == {"b"}
    for shares in ({}, {"a": 0.5}, {"a": -0.5, "b": 1.5}):
        with pytest.raises(BadInput, match="sum to 1"):
            assigned_arm("s", "e", shares)


def test_a_mixed_list_holds_each_document_once_and_as_many_of_either_team():
    shown = interleave(["a", "b", "c", "d"], ["b", "e", "a", "f"], 6, request_id="r1")
    assert len(set(shown.documents)) == len(shown.documents) == 6
    assert shown.teams.count("a") == shown.teams.count("b") == 3
    assert shown == interleave(["a", "b", "c", "d"], ["b", "e", "a", "f"], 6, request_id="r1")


def test_a_short_ranking_lets_the_other_fill_the_list():
    assert set(interleave(["a"], ["b", "c", "d"], 10, request_id="r").documents) == {"a", "b", "c", "d"}
    assert interleave([], [], 5, request_id="r").documents == ()


def test_equal_rankers_are_not_told_apart_and_a_better_one_wins():
    rng = random.Random(1)
    documents = [f"d{i}" for i in range(10)]

    def traffic(a, b, wanted):
        lists = [interleave(a, b, 5, request_id=str(i)) for i in range(300)]
        return [(shown, {wanted} if rng.random() < 0.7 else set()) for shown in lists]

    equal = preference(traffic(documents, documents, "d0"))
    assert equal.share.ci_low < 0.5 < equal.share.ci_high and equal.p_value > 0.01
    better = preference(traffic(documents[1:], documents, "d0"))
    assert better.share.ci_low > 0.5 and better.p_value < 0.001
    assert better.share.n + better.ties == 300


def test_no_click_at_all_decides_nothing():
    silent = preference([(interleave(["a"], ["b"], 2, request_id="r"), set())])
    assert silent.ties == 1 and silent.p_value == 1 and not silent.share.is_measured
