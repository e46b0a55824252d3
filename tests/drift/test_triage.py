"""Model problem or data problem: each story leads to its cause, with the evidence row by row, and no retrain comes in panic."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.calendar import NO_SEASONS, Calendar, Season
from mangaassist_assets.lib.drift.confidence import confidence_by_day
from mangaassist_assets.lib.drift.embedding import EMBEDDING_DRIFT, embedding_drift
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.drift.moments import day_moments, fit_space
from mangaassist_assets.lib.drift.shares import intent_share
from mangaassist_assets.lib.drift.triage import ACTIONS, CAUSES, DRIFT_TRIAGE, EVENTS, triage

LIMITS = DriftLimits(permutations=99)
MONDAY = dt.date(2026, 3, 2)
DAYS, CHANGE = 70, 42  # the change begins on the Monday of the seventh week
PER_DAY, EMBEDDED = 2000, 150
INTENTS = ("faq", "promotion", "chitchat")
SIGNALS = (
    "golden_probes",
    "labelled_accuracy",
    "share",
    "language_mix",
    "confidence",
    "embedding_drift",
    "novelty",
    "feedback",
    "errors",
    "provider",
    "release",
    "calendar",
    "verdict",
)
CENTRES = 4 * np.random.default_rng(7).normal(size=(5, 8))
NEW = 2.0 * (CENTRES[0] + CENTRES[1]) / 2


@pytest.fixture(scope="module")
def space():
    rng = np.random.default_rng(0)
    return fit_space((CENTRES[rng.integers(5, size=4000)] + rng.normal(size=(4000, 8))).astype(np.float32), 1, dimensions=6, cells=20)


def story(space, *, days=DAYS, seed=1, shares=(0.5, 0.3, 0.2), **changed):
    """Tables of `days` days; from CHANGE on, what `changed` names is as it says.

    japanese, confidence, down (thumbs), escalated, errors, probes (right), accuracy, generator, model, shares_then, new (share of a new
    topic), new_confidence.
    """
    rng = np.random.default_rng(seed)
    counts, day_rows, moments, accuracy = [], [], [], []
    for number in range(days):
        day = MONDAY + dt.timedelta(number)
        now = changed if number >= CHANGE else {}
        share = now.get("shares_then", shares)
        japanese = now.get("japanese", 0.1)
        mean = now.get("confidence", 0.9) + 0.002 * rng.normal()
        for i, n in enumerate(rng.multinomial(PER_DAY, share)):
            for language, m in zip(("en", "ja"), rng.multinomial(n, (1 - japanese, japanese)), strict=True):
                thumbs = int(rng.binomial(m, 0.1))
                down = int(rng.binomial(thumbs, now.get("down", 0.2)))
                found = np.clip(rng.normal(mean, 0.1, m), 0, 1.3)
                counts.append(
                    {
                        "day": day,
                        "intent": INTENTS[i],
                        "language": language,
                        "model_digest": now.get("model", "a" * 64),
                        "arm": "champion",
                        "generator": now.get("generator", "g1"),
                        "n": int(m),
                        "confidence_sum": float(found.sum()),
                        "confidence_square_sum": float((found**2).sum()),
                        "thumbs_up": thumbs - down,
                        "thumbs_down": down,
                        "escalated": int(rng.binomial(m, now.get("escalated", 0.05))),
                        "errors": 0,
                    }
                )
        failed = int(rng.binomial(PER_DAY, now.get("errors", 0.001)))
        counts.append({**dict.fromkeys(counts[-1], 0), **{k: counts[-1][k] for k in ("day", "model_digest", "arm", "generator")}})
        counts[-1] |= {"intent": None, "language": "en", "n": failed, "errors": failed}
        day_rows.append({"day": day, "probes": 100, "probes_right": now.get("probes", 90)})
        new = int(EMBEDDED * now.get("new", 0.0))
        found = CENTRES[rng.integers(5, size=EMBEDDED)] + rng.normal(size=(EMBEDDED, 8))
        sure = np.full(EMBEDDED, 0.9)
        found[:new], sure[:new] = NEW + 0.5 * rng.normal(size=(new, 8)), now.get("new_confidence", 0.5)
        moments.append(day_moments(space, found.astype(np.float32), sure, day))
        if day.weekday() == 0:
            right = now.get("accuracy", 0.9)
            accuracy.append({"week": day, "n": 200, "accuracy": right, "ci_low": right - 0.04, "ci_high": right + 0.04})
            accuracy[-1]["expected_calibration_error"] = 0.05
    return {
        "traffic": pa.Table.from_pylist(counts),
        "days": pa.Table.from_pylist(day_rows),
        "moments": pa.concat_tables(moments),
        "accuracy": pa.Table.from_pylist(accuracy),
    }


def judged(tables, *, calendar=NO_SEASONS, events=(), limits=LIMITS):
    traffic = tables["traffic"]
    return triage(
        **tables,
        shares=intent_share(traffic, limits, calendar),
        confidence=confidence_by_day(traffic, tables["accuracy"], limits),
        embedding=embedding_drift(tables["moments"], limits, 1, calendar=calendar),
        events=pa.Table.from_pylist(list(events), EVENTS),
        calendar=calendar,
        limits=limits,
    )


def verdicts(table):
    return [row for row in table.to_pylist() if row["signal"] == "verdict"]


def causes(table):
    return [row["cause"] for row in verdicts(table)]


def signal(table, name, week=CHANGE):
    return next(row for row in table.to_pylist() if row["signal"] == name and row["period"] == MONDAY + dt.timedelta(week))


def test_a_quiet_quarter_is_none_in_every_week_and_signal(space):
    table = judged(story(space))
    assert table.schema == DRIFT_TRIAGE
    assert causes(table) == ["none"] * 10 and {row["cause"] for row in table.to_pylist()} == {"none"}
    assert {row["action"] for row in table.to_pylist()} == {"nothing"}


def test_each_week_has_one_row_for_each_signal_and_one_verdict(space):
    table = judged(story(space, days=28))
    weeks = {}
    for row in table.to_pylist():
        weeks.setdefault(row["period"], []).append(row["signal"])
    assert list(weeks) == [MONDAY + dt.timedelta(7 * i) for i in range(4)]
    assert all(tuple(signals) == SIGNALS for signals in weeks.values())


@pytest.mark.parametrize(
    ("changed", "cause", "action"),
    [
        ({"probes": 80, "accuracy": 0.75, "confidence": 0.8}, "model", "roll_back"),
        ({"model": "b" * 64, "down": 0.35}, "model", "roll_back"),
        ({"model": "b" * 64, "errors": 0.03}, "model", "roll_back"),
        ({"generator": "g2", "down": 0.35, "escalated": 0.08}, "provider", "call_provider"),
        ({"new": 0.12, "down": 0.25}, "new_intent", "new_intent"),
        ({"confidence": 0.85, "accuracy": 0.78}, "data", "label_more"),
        ({"japanese": 0.3, "confidence": 0.87}, "data", "label_more"),
        ({"shares_then": (0.6, 0.2, 0.2)}, "data", "label_more"),
    ],
)
def test_a_story_leads_to_its_cause_in_its_first_week(space, changed, cause, action):
    table = judged(story(space, **changed))
    found = verdicts(table)
    assert [row["cause"] for row in found[:6]] == ["none"] * 6
    assert (found[6]["cause"], found[6]["action"]) == (cause, action)
    assert found[6]["evidence"] != "every signal is quiet" and found[6]["reason"]


def test_a_good_release_is_no_problem(space):
    assert causes(judged(story(space, model="b" * 64))) == ["none"] * 10
    assert causes(judged(story(space, generator="g2"))) == ["none"] * 10


def test_a_canary_is_no_release(space):
    tables = story(space, model="b" * 64, down=0.35)
    arms = ["canary" if digest == "b" * 64 else "champion" for digest in tables["traffic"]["model_digest"].to_pylist()]
    tables["traffic"] = tables["traffic"].set_column(tables["traffic"].column_names.index("arm"), "arm", pa.array(arms))
    assert signal(judged(tables), "release")["cause"] == "none"


def test_a_bad_release_stays_the_cause_while_it_serves(space):
    assert causes(judged(story(space, model="b" * 64, down=0.35)))[6:] == ["model"] * 4


def test_announced_events_count_as_what_traffic_shows(space):
    at = dt.datetime(2026, 4, 13, 9, tzinfo=dt.UTC)
    tables = story(space, down=0.35)
    for kind, cause in (("release", "model"), ("provider", "provider")):
        assert causes(judged(tables, events=[{"at": at, "kind": kind, "detail": "x"}]))[6] == cause


def test_replies_liked_less_with_nothing_else_changed_is_an_unannounced_provider_after_two_weeks(space):
    found = verdicts(judged(story(space, down=0.35)))
    assert [row["cause"] for row in found[6:8]] == ["none", "provider"]
    assert "second week decides" in found[6]["reason"]


def test_a_season_explains_shares_and_waits(space):
    sale = Season("sale", MONDAY + dt.timedelta(CHANGE), MONDAY + dt.timedelta(DAYS), 0.2, 0.3)
    found = verdicts(judged(story(space, shares_then=(0.6, 0.2, 0.2)), calendar=Calendar((sale,))))
    assert (found[6]["cause"], found[6]["action"]) == ("seasonal", "wait")


def test_a_season_excuses_no_bad_model_and_no_new_intent(space):
    sale = Calendar((Season("sale", MONDAY + dt.timedelta(CHANGE), MONDAY + dt.timedelta(DAYS), 0.2, 0.3),))
    assert causes(judged(story(space, shares_then=(0.6, 0.2, 0.2), probes=80), calendar=sale))[6] == "model"
    assert causes(judged(story(space, shares_then=(0.6, 0.2, 0.2), new=0.12), calendar=sale))[6] == "new_intent"


def test_other_intents_asked_for_are_no_fall_of_confidence(space):
    tables = story(space, shares_then=(0.2, 0.3, 0.5))
    traffic = tables["traffic"].to_pylist()
    for row in traffic:  # one intent is always answered with less confidence, and comes more often now
        if row["intent"] == "chitchat":
            row["confidence_sum"] *= 0.7
            row["confidence_square_sum"] *= 0.49
    tables["traffic"] = pa.Table.from_pylist(traffic)
    row = signal(judged(tables), "confidence")
    assert row["observed"] < -0.05 and row["cause"] == "none"


def test_a_retrain_waits_for_the_second_week_and_then_for_the_cooldown(space):
    found = verdicts(judged(story(space, confidence=0.85, accuracy=0.78)))
    assert [row["retrain"] for row in found[6:]] == [False, True, False, False]
    assert found[7]["action"] == "retrain" and "label before" in found[6]["reason"] and "no retrain before" in found[8]["reason"]


def test_a_release_starts_the_cooldown(space):
    at = dt.datetime(2026, 4, 6, 9, tzinfo=dt.UTC)
    found = verdicts(judged(story(space, confidence=0.85, accuracy=0.78), events=[{"at": at, "kind": "release", "detail": "x"}]))
    assert not any(row["retrain"] for row in found[:9])


def test_a_share_alone_never_retrains(space):
    assert not any(row["retrain"] for row in verdicts(judged(story(space, shares_then=(0.6, 0.2, 0.2)))))


def test_only_the_verdict_asks_for_a_retrain(space):
    table = judged(story(space, confidence=0.85, accuracy=0.78))
    assert {row["signal"] for row in table.to_pylist() if row["retrain"]} == {"verdict"}


def test_the_month_that_differs_is_explained_by_the_weeks_before(space):
    quiet = story(space, new=0.12)
    found = verdicts(judged(quiet))
    assert set(row["cause"] for row in found[6:]) == {"new_intent"}


def test_a_divergence_alone_asks_for_labels(space):
    tables = story(space)
    month = {"month": MONDAY.replace(day=1), "n": 9000, "kl_nats": 0.3, "histogram_kl_nats": 0.3, "p_value": 0.01, "threshold_nats": 0.02}
    embedding = pa.Table.from_pylist([month | {"alerting": True, "reason": ""}], EMBEDDING_DRIFT)
    found = verdicts(
        triage(
            **tables,
            shares=intent_share(tables["traffic"], LIMITS, NO_SEASONS),
            confidence=confidence_by_day(tables["traffic"], tables["accuracy"], LIMITS),
            embedding=embedding,
            events=EVENTS.empty_table(),
            calendar=NO_SEASONS,
            limits=LIMITS,
        )
    )
    assert [row["period"] for row in found if row["cause"] == "data"] == [dt.date(2026, 3, 30)]  # the week in which the month ends
    assert found[4]["action"] == "label_more"


def test_missing_evidence_is_null_and_never_an_alarm(space):
    tables = story(space, days=28)
    tables["days"] = tables["days"].slice(0, 0)
    tables["moments"] = tables["moments"].slice(0, 0)
    tables["accuracy"] = tables["accuracy"].slice(0, 0)
    table = judged(tables)
    for name in ("golden_probes", "labelled_accuracy", "novelty"):
        assert signal(table, name, 14)["observed"] is None and signal(table, name, 14)["cause"] == "none"


def test_a_week_that_is_not_over_is_not_judged(space):
    assert len(verdicts(judged(story(space, days=25)))) == 3


def test_without_traffic_there_is_nothing_to_triage(space):
    tables = {name: table.slice(0, 0) for name, table in story(space, days=7).items()}
    assert judged(tables).num_rows == 0


def test_every_cause_has_an_action():
    assert set(ACTIONS) == set(CAUSES)


def test_a_new_intent_is_found_though_a_model_that_was_less_sure_answered_shortly_before(space):
    tables, until = story(space, new=0.12, confidence=0.88), MONDAY + dt.timedelta(28)
    earlier = {"model_digest": "0" * 64, "confidence_sum": 0.7, "confidence_square_sum": 0.49}
    traffic = [
        row | {name: by if isinstance(by, str) else by * row[name] for name, by in earlier.items()} if row["day"] < until else row
        for row in tables["traffic"].to_pylist()
    ]
    moments = [
        row | {"cell_confidence": [0.7 * cell for cell in row["cell_confidence"]]} if row["day"] < until else row
        for row in tables["moments"].to_pylist()
    ]
    tables |= {"traffic": pa.Table.from_pylist(traffic), "moments": pa.Table.from_pylist(moments, tables["moments"].schema)}
    table = judged(tables)
    assert causes(table)[:6] == ["none"] * 6 and causes(table)[6] == "new_intent"
    assert signal(table, "novelty", 28)["observed"] is None and "nothing to compare" in signal(table, "confidence", 28)["evidence"]
