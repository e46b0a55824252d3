"""Traffic is seeded, changes as its scenario says, and reacts to whether answers were right."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mangaassist_assets.lib.drift.calendar import Calendar, Season
from mangaassist_assets.lib.errors import BadInput, MissingEvidence
from mangaassist_assets.simulation.pool import Pool, Renamed, Style, pool_of
from mangaassist_assets.simulation.scenarios import SCENARIOS, scenario_named
from mangaassist_assets.simulation.traffic import GENERATORS, PROBES_A_DAY, DayOfTraffic, Serving, traffic
from mangaassist_assets.simulation.wording import EVENT_INTENT, event_messages, in_new_slang
from tests.simulation.conftest import LEXICA, Reader, embed, labelled

MONDAY = dt.date(2026, 1, 12)


def days_of(
    pool: Pool, name: str, *, days: int = 12, seed: int = 3, per_day: int = 1500, from_day: int = 6, **more: object
) -> list[DayOfTraffic]:
    scenario = replace(scenario_named(name), from_day=from_day, ramp_days=0)
    arguments = {"serving": Serving(Reader()), "start": MONDAY} | more
    return list(traffic(pool, scenario, days=days, per_day=per_day, seed=seed, **arguments))  # type: ignore[arg-type]


def share(days: Sequence[DayOfTraffic], style: Style) -> float:
    return float(np.mean(np.concatenate([d.pool.style[d.message[~d.probe]] == style for d in days])))


def rate(days: Sequence[DayOfTraffic], what: str) -> float:
    return float(np.mean(np.concatenate([getattr(d, what)[~d.probe] for d in days])))


def down(days: Sequence[DayOfTraffic]) -> float:
    thumbs = np.concatenate([d.thumb for d in days])
    return float((thumbs == 0).sum() / (thumbs >= 0).sum())


def test_equal_seeds_give_equal_days_and_the_first_days_do_not_depend_on_how_many_follow(pool):
    one, other = days_of(pool, "steady", days=3), days_of(pool, "steady", days=5)
    for first, second in zip(one, other, strict=False):
        assert (first.message == second.message).all() and (first.at_us == second.at_us).all() and (first.thumb == second.thumb).all()
    assert not np.array_equal(days_of(pool, "steady", days=1, seed=4)[0].message, one[0].message)


def test_steady_traffic_keeps_its_mix_with_busier_weekends(pool):
    days = days_of(pool, "steady", days=28)
    intents = np.concatenate([d.pool.truth[d.message[~d.probe]] for d in days])
    assert np.mean(intents == pool.intents.index("faq")) == pytest.approx(0.12, abs=0.01)
    assert share(days, Style.EVENT) == 0 and share(days, Style.NEW_SLANG) == 0
    weekday = [sum(len(d) for d in days if d.day.weekday() == w) for w in range(7)]
    assert weekday[5] > weekday[1]


def test_days_differ_more_than_independent_messages_would(pool):
    days = days_of(pool, "steady", days=60, per_day=5000)
    shares = np.array([np.mean(d.pool.truth[d.message[~d.probe]] == pool.intents.index("faq")) for d in days])
    assert shares.var() > 1.5 * shares.mean() * (1 - shares.mean()) / 5000


def test_sessions_have_one_to_four_messages_that_follow_each_other(pool):
    day = days_of(pool, "steady", days=1)[0]
    ids, sizes = np.unique(day.session[~day.probe], return_counts=True)
    assert set(sizes.tolist()) <= {1, 2, 3, 4} and len(ids) < (~day.probe).sum()
    assert (np.diff(day.at_us) >= 0).all() and day.at_us.max() < 86_400_000_000


def test_the_same_golden_probes_are_asked_every_day(pool):
    first, *_, last = days_of(pool, "steady", days=5)
    probes = [np.sort(d.message[d.probe]) for d in (first, last)]
    assert len(probes[0]) == min(PROBES_A_DAY, (pool.style == Style.PROBE).sum())
    assert (probes[0] == probes[1]).all() and (first.session[first.probe] == 0).all() and (first.thumb[first.probe] == -1).all()


def test_people_escalate_and_point_down_where_the_answer_was_wrong(pool):
    days = days_of(pool, "steady", days=20)
    right = np.concatenate([d.right[~d.probe] for d in days])
    escalated, thumb = (np.concatenate([getattr(d, name)[~d.probe] for d in days]) for name in ("escalated", "thumb"))
    assert escalated[~right].mean() > 2 * escalated[right].mean()
    assert (thumb[~right & (thumb >= 0)] == 0).mean() > (thumb[right & (thumb >= 0)] == 0).mean() + 0.3


def test_a_slang_shift_brings_slang_and_lowers_confidence_but_not_probes(pool):
    days = days_of(pool, "slang_shift")
    before, after = days[:6], days[6:]
    assert share(before, Style.NEW_SLANG) == 0 and share(after, Style.NEW_SLANG) == pytest.approx(0.40, abs=0.03)
    assert rate(after, "confidence") < rate(before, "confidence") - 0.02
    assert np.mean([d.right[d.probe].mean() for d in after]) == pytest.approx(np.mean([d.right[d.probe].mean() for d in before]), abs=0.02)


def test_a_new_intent_is_a_tenth_of_all_messages_and_no_model_is_right_about_it(pool):
    days = days_of(pool, "new_intent")
    assert share(days[:6], Style.EVENT) == 0 and share(days[6:], Style.EVENT) == pytest.approx(0.10, abs=0.02)
    events = pool.style == Style.EVENT
    assert {pool.intents[i] for i in set(pool.truth[events].tolist())} == {EVENT_INTENT}
    assert not (pool.answers(Reader()).intent == pool.truth)[events].any()


def test_a_japanese_wave_changes_the_languages(pool):
    days = days_of(pool, "japanese_wave")
    assert share(days[6:], Style.JAPANESE) > share(days[:6], Style.JAPANESE) + 0.25


def test_a_fault_lowers_golden_probes_under_the_same_digest(pool):
    days = days_of(pool, "model_degraded")
    assert {d.champion for d in days} == {Reader().digest}
    assert days[-1].right[days[-1].probe].mean() < days[0].right[days[0].probe].mean() - 0.1


def test_a_rollback_takes_the_fault_away(pool):
    days = days_of(pool, "model_degraded", serving=lambda day: Serving(Reader("d" * 64) if day >= MONDAY + dt.timedelta(9) else Reader()))
    right = [d.right[d.probe].mean() for d in days]
    assert max(right[6:9]) < right[0] - 0.1 < min(right[9:])


def test_each_text_is_asked_once_and_only_if_it_comes(pool):
    asked: list[str] = []

    class Counting(Reader):
        def classify(self, texts):
            asked.extend(texts)
            return super().classify(texts)

    days_of(pool, "steady", days=3, serving=Serving(Counting("f" * 64)))
    assert len(asked) == len(set(asked)) < len(pool)


def test_another_provider_is_liked_less_while_intents_stay_right(pool):
    days = days_of(pool, "provider_change", days=24, from_day=12)
    assert [days[0].generator, days[-1].generator] == list(GENERATORS)
    assert down(days[12:]) > down(days[:12]) + 0.1 and rate(days[12:], "escalated") > 1.3 * rate(days[:12], "escalated")
    assert rate(days[12:], "right") == pytest.approx(rate(days[:12], "right"), abs=0.02)


def test_a_bad_release_fails_more_and_only_where_it_answers(pool):
    bad = Renamed("b" * 64, Reader())
    everywhere = days_of(pool, "bad_release", bad=bad)
    assert [everywhere[0].champion, everywhere[-1].champion] == [Reader().digest, bad.digest]
    assert rate(everywhere[6:], "failed") > 0.02 > rate(everywhere[:6], "failed")
    in_canary = days_of(pool, "bad_release", serving=Serving(Reader(), canary=bad, canary_share=0.3))
    failed, canary = (np.concatenate([getattr(d, name) for d in in_canary[6:]]) for name in ("failed", "canary"))
    assert failed[canary].mean() > 0.02 > failed[~canary].mean() and 0.2 < canary.mean() < 0.4


def test_a_canary_answers_whole_sessions_and_never_a_probe(pool):
    day = days_of(pool, "steady", days=1, serving=Serving(Reader(), canary=Reader("c" * 64), canary_share=0.2))[0]
    for session in np.unique(day.session[day.canary]):
        assert day.canary[day.session == session].all()
    assert not day.canary[day.probe].any() and day.canary.any()


def test_a_holiday_moves_promotion_only_while_the_season_lasts(pool):
    season = Calendar((Season("fair", MONDAY + dt.timedelta(4), MONDAY + dt.timedelta(9), 0.2, 0.3),))
    days = days_of(pool, "holiday", days=14, calendar=season)
    promotion = [np.mean(d.pool.truth[d.message[~d.probe]] == pool.intents.index("promotion")) for d in days]
    assert np.mean(promotion[6:8]) > 1.6 * np.mean(promotion[:4]) and np.mean(promotion[10:]) < 1.3 * np.mean(promotion[:4])


def test_who_serves_is_asked_each_day(pool):
    days = days_of(pool, "steady", days=3, serving=lambda day: Serving(Reader("d" * 64) if day > MONDAY else Reader()))
    assert [d.champion[0] for d in days] == ["a", "d", "d"]


def test_new_slang_keeps_placeholders_and_leaves_other_texts_alone():
    from random import Random

    from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon

    lexicon = Lexicon(LEXICA)
    assert "<ORDER>" in str(in_new_slang("my order <ORDER> has not shipped", lexicon, Random(1)))
    assert in_new_slang("hmm", lexicon, Random(1)) is None


def test_questions_about_events_are_many_and_distinct():
    texts = event_messages(500, seed=1)
    assert len(set(texts)) == len(texts) == 500 and texts == event_messages(500, seed=1)


def test_nothing_kept_from_training_is_no_pool():
    table = labelled()
    with pytest.raises(MissingEvidence, match="no row in validation or test"):
        pool_of(table.filter([split == "train" for split in table["split"].to_pylist()]), LEXICA, embed=embed)


def test_unknown_scenarios_and_empty_days_are_refused(pool):
    with pytest.raises(BadInput, match="steady, holiday"):
        scenario_named("earthquake")
    with pytest.raises(BadInput, match="one day and one message"):
        days_of(pool, "steady", days=0)
    assert set(SCENARIOS) >= {
        "steady",
        "holiday",
        "slang_shift",
        "new_intent",
        "model_degraded",
        "provider_change",
        "japanese_wave",
        "bad_release",
    }


def test_labels_of_ones_own_come_as_often_as_in_the_pool():
    table = labelled()
    other = table.set_column(1, "intent", [[f"own_{intent}" for intent in table["intent"].to_pylist()]])
    own = pool_of(other, LEXICA, embed=embed)
    day = days_of(own, "steady", days=1)[0]
    assert np.mean(own.truth[day.message] == own.intents.index("own_faq")) == pytest.approx(0.1, abs=0.03)
