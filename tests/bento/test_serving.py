import json
import os
from types import SimpleNamespace

import pytest

from mangaassist_assets.lib import serving
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.release import log
from mangaassist_assets.lib.release.log import Stage
from mangaassist_assets.lib.serving import Lookout, ServiceSettings, newest_classifier, pack_bundle, wanted_bundle

from .conftest import release


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "home")


def write(house, name, kind="intent_classifier", written=None):
    bundle = house.write_bundle(kind, {"name.json": json.dumps(name).encode()}, {"name": name})
    if written:
        os.utime(bundle.path / "manifest.json", (written, written))
    return bundle.digest


def test_a_pinned_bundle_wins_then_the_champion_then_the_packaged_then_the_newest(house, tmp_path):
    champion, packed, newest = write(house, "champion", written=1), write(house, "packed", written=2), write(house, "newest", written=3)
    folder = tmp_path / "packaged"
    pack_bundle(wanted_bundle(house, champion=packed, allow_unreleased=False), folder)
    pinned = house.bundles / f"sha256-{newest}"

    def wanted(**knobs):
        found = wanted_bundle(house, allow_unreleased=True, **knobs)
        assert found.open().digest == found.digest
        return found.digest, found.state

    assert wanted(champion=champion, packaged=folder, pinned=pinned) == (newest, "pinned")
    assert wanted(champion=champion, packaged=folder) == (champion, "champion")
    assert wanted(champion=None, packaged=folder) == (packed, "champion")
    assert wanted(champion=None, packaged=tmp_path / "none") == (newest, "unreleased")
    assert wanted(champion=None) == (newest, "unreleased")


def test_what_was_packed_unreleased_stays_unreleased(house, tmp_path):
    write(house, "candidate")
    pack_bundle(wanted_bundle(house, champion=None, allow_unreleased=True), tmp_path / "packaged")
    elsewhere = House(tmp_path / "elsewhere")
    assert wanted_bundle(elsewhere, champion=None, packaged=tmp_path / "packaged", allow_unreleased=True).state == "unreleased"
    with pytest.raises(MissingEvidence, match="No champion"):
        wanted_bundle(elsewhere, champion=None, packaged=tmp_path / "packaged", allow_unreleased=False)


def test_a_damaged_bundle_is_not_packed(house, tmp_path):
    digest = write(house, "candidate")
    (house.bundles / f"sha256-{digest}" / "name.json").write_text("other")
    with pytest.raises(DamagedArtifact):
        pack_bundle(wanted_bundle(house, champion=digest, allow_unreleased=False), tmp_path / "packaged")
    assert not (tmp_path / "packaged").exists()


def test_an_unreadable_note_of_a_packed_bundle_is_named(house, tmp_path):
    (tmp_path / "packaged.json").write_text("{")
    with pytest.raises(DamagedArtifact, match="Build the Bento again"):
        wanted_bundle(house, champion=None, packaged=tmp_path, allow_unreleased=True)


def test_the_newest_classifier_is_whole_and_a_classifier(house):
    assert newest_classifier(house.bundles) is None
    old = write(house, "old", written=1)
    write(house, "candidate", kind="intent_candidate", written=9)
    torn = house.bundles / ("sha256-" + "0" * 64)
    torn.mkdir()
    (torn / "manifest.json").write_text("{")
    assert newest_classifier(house.bundles) == old
    new = write(house, "new", written=5)
    assert newest_classifier(house.bundles) == new


def test_the_lookout_follows_the_log_of_releases_and_reads_it_only_when_it_changed(house, monkeypatch):
    one, two = write(house, "one", written=1), write(house, "two", written=2)
    releases = house.home / "releases"
    reads = []
    monkeypatch.setattr(serving, "log", SimpleNamespace(current=lambda folder: reads.append(folder) or log.current(folder)))
    look = Lookout(house, allow_unreleased=True)
    assert [look().champion.state for _ in range(3)] == ["unreleased"] * 3
    for digest in (one, two):
        release(releases, digest)
        assert [(look().champion.digest, look().champion.state) for _ in range(3)] == [(digest, "champion")] * 3
    assert len(reads) == 3
    with pytest.raises(MissingEvidence):
        Lookout(House(house.home / "empty"), allow_unreleased=False)()


def test_the_lookout_says_champion_canary_and_shadow_together(house):
    champion, other, third = write(house, "champion"), write(house, "other"), write(house, "third")
    releases = house.home / "releases"
    look = Lookout(house, allow_unreleased=False)
    release(releases, champion)
    assert (look().canary, look().shadow) == (None, None)
    release(releases, other, Stage.SHADOW)
    assert (look().canary, look().shadow.digest, look().shadow.state) == (None, other, "shadow")
    release(releases, other, Stage.CANARY)
    release(releases, third, Stage.SHADOW)
    assert (look().champion.digest, look().canary.digest, look().shadow.digest) == (champion, other, third)
    assert look().canary.open().digest == other
    pinned = Lookout(house, allow_unreleased=False, pinned=house.bundles / f"sha256-{third}")()
    assert (pinned.champion.state, pinned.canary, pinned.shadow) == ("pinned", None, None)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("provider", "TPU"),
        ("max_texts", 0),
        ("poll_s", -1.0),
        ("runners", -1),
        ("max_request_bytes", 0),
        ("shadow_share", 1.5),
        ("feedback_days", 0),
    ],
)
def test_a_setting_that_cannot_be_is_named(knob, value):
    with pytest.raises(BadInput, match=f"service.{knob}"):
        ServiceSettings(**{knob: value})
