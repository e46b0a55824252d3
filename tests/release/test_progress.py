"""What is due is done once, one move at a time, whoever asks and however often; what is not due is left alone."""

import datetime as dt
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.release.approvals import Approval, Evidence, evidence_of, write_approval
from mangaassist_assets.lib.release.log import ReleaseLog, Stage
from mangaassist_assets.lib.release.progress import VERDICT, Judged, Move, move_on, next_move, outlook, read_verdicts, verdict_row
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.verdicts import Verdict

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
RULES, ALONE = ReleaseRules(), ReleaseRules(approval=False)
PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def log_of(house):
    return ReleaseLog(house.home / "releases")


def offline(house, number, verdict=PASS):
    """A release with a bundle of its own that the offline gates judged."""
    release, log = house.write_bundle("intent_classifier", {"n.json": b"%d" % number}, {"training_data": "t"}).digest, log_of(house)
    log.promote(release, verdict, against=log.state().champion, by="offline_gates", at=NOW, reason="as measured")
    return release


def says(house, release, verdict):
    """A report on a release where it stands."""
    return Judged(release, log_of(house).state().releases[release].event, verdict, "as measured", "canary_report")


def due(house, *judged, waiting=(), rules=RULES):
    return next_move(log_of(house).state(), judged, waiting, lambda release: evidence_of(house, release), rules=rules, now=NOW)


def test_nothing_is_due_in_an_empty_log_or_without_reports(house):
    assert due(house) is None
    offline(house, 1)
    offline(house, 2)
    assert due(house) is None


def test_asking_changes_nothing_and_doing_ends_it(house):
    offline(house, 1)
    release = offline(house, 2)
    passed = says(house, release, PASS)
    version = log_of(house).state().version
    assert due(house, passed) == due(house, passed) == Move(release, Stage.SHADOW, Stage.CANARY, judged=passed)
    assert log_of(house).state().version == version
    assert move_on(house, [passed], rules=RULES, now=NOW).stage(release) is Stage.CANARY
    assert due(house, passed) is None
    assert move_on(house, [passed], rules=RULES, now=NOW).version == version + 1


@pytest.mark.parametrize(
    ("verdict", "rules", "stage"),
    [(PASS, RULES, Stage.HELD), (PASS, ALONE, Stage.CHAMPION), (FAIL, RULES, Stage.ROLLED_BACK), (INCONCLUSIVE, RULES, Stage.CANARY)],
)
def test_a_canary_moves_as_it_was_judged(house, verdict, rules, stage):
    first, release = offline(house, 1), offline(house, 2)
    move_on(house, [says(house, release, PASS)], rules=rules, now=NOW)
    state = move_on(house, [says(house, release, verdict)], rules=rules, now=NOW)
    assert state.stage(release) is stage
    assert state.champion == (release if stage is Stage.CHAMPION else first)


def test_a_passed_shadow_waits_until_the_canary_is_free_and_then_moves_on_the_same_report(house):
    offline(house, 1)
    second = offline(house, 2)
    move_on(house, [says(house, second, PASS)], rules=RULES, now=NOW)
    third = offline(house, 3)
    passed = says(house, third, PASS)
    assert due(house, passed) is None
    log_of(house).reject(second, by="ada", at=NOW, why="not this one")
    assert due(house, passed).to_state is Stage.CANARY


def test_both_stages_move_in_one_go_and_a_report_of_an_earlier_attempt_moves_nothing(house):
    offline(house, 1)
    second = offline(house, 2)
    old = says(house, second, PASS)
    move_on(house, [old], rules=RULES, now=NOW)
    third = offline(house, 3)
    state = move_on(house, [old, says(house, third, PASS), says(house, second, FAIL)], rules=RULES, now=NOW)
    assert (state.stage(second), state.stage(third)) == (Stage.ROLLED_BACK, Stage.CANARY)


def test_an_approval_goes_before_reports(house):
    offline(house, 1)
    release = offline(house, 2)
    approval = Approval(release, log_of(house).state().version, evidence_of(house, release), "ada", "go", NOW, NOW + dt.timedelta(hours=1))
    move = due(house, says(house, release, FAIL), waiting=[("a.json", approval)])
    assert (move.to_state, move.approval) == (Stage.CANARY, "a.json")
    other = Approval(release, approval.event, Evidence("x", "y", "z"), "ada", "go", NOW, approval.expires_at)
    assert due(house, says(house, release, FAIL), waiting=[("a.json", other)]).to_state is Stage.REJECTED
    write_approval(house.home, approval)
    assert move_on(house, [], rules=RULES, now=NOW).stage(release) is Stage.CANARY


def test_many_at_once_move_a_release_once(house):
    offline(house, 1)
    release = offline(house, 2)
    passed, version, together = says(house, release, PASS), log_of(house).state().version, threading.Barrier(4)

    def work():
        together.wait()
        move_on(house, [passed], rules=RULES, now=NOW)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log_of(house).state().version == version + 1


STEPS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["offline", "live"]), st.sampled_from(list(Verdict))), max_size=12)


@given(STEPS, st.booleans(), st.integers(0, 11))
@settings(max_examples=25, deadline=None)
def test_a_process_killed_between_any_two_moves_leaves_what_the_next_one_finishes(tmp_path_factory, steps, approval, killed_after):
    whole, cut = House(tmp_path_factory.mktemp("whole")), House(tmp_path_factory.mktemp("cut"))
    rules = ReleaseRules(approval=approval)
    for number, (which, kind, verdict) in enumerate(steps):
        for house in (whole, cut):
            if kind == "offline":
                offline(house, which, verdict)
                continue
            state = log_of(house).state()
            judged = [says(house, release, verdict) for release in state.at_stage(Stage.SHADOW, Stage.CANARY)]
            if house is cut and number == killed_after and (move := due(house, *judged, rules=rules)):
                found = move.judged  # one move is made, and the process ends
                log = log_of(house)
                log.advance(found.release, found.verdict, event=found.event, approval=approval, by="x", at=NOW, reason="r")
            move_on(house, judged, rules=rules, now=NOW)
    stages = [{release: state.stage(release) for release in state.releases} for state in (log_of(whole).state(), log_of(cut).state())]
    assert stages[0] == stages[1]
    assert len(log_of(cut).state().at_stage(Stage.CHAMPION)) <= 1


def test_reports_are_read_back_as_they_were_written_and_their_absence_is_no_verdict(house):
    assert read_verdicts(house) == []
    judged = Judged("r", 7, PASS, "as measured", "canary_report")
    house.write_table("release/canary_report", verdict_row(judged), part="verdict")
    house.write_table("release/shadow_report", VERDICT.empty_table(), part="verdict")
    assert read_verdicts(house) == [judged]


def test_people_are_told_where_a_release_stands_and_what_it_waits_for(house):
    offline(house, 1)
    release = offline(house, 2)
    state = log_of(house).state()
    (line,) = outlook(state, [])
    assert line == f"{release[:12]} is in shadow since 2026-11-24 12:00 UTC. nothing measured yet"
    (line,) = outlook(state, [says(house, release, INCONCLUSIVE)])
    assert line.endswith("INCONCLUSIVE: as measured")
    held = offline(house, 3, INCONCLUSIVE)
    assert f"`mangaassist approve {held[:12]} --why ...`" in outlook(log_of(house).state(), [])[-1]
