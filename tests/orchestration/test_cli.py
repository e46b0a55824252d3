"""The verbs, as typed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from mangaassist_assets.lib.artifacts import open_bundle


def mangaassist(folder, *words, **environment):
    told = {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "HOME": str(folder), **environment}
    command = [sys.executable, "-m", "mangaassist_assets.cli", *words]
    return subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=300)


def built(answer):
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["built"]


@pytest.fixture(scope="module")
def project(tmp_path_factory, write_project):
    """A small project after its first run, and what that run said."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    return folder, mangaassist(folder, "run", "--json")


def test_a_run_takes_foreign_messages_to_a_judged_classifier(project):
    folder, first = project
    names = built(first)
    assert {"labeled_messages", "intent_candidates[rules]", "intent_candidates[linear]", "intent_classifier", "champion"} <= set(names)
    assert len(names) == len(set(names))
    titles = " ".join(table["title"] for table in json.loads(first.stdout)["tables"])
    assert "Model selection" in titles and "Gates" in titles


def test_a_second_run_builds_nothing_and_takes_seconds(project):
    folder, _ = project
    began = time.monotonic()
    answer = mangaassist(folder, "run")
    assert answer.returncode == 0, answer.stderr
    assert "Nothing to do" in answer.stdout
    assert "mangaassist" in answer.stdout and "serve" in answer.stdout
    assert time.monotonic() - began < 30


def test_changed_settings_rebuild_what_depends_on_them_and_no_more(project):
    folder, _ = project
    names = built(mangaassist(folder, "run", "--json", MANGAASSIST_MESSAGES__TRAINING__AUGMENTED_WEIGHT="0.25"))
    assert "training_messages" in names
    assert "labeled_messages" not in names and "augmented_messages" not in names
    built(mangaassist(folder, "run", "--json"))


def test_the_metric_tables_answer_sql(project):
    folder, _ = project
    answer = json.loads(mangaassist(folder, "sql", "SELECT candidate, chosen FROM model_selection ORDER BY 1", "--json").stdout)
    assert answer["columns"] == ["candidate", "chosen"]
    assert [row[0] for row in answer["rows"]] == ["linear", "rules"]
    wrong = mangaassist(folder, "sql", "SELECT nothing FROM nowhere")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and len(wrong.stderr.strip().splitlines()) == 1


def test_a_change_that_cannot_be_read_fails_in_one_line_and_leaves_what_is_there(project):
    folder, _ = project
    tickets = folder / "tickets.csv"
    before, table = tickets.read_bytes(), folder / ".mangaassist/lake/messages/labeled_messages/data.parquet"
    kept = table.read_bytes()
    tickets.write_bytes(b"")
    answer = mangaassist(folder, "run")
    tickets.write_bytes(before)
    assert answer.returncode != 0
    assert "tickets.csv" in answer.stderr and "Traceback" not in answer.stderr
    assert table.read_bytes() == kept
    assert built(mangaassist(folder, "run", "--json")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("body,category\n", "it holds no rows"),
        ("text,category\nhello,chitchat\n", "no column 'body'"),
        ("body,category\nhello,chitchat\nhow are you,chitchat\n", "needs two intents"),
        ("body,category\n" + "".join(f"hello number {i} friend,chitchat\n" for i in range(20)) + "refund,refunds\n", "refunds"),
    ],
)
def test_bad_input_is_one_line_that_names_the_remedy(tmp_path, write_project, content, message):
    write_project(tmp_path)
    (tmp_path / "tickets.csv").write_text(content)
    answer = mangaassist(tmp_path, "run")
    assert answer.returncode != 0
    complaint = [line for line in answer.stderr.splitlines() if message in line]
    assert len(complaint) == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list((tmp_path / ".mangaassist").glob("lake/messages/*/*.parquet"))


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "mangaassist.toml").write_text("[intents]\ncandidats = []\n")
    answer = mangaassist(tmp_path, "status")
    assert answer.returncode == 2
    assert answer.stderr.strip().endswith("unknown key `intents.candidats`. Did you mean `candidates`?")


def test_asking_before_anything_is_built_names_the_verb_that_builds(tmp_path, write_project):
    write_project(tmp_path)
    answer = mangaassist(tmp_path, "sql", "SELECT 1")
    assert answer.returncode == 1
    assert "mangaassist run" in answer.stderr


def test_a_killed_run_is_healed_by_the_next(tmp_path, write_project):
    write_project(tmp_path)
    draw, home = random.Random(3), tmp_path / ".mangaassist"
    for _ in range(2):
        command = [sys.executable, "-m", "mangaassist_assets.cli", "run"]
        environment = {"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(3, 9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    built(mangaassist(tmp_path, "run", "--json"))
    assert built(mangaassist(tmp_path, "run", "--json")) == []
    for path in (home / "lake").rglob("*.parquet"):
        pq.read_table(path)
    for folder in (home / "bundles").glob("sha256-*"):
        open_bundle(folder)
    assert not [path for path in home.rglob(".*.tmp") if "dagster" not in path.parts]


def test_every_column_of_every_table_in_the_lake_has_a_meaning(project):
    from mangaassist_assets.reporting import meaning

    lake = project[0] / ".mangaassist" / "lake"
    tables = [path for path in lake.rglob("*.parquet") if path.relative_to(lake).parts[0] not in ("raw", "model", "main", "metrics")]
    unknown = {field.name for path in tables if path.stem == "data" for field in pq.read_schema(path) if not meaning(field)}
    assert tables
    assert not unknown


def test_an_index_is_rolled_back_by_a_verb_and_only_where_there_is_one_before(project):
    from mangaassist_assets.lib.retrieval.pointer import Pointer

    folder, _ = project
    refused = mangaassist(folder, "rollback-index")
    assert refused.returncode != 0
    assert "no previous index" in refused.stderr
    pointer = Pointer(folder / ".mangaassist" / "indexes")
    serving = pointer.read().current
    pointer.flip("0" * 64, expected=serving)
    assert json.loads(mangaassist(folder, "rollback-index", "--json").stdout)["index"] == serving
