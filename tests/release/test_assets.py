"""Reports of what is in shadow and in canary, the moves that follow, and the sensors that watch for what was left undone."""

import dataclasses
import datetime as dt

import dagster as dg
import pyarrow as pa
import pytest

from mangaassist_assets import settings
from mangaassist_assets.defs.release import gates, live
from mangaassist_assets.defs.release.progress import approvals_arrived, release_progress
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.release.approvals import Approval, evidence_of, write_approval
from mangaassist_assets.lib.release.canary import Base
from mangaassist_assets.lib.release.gates import GATES
from mangaassist_assets.lib.release.log import ReleaseLog, Stage
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.verdicts import Verdict
from mangaassist_assets.resources import HouseResource

from .conftest import BEGAN, CHAMPION, RELEASE

pytestmark = pytest.mark.filterwarnings("ignore:AssetExecutionContext.run_id:DeprecationWarning")  # only outside of recorded runs
DAY = dt.timedelta(days=1)
RULES = ReleaseRules(shadow_sessions=500, canary_sessions=100, canary_share=0.5, escalation=0.2, thumbs_up=0.2, errors=0.1)


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANGAASSIST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(live, "RULES", RULES)
    settings.current.cache_clear()
    yield House(tmp_path / "home")
    settings.current.cache_clear()


def log_of(house):
    return ReleaseLog(house.home / "releases")


def in_shadow(house, at=BEGAN):
    for release in (CHAMPION, RELEASE):
        log_of(house).promote(release, Verdict.PASS, against=log_of(house).state().champion, by="offline_gates", at=at, reason="passed")
    verdict = {"release": RELEASE, "verdict": "PASS", "reason": "passed", "against": CHAMPION}
    house.write_table("release/offline_gates", pa.Table.from_pylist([verdict], gates.VERDICT), part="verdict")


def in_canary(house, at=BEGAN):
    in_shadow(house, at - 8 * DAY)
    event = log_of(house).state().version
    log_of(house).advance(RELEASE, Verdict.PASS, event=event, approval=True, by="shadow_report", at=at, reason="passed")


def traffic(house, draw_day, days, *, first=BEGAN, **more):
    for n in range(days):
        at = first + n * DAY
        day = draw_day(300, at=at, seed=n, prefix=f"{at:%m%d}-", **more)
        house.write_table("drift/interactions", day, partition=f"{at:%Y-%m-%d}")


def build(house, *assets, instance=None):
    result = dg.materialize(list(assets), resources={"house": HouseResource(home=str(house.home))}, instance=instance)
    assert result.success
    return {event.asset_key.to_user_string(): event.materialization for event in result.get_asset_materialization_events()}


def rows(house, name, part="data"):
    return house.read_table(f"release/{name}", part=part).to_pylist()


def test_where_no_release_was_in_shadow_or_canary_the_reports_are_empty(house):
    made = build(house, live.shadow_comparison, live.canary_comparison)
    assert set(made) == {"shadow_report", "shadow_gates", "canary_report", "canary_gates"}
    assert rows(house, "shadow_report") == rows(house, "canary_report") == rows(house, "canary_gates") == []
    assert house.read_table("release/shadow_gates").schema == GATES


def test_a_week_in_shadow_moves_the_release_into_canary(house, draw_day):
    in_shadow(house)
    traffic(house, draw_day, 8, share=0.0, errors=(0.0, 0.0))
    build(house, live.shadow_comparison, live.canary_comparison)
    (report,) = rows(house, "shadow_report")
    assert (report["verdict"], report["days"], report["release"]) == ("PASS", 8, RELEASE)
    assert rows(house, "shadow_report", "cohorts")[0]["shadow_intent"] == "other"
    made = build(house, gates.champion)["champion"]
    state = log_of(house).state()
    assert (state.stage(RELEASE), state.champion) == (Stage.CANARY, CHAMPION)
    assert made.metadata["canary"].value == RELEASE[:12]


def test_the_same_traffic_gives_the_same_data_version(house, draw_day):
    in_shadow(house)
    traffic(house, draw_day, 2, share=0.0)
    first, second = (build(house, live.shadow_comparison) for _ in range(2))
    for name in ("shadow_report", "shadow_gates"):
        assert first[name].tags["dagster/data_version"] == second[name].tags["dagster/data_version"]


def test_labels_of_the_control_slice_end_a_less_accurate_shadow(house, draw_day):
    in_shadow(house)
    traffic(house, draw_day, 2, share=0.0, agree=0.75)
    asked = [row for day in ("2026-11-24", "2026-11-25") for row in house.read_table("drift/interactions", partition=day).to_pylist()]
    sample = [{"request_id": row["request_id"], "message_id": f"m{n}", "stratum": "control"} for n, row in enumerate(asked)]
    queue = [{"message_id": f"m{n}", "intent": row["intent"]} for n, row in enumerate(asked)]
    house.write_table("messages/low_confidence_sample", pa.Table.from_pylist(sample), partition="2026-11-23")
    house.write_table("messages/label_queue", pa.Table.from_pylist(queue))
    build(house, live.shadow_comparison)
    assert rows(house, "shadow_report")[0]["reason"].startswith("shadow:accuracy_change -0.2")


@pytest.mark.parametrize(("escalation", "stage"), [((0.05, 0.05), Stage.HELD), ((0.05, 0.8), Stage.ROLLED_BACK)])
def test_a_canary_is_held_for_a_person_or_rolled_back_by_itself(house, draw_day, escalation, stage):
    in_canary(house)
    traffic(house, draw_day, 7, first=BEGAN - 7 * DAY, share=0.0)
    traffic(house, draw_day, 6, share=0.5, escalation=escalation, thumbs_up=(0.95, 0.95))
    build(house, live.shadow_comparison, live.canary_comparison)
    found = {row["metric"]: row for row in rows(house, "canary_report")}
    assert len(found) == 4 and found["escalation_rate_change"]["champion_n"] + found["escalation_rate_change"]["canary_n"] == 6 * 300
    assert Base.of_table(house.read_table("release/canary_report", part="base")).escalation.n == 7 * 300
    build(house, gates.champion)
    state = log_of(house).state()
    assert (state.stage(RELEASE), state.champion) == (stage, CHAMPION), rows(house, "canary_report", "verdict")
    before = rows(house, "canary_report")
    build(house, live.canary_comparison)  # nothing is in canary any more
    assert rows(house, "canary_report") == before


def test_what_the_champion_showed_before_a_canary_is_measured_once(house, draw_day):
    in_canary(house)
    traffic(house, draw_day, 1, share=0.2)
    build(house, live.canary_comparison)
    kept = rows(house, "canary_report", "base")
    traffic(house, draw_day, 7, first=BEGAN - 7 * DAY, share=0.0)  # late segments
    build(house, live.canary_comparison)
    assert rows(house, "canary_report", "base") == kept


# ── sensors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_move_that_a_killed_run_left_undone_is_asked_for_once_and_again_where_its_run_failed(house, draw_day):
    with dg.instance_for_test() as instance:
        assert release_progress(dg.build_sensor_context(instance)).skip_message == "no move is due"
        in_shadow(house)
        traffic(house, draw_day, 8, share=0.0, errors=(0.0, 0.0))
        build(house, live.shadow_comparison, live.canary_comparison)
        first, again = (release_progress(dg.build_sensor_context(instance)) for _ in range(2))
        assert first.run_key == again.run_key and first.run_key.endswith("-canary-0")
        for attempt in range(1, 4):
            run = instance.create_run_for_job(dg.job(_nothing), tags=first.tags)
            instance.report_run_failed(run)
            asked = release_progress(dg.build_sensor_context(instance))
            assert attempt == 3 or asked.run_key == first.run_key[:-1] + str(attempt)
        assert "failed; look at the last of them" in asked.skip_message
        build(house, gates.champion)
        assert release_progress(dg.build_sensor_context(instance)).skip_message == "no move is due"


def _nothing():
    pass


def test_approvals_that_arrive_are_entered_and_the_log_is_seen(house):
    now = dt.datetime.now(dt.UTC)
    with dg.instance_for_test() as instance:
        assert approvals_arrived(dg.build_sensor_context(instance)).skip_message == "no approval waits"
        log, release = log_of(house), house.write_bundle("intent_classifier", {"n.json": b"1"}, {"training_data": "t"}).digest
        log.promote(release, Verdict.INCONCLUSIVE, against=None, by="offline_gates", at=now, reason="short by one")
        approval = Approval(release, 1, evidence_of(house, release), "ada", "enough", now, now + DAY)
        write_approval(house.home, dataclasses.replace(approval, event=9))
        assert "is held by now" in approvals_arrived(dg.build_sensor_context(instance)).skip_message
        write_approval(house.home, approval)
        seen = approvals_arrived(dg.build_sensor_context(instance))
        assert log.state().champion == release
        assert [event.asset_key.to_user_string() for event in seen.asset_events] == ["release_log"]
