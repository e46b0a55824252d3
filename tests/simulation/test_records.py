"""A day as table, as segments and as counts is the same day."""

import datetime as dt

import numpy as np
import pytest

from mangaassist_assets.lib.drift.counts import KEYS, count_day
from mangaassist_assets.lib.drift.interactions import INTERACTIONS, read_day
from mangaassist_assets.lib.drift.moments import DriftSpace, Located, fit_space
from mangaassist_assets.simulation.counting import accuracy_rows, count, day_row, observe
from mangaassist_assets.simulation.pool import Pool
from mangaassist_assets.simulation.records import write_segments
from mangaassist_assets.simulation.scenarios import scenario_named
from mangaassist_assets.simulation.traffic import DayOfTraffic, Serving, traffic
from tests.simulation.conftest import Reader

MONDAY = dt.date(2026, 1, 12)


def some_days(pool: Pool, name: str = "steady", *, days: int = 1, per_day: int = 800) -> list[DayOfTraffic]:
    serving = Serving(Reader(), canary=Reader("c" * 64), shadow=Reader("e" * 64), canary_share=0.2)
    return list(traffic(pool, scenario_named(name), days=days, per_day=per_day, seed=1, start=MONDAY, serving=serving))


@pytest.fixture(scope="module")
def space(pool: Pool) -> tuple[DriftSpace, Located]:
    found = fit_space(pool.embed(pool.known), 1)
    return found, found.locate(pool.vectors)


def test_counts_equal_those_of_the_table_of_interactions(pool):
    day = some_days(pool)[0]
    counts, row = count_day(day.to_interactions(), day.day, probe_labels=pool.probe_labels)
    mine = count(day).sort_by([(name, "ascending") for name in KEYS])
    for name in counts.column_names:
        if name.endswith("sum"):
            assert mine[name].fill_null(-1).to_numpy() == pytest.approx(counts[name].fill_null(-1).to_numpy(), rel=1e-6), name
        else:
            assert mine[name].to_pylist() == counts[name].to_pylist(), name
    assert {name: pytest.approx(value) for name, value in day_row(day).items()} == row.to_pylist()[0]


def test_segments_read_back_as_the_table_and_are_written_once(pool, tmp_path):
    day = some_days(pool)[0]
    paths = write_segments(tmp_path, day)
    stamps = [path.stat().st_mtime_ns for path in paths]
    assert write_segments(tmp_path, day) == paths and [path.stat().st_mtime_ns for path in paths] == stamps
    found = read_day(tmp_path, day.day)
    wanted = day.to_interactions().sort_by([("occurred_at", "ascending"), ("request_id", "ascending")])
    assert found.quarantined.num_rows == 0 and found.table.schema.equals(INTERACTIONS)
    for name in INTERACTIONS.names:
        assert found.table[name].to_pylist() == wanted[name].to_pylist(), name


def test_request_ids_name_the_day_and_differ_between_runs(pool):
    scenario = scenario_named("steady")
    ids = set()
    for seed in (1, 2):
        day = next(traffic(pool, scenario, days=1, per_day=50, seed=seed, start=MONDAY, serving=Serving(Reader())))
        ids |= set(day.to_interactions()["request_id"].to_pylist())
        assert all(name.startswith("20260112-") for name in ids)
    assert len(ids) > 200


def test_ninety_days_are_observed_with_a_release_and_weekly_accuracy(pool, space):
    scenario = scenario_named("bad_release")
    stream = traffic(pool, scenario, days=63, per_day=300, seed=1, start=MONDAY, serving=Serving(Reader()), bad=Reader("b" * 64))
    seen = observe(stream, *space, embedded_per_day=50, control_per_week=40, seed=1)
    assert seen.days.num_rows == 63 and seen.moments.num_rows == 63 and set(seen.moments["n"].to_pylist()) == {50}
    assert seen.events.to_pylist()[0]["at"].date() == MONDAY + dt.timedelta(45)
    assert sum(seen.accuracy["n"].to_pylist()) == 9 * 40 and len(set(seen.accuracy["week"].to_pylist())) == 9


def test_weekly_accuracy_estimates_that_of_all_answers(pool):
    week = some_days(pool, days=7)
    everything = np.concatenate([day.right[~day.probe & ~day.failed] for day in week]).mean()
    drawn = [accuracy_rows(week, 300, np.random.default_rng(seed)) for seed in range(40)]
    champion = [row["accuracy"] for rows in drawn for row in rows if row["model_digest"] == Reader().digest]
    assert np.mean(champion) == pytest.approx(everything, abs=0.02)
