"""A person's word moves exactly what it was given for, once, before it expires; anything else is put aside with one clear reason."""

import dataclasses
import datetime as dt
import json
import os
import subprocess
import sys
import threading

import pyarrow as pa
import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.release import approvals
from mangaassist_assets.lib.release.approvals import (
    ENTERED,
    INBOX,
    REFUSED,
    Approval,
    approve,
    evidence_of,
    settle,
    waiting,
    write_approval,
)
from mangaassist_assets.lib.release.gates import GATES
from mangaassist_assets.lib.release.log import ReleaseLog, Stage
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.verdicts import Verdict

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
RULES = ReleaseRules()


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@pytest.fixture
def held(house):
    """A release that its canary passed, held for a person while another one serves."""
    serving, release = (house.write_bundle("intent_classifier", {"n.json": b"%d" % n}, {"training_data": f"{n}"}).digest for n in (1, 2))
    log = ReleaseLog(house.home / "releases")
    for name in (serving, release):
        log.promote(name, Verdict.PASS, against=log.state().champion, by="offline_gates", at=NOW - 9 * 24 * HOUR, reason="passed")
    for _ in range(2):
        event = log.state().releases[release].event
        log.advance(release, Verdict.PASS, event=event, approval=True, by="canary_report", at=NOW - HOUR, reason="passed")
    assert log.state().stage(release) is Stage.HELD
    write_gates(house, release)
    return release


def write_gates(house, release, observed=0.95):
    row = dict.fromkeys(GATES.names) | {"release": release, "metric": "accuracy", "observed": observed, "n": 10, "verdict": "PASS"}
    house.write_table("release/offline_gates", pa.Table.from_pylist([row | {"measured_at": NOW}], GATES))


def given(house, release, *, at=NOW, hours=72.0, by="ada", why="read it"):
    """An approval as the verb writes it, left in the inbox."""
    event = ReleaseLog(house.home / "releases").state().releases[release].event
    return Approval(release, event, evidence_of(house, release), by, why, at, at + hours * HOUR)


def stage(house, release):
    return ReleaseLog(house.home / "releases").state().stage(release)


def refused(house, name):
    return json.loads((house.home / INBOX / REFUSED / name).read_text("utf-8"))["refused"]


def test_an_approval_makes_the_held_release_champion_and_says_who_and_why(house, held):
    state = approve(house, held, by="ada", why="read  it\nall", at=NOW, rules=RULES)
    assert state.champion == held
    last = state.releases[held]
    assert (last.by, last.reason, last.at) == ("ada", "read it all", NOW)
    (name,) = os.listdir(house.home / INBOX / ENTERED)
    kept = json.loads((house.home / INBOX / ENTERED / name).read_text("utf-8"))
    assert kept["evidence"]["training_data"] == "2" and kept["expires_at"] == "2026-11-27T12:00:00.000000+00:00"
    assert waiting(house.home) == []


def test_an_approval_that_lies_in_the_inbox_is_entered_by_whoever_settles_it_next(house, held):
    name = write_approval(house.home, given(house, held))
    assert waiting(house.home) == [name]
    assert [(s.name, s.refused) for s in settle(house, now=NOW + 71 * HOUR)] == [(name, None)]
    assert stage(house, held) is Stage.CHAMPION and settle(house, now=NOW) == []


def test_an_expired_approval_is_refused_and_kept_with_the_reason(house, held):
    name = write_approval(house.home, given(house, held))
    settle(house, now=NOW + 73 * HOUR)
    assert refused(house, name) == "it expired at 2026-11-27 12:00 UTC" and stage(house, held) is Stage.HELD


@pytest.mark.parametrize("part", ["model", "training_data", "evaluation"])
def test_an_approval_for_other_digests_is_refused(house, held, part):
    good = given(house, held)
    name = write_approval(house.home, dataclasses.replace(good, evidence=dataclasses.replace(good.evidence, **{part: "0" * 64})))
    settle(house, now=NOW)
    assert refused(house, name) == f"it was given for another {part.replace('_', ' ')} than is there now"
    assert stage(house, held) is Stage.HELD


def test_what_was_evaluated_anew_needs_a_new_word(house, held):
    name = write_approval(house.home, given(house, held))
    write_gates(house, held, observed=0.91)
    settle(house, now=NOW)
    assert "another evaluation" in refused(house, name)
    assert approve(house, held, by="ada", why="still good", at=NOW, rules=RULES).champion == held


def test_the_same_figures_measured_later_are_the_same_evaluation(house, held):
    before = evidence_of(house, held)
    rows = house.read_table("release/offline_gates").to_pylist()
    house.write_table("release/offline_gates", pa.Table.from_pylist([row | {"measured_at": NOW + HOUR} for row in rows], GATES))
    assert evidence_of(house, held) == before


def test_of_two_approvals_at_once_one_is_entered_and_the_other_told_so(house, held):
    first, second = write_approval(house.home, given(house, held)), write_approval(house.home, given(house, held, by="bob"))
    settled = {s.name: s.refused for s in settle(house, now=NOW)}
    assert sorted(settled.values(), key=str) == sorted([None, f"{held[:12]} was held when it was given and is champion by now"], key=str)
    assert {first, second} == set(settled)
    assert [c.action for c in ReleaseLog(house.home / "releases").state().history].count("approve") == 2  # one event: retired, champion


def test_an_approval_that_is_put_back_into_the_inbox_is_not_entered_again(house, held):
    name = write_approval(house.home, given(house, held))
    settle(house, now=NOW)
    before = ReleaseLog(house.home / "releases").state()
    ReleaseLog(house.home / "releases").rollback(by="eve", at=NOW + HOUR, why="complaints")
    (house.home / INBOX / name).write_bytes((house.home / INBOX / ENTERED / name).read_bytes())
    settle(house, now=NOW + HOUR)
    assert refused(house, name) == "it was entered before"
    (house.home / INBOX / "copy.json").write_bytes((house.home / INBOX / ENTERED / name).read_bytes())
    settle(house, now=NOW + HOUR)
    assert ReleaseLog(house.home / "releases").state().version == before.version + 1
    assert stage(house, held) is Stage.ROLLED_BACK


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b'{"release": 3}', b"\xff", b"[" * 50_000, b'{"release": "' + b"a" * 70_000 + b'"}']
)
def test_what_is_no_approval_is_put_aside_whatever_it_is(house, held, content):
    (house.home / INBOX).mkdir(parents=True)
    (house.home / INBOX / "strange.json").write_bytes(content)
    (house.home / INBOX / "notes.txt").write_text("hello")
    assert [s.name for s in settle(house, now=NOW)] == ["strange.json"]
    assert refused(house, "strange.json").startswith("it is no approval") and stage(house, held) is Stage.HELD


def test_an_approval_from_a_clock_that_is_ahead_is_refused_beyond_a_few_minutes(house, held):
    name = write_approval(house.home, given(house, held, at=NOW + HOUR))
    settle(house, now=NOW)
    assert "set the clock right" in refused(house, name)
    write_approval(house.home, given(house, held, at=NOW + HOUR / 30))
    settle(house, now=NOW)
    assert stage(house, held) is Stage.CHAMPION


def test_a_damaged_bundle_is_not_approved_and_nothing_is_left_in_the_inbox(house, held):
    (house.bundles / f"sha256-{held}" / "n.json").write_bytes(b"9")
    with pytest.raises(DamagedArtifact):
        approve(house, held, by="ada", why="hope", at=NOW, rules=RULES)
    assert waiting(house.home) == [] and stage(house, held) is Stage.HELD


@pytest.mark.parametrize("words", [{"by": " "}, {"why": ""}])
def test_an_approval_needs_a_name_and_a_reason(house, held, words):
    with pytest.raises(BadInput, match="must be said"):
        approve(house, held, **({"by": "ada", "why": "fine", "at": NOW, "rules": RULES} | words))
    assert waiting(house.home) == []


def test_the_champion_and_the_unknown_are_not_approved(house, held):
    with pytest.raises(BadInput, match="is champion already"):
        approve(house, ReleaseLog(house.home / "releases").state().champion, by="ada", why="again", at=NOW, rules=RULES)
    with pytest.raises(BadInput, match="is no release"):
        approve(house, "f" * 64, by="ada", why="who?", at=NOW, rules=RULES)


# ── killed, and at once ─────────────────────────────────────────────────────────────────────────────────────────────


def test_killed_after_the_log_and_before_the_file_it_is_entered_once(house, held, monkeypatch):
    name = write_approval(house.home, given(house, held))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(approvals, "_file_away", killed)
        with pytest.raises(KeyboardInterrupt):
            settle(house, now=NOW)
    version = ReleaseLog(house.home / "releases").state().version
    assert stage(house, held) is Stage.CHAMPION and waiting(house.home) == [name]
    assert [(s.name, s.refused) for s in settle(house, now=NOW + 100 * HOUR)] == [(name, None)]
    assert ReleaseLog(house.home / "releases").state().version == version
    assert (house.home / INBOX / ENTERED / name).exists()


def test_killed_between_filing_and_removing_it_is_filed_once_more_and_not_entered(house, held, monkeypatch):
    name = write_approval(house.home, given(house, held))
    content = (house.home / INBOX / name).read_bytes()
    settle(house, now=NOW)
    (house.home / INBOX / name).write_bytes(content)  # as if it had not been removed
    version = ReleaseLog(house.home / "releases").state().version
    settle(house, now=NOW)
    assert ReleaseLog(house.home / "releases").state().version == version and waiting(house.home) == []


def test_threads_that_settle_the_same_inbox_enter_each_approval_once(house, held):
    for n in range(6):
        write_approval(house.home, given(house, held, by=f"person {n}"))
    before, together = ReleaseLog(house.home / "releases").state().version, threading.Barrier(4)

    def work():
        together.wait()
        settle(house, now=NOW)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ReleaseLog(house.home / "releases").state().version == before + 1
    assert len(os.listdir(house.home / INBOX / ENTERED)) == 1 and len(os.listdir(house.home / INBOX / REFUSED)) == 5
    assert waiting(house.home) == []


SETTLER = """
import sys, pathlib, datetime as dt
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.release.approvals import settle
print("ready", flush=True)
sys.stdin.readline()
settle(House(pathlib.Path(sys.argv[1])), now=dt.datetime.fromisoformat(sys.argv[2]))
"""


def test_two_daemons_enter_two_approvals_as_one_move(house, held):
    for by in ("ada", "bob"):
        write_approval(house.home, given(house, held, by=by))
    before = ReleaseLog(house.home / "releases").state().version
    command = [sys.executable, "-c", SETTLER, str(house.home), NOW.isoformat()]
    daemons = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for daemon in daemons:
        assert daemon.stdout.readline() == "ready\n"
    for daemon in daemons:
        daemon.stdin.write("go\n")
        daemon.stdin.flush()
    for daemon in daemons:
        daemon.communicate(timeout=60)
        assert daemon.returncode == 0
    state = ReleaseLog(house.home / "releases").state()
    assert state.champion == held and state.version == before + 1
    assert len(os.listdir(house.home / INBOX / ENTERED)) == 1 and len(os.listdir(house.home / INBOX / REFUSED)) == 1
