"""A shadow passes after its days where it answers, fast enough, much as the champion does; it fails early where it surely does not."""

import datetime as dt

import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.release.gates import GATES, gates_table
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.release.shadow import COHORTS, PAIRS, REPORT, judge_shadow, pairs_of
from mangaassist_assets.lib.verdicts import Verdict

from .conftest import BEGAN, CHAMPION, RELEASE

RULES = ReleaseRules(shadow_sessions=500)
DAY = dt.timedelta(days=1)


def week(draw_day, days=7, sessions=300, **more):
    return [draw_day(sessions, at=BEGAN + n * DAY, seed=n, prefix=f"day{n}-", share=0.0, errors=(0.0, 0.0), **more) for n in range(days)]


def pairs(days, since=BEGAN):
    return [pairs_of(day, release=RELEASE, champion=CHAMPION, since=since) for day in days]


def judged(days, *, elapsed=7 * DAY, labels=None, latency_ms=50.0, rules=RULES):
    return judge_shadow(RELEASE, pairs(days), labels=labels or {}, latency_ms=latency_ms, elapsed=elapsed, rules=rules, seed=1)


def with_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def test_a_shadow_that_agrees_and_answers_in_time_passes_after_its_days(draw_day):
    report = judged(week(draw_day))
    assert report.verdict is Verdict.PASS and report.days == 7 and report.n == 7 * 300 * 2
    assert 0.93 < report.agreement.ci_low < 0.95 < report.agreement.ci_high < 0.97 and report.agreement.n == 2100
    assert report.table().schema == REPORT and report.latency_ms_p99_shadow > report.latency_ms_p99_champion
    assert gates_table(RELEASE, report.judgements, BEGAN).schema == GATES


def test_no_shadow_passes_before_its_days_or_on_a_few_of_them_or_on_too_few_sessions(draw_day):
    assert "day 7 of 7" in judged(week(draw_day), elapsed=7 * DAY - dt.timedelta(hours=1)).reason
    assert "traffic on 3 of them" in judged(week(draw_day, 3)).reason
    few = judged(week(draw_day, sessions=50))
    assert few.verdict is Verdict.INCONCLUSIVE and "350 of at least 500 sessions compared" in few.reason


def test_a_shadow_of_another_task_fails_at_once(draw_day):
    report = judged(week(draw_day, 2, agree=0.4), elapsed=DAY)
    assert report.verdict is Verdict.FAIL and report.reason.startswith("shadow:agreement 0.4")


def test_a_shadow_that_often_gives_no_answer_fails(draw_day):
    day = draw_day(1000, share=0.0, errors=(0.0, 0.0))
    gone = with_column(day, "shadow_intent", [None if n % 20 == 0 else s for n, s in enumerate(day["shadow_intent"].to_pylist())])
    report = judged([gone], elapsed=DAY)
    assert report.verdict is Verdict.FAIL and "shadow:error_rate 0.05" in report.reason and report.n == 1900


def test_a_shadow_that_is_too_slow_fails(draw_day):
    report = judged(week(draw_day), latency_ms=10.0)
    assert report.verdict is Verdict.FAIL and report.reason.startswith("shadow:latency_ms_p99")


def test_labels_fail_a_less_accurate_shadow_and_hold_up_nobody(draw_day):
    days = week(draw_day, agree=0.7)
    both = pa.concat_tables(pairs(days)).to_pylist()
    right = {row["request_id"]: row["champion_intent"] for row in both}
    few = dict(list(right.items())[:3])
    lenient = ReleaseRules(shadow_sessions=500, agreement=0.5)
    assert judged(days, labels=right, rules=lenient).verdict is Verdict.FAIL
    assert judged(days, labels=few, rules=lenient).verdict in (Verdict.PASS, Verdict.FAIL)
    better = {row["request_id"]: row["shadow_intent"] for row in both}
    report = judged(days, labels=better, rules=lenient)
    assert (
        report.verdict is Verdict.PASS and report.judgements[-1].metric == "shadow:accuracy_change" and report.judgements[-1].n == len(both)
    )


def test_one_label_decides_nothing(draw_day):
    days = week(draw_day, agree=0.7)
    row = next(r for r in pa.concat_tables(pairs(days)).to_pylist() if r["champion_intent"] == r["shadow_intent"])
    lenient = ReleaseRules(shadow_sessions=500, agreement=0.5)
    assert judged(days, labels={row["request_id"]: "somewhere else"}, rules=lenient).verdict is Verdict.PASS


def test_cohorts_say_what_became_of_what(draw_day):
    report = judged(week(draw_day))
    assert report.cohorts.schema == COHORTS and set(report.cohorts["shadow_intent"].to_pylist()) == {"other"}
    assert report.cohorts["n"].to_pylist() == sorted(report.cohorts["n"].to_pylist(), reverse=True)
    assert abs(pc.sum(report.cohorts["share"]).as_py() - 0.05) < 0.01


def test_only_what_both_answered_since_the_shadow_began_is_compared(draw_day):
    day = draw_day(40, share=0.0)
    (found,) = pairs([day])
    assert found.schema == PAIRS and len(found) == 80
    assert len(pairs([day], since=BEGAN + DAY)[0]) == 0
    assert len(pairs([draw_day(40, share=0.0, shadow=False)])[0]) == 0
    assert len(pairs([with_column(day, "error", ["timeout"] * 80)])[0]) == 0
    assert len(pairs([with_column(day, "model_digest", ["e" * 64] * 80)])[0]) == 0
    alone = pairs([with_column(day, "session", [None] * 80)])[0]
    assert len(set(alone["session"].to_pylist())) == 80


def test_nothing_to_compare_holds_and_stores_null():
    report = judged([], elapsed=8 * DAY)
    assert report.verdict is Verdict.INCONCLUSIVE and report.n == 0
    row = report.table().to_pylist()[0]
    assert row["agreement"] is None and row["latency_ms_p99_shadow"] is None and report.cohorts.num_rows == 0
