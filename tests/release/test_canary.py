"""A canary passes on enough sessions within its limits, fails as soon as it is surely beyond one, and else holds and says for how long."""

import dataclasses
import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.release.canary import (
    BASE,
    REPORT,
    SESSIONS,
    Arm,
    Base,
    arms,
    base_of,
    judge_canary,
    merge,
    sessions_of,
    share_mismatch,
)
from mangaassist_assets.lib.release.gates import GATES, gates_table
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.release.sample_size import hours_to_decide, units_for_quantile, units_needed
from mangaassist_assets.lib.release.sequential import JEFFREYS, Tally, change, mixing
from mangaassist_assets.lib.verdicts import Verdict

from .conftest import BEGAN, CHAMPION, RELEASE

RULES = ReleaseRules()
BEFORE = Base(Tally(100_000, 8000), Tally(40_000, 28_000), Tally(100_000, 100))


def arm(sessions, *, escalation=0.08, thumbs_up=0.7, errors=0.001, latency_ms=8.0, rated=0.4, seed=0):
    """An arm that shows exactly these rates."""
    return Arm(
        sessions,
        Tally(sessions, escalation * sessions),
        Tally(int(rated * sessions), thumbs_up * int(rated * sessions)),
        Tally(sessions, errors * sessions),
        np.random.default_rng(seed).lognormal(math.log(latency_ms), 0.3, min(sessions, 200_000)),
    )


def judged(canary, *, hours=30.0, champion=None, rules=RULES, base=BEFORE):
    champion = champion or arm(canary.sessions * 99, seed=1)
    return judge_canary(RELEASE, champion, canary, base=base, hours=hours, rules=rules)


def verdict_of(report, metric):
    return next(c.judgement.verdict for c in report.comparisons if c.judgement.metric == metric)


def comparison(report, metric):
    return next(c for c in report.comparisons if c.judgement.metric == metric)


def test_an_unchanged_release_passes_on_enough_sessions():
    report = judged(arm(80_000))
    assert report.verdict is Verdict.PASS and "all 4 metrics are within their limits after 80,000 sessions" in report.reason


@pytest.mark.parametrize(
    ("metric", "bad"),
    [
        ("escalation_rate_change", {"escalation": 0.12}),
        ("thumbs_up_rate_change", {"thumbs_up": 0.60}),
        ("error_rate_change", {"errors": 0.03}),
        ("latency_ms_p99", {"latency_ms": 40.0}),
    ],
)
def test_each_metric_that_is_surely_beyond_its_limit_fails_the_canary_and_is_named(metric, bad):
    report = judged(arm(20_000, **bad), hours=1.0)
    assert report.verdict is Verdict.FAIL and report.reason.startswith(metric)
    assert [c.judgement.metric for c in report.comparisons if c.judgement.verdict is Verdict.FAIL] == [metric]


def test_a_canary_that_is_better_passes_where_an_unchanged_one_of_the_same_size_is_still_undecided():
    assert verdict_of(judged(arm(3000)), "escalation_rate_change") is Verdict.INCONCLUSIVE
    assert verdict_of(judged(arm(3000, escalation=0.05)), "escalation_rate_change") is Verdict.PASS


def test_what_cannot_be_decided_holds_and_says_how_many_sessions_and_how_long():
    report = judged(arm(1250), hours=24.0)
    found = comparison(report, "escalation_rate_change")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert found.needed_n == units_needed(0.08, 0.01, share=0.01, mixed=mixing(BEFORE.escalation, 0.01), power=0.9)
    assert found.hours_to_decide == pytest.approx((found.needed_n - 1250) * 24 / 1250)
    assert "1,250 of about" in found.judgement.reason and "days at this traffic" in found.judgement.reason
    assert report.reason.startswith("thumbs_up_rate_change is undecided")


@pytest.mark.parametrize(
    ("sessions", "hours", "reason"), [(80_000, 23.9, "23.9 of at least 24 hours"), (900, 30.0, "900 of at least 1,000")]
)
def test_no_canary_passes_before_its_time_or_on_too_few_sessions(sessions, hours, reason):
    report = judged(arm(sessions), hours=hours)
    assert report.verdict is Verdict.INCONCLUSIVE and reason in report.reason


def test_a_canary_that_nobody_says_anything_of_holds():
    silent = dataclasses.replace(arm(80_000), escalation=Tally(0, 0.0), thumbs_up=Tally(0, 0.0))
    report = judged(silent)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert comparison(report, "thumbs_up_rate_change").judgement.reason.startswith("not measured yet")
    assert report.table(BEGAN).to_pylist()[0]["change"] is None


def test_a_canary_without_any_session_holds_whatever_the_base():
    nothing = Arm(0, Tally(0, 0.0), Tally(0, 0.0), Tally(0, 0.0), np.empty(0))
    for base in (BEFORE, Base()):
        report = judge_canary(RELEASE, nothing, nothing, base=base, hours=0.0, rules=RULES)
        assert report.verdict is Verdict.INCONCLUSIVE and "0 of at least 1,000 sessions" in report.reason
        assert all(c.hours_to_decide is None for c in report.comparisons)


@pytest.mark.parametrize("canary", [60_000, 100_000])
def test_a_share_of_sessions_that_is_not_the_agreed_one_voids_good_and_bad_news_alike(canary):
    for bad in ({}, {"escalation": 0.2}):
        report = judged(arm(canary, **bad), champion=arm(80_000 * 99, seed=1))
        assert report.verdict is Verdict.INCONCLUSIVE and report.reason.startswith("void: the canary answered")
        assert {c.judgement.verdict for c in report.comparisons} == {Verdict.INCONCLUSIVE}


def test_the_share_is_watched_all_the_time_without_false_alarm():
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(40):
        canary = rng.binomial(500, 0.01, 20).cumsum()
        alarms += any(share_mismatch(500 * (day + 1) - int(n), int(n), 0.01) for day, n in enumerate(canary))
    assert alarms == 0


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def sessions(*days, since=BEGAN):
    return merge([sessions_of(day, release=RELEASE, champion=CHAMPION, since=since) for day in days])


def test_sessions_are_counted_with_what_became_of_them(draw_day):
    found = sessions(draw_day(3000, share=0.2))
    assert found.schema == SESSIONS and len(found) == 3000 and found["answers"].to_pylist() == [2] * 3000
    champion, canary = arms(found)
    assert champion.sessions + canary.sessions == 3000
    assert abs(canary.sessions / 3000 - 0.2) < 0.03
    assert abs(champion.escalation.rate - 0.08) < 0.02 and abs(champion.thumbs_up.rate - 0.7) < 0.05
    assert champion.escalation.n == champion.sessions and champion.thumbs_up.n < champion.sessions
    assert len(champion.latency_ms) == champion.sessions


def test_a_session_over_midnight_is_one_and_belongs_to_the_canary_once_that_answered(draw_day):
    first = draw_day(200, share=0.0)
    second = draw_day(200, share=1.0, at=BEGAN + dt.timedelta(days=1))
    found = sessions(first, second)
    assert len(found) == 200 and all(found["canary"].to_pylist()) and set(found["answers"].to_pylist()) == {4}
    assert found["first_at"][0].as_py() == BEGAN


def test_probes_other_models_what_came_before_and_messages_without_a_session_do_not_count(draw_day):
    assert len(sessions(draw_day(50, flags=["probe"]))) == 0
    assert len(sessions(draw_day(50), since=BEGAN + dt.timedelta(days=1))) == 0
    day = draw_day(50, share=0.0)
    nobody = pa.nulls(len(day), pa.string())
    assert len(sessions(day.set_column(day.column_names.index("session"), "session", nobody))) == 0
    other = pa.array(["e" * 64] * len(day))
    assert len(sessions(day.set_column(day.column_names.index("model_digest"), "model_digest", other))) == 0


def test_no_days_are_no_sessions():
    assert len(merge([])) == 0
    champion, canary = arms(merge([]))
    assert champion.sessions == canary.sessions == 0 and champion.escalation == Tally(0, 0.0)


def test_two_bad_days_end_a_canary_and_two_good_ones_do_not(draw_day):
    rules = ReleaseRules(canary_share=0.2)
    for escalation, verdict in (((0.08, 0.25), Verdict.FAIL), ((0.08, 0.08), Verdict.INCONCLUSIVE)):
        days = [
            draw_day(4000, escalation=escalation, seed=n, prefix=f"day{n}-", at=BEGAN + dt.timedelta(days=n), share=0.2) for n in range(2)
        ]
        found = sessions(*days)
        report = judge_canary(RELEASE, *arms(found), base=base_of(sessions(draw_day(3000, share=0.0))), hours=36.0, rules=rules)
        assert report.verdict is verdict


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_report_and_its_gates_have_a_row_a_metric_and_null_where_nothing_is_known():
    report = judged(arm(300), hours=2.0)
    table = report.table(BEGAN)
    assert table.schema == REPORT
    assert table["metric"].to_pylist() == ["escalation_rate_change", "thumbs_up_rate_change", "error_rate_change", "latency_ms_p99"]
    assert table["ci_high"][3].as_py() is None  # 300 sessions do not bound the 99th percentile
    assert table["needed_n"][3].as_py() == units_for_quantile(0.99)
    gates = gates_table(RELEASE, report.judgements, BEGAN)
    assert gates.schema == GATES and gates["metric"].to_pylist()[0] == "canary:escalation_rate_change"


def test_what_the_champion_showed_before_is_kept_as_it_was():
    table = BEFORE.table(17)
    assert table.schema == BASE and table["event"].to_pylist() == [17]
    assert Base.of_table(table) == BEFORE


# ── how many sessions ───────────────────────────────────────────────────────────────────────────────────────────────


def test_more_is_needed_for_smaller_effects_and_more_power_and_without_a_good_guess():
    mixed = mixing(Tally(100_000, 8000), 0.01)
    base = units_needed(0.08, 0.01, share=0.01, mixed=mixed, power=0.9)
    assert 10_000 < base < 25_000
    assert units_needed(0.08, 0.005, share=0.01, mixed=mixed, power=0.9) > 3 * base
    assert units_needed(0.08, 0.01, share=0.01, mixed=mixed, power=0.99) > base
    assert units_needed(0.08, 0.01, share=0.01, mixed=JEFFREYS, power=0.9) > 1.2 * base
    assert units_needed(0.5, 1e-6, share=0.01, mixed=JEFFREYS, power=0.9) is None


def test_an_unchanged_release_passes_with_the_stated_power_at_the_stated_size():
    rng, mixed = np.random.default_rng(5), mixing(BEFORE.escalation, 0.01)
    needed = units_needed(0.08, 0.01, share=0.1, mixed=mixed, power=0.9)
    passed = 0
    for _ in range(200):
        champion, canary = Tally(needed * 9, rng.binomial(needed * 9, 0.08)), Tally(needed, rng.binomial(needed, 0.08))
        passed += change(champion, canary, mixed).ci_high <= 0.01
    assert 0.84 <= passed / 200 <= 0.97


def test_hours_to_decide_follow_the_traffic_seen_and_are_unknown_without_any():
    assert hours_to_decide(1000, 100, 10.0) == 90.0
    assert hours_to_decide(1000, 2000, 10.0) == 0.0
    assert hours_to_decide(1000, 0, 10.0) is None and hours_to_decide(None, 10, 10.0) is None


# ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("canary_share", 0.0),
        ("canary_share", 1.0),
        ("escalation", -0.1),
        ("power", math.nan),
        ("canary_hours", math.inf),
        ("shadow_days", 0),
    ],
)
def test_rules_out_of_bounds_are_named(name, value):
    with pytest.raises(BadInput, match=f"release.{name}"):
        ReleaseRules(**{name: value})
