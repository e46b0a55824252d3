"""One champion at all times, whoever writes, whenever they read, and whatever happens to the last event."""

import datetime as dt
import json
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput, Conflict, DamagedArtifact, MangaAssistError, Unavailable
from mangaassist_assets.lib.release.log import ALLOWED, ReleaseLog, Stage, State, current, rollout
from mangaassist_assets.lib.verdicts import Verdict

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
FIRST, SECOND, THIRD, FOURTH = "a" * 64, "b" * 64, "c" * 64, "d" * 64
PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.fixture
def log(tmp_path):
    return ReleaseLog(tmp_path / "releases")


def promote(log, release, verdict=PASS, *, against="the champion"):
    against = log.state().champion if against == "the champion" else against
    return log.promote(release, verdict, against=against, by="offline_gates", at=NOW, reason="all gates")


def advance(log, release, verdict=PASS, *, event=None, approval=True):
    event = log.state().releases[release].event if event is None else event
    return log.advance(release, verdict, event=event, approval=approval, by="canary_report", at=NOW, reason="as measured")


def crown(log, release):
    """All the way to champion."""
    if log.state().champion is None:
        return promote(log, release)
    promote(log, release)
    for _ in ("shadow", "canary"):
        advance(log, release)
    return log.approve(release, **person())


def person(**more):
    return {"by": "mika", "at": NOW, "why": "checked by hand", **more}


# ── the ordinary life of a release ──────────────────────────────────────────────────────────────────────────────────


def test_an_empty_log_has_no_champion(tmp_path):
    assert current(tmp_path / "releases") == State()


def test_the_first_release_becomes_champion_at_once_for_there_is_nothing_to_compare_it_with(log):
    assert [c.to_state for c in promote(log, FIRST).history] == ["candidate", "offline_passed", "champion"]


def test_a_later_release_goes_through_shadow_canary_and_a_persons_word_while_the_champion_serves(log):
    promote(log, FIRST)
    for step, stage in ((promote, Stage.SHADOW), (advance, Stage.CANARY), (advance, Stage.HELD)):
        state = step(log, SECOND)
        assert (state.stage(SECOND), state.champion) == (stage, FIRST)
    state = log.approve(SECOND, **person())
    assert (state.champion, state.stage(FIRST), state.previous) == (SECOND, Stage.RETIRED, FIRST)
    assert log.state() == state
    last = [(c.release, c.from_state, c.to_state) for c in state.history if c.event == state.version]
    assert last == [(FIRST, "champion", "retired"), (SECOND, "held", "champion")]


def test_where_no_approval_is_asked_for_a_passed_canary_becomes_champion(log):
    promote(log, FIRST)
    promote(log, SECOND)
    advance(log, SECOND)
    state = advance(log, SECOND, approval=False)
    assert (state.champion, state.stage(FIRST), state.releases[SECOND].action) == (SECOND, Stage.RETIRED, "advance")


def test_what_fails_in_shadow_is_rejected_and_in_canary_rolled_back_and_the_champion_never_left(log):
    promote(log, FIRST)
    promote(log, SECOND)
    assert advance(log, SECOND, FAIL).stage(SECOND) is Stage.REJECTED
    promote(log, THIRD)
    advance(log, THIRD)
    state = advance(log, THIRD, FAIL)
    assert (state.stage(THIRD), state.champion) == (Stage.ROLLED_BACK, FIRST)
    assert [c.to_state for c in state.history if c.release == FIRST] == ["candidate", "offline_passed", "champion"]


def test_what_cannot_be_decided_stays_where_it_is(log):
    promote(log, FIRST)
    for step in (promote, advance):
        state = step(log, SECOND)
        assert advance(log, SECOND, INCONCLUSIVE) == state


def test_a_verdict_of_live_traffic_is_entered_once_and_only_for_the_attempt_that_it_measured(log):
    promote(log, FIRST)
    entered = promote(log, SECOND).version
    state = advance(log, SECOND, event=entered)
    assert advance(log, SECOND, event=entered) == state
    assert advance(log, SECOND, FAIL, event=entered) == state
    assert advance(log, "unknown", event=entered) == state


def test_a_newer_release_takes_the_place_of_the_one_in_shadow_in_one_event(log):
    promote(log, FIRST)
    promote(log, SECOND)
    state = promote(log, THIRD)
    assert (state.at_stage(Stage.SHADOW), state.stage(SECOND), state.champion) == ([THIRD], Stage.RETIRED, FIRST)
    assert {c.release for c in state.history if c.event == state.version} == {SECOND, THIRD}
    assert state.previous is None  # it never was champion


def test_one_release_is_in_canary_at_a_time_and_the_next_waits_in_shadow(log):
    promote(log, FIRST)
    promote(log, SECOND)
    advance(log, SECOND)
    promote(log, THIRD)
    state = advance(log, THIRD)
    assert (state.at_stage(Stage.CANARY), state.at_stage(Stage.SHADOW)) == ([SECOND], [THIRD])
    with pytest.raises(BadInput, match="is in canary, one at a time"):
        log.approve(THIRD, **person())
    advance(log, SECOND, FAIL)
    assert advance(log, THIRD).at_stage(Stage.CANARY) == [THIRD]


@pytest.mark.parametrize("how", ["approve", "rollback"])
def test_when_the_champion_changes_those_measured_against_it_are_candidates_again(log, how):
    promote(log, FIRST)
    crown(log, SECOND)
    promote(log, THIRD)
    advance(log, THIRD)
    promote(log, FOURTH)
    state = log.rollback(**person()) if how == "rollback" else log.approve(FIRST, **person())
    assert state.champion == FIRST
    assert state.at_stage(Stage.CANDIDATE) == [THIRD, FOURTH]
    assert promote(log, FOURTH).at_stage(Stage.SHADOW) == [FOURTH]


def test_the_offline_gates_have_no_say_once_live_traffic_measures_or_has_decided(log):
    promote(log, FIRST)
    state = promote(log, SECOND)
    assert promote(log, SECOND, FAIL) == state
    state = advance(log, SECOND, FAIL)
    assert promote(log, SECOND) == state
    promote(log, THIRD)
    state = advance(log, THIRD)
    for verdict in (FAIL, INCONCLUSIVE, PASS):
        assert promote(log, THIRD, verdict) == state
    state = advance(log, THIRD)
    assert promote(log, THIRD, FAIL) == state


@pytest.mark.parametrize(("verdict", "stage"), [(FAIL, Stage.REJECTED), (INCONCLUSIVE, Stage.HELD)])
def test_a_release_that_fails_or_cannot_be_decided_leaves_the_champion_alone(log, verdict, stage):
    promote(log, FIRST)
    state = promote(log, SECOND, verdict)
    assert (state.champion, state.stage(SECOND)) == (FIRST, stage)


def test_the_first_release_is_held_or_rejected_like_any_other(log):
    assert promote(log, FIRST, INCONCLUSIVE).champion is None
    assert log.state().held == [FIRST]


def test_a_person_moves_a_release_on_by_one_step_and_the_log_says_who_and_why(log):
    promote(log, FIRST)
    promote(log, SECOND, INCONCLUSIVE)
    for step, stage in ((None, Stage.SHADOW), (FAIL, Stage.CANARY), (FAIL, Stage.CANARY), (PASS, Stage.CHAMPION)):
        if step:
            advance(log, SECOND, step)
        state = log.approve(SECOND, **person())
        assert state.stage(SECOND) is stage
    change = state.releases[SECOND]
    assert (change.action, change.by, change.reason, change.verdict) == ("approve", "mika", "checked by hand", None)
    assert log.approve(FIRST, **person()).champion == FIRST  # a retired one


def test_a_release_that_stands_in_shadow_or_canary_can_be_approved_from_there(log):
    promote(log, FIRST)
    promote(log, SECOND)
    assert [log.approve(SECOND, **person()).stage(SECOND) for _ in range(2)] == [Stage.CANARY, Stage.CHAMPION]


def test_a_release_that_lost_its_place_in_shadow_can_be_brought_back_into_it(log):
    for release in (FIRST, SECOND, THIRD):
        promote(log, release)
    state = log.approve(SECOND, **person())
    assert (state.at_stage(Stage.SHADOW), state.stage(THIRD)) == ([SECOND], Stage.RETIRED)


def test_where_no_champion_serves_an_approved_release_becomes_it(log):
    promote(log, FIRST, FAIL)
    assert log.approve(FIRST, **person()).champion == FIRST


def test_an_approval_of_what_moved_meanwhile_is_a_conflict(log):
    promote(log, FIRST)
    seen = promote(log, SECOND, INCONCLUSIVE).version
    log.approve(SECOND, event=seen, **person())
    with pytest.raises(Conflict, match="moved to shadow since this was decided"):
        log.approve(SECOND, event=seen, **person())


def test_a_held_release_may_pass_later_by_better_evidence(log):
    promote(log, FIRST, INCONCLUSIVE)
    assert promote(log, FIRST, PASS).champion == FIRST
    promote(log, SECOND, FAIL)
    assert promote(log, SECOND, INCONCLUSIVE).held == [SECOND]


def test_the_same_verdict_entered_again_changes_nothing(log):
    for verdict, release in ((PASS, FIRST), (FAIL, SECOND), (INCONCLUSIVE, THIRD)):
        state = promote(log, release, verdict)
        assert promote(log, release, verdict) == state


@pytest.mark.parametrize("verdict", list(Verdict))
def test_no_verdict_takes_the_champion_down(log, verdict):
    state = promote(log, FIRST)
    assert promote(log, FIRST, verdict) == state


def test_a_verdict_reached_against_another_champion_is_a_conflict(log):
    promote(log, FIRST)
    with pytest.raises(Conflict, match=r"aaaaaaaaaaaa is champion by now\. Judge again"):
        promote(log, SECOND, against=None)
    assert log.state().champion == FIRST


# ── people ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rollback_returns_to_the_champion_before_in_one_event(log):
    crown(log, FIRST)
    before = crown(log, SECOND).version
    state = log.rollback(**person())
    assert (state.champion, state.stage(SECOND), state.version) == (FIRST, Stage.ROLLED_BACK, before + 1)


def test_rollbacks_walk_back_one_champion_at_a_time_and_then_refuse(log):
    for release in (FIRST, SECOND, THIRD):
        crown(log, release)
    assert log.rollback(**person()).champion == SECOND
    assert log.rollback(**person()).champion == FIRST
    with pytest.raises(BadInput, match="no champion before"):
        log.rollback(**person())


def test_the_gates_do_not_bring_back_what_people_rolled_back_rejected_or_replaced(log):
    promote(log, FIRST)
    crown(log, SECOND)
    rolled_back = log.rollback(**person())
    assert promote(log, SECOND) == rolled_back
    promote(log, THIRD, INCONCLUSIVE)
    rejected = log.reject(THIRD, **person())
    assert promote(log, THIRD) == rejected
    approved = log.approve(SECOND, **person())
    assert promote(log, FIRST) == approved
    assert log.approve(THIRD, **person()).stage(THIRD) is Stage.SHADOW


def test_a_release_that_the_gates_rejected_can_be_rejected_for_good(log):
    promote(log, FIRST, FAIL)
    log.reject(FIRST, **person())
    assert promote(log, FIRST, PASS).champion is None


@pytest.mark.parametrize("release", [FIRST, "unknown"])
def test_the_champion_and_the_unknown_cannot_be_approved(log, release):
    promote(log, FIRST)
    with pytest.raises(BadInput, match="is champion already|is no release"):
        log.approve(release, **person())


def test_the_champion_cannot_be_rejected_for_then_nobody_would_serve(log):
    promote(log, FIRST)
    with pytest.raises(BadInput, match="is champion and cannot become rejected"):
        log.reject(FIRST, **person())


def test_a_release_that_was_never_judged_cannot_be_approved(log):
    log.transition(0, FIRST, Stage.CANDIDATE, by="release_candidate", at=NOW, verdict=None, reason="new")
    with pytest.raises(BadInput, match="not been judged"):
        log.approve(FIRST, **person())


@pytest.mark.parametrize("change", [{"by": " "}, {"why": ""}, {"at": dt.datetime(2026, 1, 1)}])
def test_a_decision_needs_a_name_a_reason_and_a_time_with_a_zone(log, change):
    promote(log, FIRST, INCONCLUSIVE)
    with pytest.raises(BadInput):
        log.approve(FIRST, **person(**change))
    assert log.state().version == 1


# ── transitions ─────────────────────────────────────────────────────────────────────────────────────────────────────


def move(log, release, stage, version=None):
    version = log.state().version if version is None else version
    return log.transition(version, release, stage, by="asset", at=NOW, verdict=None, reason="a step")


def test_a_release_can_walk_step_by_step(log):
    for stage in (Stage.CANDIDATE, Stage.OFFLINE_PASSED, Stage.CHAMPION):
        state = move(log, FIRST, stage)
    assert state.champion == FIRST
    for stage in (Stage.CANDIDATE, Stage.OFFLINE_PASSED, Stage.SHADOW, Stage.CANARY, Stage.CHAMPION):
        state = move(log, SECOND, stage)
    assert (state.champion, state.previous) == (SECOND, FIRST)


@pytest.mark.parametrize("skipped", [Stage.CANARY, Stage.CHAMPION])
def test_nobody_but_people_skips_shadow_or_canary_while_a_champion_serves(log, skipped):
    promote(log, FIRST)
    for stage in (Stage.CANDIDATE, Stage.OFFLINE_PASSED):
        move(log, SECOND, stage)
    with pytest.raises(BadInput, match="must pass shadow and canary|cannot become"):
        move(log, SECOND, skipped)


def test_a_log_from_before_there_was_a_shadow_is_still_read(log):
    promote(log, FIRST)
    old = json.loads(event(log, 1).read_text("utf-8"))
    moves = [(None, "candidate"), ("candidate", "offline_passed"), ("offline_passed", "champion")]
    changes = [{"release": SECOND, "from_state": before, "to_state": after} for before, after in moves]
    changes.insert(2, {"release": FIRST, "from_state": "champion", "to_state": "retired"})
    event(log, 2).write_text(json.dumps(old | {"version": 2, "follows": log.state().tip, "changes": changes}), "utf-8")
    assert (log.state().champion, log.state().previous) == (SECOND, FIRST)


def test_a_promotion_goes_on_from_where_the_release_stands(log):
    move(log, FIRST, Stage.CANDIDATE)
    move(log, FIRST, Stage.OFFLINE_PASSED)
    assert [c.to_state for c in promote(log, FIRST).history] == ["candidate", "offline_passed", "champion"]
    move(log, SECOND, Stage.CANDIDATE)
    assert [c.to_state for c in promote(log, SECOND, FAIL).history][-2:] == ["candidate", "rejected"]


def test_a_stale_version_is_a_conflict(log):
    move(log, FIRST, Stage.CANDIDATE)
    with pytest.raises(Conflict, match="event 1, not 0"):
        move(log, SECOND, Stage.CANDIDATE, version=0)


@pytest.mark.parametrize("stage", [s for s in Stage if s is not Stage.CANDIDATE])
def test_a_new_release_starts_as_a_candidate(log, stage):
    with pytest.raises(BadInput, match="cannot become"):
        move(log, FIRST, stage)
    assert log.state() == State()


def test_what_the_gates_held_or_rejected_becomes_champion_by_people_only(log):
    for verdict in (INCONCLUSIVE, FAIL):
        promote(log, SECOND, verdict)
        with pytest.raises(BadInput, match="cannot become champion by transition"):
            move(log, SECOND, Stage.CHAMPION)


@pytest.mark.parametrize("stage", [Stage.RETIRED, Stage.ROLLED_BACK])
def test_a_champion_never_leaves_without_a_successor(log, stage):
    promote(log, FIRST)
    with pytest.raises(BadInput, match="there would be 0 champions"):
        move(log, FIRST, stage)


def test_every_stage_can_be_left_or_is_an_end_that_people_can_undo():
    assert set(ALLOWED) == {None, *Stage}
    assert all(ALLOWED[stage] for stage in ALLOWED)


# ── two writers ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Stale(ReleaseLog):
    """A writer who decides on what they last read."""

    def state(self):
        if "seen" not in self.__dict__:
            self.read()
        return self.__dict__["seen"]

    def read(self):
        self.__dict__["seen"] = current(self.releases)


LIVE = {"shadow or canary passes": PASS, "shadow or canary fails": FAIL}
ACTIONS = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["read", "PASS", "FAIL", "INCONCLUSIVE", *LIVE, "approve", "reject", "rollback", *Stage]),
    st.sampled_from([FIRST, SECOND, THIRD]),
)


@given(st.lists(ACTIONS, min_size=5, max_size=25))
@settings(max_examples=60, deadline=None)
def test_any_interleaving_of_two_writers_leaves_one_champion(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("log")
    writers, crowned = (Stale(folder), Stale(folder)), False
    for who, action, release in steps:
        writer = writers[who]
        before = current(folder)
        try:
            if action == "read":
                writer.read()
            elif action in Verdict.__members__:
                promote(writer, release, Verdict(action))
            elif action in LIVE:
                standing = writer.state().releases.get(release)
                advance(writer, release, LIVE[action], event=standing.event if standing else 0)
            elif action == "rollback":
                writer.rollback(**person())
            elif action in ("approve", "reject"):
                getattr(writer, action)(release, **person())
            else:
                move(writer, release, action)
        except Conflict:
            assert writer.state().version < before.version
        except BadInput:
            pass
        after = current(folder)
        assert after.version - before.version in (0, 1)
        champions = after.at_stage(Stage.CHAMPION)
        crowned = crowned or bool(champions)
        assert max(len(after.at_stage(Stage.SHADOW)), len(after.at_stage(Stage.CANARY))) <= 1
        assert len(champions) == int(crowned)
        assert champions == ([after.champion] if after.champion else [])
        assert after.history[: len(before.history)] == before.history
    steps_at = rollout(current(folder)).to_pylist()
    stages = {}
    for row in steps_at:
        assert row["from_state"] == stages.get(row["release"])
        assert row["to_state"] in ALLOWED[row["from_state"] and Stage(row["from_state"])]
        stages[row["release"]] = row["to_state"]


WRITER = """
import sys, pathlib, datetime as dt
from mangaassist_assets.lib.errors import Conflict
from mangaassist_assets.lib.release.log import ReleaseLog
from mangaassist_assets.lib.verdicts import Verdict
log, name, lost = ReleaseLog(pathlib.Path(sys.argv[1])), sys.argv[2], 0
print("ready", flush=True)
sys.stdin.readline()
for n in range(10):
    while True:
        try:
            log.promote(f"{name}{n}", Verdict.PASS, against=log.state().champion, by=name, at=dt.datetime.now(dt.UTC), reason="race")
            break
        except Conflict:
            lost += 1
print(lost)
"""


def test_processes_that_race_lose_no_event_and_never_share_a_number(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "releases")]
    writers = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "xyz"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    state = current(tmp_path / "releases")
    assert state.version == 30
    assert [len(state.at_stage(stage)) for stage in (Stage.CHAMPION, Stage.SHADOW, Stage.RETIRED)] == [1, 1, 28]
    assert not [p for p in (tmp_path / "releases").iterdir() if p.name.startswith(".")]


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def event(log, number):
    return log.releases / f"{number:06d}.json"


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2', b"null", b"\xff", b"[" * 50_000])
def test_a_torn_last_event_is_ignored_reported_and_written_past(log, content):
    before = promote(log, FIRST)
    event(log, 2).write_bytes(content)
    state = log.state()
    assert (state.champion, state.version, state.torn) == (before.champion, 2, (2,))
    assert promote(log, SECOND).stage(SECOND) is Stage.SHADOW
    assert (log.state().version, log.state().torn) == (3, (2,))


def test_any_cut_of_the_last_event_gives_the_state_before_it(log):
    before = promote(log, FIRST)
    promote(log, SECOND)
    whole = event(log, 2).read_bytes()
    for length in range(0, len(whole) - 2, 7):
        event(log, 2).write_bytes(whole[:length])
        assert log.state().champion == before.champion


def test_an_event_that_later_ones_rest_on_cannot_be_torn_altered_or_lost(log):
    for release in (FIRST, SECOND, THIRD):
        promote(log, release)
    whole = event(log, 2).read_bytes()
    event(log, 2).write_bytes(whole[:40])
    with pytest.raises(DamagedArtifact, match="what event 3 rests on is missing or altered"):
        log.state()
    event(log, 2).write_bytes(whole.replace(b"offline_gates", b"somebody_else"))
    with pytest.raises(DamagedArtifact, match="what event 3 rests on is missing or altered"):
        log.state()
    event(log, 2).unlink()
    with pytest.raises(DamagedArtifact, match="event 2 is missing"):
        log.state()
    with pytest.raises(DamagedArtifact):
        promote(log, FIRST)


def test_an_event_that_breaks_the_rules_is_refused_even_if_well_formed(log):
    promote(log, FIRST)
    forged = json.loads(event(log, 1).read_text("utf-8"))
    forged |= {"version": 2, "follows": log.state().tip, "changes": [{"release": SECOND, "from_state": None, "to_state": "champion"}]}
    event(log, 2).write_text(json.dumps(forged), "utf-8")
    with pytest.raises(DamagedArtifact, match="event 2 is impossible"):
        log.state()


def test_temporary_files_and_strangers_in_the_folder_are_not_events(log):
    promote(log, FIRST)
    (log.releases / ".000002.json.99999999-0.tmp").write_text("{")
    (log.releases / "notes.txt").write_text("hello")
    assert log.state().version == 1


def test_a_file_system_without_hard_links_is_named_as_the_reason(log, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(Unavailable, match="hard links; set MANGAASSIST_HOME"):
        promote(log, FIRST)
    assert list(log.releases.iterdir()) == []


def test_every_error_is_one_line_for_people(log):
    promote(log, FIRST)
    for attempt in (lambda: log.rollback(**person()), lambda: promote(log, SECOND, against=None), lambda: move(log, FIRST, Stage.HELD)):
        with pytest.raises(MangaAssistError) as caught:
            attempt()
        assert "\n" not in str(caught.value)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_rollout_table_holds_every_change_in_order(log):
    promote(log, FIRST)
    crown(log, SECOND)
    log.rollback(**person())
    rows = rollout(log.state()).to_pylist()
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [(r["release"][0], r["from_state"], r["to_state"], r["verdict"]) for r in rows[-3:]] == [
        ("b", "held", "champion", None),
        ("b", "champion", "rolled_back", None),
        ("a", "retired", "champion", None),
    ]
    assert rows[-1]["at"] == NOW and rows[-1]["by"] == "mika"
    assert rollout(State()).num_rows == 0


def test_a_long_log_is_cheap_enough_to_poll_each_second(log):
    promote(log, FIRST)
    for n in range(150):
        promote(log, f"release {n}")
    start = time.perf_counter()
    assert log.state().version == 151
    assert time.perf_counter() - start < 0.25
