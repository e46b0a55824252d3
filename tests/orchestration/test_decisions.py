"""What people decide through the verbs, without a graph run."""

import datetime as dt
import json
import os

import pytest
from typer.testing import CliRunner

from mangaassist_assets import settings
from mangaassist_assets.cli import app
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.release.approvals import ENTERED, INBOX
from mangaassist_assets.lib.release.log import ReleaseLog
from mangaassist_assets.lib.verdicts import Verdict

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANGAASSIST_HOME", str(tmp_path / "home"))
    settings.current.cache_clear()
    yield tmp_path / "home"
    settings.current.cache_clear()


def judged(home, *verdicts):
    """Releases with these verdicts, in turn; returns their digests."""
    house, log, digests = House(home), ReleaseLog(home / "releases"), []
    for number, verdict in enumerate(verdicts):
        digests.append(house.write_bundle("intent_classifier", {"labels.json": f"[{number}]".encode()}, {}).digest)
        log.promote(digests[-1], verdict, against=log.state().champion, by="offline_gates", at=NOW, reason="as measured")
    return digests


def say(*words):
    return CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)


def test_a_held_release_becomes_champion_by_a_person_and_the_log_says_who_and_why(home):
    (held,) = judged(home, Verdict.INCONCLUSIVE)
    answer = say("approve", held[:8], "--why", "the interval is short by one message", "--by", "ada")
    assert json.loads(answer.stdout)["champion"] == held
    last = ReleaseLog(home / "releases").state().releases[held]
    assert (last.by, last.reason, last.action) == ("ada", "the interval is short by one message", "approve")


def test_what_was_approved_is_kept_with_the_digests_that_it_was_given_for(home):
    (held,) = judged(home, Verdict.INCONCLUSIVE)
    say("approve", held, "--why", "read it", "--by", "ada")
    (name,) = os.listdir(home / INBOX / ENTERED)
    approval = json.loads((home / INBOX / ENTERED / name).read_text("utf-8"))
    assert (approval["release"], approval["evidence"]["model"], approval["by"]) == (held, held, "ada")
    assert dt.datetime.fromisoformat(approval["expires_at"]) - dt.datetime.fromisoformat(approval["at"]) == dt.timedelta(hours=72)


def test_a_release_that_comes_while_another_serves_is_approved_step_by_step(home):
    first, second = judged(home, Verdict.PASS, Verdict.FAIL)
    stages, champions = [], []
    for why in ("shadow it", "to the canary", "all of it"):
        champions.append(json.loads(say("approve", second, "--why", why).stdout)["champion"])
        stages.append(ReleaseLog(home / "releases").state().stage(second))
    assert stages == ["shadow", "canary", "champion"] and champions == [first, first, second]


def test_status_says_what_a_release_on_its_way_waits_for(home):
    _, second = judged(home, Verdict.PASS, Verdict.PASS)
    told = CliRunner().invoke(app, ["status"], catch_exceptions=False).stdout
    assert f"{second[:12]} is in shadow since 2026-11-24 00:00 UTC. nothing measured yet" in told


def test_a_release_in_canary_can_be_rejected_and_the_champion_serves_on(home):
    first, second = judged(home, Verdict.PASS, Verdict.PASS)
    say("approve", second, "--why", "to the canary")
    assert json.loads(say("reject", second, "--why", "complaints").stdout)["champion"] == first
    assert ReleaseLog(home / "releases").state().stage(second) == "rejected"


def test_a_rollback_returns_to_the_champion_before(home):
    first, second = judged(home, Verdict.PASS, Verdict.PASS)
    for _ in ("canary", "champion"):
        say("approve", second, "--why", "at once")
    assert json.loads(say("rollback", "--why", "complaints").stdout)["champion"] == first
    assert ReleaseLog(home / "releases").state().stage(second) == "rolled_back"


def test_a_damaged_bundle_is_never_made_champion(home):
    (held,) = judged(home, Verdict.INCONCLUSIVE)
    (home / "bundles" / f"sha256-{held}" / "labels.json").write_bytes(b"[9]")
    with pytest.raises(DamagedArtifact, match="SHA-256 differs"):
        say("approve", held, "--why", "hope")
    assert ReleaseLog(home / "releases").state().champion is None


def test_a_release_that_is_not_there_or_not_told_apart_is_refused(home):
    judged(home, Verdict.FAIL)
    for name in ("", "zz"):
        with pytest.raises(BadInput, match="mangaassist status"):
            say("reject", name, "--why", "no")


def test_a_decision_needs_a_reason(home):
    (held,) = judged(home, Verdict.INCONCLUSIVE)
    assert say("approve", held).exit_code == 2


def test_doctor_names_a_remedy_for_what_falls(home, monkeypatch):
    monkeypatch.setenv("MANGAASSIST_CONFIG", str(home.parent / "mangaassist.toml"))
    (home.parent / "mangaassist.toml").write_text('[sources.labeled_messages]\npaths = ["gone.csv"]\n')
    settings.current.cache_clear()
    answer = say("doctor")
    findings = {finding["what"]: finding for finding in json.loads(answer.stdout)["findings"]}
    assert answer.exit_code == 1
    assert findings["python"]["ok"] and findings["home"]["ok"]
    assert not findings["sources"]["ok"] and "gone.csv" in findings["sources"]["seen"] and findings["sources"]["remedy"]


def test_doctor_says_whether_cloudwatch_can_be_told(home, monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)

    def seen(**told):
        for name, value in told.items():
            monkeypatch.setenv(f"MANGAASSIST_CLOUDWATCH__{name}", value)
        settings.current.cache_clear()
        (finding,) = [found for found in json.loads(say("doctor").stdout)["findings"] if found["what"] == "cloudwatch"]
        return finding["ok"], finding["seen"]

    assert seen() == (True, "off; cloudwatch.namespace is empty")
    assert seen(NAMESPACE="Manga", REGION="eu-west-1") == (True, "Manga in eu-west-1, credentials by env; nothing was sent")
