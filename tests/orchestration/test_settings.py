import dataclasses

import pytest

from mangaassist_assets import settings
from mangaassist_assets.lib.errors import BadInput

SOURCE = '\n[sources.labeled_messages]\npaths = ["tickets.csv"]\n'


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "CONFIG", "STORE"):
        monkeypatch.delenv(f"MANGAASSIST_{name}", raising=False)
    settings.current.cache_clear()
    yield
    settings.current.cache_clear()


def written(tmp_path, text):
    path = tmp_path / "mangaassist.toml"
    path.write_text(text + SOURCE)
    return path


def test_without_a_file_the_bundled_sources_are_used_and_home_is_in_the_working_directory(tmp_path):
    found = settings.current()
    assert found.home == tmp_path / ".mangaassist"
    assert found.sources.labeled_messages
    assert set(found.intents.candidates) == set(settings.CANDIDATES)


def test_environment_goes_before_file_and_file_before_default(tmp_path, monkeypatch):
    path = written(tmp_path, 'home = "there"\n[intents]\nseed = 7\n[intents.training.fine_tuning]\nepochs = 2\n')
    assert settings.load(path).home == tmp_path / "there"
    assert settings.load(path).intents.training.fine_tuning.epochs == 2
    monkeypatch.setenv("MANGAASSIST_HOME", "/elsewhere")
    monkeypatch.setenv("MANGAASSIST_INTENTS__TRAINING__FINE_TUNING__EPOCHS", "9")
    found = settings.load(path)
    assert str(found.home) == "/elsewhere"
    assert found.intents.training.fine_tuning.epochs == 9
    assert found.intents.seed == 7


def test_relative_paths_start_at_the_file_they_stand_in(tmp_path, monkeypatch):
    path = written(tmp_path, "")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.setenv("MANGAASSIST_CONFIG", "../mangaassist.toml")
    assert settings.current().home == tmp_path / ".mangaassist"
    assert settings.current().sources.labeled_messages[0].folder == tmp_path
    assert settings.config_file() == path


def test_several_sources_are_an_array_of_tables(tmp_path):
    path = tmp_path / "mangaassist.toml"
    path.write_text('[[sources.labeled_messages]]\npaths = ["a.csv"]\n[[sources.labeled_messages]]\nname = "b"\npaths = ["b.jsonl"]\n')
    assert [source.paths for source in settings.load(path).sources.labeled_messages] == [("a.csv",), ("b.jsonl",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sorces = 1", "unknown key `sorces`. Did you mean `sources`?"),
        ("[intents]\ncandidats = []", "unknown key `intents.candidats`. Did you mean `candidates`?"),
        ("[intents.training.fine_tuning]\nepoch = 1", "unknown key `intents.training.fine_tuning.epoch`. Did you mean `epochs`?"),
        ('[intents.training.fine_tuning]\nepochs = "many"', "`intents.training.fine_tuning.epochs`: input should be a valid integer"),
        ('[intents]\ncandidates = ["best"]', "`intents.candidates.0`: input should be 'rules'"),
        ("home = 3", "`home`: input is not a valid path"),
        ("home =", "not readable as TOML"),
    ],
)
def test_a_wrong_key_or_value_names_file_key_and_remedy(tmp_path, text, message):
    with pytest.raises(BadInput) as caught:
        settings.load(written(tmp_path, text))
    assert "mangaassist.toml" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_environment_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MANGAASSIST_INTENTS__SEED", "x")
    with pytest.raises(BadInput, match="environment variable MANGAASSIST_INTENTS__SEED"):
        settings.load(None)


def test_lists_tables_and_plain_text_are_written_into_variables_as_into_the_file(monkeypatch):
    monkeypatch.setenv("MANGAASSIST_INTENTS__CANDIDATES", '["rules", "linear"]')
    monkeypatch.setenv("MANGAASSIST_INTENTS__TRAINING__ENCODERS", '{ minilm = "/weights" }')
    monkeypatch.setenv("MANGAASSIST_INTENTS__HUB", "never")
    monkeypatch.setenv("MANGAASSIST_HOME", "2026")
    found = settings.load(None)
    assert found.intents.candidates == ("rules", "linear")
    assert found.intents.training.encoders["minilm"] == "/weights"
    assert found.intents.hub == "never"
    assert found.home.name == "2026"


def test_a_variable_of_a_key_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setenv("MANGAASSIST_INTENTS__CANDIDATS", "[]")
    with pytest.raises(BadInput, match="MANGAASSIST_INTENTS__CANDIDATS: unknown key `intents.candidats`. Did you mean `candidates`"):
        settings.load(None)


def test_a_configuration_file_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("MANGAASSIST_CONFIG", "nowhere.toml")
    with pytest.raises(BadInput, match=r"nowhere\.toml: there is no such file"):
        settings.current()


def test_a_code_version_follows_the_logic_and_the_settings_it_depends_on():
    plain = settings.Intents()
    other = dataclasses.replace(plain, seed=21)
    assert settings.version("1", plain) == settings.version("1", settings.Intents())
    assert len({settings.version("1", plain), settings.version("2", plain), settings.version("1", other)}) == 3
