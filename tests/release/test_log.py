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
FIRST, SECOND, THIRD = "a" * 64, "b" * 64, "c" * 64
PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.fixture
def log(tmp_path):
    return ReleaseLog(tmp_path / "releases")


def promote(log, release, verdict=PASS, *, against="the champion"):
    against = log.state().champion if against == "the champion" else against
    return log.promote(release, verdict, against=against, by="offline_gates", at=NOW, reason="all gates")


def person(**more):
    return {"by": "mika", "at": NOW, "why": "checked by hand", **more}


# ── the ordinary life of a release ──────────────────────────────────────────────────────────────────────────────────


def test_an_empty_log_has_no_champion(tmp_path):
    assert current(tmp_path / "releases") == State()


def test_a_release_that_passes_becomes_champion_and_retires_the_one_before_in_one_event(log):
    promote(log, FIRST)
    state = promote(log, SECOND)
    assert (state.champion, state.stage(FIRST), state.previous, state.version) == (SECOND, Stage.RETIRED, FIRST, 2)
    assert log.state() == state
    last = [(c.release, c.from_state, c.to_state) for c in state.history if c.event == 2]
    assert last == [
        (SECOND, None, "candidate"),
        (SECOND, "candidate", "offline_passed"),
        (FIRST, "champion", "retired"),
        (SECOND, "offline_passed", "champion"),
    ]


@pytest.mark.parametrize(("verdict", "stage"), [(FAIL, Stage.REJECTED), (INCONCLUSIVE, Stage.HELD)])
def test_a_release_that_fails_or_cannot_be_decided_leaves_the_champion_alone(log, verdict, stage):
    promote(log, FIRST)
    state = promote(log, SECOND, verdict)
    assert (state.champion, state.stage(SECOND)) == (FIRST, stage)


def test_the_first_release_is_held_or_rejected_like_any_other(log):
    assert promote(log, FIRST, INCONCLUSIVE).champion is None
    assert log.state().held == [FIRST]


def test_a_person_overrides_the_gates_and_the_log_says_who_and_why(log):
    promote(log, FIRST)
    promote(log, SECOND, INCONCLUSIVE)
    state = log.approve(SECOND, **person())
    assert state.champion == SECOND
    change = state.releases[SECOND]
    assert (change.action, change.by, change.reason, change.verdict) == ("approve", "mika", "checked by hand", None)
    assert log.approve(FIRST, **person()).champion == FIRST  # a retired one


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
    promote(log, FIRST)
    promote(log, SECOND)
    state = log.rollback(**person())
    assert (state.champion, state.stage(SECOND), state.version) == (FIRST, Stage.ROLLED_BACK, 3)


def test_rollbacks_walk_back_one_champion_at_a_time_and_then_refuse(log):
    for release in (FIRST, SECOND, THIRD):
        promote(log, release)
    assert log.rollback(**person()).champion == SECOND
    assert log.rollback(**person()).champion == FIRST
    with pytest.raises(BadInput, match="no champion before"):
        log.rollback(**person())


def test_the_gates_do_not_bring_back_what_people_rolled_back_rejected_or_replaced(log):
    promote(log, FIRST)
    promote(log, SECOND)
    rolled_back = log.rollback(**person())
    assert promote(log, SECOND) == rolled_back
    promote(log, THIRD, INCONCLUSIVE)
    rejected = log.reject(THIRD, **person())
    assert promote(log, THIRD) == rejected
    approved = log.approve(SECOND, **person())
    assert promote(log, FIRST) == approved
    assert log.approve(THIRD, **person()).champion == THIRD


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
    assert promote(log, SECOND).previous == FIRST


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


ACTIONS = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["read", "PASS", "FAIL", "INCONCLUSIVE", "approve", "reject", "rollback", *Stage]),
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
    assert len(state.at_stage(Stage.CHAMPION)) == 1 and len(state.at_stage(Stage.RETIRED)) == 29
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
    assert promote(log, SECOND).champion == SECOND
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
    promote(log, SECOND)
    log.rollback(**person())
    rows = rollout(log.state()).to_pylist()
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [(r["release"][0], r["from_state"], r["to_state"], r["verdict"]) for r in rows[-3:]] == [
        ("b", "offline_passed", "champion", "PASS"),
        ("b", "champion", "rolled_back", None),
        ("a", "retired", "champion", None),
    ]
    assert rows[-1]["at"] == NOW and rows[-1]["by"] == "mika"
    assert rollout(State()).num_rows == 0


def test_a_long_log_is_cheap_enough_to_poll_each_second(log):
    promote(log, FIRST)
    for n in range(150):
        promote(log, (SECOND, FIRST)[n % 2])
    start = time.perf_counter()
    assert log.state().version == 151
    assert time.perf_counter() - start < 0.25
