"""Queries and judgements are read from the files that people have; what is wrong with them is said; what is held out stays out."""

import gzip
import json
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.feedback import feedback_queries
from mangaassist_assets.lib.retrieval.pairs import QUERIES, QuerySource, digest_of_queries, parse_queries, read_queries
from mangaassist_assets.lib.retrieval.splits import of_split, with_held_out, without_leaks

DATA = Path(__file__).parents[2] / "data"
DOCUMENTS = {"a", "b", "c"}


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def read(folder, **keys):
    return read_queries([QuerySource(**{"name": "s", "paths": ("q.jsonl",), "folder": folder} | keys)], DOCUMENTS)


def table(*texts, split="train"):
    rows = [
        {"query_id": f"{split}-{i}", "query": text, "relevant": ["a"], "grades": [1.0], "not_relevant": [], "kind": "", "slices": [],
         "split": split, "source": "s"}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=QUERIES)


def test_judgements_in_the_row_are_read_as_lists_or_as_words(tmp_path):
    jsonl(
        tmp_path / "q.jsonl", {"query_id": "1", "query": "x", "relevant": ["a"], "not_relevant": ["b"], "slices": ["typo"], "split": "test"}
    )
    queries, rejected = read(tmp_path)
    (row,) = queries.to_pylist()
    assert not rejected and queries.schema == QUERIES
    assert (row["relevant"], row["not_relevant"], row["slices"], row["split"], row["grades"]) == (["a"], ["b"], ["typo"], "test", [1.0])
    (tmp_path / "q.csv").write_text('query_id,query,relevant\n1,x,"a, b"\n2,y,c\n')
    queries, _ = read(tmp_path, paths=("q.csv",))
    assert queries["relevant"].to_pylist() == [["a", "b"], ["c"]] and queries["split"].to_pylist() == ["train", "train"]


def test_parquet_gives_its_optional_columns_too(tmp_path):
    pq.write_table(pa.table({"query_id": ["1"], "query": ["x"], "relevant": [["a"]], "split": ["dev"]}), tmp_path / "q.parquet")
    assert read(tmp_path, paths=("q.parquet",))[0]["split"].to_pylist() == ["validation"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("qrels.tsv", "query_id\tdocument_id\trelevance\n1\ta\t1\n1\tb\t2\n1\tc\t0\n"),
        ("qrels.csv", "query_id,document_id,relevance\n1,a,1\n1,b,2\n1,c,0\n"),
        ("test.qrels", "1 0 a 1\n1 0 b 2\n1 0 c 0\n"),
    ],
)
def test_judgements_in_files_of_their_own_give_grades_and_leave_other_queries_out(tmp_path, name, content):
    jsonl(tmp_path / "q.jsonl", {"_id": "1", "text": "x"}, {"_id": "2", "text": "unjudged"})
    (tmp_path / name).write_text(content)
    queries, rejected = read(tmp_path, id="_id", query="text", judgements=(name,), use_as="test")
    (row,) = queries.to_pylist()
    assert (row["relevant"], row["grades"], row["not_relevant"], row["split"]) == (["b", "a"], [2.0, 1.0], ["c"], "test")
    assert not rejected


def test_what_is_wrong_with_a_row_is_said_and_the_rest_is_read(tmp_path):
    good = {"query_id": "1", "query": "x", "relevant": ["a", "gone"]}
    jsonl(
        tmp_path / "q.jsonl",
        good,
        good,
        good | {"query_id": ""},
        good | {"query_id": "3", "query": " "},
        good | {"query_id": "4", "relevant": ["gone"]},
        good | {"query_id": "5", "relevant": []},
        good | {"query_id": "6", "split": "tomorrow"},
        good | {"query_id": "7", "query": "x" * 5_000},
        good | {"query_id": "8", "query": "\ud800"},
    )
    (tmp_path / "q.jsonl").write_text((tmp_path / "q.jsonl").read_text() + "{no json\n")
    queries, rejected = read(tmp_path)
    assert queries["query_id"].to_pylist() == ["1"] and queries["relevant"].to_pylist() == [["a"]]
    assert [(r.row, r.reason) for r in rejected] == [
        (2, "duplicate_id"), (3, "empty_id"), (4, "empty_query"), (5, "unknown_document"), (6, "no_relevant"), (7, "unknown_split"),
        (8, "too_long"), (9, "lone_surrogate"), (10, "malformed_row"),
    ]  # fmt: skip


def test_a_judgement_that_is_no_number_is_rejected(tmp_path):
    jsonl(tmp_path / "q.jsonl", {"query_id": "1", "query": "x"})
    (tmp_path / "j.qrels").write_text("1 0 a 1\n1 0 b yes\n1 0 b nan\n1 a 1\n")
    _, rejected = read(tmp_path, judgements=("j.qrels",))
    assert [r.reason for r in rejected] == ["bad_relevance", "bad_relevance", "malformed_row"]


def test_files_without_one_usable_query_are_refused_with_the_first_reason(tmp_path):
    jsonl(tmp_path / "q.jsonl", {"query_id": "1", "query": "x", "relevant": ["nowhere"]})
    with pytest.raises(BadInput, match="no document 'nowhere'"):
        read(tmp_path)


def test_settings_are_checked_and_misspelt_keys_get_a_hint(tmp_path):
    with pytest.raises(BadInput, match="Did you mean 'judgements'"):
        parse_queries({"paths": "q.csv", "judgments": "x"}, folder=tmp_path, where="t")
    for wrong in ({}, {"paths": "q", "use_as": "never"}, {"paths": 3}, {"paths": "q", "id": 1}):
        with pytest.raises(BadInput):
            parse_queries(wrong, folder=tmp_path, where="t")
    (source,) = parse_queries({"paths": "q.csv"}, folder=tmp_path, where="t")
    assert source.paths == ("q.csv",) and source.name == "queries_1"


def test_the_digest_follows_the_judgements_as_well(tmp_path):
    jsonl(tmp_path / "q.jsonl", {"query_id": "1", "query": "x"})
    (tmp_path / "j.qrels").write_text("1 0 a 1\n")
    source = QuerySource("s", ("q.jsonl",), judgements=("j.qrels",), folder=tmp_path)
    before = digest_of_queries([source])
    assert before == digest_of_queries([source])
    (tmp_path / "j.qrels").write_text("1 0 b 1\n")
    assert before != digest_of_queries([source])


def test_missing_splits_are_taken_from_training_and_near_duplicates_stay_together():
    texts = [f"query number {i} about something of its own {i * 7919}" for i in range(300)]
    queries = table(*texts, *[f"{text}!" for text in texts])
    split = with_held_out(queries, seed=1)
    names = split["split"].to_pylist()
    assert 0.2 < names.count("test") / 600 < 0.4 and 0.1 < names.count("validation") / 600 < 0.3
    assert names[:300] == names[300:]
    assert split.equals(with_held_out(queries, seed=1))


def test_a_split_that_is_there_is_kept():
    queries = pa.concat_tables([table(*"abcdefgh"), table("z", split="test")])
    assert of_split(with_held_out(queries, seed=1), "test")["query"].to_pylist() == ["z"]


def test_a_copy_of_a_held_out_query_is_not_trained_on():
    kept = without_leaks(table("Dark fantasy like Berserk!", "cosy cooking manga"), table("dark fantasy like berserk", split="test"))
    assert kept["query"].to_pylist() == ["cosy cooking manga"]


def test_feedback_counts_when_requests_agree_and_passed_over_documents_are_wrong_and_gone_ones_count_nowhere():
    def request(query, shown, clicked=(), thumb=None):
        return {"query": query, "shown": shown, "clicked": list(clicked), "thumbs_up": thumb}

    rows = [request("dark  fantasy", ["a", "b"], ["b"]), request("dark fantasy", ["a", "b"], ["b"]), request("once", ["a"], ["a"])]
    rows += [request("of a book that is gone", ["gone", "a"], ["gone"])] * 2
    rows += [request("liked", ["c", "a"], thumb=True)] * 2 + [request("disliked", ["c"], thumb=False)] * 2 + [request(None, None)]
    found = {row["query"]: row for row in feedback_queries(pa.Table.from_pylist(rows), set("abc")).to_pylist()}
    assert set(found) == {"dark fantasy", "liked"}
    assert (found["dark fantasy"]["relevant"], found["dark fantasy"]["not_relevant"]) == (["b"], ["a"])
    assert (found["liked"]["relevant"], found["liked"]["split"]) == (["c"], "train")


def test_bundled_queries_are_whole_and_no_test_query_is_among_the_training_ones():
    documents = set()
    for name, key in (("series", "series_id"), ("policies", "doc_id")):
        documents |= {json.loads(line)[key] for line in gzip.open(DATA / f"catalog/{name}.jsonl.gz", "rt", encoding="utf-8")}
    entries = tomllib.loads((DATA / "retrieval.toml").read_text("utf-8"))["sources"]["retrieval_pairs"]
    queries, rejected = read_queries(parse_queries(entries, folder=DATA, where="retrieval.toml"), documents)
    assert not rejected
    assert {s: queries["split"].to_pylist().count(s) for s in ("train", "test")} == {"train": 573, "test": 248}
    assert without_leaks(of_split(queries, "train"), of_split(queries, "test"), threshold=1.0).num_rows == 573
