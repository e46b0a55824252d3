"""Shares of intents: what moved by more than five points and more than days do, and what the calendar or last year explains."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.calendar import NO_SEASONS, Calendar, Season, read_calendar
from mangaassist_assets.lib.drift.daily import by_day, compare_rates, whole_weeks
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.shares import INTENT_SHARE, intent_share
from mangaassist_assets.lib.errors import BadInput

LIMITS = DriftLimits()
MONDAY = dt.date(2025, 3, 3)
NAMES = ("faq", "promotion", "chitchat")


def traffic(shares_of, days, *, start=MONDAY, per_day=2000, wobble=0.0, seed=0, missing=()):
    """Counts of days whose shares are `shares_of(number)`, moved at random by `wobble` a day."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(days):
        if number in missing:
            continue
        share = np.maximum(np.array(shares_of(number)) + wobble * rng.normal(size=3) * [1, -1, 0], 0.001)
        for name, n in zip(NAMES, rng.multinomial(per_day, share / share.sum()), strict=True):
            rows.append({"day": start + dt.timedelta(number), "intent": name, "n": int(n)})
    return pa.Table.from_pylist(rows, pa.schema([("day", pa.date32()), ("intent", pa.string()), ("n", pa.int64())]))


def steady(_):
    return (0.5, 0.3, 0.2)


def jump(day, at=28, by=0.08):
    return lambda number: (0.5 + by, 0.3 - by, 0.2) if day(number, at) else (0.5, 0.3, 0.2)


def from_day(number, at):
    return number >= at


def alarms(table):
    return [(row["week"], row["intent"]) for row in table.to_pylist() if row["alerting"]]


def test_a_steady_quarter_has_shares_and_no_alarm():
    table = intent_share(traffic(steady, 91), LIMITS, NO_SEASONS)
    assert table.schema == INTENT_SHARE and not alarms(table)
    last = table.to_pylist()[-3:]
    assert sum(row["share"] for row in last) == pytest.approx(1) and sum(row["n"] for row in last) == 14_000


def test_a_jump_alarms_in_its_week_for_the_intents_that_jumped():
    assert alarms(intent_share(traffic(jump(from_day), 56), LIMITS, NO_SEASONS)) == [
        (MONDAY + dt.timedelta(28), "faq"),
        (MONDAY + dt.timedelta(28), "promotion"),
    ]


def test_a_sure_but_small_move_is_no_alarm():
    table = intent_share(traffic(jump(from_day, by=0.04), 56), LIMITS, NO_SEASONS)
    assert not alarms(table)
    assert min(row["p_value"] for row in table.to_pylist() if row["p_value"] is not None) < 1e-3


def test_a_large_move_among_days_that_move_as_much_is_no_alarm():
    wild = [intent_share(traffic(steady, 84, wobble=0.12, seed=seed), LIMITS, NO_SEASONS) for seed in range(5)]
    assert any("days differ as much" in row["reason"] for table in wild for row in table.to_pylist())
    assert sum(len(alarms(table)) for table in wild) <= 1


def test_days_that_differ_widen_the_test_of_independent_messages():
    rng = np.random.default_rng(0)
    n, after = np.full(35, 1000.0), np.arange(35) >= 28
    p_values, binomial = [], []
    for _ in range(200):
        events = rng.binomial(1000, rng.beta(30, 70, size=35)).astype(float)  # days differ, weeks do not
        p_values.append(compare_rates(events, n, after, ~after).p_value)
        change = events[after].mean() / 1000 - events[~after].mean() / 1000
        binomial.append(abs(change) / np.sqrt(0.21 * (1 / 7000 + 1 / 28_000)) > 1.96)
    assert np.mean(np.array(p_values) < 0.05) < 0.1 < 0.3 < np.mean(binomial)


def test_a_partial_week_and_the_one_after_it_are_not_judged():
    table = intent_share(traffic(jump(from_day), 40, missing={30}), LIMITS, NO_SEASONS)
    reasons = {row["week"]: row["reason"] for row in table.to_pylist()}
    assert "a day of the week" in reasons[MONDAY + dt.timedelta(28)]
    assert "a day of the week" in reasons[MONDAY + dt.timedelta(35)]  # the running one
    assert not alarms(table)


def test_the_week_after_a_partial_one_has_nothing_to_be_held_against():
    table = intent_share(traffic(jump(from_day), 42, missing={30}), LIMITS, NO_SEASONS)
    assert table.to_pylist()[-1]["reason"] == "not judged: no whole week before it"


def test_a_few_messages_are_not_judged():
    table = intent_share(traffic(jump(from_day), 42, per_day=20), LIMITS, NO_SEASONS)
    assert {row["reason"] for row in table.to_pylist()} >= {"not judged: fewer than 200 messages"}


def test_requests_that_failed_count_nowhere():
    good = traffic(steady, 21)
    failed = pa.table({"day": good["day"], "intent": pa.nulls(good.num_rows, pa.string()), "n": good["n"]})
    assert intent_share(pa.concat_tables([good, failed]), LIMITS, NO_SEASONS).equals(intent_share(good, LIMITS, NO_SEASONS))


def test_a_season_excuses_a_shift_as_large_as_it_says_in_its_weeks_and_the_one_after():
    for allowance, loud in ((0.15, False), (0.05, True)):
        sale = Season("sale", MONDAY + dt.timedelta(28), MONDAY + dt.timedelta(41), allowance, 0.1)
        there_and_back = jump(lambda number, at: at <= number < at + 14)
        table = intent_share(traffic(there_and_back, 70), LIMITS, Calendar((sale,)))
        assert bool(alarms(table)) is loud
        assert any("season: sale" in row["reason"] for row in table.to_pylist()) is not loud


def test_what_the_year_before_did_in_the_same_week_is_no_alarm():
    every_year = jump(lambda number, at: number % 364 in range(140, 154))
    table = intent_share(traffic(every_year, 364 + 200), LIMITS, NO_SEASONS)
    weeks = {week for week, _ in alarms(table)}
    assert weeks == {MONDAY + dt.timedelta(140), MONDAY + dt.timedelta(154)}  # the first year only
    again = [row for row in table.to_pylist() if row["week"] == MONDAY + dt.timedelta(364 + 140) and row["intent"] == "faq"][0]
    assert "year before" in again["reason"] and again["baseline_share"] == pytest.approx(again["share"], abs=0.02)


def test_a_jump_that_the_year_before_did_not_have_still_alarms():
    table = intent_share(traffic(jump(lambda number, at: number >= 364 + 140), 364 + 160), LIMITS, NO_SEASONS)
    assert {week for week, _ in alarms(table)} == {MONDAY + dt.timedelta(364 + 140)}


def test_no_traffic_gives_an_empty_table():
    assert intent_share(traffic(steady, 0), LIMITS, NO_SEASONS).num_rows == 0


def test_whole_weeks_are_those_with_all_seven_days():
    assert whole_weeks(by_day(traffic(steady, 24, start=MONDAY + dt.timedelta(2)), ())) == [MONDAY + dt.timedelta(7 * i) for i in (1, 2)]


# ── calendar ────────────────────────────────────────────────────────────────────────────────────────────────────────


def calendar_of(tmp_path, text):
    (tmp_path / "calendar.toml").write_text(text)
    return read_calendar(tmp_path / "calendar.toml")


def test_the_bundled_calendar_knows_the_seasons(project_calendar):
    def on(*day):
        season = project_calendar.between(dt.date(*day), dt.date(*day))
        return season.name if season else None

    assert on(2026, 1, 2) == on(2025, 12, 24) == "holiday season"  # it runs over New Year
    assert on(2026, 5, 3) == "Golden Week" and on(2027, 8, 14) == "Obon" and on(2026, 3, 10) is None
    assert [s.first for s in project_calendar.seasons if s.name == "Black Friday" and s.first.year in (2026, 2027)] == [
        dt.date(2026, 11, 23),
        dt.date(2027, 11, 22),
    ]


@pytest.fixture
def project_calendar():
    from pathlib import Path

    return read_calendar(Path(__file__).resolve().parents[2] / "data" / "calendar.toml")


def test_a_single_season_has_whole_dates(tmp_path):
    one = calendar_of(tmp_path, '[[season]]\nname = "sale"\nfrom = 2026-06-01\nuntil = 2026-06-03\nshare_shift = 0.1\nkl_nats = 0.1\n')
    assert [(s.first, s.last) for s in one.seasons] == [(dt.date(2026, 6, 1), dt.date(2026, 6, 3))]


@pytest.mark.parametrize(
    "text",
    [
        "season = 3",
        '[[season]]\nname = "x"\nfrom = "13-40"\nuntil = "01-01"\nshare_shift = 0.1\nkl_nats = 0.1\n',
        '[[season]]\nname = "x"\nfrom = "01-01"\nshare_shift = 0.1\nkl_nats = 0.1\n',
        '[[season]]\nname = "x"\nfrom = 2026-06-03\nuntil = 2026-06-01\nshare_shift = 0.1\nkl_nats = 0.1\n',
        '[[season]]\nname = "x"\nfrom = "01-01"\nuntil = "01-02"\nshare_shift = -0.1\nkl_nats = 0.1\n',
        "not toml",
    ],
)
def test_a_calendar_that_is_not_understood_is_refused_with_its_place(tmp_path, text):
    with pytest.raises(BadInput, match="calendar.toml"):
        calendar_of(tmp_path, text)


@pytest.mark.parametrize("wrong", [{"share_shift": 2}, {"significance": 0}, {"kl_nats": -1}, {"baseline_days": 1}, {"permutations": 9}])
def test_limits_that_cannot_be_used_are_refused(wrong):
    with pytest.raises(BadInput, match=f"drift.{next(iter(wrong))}"):
        DriftLimits(**wrong)
