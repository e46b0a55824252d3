"""A canary answers its share of sessions, the same ones always, others for another release."""

import subprocess
import sys

from mangaassist_assets.lib.release.assignment import in_canary

SESSIONS = [f"{number:016x}" for number in range(20_000)]


def drawn(release, share):
    return {session for session in SESSIONS if in_canary(session, release, share)}


def test_the_share_of_sessions_is_the_agreed_one():
    for share in (0.01, 0.1, 0.5):
        assert abs(len(drawn("release", share)) / len(SESSIONS) - share) < 4 * (share * (1 - share) / len(SESSIONS)) ** 0.5


def test_another_process_draws_the_same_sessions():
    code = f"from mangaassist_assets.lib.release.assignment import in_canary; print([in_canary(s, 'r', 0.3) for s in {SESSIONS[:50]!r}])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert told.stdout.strip() == str([in_canary(s, "r", 0.3) for s in SESSIONS[:50]])


def test_each_release_has_other_sessions():
    both = drawn("one", 0.1) & drawn("two", 0.1)
    assert len(both) / len(SESSIONS) < 0.02


def test_a_session_stays_when_the_share_grows():
    assert drawn("release", 0.01) <= drawn("release", 0.05)


def test_no_share_or_no_session_means_the_champion_and_all_means_all():
    assert not drawn("release", 0.0)
    assert not in_canary(None, "release", 1.0)
    assert len(drawn("release", 1.0)) == len(SESSIONS)
