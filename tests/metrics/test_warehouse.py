import os
import subprocess
import sys
from dataclasses import replace

import duckdb
import pyarrow as pa
import pytest

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.metrics import warehouse
from mangaassist_assets.lib.metrics.sql_files import SqlTest, read_sql_files
from mangaassist_assets.lib.metrics.warehouse import build, failing_rows, query, read_input, run_file

HEADER = "-- asset.description = One row per gate.\n-- asset.column = n | count | Items.\n"


# ── running files ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_claims_hold_on_a_sound_lake(results, files):
    for file in files:
        tables = {name: results[name] for name in (file.name, *file.inputs) if name in results}
        assert [name for name, rows in failing_rows(file.tests, tables).items() if rows.num_rows] == [], file.name


def test_not_a_number_becomes_not_measured(results):
    benchmark = {row["candidate"]: row for row in results["main.model_benchmark"].to_pylist()}
    assert benchmark["bert_base"]["accuracy"] is None
    empty = [row for row in results["main.intent_metrics"].to_pylist() if row["n"] == 0]
    assert [(row["accuracy"], row["ci_low"], row["ci_high"]) for row in empty] == [(None, None, None)]


def test_a_skipped_candidate_keeps_its_reason_in_the_selection(results):
    selection = {row["candidate"]: row for row in results["main.model_selection"].to_pylist()}
    assert selection["bert_base"] == {
        "candidate": "bert_base", "chosen": False, "reason": "no weights at hub/bert_base",
        "usd_per_marginal_accuracy_point": None, "dominated_by": None,
    }  # fmt: skip


def test_of_several_measurements_of_a_gate_the_latest_counts(house, run_all):
    before = house.read_table("release/offline_gates")
    again = before.slice(1, 1).to_pylist()[0]
    again |= {"verdict": "PASS", "observed": 20.0, "ci_low": 15.0, "ci_high": 25.0, "measured_at": again["measured_at"].replace(hour=20)}
    house.write_table("release/offline_gates", pa.concat_tables([before, pa.Table.from_pylist([again], before.schema)]))
    gates = [row for row in run_all(house)["main.gates"].to_pylist() if row["metric"] == "latency_ms_p99"]
    assert [(row["verdict"], row["observed"]) for row in gates] == [("PASS", 20.0)]


def test_gates_of_every_stage_stand_in_one_table(results):
    found = {row["metric"]: row["n"] for row in results["main.gates"].to_pylist()}
    assert found["shadow_agreement"] == found["escalation_rate_change"] == 5000
    assert found["accuracy"] == 300


def test_a_day_of_traffic_adds_up_over_languages(results):
    first = results["main.interaction_daily"].to_pylist()[0]
    assert (first["intent"], first["n"], first["feedback"], first["thumbs_up"]) == ("faq", 40, 10, 5)
    assert first["mean_confidence"] == pytest.approx(34 / 40)


def test_a_rate_that_nothing_was_counted_for_is_not_measured(results):
    first, second = results["main.shared_daily"].to_pylist()
    assert first["thumbs_up_rate"] == pytest.approx(5 / 6)
    assert (first["escalation_rate"], first["conversion_rate"]) == (pytest.approx(2 / 50), pytest.approx(4 / 50))
    assert (second["thumbs_up_rate"], second["escalation_rate"], second["hallucination_rate"]) == (None, 0.0, None)
    online = results["main.online_daily"].to_pylist()
    assert [day["probe_accuracy"] for day in online] == [0.9, None]
    assert online[0]["usd_per_inference"] == pytest.approx(0.4 / 50)
    assert (online[0]["throughput_per_s"], online[0]["error_rate"]) == (0.2, 0.02)
    assert online[1]["latency_ms_p99"] is None


def test_the_cascade_and_the_residual_traffic_are_told_apart(results):
    assert results["main.intent_metrics"].num_rows == results["main.residual_intent_metrics"].num_rows == 5


def test_types_are_the_same_without_rows_and_without_types(house, run_all):
    schemas = {name: table.schema for name, table in run_all(house).items()}
    for name, part in lake_tables(house):
        names = house.read_table(name, part=part).column_names
        house.write_table(name, pa.table({column: pa.nulls(0) for column in names}), part=part)
    empty = run_all(house)
    assert {name: table.schema for name, table in empty.items()} == schemas
    assert all(table.num_rows == 0 for table in empty.values())


def lake_tables(house):
    lake = house.home / "lake"
    return [(path.parent.relative_to(lake).as_posix(), path.stem) for path in lake.glob("*/*/*.parquet") if path.parts[-3] != "metrics"]


def test_equal_inputs_in_another_order_give_an_equal_result(house, run_all):
    first = run_all(house)
    for name, part in lake_tables(house):
        table = house.read_table(name, part=part)
        house.write_table(name, table.take(pa.array(range(table.num_rows)[::-1], pa.int64())), part=part)
    assert {name: table.to_pylist() for name, table in run_all(house).items()} == {n: t.to_pylist() for n, t in first.items()}


def test_partitions_of_an_asset_are_read_together(tmp_path):
    house = House(tmp_path)
    for candidate in ("linear", "rules"):
        house.write_table("intents/intent_candidates", pa.table({"candidate": [candidate]}), partition=candidate)
    assert read_input(house, "lake.intents.intent_candidates")["candidate"].to_pylist() == ["linear", "rules"]


def test_a_lake_table_that_was_never_made_is_named(tmp_path, files):
    raw = next(file for file in files if file.name == "raw.offline_gates")
    with pytest.raises(MissingEvidence, match="materialise `offline_gates`"):
        read_input(House(tmp_path), raw.inputs[0])
    with pytest.raises(MissingEvidence, match=r"lake\.release\.offline_gates is not there"):
        run_file(raw, {})


def test_a_lake_table_without_a_column_is_named_in_one_line(house, files):
    raw = next(file for file in files if file.name == "raw.offline_gates")
    with pytest.raises(BadInput, match=r"dbt_like_sql/raw/offline_gates\.sql: .*verdict") as raised:
        run_file(raw, {raw.inputs[0]: house.read_table("release/offline_gates").drop_columns(["verdict"])})
    assert "\n" not in str(raised.value)


def test_a_bare_null_column_is_refused_because_its_type_would_change(write_files):
    (file,) = read_sql_files(write_files(raw__gates=HEADER + "SELECT NULL AS n FROM lake.release.gates"))
    with pytest.raises(BadInput, match="column 'n' has no type"):
        run_file(file, {"lake.release.gates": pa.table({"n": [1]})})


@pytest.mark.parametrize("sql", ["SELECT file AS n FROM glob('/etc/*')", "SELECT n FROM secret", "SELECT n FROM 'secret.csv'"])
def test_a_file_reaches_neither_disk_nor_pythons_variables(write_files, sql):
    secret = pa.table({"n": [1]})  # a replacement scan would find it by name
    (file,) = read_sql_files(write_files(raw__gates=HEADER + "SELECT n FROM lake.release.gates"))
    with pytest.raises(BadInput):
        run_file(replace(file, sql=sql), {"lake.release.gates": secret})


# ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("table", "column", "value", "broken"),
    [
        ("model_benchmark", "candidate", "linear", "rows_are_unique"),
        ("model_benchmark", "status", "guessed", "status_is_a_known_word"),
        ("model_benchmark", "accuracy", 1.5, "values_fit_their_units"),
        ("model_benchmark", "latency_ms_p99", -1.0, "values_fit_their_units"),
        ("model_benchmark", "macro_f1", float("nan"), "values_fit_their_units"),
        ("model_benchmark", "accuracy", None, "measured_candidates_have_figures"),
        ("model_selection", "reason", None, "required_values_are_there"),
        ("gates", "verdict", "MAYBE", "verdict_is_a_known_word"),
        ("gates", "ci_low", 1e9, "intervals_are_ordered"),
        ("gates", "observed", None, "nothing_unmeasured_passes"),
        ("rollout", "at", None, "required_values_are_there"),
        ("interaction_daily", "thumbs_up", 41, "feedback_comes_to_answers"),
        ("online_daily", "latency_ms_p50", 30.0, "percentiles_are_ordered"),
        ("drift_triage", "cause", "magic", "cause_is_a_known_word"),
        ("intent_share_weekly", "p_value", None, "an_alert_has_evidence"),
        ("embedding_drift_monthly", "kl_nats", None, "an_alert_has_evidence"),
        ("confidence_daily", "ci_low", 0.95, "intervals_are_ordered"),
    ],
)  # fmt: skip
def test_a_wrong_value_breaks_the_claim_about_it(results, files, table, column, value, broken):
    file = next(file for file in files if file.name == f"main.{table}")
    rows = results[file.name]
    right = rows.to_pylist()
    first = {"model_benchmark": "minilm", "model_selection": "minilm", "gates": "accuracy", "rollout": "r" * 64}.get(table)
    next(row for row in right if first is None or first in row.values())[column] = value
    wrong = pa.Table.from_pylist(right, rows.schema)
    assert broken in {name for name, rows in failing_rows(file.tests, {file.name: wrong}).items() if rows.num_rows}


def test_two_chosen_candidates_break_a_claim(files):
    file = next(file for file in files if file.name == "main.model_selection")
    chosen = pa.table({"candidate": ["a", "b"], "chosen": [True, True], "reason": ["x", "y"]})
    tests = [test for test in file.tests if test.name == "at_most_one_is_chosen"]
    assert failing_rows(tests, {file.name: chosen})["at_most_one_is_chosen"].to_pylist() == [{"chosen": 2}]


def test_a_failing_test_returns_the_rows_that_fail():
    test = SqlTest("few", "SELECT * FROM main.gates WHERE n > 1")
    assert failing_rows([test], {"main.gates": pa.table({"n": [1, 2, 3]})})["few"].to_pylist() == [{"n": 2}, {"n": 3}]


# ── publishing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_published_table_and_column_has_a_comment_with_its_unit(files, published):
    with duckdb.connect(str(published), read_only=True) as connection:
        columns = connection.execute("SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal").fetchall()
        tables = connection.execute("SELECT table_name, comment FROM duckdb_tables()").fetchall()
        intervals = {t for t, c, _ in columns if c == "ci_low"}
        for table, _ in tables:
            assert connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] > 0, table
        for table in intervals:
            disordered = "ci_low > ci_high OR isnan(ci_low::DOUBLE) OR isnan(ci_high::DOUBLE)"
            assert connection.execute(f'SELECT count(*) FROM "{table}" WHERE {disordered}').fetchone()[0] == 0, table
    assert {table for table, _ in tables} == {file.table for file in files if file.schema == "main"}
    assert all(comment.startswith("One row per ") for _, comment in tables)
    assert all("Unit: " in comment for *_, comment in columns)
    assert ("model_benchmark", "usd_per_million") in {(t, c) for t, c, comment in columns if "US dollars per million" in comment}


def test_a_reader_of_the_old_file_goes_on_reading_while_a_new_one_takes_its_place(house, publish):
    path = publish(house)
    with duckdb.connect(str(path), read_only=True) as reader:
        ask = "SELECT n FROM augmentation_lift WHERE slice = 'all'"
        assert reader.execute(ask).fetchone() == (300,)
        lift = house.read_table("intents/augmentation_lift")
        house.write_table("intents/augmentation_lift", lift.set_column(1, "n", pa.array([400, 25])))
        publish(house)
        assert reader.execute(ask).fetchone() == (300,)
        assert query(path, ask).rows == ((400,),)


def test_a_build_that_fails_leaves_the_published_file_and_no_debris(house, files, publish, monkeypatch):
    path = publish(house)
    before = path.read_bytes()
    calls = []

    def fail_late(connection, file, table):
        calls.append(file.table)
        if len(calls) == 3:
            raise OSError("No space left on device")

    monkeypatch.setattr(warehouse, "_publish", fail_late)
    with pytest.raises(OSError, match="No space"):
        build(files, house, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_build_that_was_killed_leaves_nothing_that_the_next_one_does_not_remove(house, publish):
    path = house.home / "warehouse" / "metrics.duckdb"
    path.parent.mkdir(parents=True)
    (path.parent / ".metrics.duckdb.0a.tmp").write_bytes(b"half")
    (path.parent / ".metrics.duckdb.0a.tmp.wal").write_bytes(b"half")
    house.sweep()
    publish(house)
    assert os.listdir(path.parent) == [path.name]


def test_a_log_of_somebody_elses_writes_does_not_spoil_the_new_file(house, publish):
    path = publish(house)
    crash = f"import duckdb, os; c = duckdb.connect({str(path)!r}); c.execute('CREATE TABLE mine (i INTEGER)'); os._exit(9)"
    subprocess.run([sys.executable, "-c", crash], check=False)
    assert path.with_name("metrics.duckdb.wal").exists()
    publish(house)
    assert query(path, "SELECT count(*) FROM gates").rows == ((7,),)


def test_equal_tables_have_an_equal_digest_and_other_tables_another(house, files, publish, run_all):
    path = publish(house)
    first = build(files, house, path)
    assert build(files, house, path).digest == first.digest
    assert first.rows["gates"] == 7
    house.write_table("release/offline_gates", house.read_table("release/offline_gates").slice(0, 2))
    run_all(house)
    assert build(files, house, path).digest != first.digest


def test_a_main_table_that_was_never_made_is_named_and_nothing_is_published(house, files):
    path = house.home / "warehouse" / "metrics.duckdb"
    with pytest.raises(MissingEvidence, match="augmentation_lift has not been materialised"):
        build(files, house, path)
    assert not path.exists()


def test_a_result_of_another_shape_than_its_file_is_refused(house, files, publish):
    path = publish(house)
    house.write_table("metrics/main/gates", pa.table({"release": ["r"]}))
    with pytest.raises(DamagedArtifact, match=r"Materialise main\.gates again"):
        build(files, house, path)


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_question_is_answered_with_names_and_rows(published):
    answer = query(published, "SELECT candidate, chosen FROM model_selection WHERE chosen")
    assert (answer.columns, answer.rows) == (("candidate", "chosen"), (("minilm", True),))


@pytest.mark.parametrize("sql", ["SHOW TABLES", "DESCRIBE gates", "SUMMARIZE gates", "EXPLAIN SELECT 1", "FROM gates", "SELECT 1;"])
def test_what_helps_to_look_around_is_allowed(published, sql):
    assert query(published, sql).rows


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM gates", "DROP TABLE gates", "INSERT INTO rollout (release) VALUES ('x')", "CREATE TEMP TABLE x (i INTEGER)",
        "WITH gone AS (DELETE FROM gates RETURNING release) SELECT * FROM gone", "EXPLAIN ANALYZE DELETE FROM gates",
        "SELECT 1; DELETE FROM gates", "COPY gates TO 'STOLEN'", "EXPORT DATABASE 'STOLEN'",
        "SELECT * FROM read_text('/etc/passwd')",        "SELECT * FROM glob('/*')", "SELECT * FROM '/etc/passwd'", "SELECT * FROM read_csv('https://example.com/a.csv')",
        "ATTACH 'STOLEN' AS other", "DETACH metrics", "INSTALL httpfs", "LOAD httpfs", "SET enable_external_access = true",
        "RESET lock_configuration", "PRAGMA database_list", "CALL pragma_version()", "UPDATE EXTENSIONS", "SELECT * FROM sql",
        "", "-- nothing", ";", "SELEC 1", "SELECT * FROM nowhere", "SELECT ?", "SELECT '\ud800'", "SELECT error('two\nlines')",
    ],
)  # fmt: skip
def test_a_question_can_neither_write_nor_reach_files_network_or_settings(published, tmp_path, sql):
    before = published.read_bytes()
    with pytest.raises(BadInput) as raised:
        query(published, sql.replace("STOLEN", str(tmp_path / "stolen")))
    assert "\n" not in str(raised.value)
    assert published.read_bytes() == before
    assert os.listdir(tmp_path) == []


def test_a_question_before_anything_is_published_says_what_to_run(tmp_path):
    with pytest.raises(MissingEvidence, match="Run `mangaassist run`"):
        query(tmp_path / "metrics.duckdb", "SELECT 1")


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "metrics.duckdb"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DamagedArtifact, match="Materialise `metrics_warehouse` again"):
        query(path, "SELECT 1")


def test_a_home_with_a_quote_in_its_name_works(files, publish, house, tmp_path, run_all):
    run_all(house)
    path = build(files, house, tmp_path / "it's" / "metrics.duckdb").path
    assert query(path, "SELECT count(*) FROM gates").rows == ((7,),)
