import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.metrics.report import as_markdown, decision_tables, markdown, write_report

VOID = {"meta", "line", "circle"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects what a page consists of."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(published, tmp_path):
    write_report(published, tmp_path / "report" / "index.html")
    return (tmp_path / "report" / "index.html").read_text("utf-8")


NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def record(house, *changes):
    """Appends changes (release, from, to) of one moment to the log."""
    events = house.read_table("release/rollout")
    rows = [
        {"step": len(events) + step, "release": release * 64, "from_state": before, "to_state": after, "at": NOW, "by": "champion"}
        for step, (release, before, after) in enumerate(changes, 1)
    ]
    house.write_table("release/rollout", pa.concat_tables([events, pa.Table.from_pylist(rows, events.schema)]))


def test_the_page_is_whole_and_every_table_has_headers_for_rows_and_columns(page):
    outline = Outline(page)
    rows = sum(tag == "tr" for tag, _ in outline.tags)
    assert rows == sum(tag == "th" and a.get("scope") == "row" for tag, a in outline.tags) + sum(tag == "thead" for tag, _ in outline.tags)
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for tag, a in outline.tags if tag == "a"} == {f"#{i}" for i in ids}


def test_the_page_loads_nothing_and_runs_nothing(page):
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", page)
    assert "default-src 'none'" in page


def test_text_from_the_tables_cannot_become_markup(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_drawings_are_hidden_from_screen_readers_and_verdicts_are_words(page):
    outline = Outline(page)
    assert all(a.get("aria-hidden") == "true" for tag, a in outline.tags if tag == "svg")
    assert {"PASS", "FAIL", "INCONCLUSIVE"} <= set(outline.text)


def test_without_a_champion_the_page_says_so_and_shows_the_verdict(page):
    text = " ".join(Outline(page).text)
    assert "none yet: no release has passed its gates" in text
    assert re.search(r"Latest release\s+r{12}\s+✗\s+FAIL", text)


def test_with_a_champion_the_page_says_which_and_since_when(house, publish, tmp_path):
    record(house, ("r", "held", "champion"))
    write_report(publish(house), tmp_path / "index.html")
    assert "rrrrrrrrrrrr, since 2026-11-21 09:30 UTC" in (tmp_path / "index.html").read_text("utf-8")


def test_of_changes_at_one_moment_the_last_in_the_log_counts(house, publish, tmp_path):
    record(house, ("r", "held", "champion"), ("z", None, "candidate"), ("z", "candidate", "champion"), ("r", "champion", "retired"))
    warehouse = publish(house)
    write_report(warehouse, tmp_path / "index.html")
    assert "zzzzzzzzzzzz, since 2026-11-21 09:30 UTC" in (tmp_path / "index.html").read_text("utf-8")
    assert [(row[0][0], row[2]) for row in decision_tables(warehouse)[-1].rows[:3]] == [
        ("r", "retired"),
        ("z", "champion"),
        ("z", "candidate"),
    ]


def test_a_champion_that_was_rolled_back_is_none(house, publish, tmp_path):
    record(house, ("r", "held", "champion"), ("r", "champion", "rolled_back"))
    write_report(publish(house), tmp_path / "index.html")
    assert "none yet" in (tmp_path / "index.html").read_text("utf-8")


def test_equal_tables_make_an_equal_page(published, tmp_path):
    assert write_report(published, tmp_path / "a.html") == write_report(published, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_empty_tables_make_a_page_that_says_that_nothing_is_measured(house, publish, tmp_path):
    for path in (house.home / "lake").glob("*/*/*.parquet"):
        name = path.parent.relative_to(house.home / "lake").as_posix()
        house.write_table(name, house.read_table(name, part=path.stem).slice(0, 0), part=path.stem)
    warehouse = publish(house)
    write_report(warehouse, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text("utf-8")
    Outline(page)
    assert page.count("Nothing measured yet.") == len(decision_tables(warehouse)) + 4


def test_no_report_without_a_database(tmp_path):
    with pytest.raises(MissingEvidence):
        write_report(tmp_path / "metrics.duckdb", tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_the_tables_to_decide_by_are_text_with_a_cell_for_every_header(published):
    tables = {table.title: table for table in decision_tables(published)}
    assert list(tables) == [
        "Model selection", "Gates of release rrrrrrrrrrrr", "Accuracy by slice of model mmmmmmmmmmmm", "Intents of model mmmmmmmmmmmm",
        "Augmentation lift", "Retrieval", "Drift", "Rollout",
    ]  # fmt: skip
    for table in tables.values():
        assert table.rows
        assert all(len(row) == len(table.headers) and all(isinstance(cell, str) for cell in row) for row in table.rows)


def test_what_was_not_measured_reads_as_a_dash_and_never_as_zero(published):
    tables = {table.title.split(" of ")[0]: table.rows for table in decision_tables(published)}
    assert tables["Model selection"][-1][:4] == ("bert_base", "no", "–", "–")
    assert ("throughput_per_s", "offline", "joint", "–", "1,000", "0", "FAIL") in tables["Gates"]
    assert tables["Accuracy by slice"][-1] == ("japanese_mixed", "0", "–")


def test_drift_reads_by_week_as_its_verdict(published):
    (drift,) = [table for table in decision_tables(published) if table.title == "Drift"]
    assert drift.rows == [("2026-11-16", "data", "retrain", "yes", "no retrain in 28 days", "faq 0.70 to 0.82")]


def test_retrieval_has_one_row_a_space_the_best_first(published):
    (retrieval,) = [table for table in decision_tables(published) if table.title == "Retrieval"]
    assert [row[:3] for row in retrieval.rows] == [
        ("fused", "248", "0.920 [0.880, 0.950]"),
        ("minilm-0123456789ab", "248", "0.500 [0.400, 0.600]"),
    ]


def test_gates_that_hold_a_release_back_come_first(published):
    gates = next(table for table in decision_tables(published) if table.title.startswith("Gates"))
    assert [row[-1] for row in gates.rows] == ["FAIL", "FAIL", "INCONCLUSIVE", "PASS", "PASS", "PASS"]


def test_markdown_keeps_its_shape_whatever_a_cell_holds():
    table = pa.table({"text": ["a|b\nc", None], "value": [0.123456789, 2.0]})
    assert markdown(table) == "| text | value |\n| --- | --- |\n| a\\|b c | 0.1235 |\n|  | 2 |"
    assert markdown(table, 1).endswith("\n\n1 more rows")
    assert as_markdown(["n"], [[1]]) == "| n |\n| --- |\n| 1 |"
