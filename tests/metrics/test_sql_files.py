import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.metrics.sql_files import LAYERS, SQL_FOLDER, lake_source, read_sql_files

HEADER = "-- asset.description = One row per gate.\n"
RAW = f"{HEADER}-- asset.column = metric | text | Metric.\n-- asset.column = n | count | Items.\nSELECT metric, n FROM lake.release.gates"


def test_every_file_of_the_project_reads(files):
    assert len(files) == len(list(SQL_FOLDER.glob("*/*.sql")))
    assert {file.schema for file in files} == set(LAYERS)


def test_each_file_comes_after_the_files_that_it_reads(files):
    seen = set()
    for file in files:
        assert {name for name in file.inputs if not name.startswith("lake.")} <= seen
        seen.add(file.name)


def test_the_public_tables_have_the_columns_of_the_contract(files):
    contract = {
        "model_benchmark": "candidate status reason accuracy macro_f1 latency_ms_mean latency_ms_p50 latency_ms_p99 throughput_per_s "
        "size_mb instance_type instance_usd_per_hour usd_per_million training_s hardware",
        "model_selection": "candidate chosen reason usd_per_marginal_accuracy_point dominated_by",
        "intent_metrics": "model_digest slice intent n precision recall f1 accuracy ci_low ci_high auc_roc",
        "confusion": "model_digest true_intent predicted_intent n",
        "augmentation_lift": "slice n accuracy_before accuracy_after change ci_low ci_high p_value",
        "gates": "release metric owner threshold observed ci_low ci_high n verdict measured_at",
        "rollout": "release from_state to_state at by verdict reason",
        "interaction_daily": "day intent route model_digest n mean_confidence feedback thumbs_up thumbs_down escalated converted cost_usd",
        "online_daily": "day requests latency_ms_p50 latency_ms_p99 throughput_per_s error_rate usd_per_inference",
        "shared_daily": "day escalation_rate thumbs_up_rate hallucination_rate conversion_rate",
        "intent_share_weekly": "week intent share previous_share shift p_value alerting",
        "confidence_daily": "day n mean_confidence expected_calibration_error alerting",
        "embedding_drift_monthly": "month n kl_nats p_value threshold_nats alerting",
        "drift_triage": "period signal cause evidence action",
    }
    columns = {file.table: [column.name for column in file.columns] for file in files if file.schema == "main"}
    for table, wanted in contract.items():
        assert [column for column in columns[table] if column in wanted.split()] == wanted.split(), table


def test_no_text_of_a_customer_reaches_the_metrics(files):
    assert not [file.name for file in files for column in file.columns if column.name == "text"]


def test_a_selected_column_without_a_header_line_is_named(write_files):
    folder = write_files(raw__gates=RAW.replace("SELECT metric, n", "SELECT metric, n, verdict"))
    with pytest.raises(BadInput, match=r"dbt_like_sql/raw/gates\.sql: column 'verdict' has no header line\. Write `-- asset"):
        read_sql_files(folder)


def test_a_documented_column_that_is_not_selected_is_named(write_files):
    folder = write_files(raw__gates=RAW.replace("SELECT metric, n", "SELECT metric"))
    with pytest.raises(BadInput, match="the header documents 'n', which the SELECT does not return"):
        read_sql_files(folder)


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT metric, n FROM lake.release.gates; SELECT 1", "2 statements"),
        ("", "0 statements"),
        ("INSERT INTO lake.release.gates VALUES (1)", "a INSERT statement"),
        ("DROP TABLE lake.release.gates", "a DROP statement"),
        ("SELECT metric, FROM WHERE", "not SQL that DuckDB reads"),
        ("SELECT * FROM lake.release.gates", r"column '\*' has no name of its own"),
        ("SELECT metric, n + 1 FROM lake.release.gates", r"column 'n \+ 1' has no name of its own"),
        ("SELECT metric, n, n FROM lake.release.gates", "column 'n' is selected twice"),
        ("SELECT metric, n FROM gates", "table 'gates' has no schema and is no CTE"),
        ("SELECT metric, n FROM read_csv('/etc/passwd')", "which is not a table"),
        ("SELECT metric, n FROM '/etc/passwd'", "has no schema and is no CTE"),
        ("SELECT metric, n FROM lake.gates", "reads lake.gates"),
        ("SELECT metric, n FROM main.gates", "reads main.gates, but raw/ reads only lake"),
    ],
)  # fmt: skip
def test_anything_but_one_select_of_known_tables_is_refused(write_files, sql, problem):
    header = RAW.partition("SELECT")[0]
    with pytest.raises(BadInput, match=problem):
        read_sql_files(write_files(raw__gates=header + sql))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("-- asset.column = n | count | Again.", "column 'n' is documented twice"),
        ("-- asset.column = x | furlong | Length.", "unknown unit 'furlong'. Use one of: text"),
        ("-- asset.column = x | count", "has 2 fields, wants 3"),
        ("-- asset.column = x | count |", "without a description"),
        ("-- asset.unique = nope", "a test names column 'nope'"),
        ("-- asset.range = n | low | 1", "has no numbers"),
        ("-- asset.colour = blue", "unknown header line asset.colour"),
        ("-- asset.description = One row per other thing.", "no single asset.description"),
        ("-- asset.test = broken | SELEC nothing", "test broken is not"),
        ("-- asset.test = drops | DROP TABLE raw.gates", "test drops is not a SELECT"),
        ("-- asset.test = two words | SELECT 1 AS one", "not a word"),
        ("-- asset.test = strays | SELECT n FROM raw.other", "test strays reads raw.other, which the file does not"),
        ("-- asset.not_null = n\n-- asset.not_null = metric", "two tests are named required_values_are_there"),
    ],
)  # fmt: skip
def test_a_wrong_header_line_is_named(write_files, line, problem):
    with pytest.raises(BadInput, match=problem):
        read_sql_files(write_files(raw__gates=RAW.replace("SELECT", f"{line}\nSELECT", 1)))


def test_a_description_states_the_grain(write_files):
    with pytest.raises(BadInput, match="states the grain"):
        read_sql_files(write_files(raw__gates=RAW.replace("One row per gate.", "Gates.")))


def test_a_file_that_is_not_utf_8_is_named(write_files):
    folder = write_files(raw__gates=RAW)
    (folder / "raw" / "gates.sql").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_sql_files(folder)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(BadInput, match="no raw/, model/ or main/"):
        read_sql_files(tmp_path)


def test_files_that_read_each_other_in_a_circle_are_refused(write_files):
    text = f"{HEADER}-- asset.column = n | count | Items.\nSELECT n FROM "
    with pytest.raises(BadInput, match="in a circle: model.a <- model.b <- model.a|in a circle: model.b <- model.a <- model.b"):
        read_sql_files(write_files(model__a=text + "model.b", model__b=text + "model.a"))


def test_a_table_that_no_file_makes_is_named(write_files):
    text = f"{HEADER}-- asset.column = n | count | Items.\nSELECT n FROM raw.gates"
    with pytest.raises(BadInput, match=r"main/gates\.sql: reads raw\.gates, which no file makes\. Write dbt_like_sql/raw/gates\.sql"):
        read_sql_files(write_files(main__gates=text))


def test_a_cte_is_not_an_input_even_when_it_bears_the_name_of_a_table(write_files):
    sql = "WITH gates AS (SELECT metric, n FROM lake.release.gates) SELECT metric, n FROM gates"
    (file,) = read_sql_files(write_files(raw__gates=RAW.partition("SELECT")[0] + sql))
    assert file.inputs == ("lake.release.gates",)


def test_inputs_inside_subqueries_are_found(write_files):
    sql = "SELECT metric, n FROM lake.release.gates WHERE EXISTS (FROM lake.x.facts) OR n IN (SELECT m.k FROM lake.x.more__part m)"
    (file,) = read_sql_files(write_files(raw__gates=RAW.partition("SELECT")[0] + sql))
    assert file.inputs == ("lake.release.gates", "lake.x.facts", "lake.x.more__part")


def test_a_union_is_one_select(write_files):
    sql = "SELECT metric, n FROM lake.release.gates UNION ALL SELECT name, k FROM lake.release.more"
    (file,) = read_sql_files(write_files(raw__gates=RAW.partition("SELECT")[0] + sql))
    assert file.lineage["n"] == (("lake.release.gates", "n"), ("lake.release.more", "k"))


def test_lineage_follows_columns_through_ctes_joins_and_expressions(write_files):
    model = f"""{HEADER}-- asset.column = metric | text | Metric.
-- asset.column = total | count | Both.
-- asset.column = rows | count | Rows.
WITH left_side AS (SELECT metric, n AS k FROM raw.gates)
SELECT l.metric, l.k + coalesce(r.n, 0) AS total, count(*) OVER () AS rows
FROM left_side AS l LEFT JOIN raw.gates AS r USING (metric)
"""
    model_file = read_sql_files(write_files(raw__gates=RAW, model__sums=model))[1]
    assert model_file.lineage == {"metric": (("raw.gates", "metric"),), "total": (("raw.gates", "n"),), "rows": ()}


def test_a_column_that_could_be_of_two_tables_is_asked_about(write_files):
    sql = "SELECT metric, n FROM lake.release.gates AS a WHERE n IN (SELECT k FROM lake.release.more AS b)"
    with pytest.raises(BadInput, match=r"cannot be traced to a table \(Cannot resolve 'k'"):
        read_sql_files(write_files(raw__gates=RAW.partition("SELECT")[0] + sql))


def test_lineage_of_the_project_reaches_the_lake(files):
    lineage = {file.name: file.lineage for file in files}
    assert lineage["main.gates"]["observed"] == (("model.gate_history", "observed"),)
    assert lineage["model.candidates"]["reason"] == (("raw.candidate_benchmark", "reason"), ("raw.model_selection", "reason"))
    assert lineage["main.rollout"]["by"] == (("raw.rollout", "by"),)
    assert lineage["raw.intent_confusion"]["true_intent"] == (("lake.intents.intent_evaluation__confusion", "intent"),)


def test_a_part_of_an_asset_is_written_behind_two_underscores():
    source = lake_source("lake.intents.intent_evaluation__confusion")
    assert (source.name, source.asset, source.part) == ("intents/intent_evaluation", "intent_evaluation", "confusion")
    assert lake_source("lake.intents.intent_evaluation").part == "data"
    assert lake_source("raw.gates") is None


def test_a_header_line_continues_on_an_indented_comment_line(write_files):
    text = RAW.replace("SELECT", "-- asset.test = few | SELECT * FROM raw.gates\n--    WHERE n > 5\n-- for people\nSELECT", 1)
    (file,) = read_sql_files(write_files(raw__gates=text))
    assert [test.sql for test in file.tests if test.name == "few"] == ["SELECT * FROM raw.gates WHERE n > 5"]


def test_the_digest_changes_with_the_text(write_files):
    first = read_sql_files(write_files(raw__gates=RAW))[0].digest
    assert read_sql_files(write_files(raw__gates=RAW.replace("Items.", "Messages.")))[0].digest != first
