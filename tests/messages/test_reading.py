import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.reading import Source, digest_of_sources, load_sources, parse_sources, read_messages

ROWS = [("where is my box", "order_tracking"), ("any new manga?", "product_discovery"), ("返品したい", "return_request")]
CSV = "text,intent\n" + "".join(f"{text},{intent}\n" for text, intent in ROWS)
JSONL = "".join(json.dumps({"text": text, "intent": intent}, ensure_ascii=False) + "\n" for text, intent in ROWS)


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Source]:
    """Writes one file and gives a source over it."""

    def make(name: str, content: bytes | str, **options: Any) -> Source:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return Source(**{"name": "tickets", "paths": (name,), "folder": tmp_path, **options})

    return make


def parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def reasons(source: Source, **options: Any) -> list[tuple[int, str]]:
    return [(rejection.row, rejection.reason) for rejection in read_messages(source, **options)[1]]


# ── formats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.CSV", CSV),
        ("a.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("a.csv", CSV.replace("\n", "\r\n")),
        ("a.csv", CSV.replace(",", ";")),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.csv.gz", gzip.compress(CSV.encode())),
        ("a.jsonl", JSONL),
        ("a.ndjson.gz", gzip.compress(JSONL.encode())),
        ("a.parquet", parquet({"text": [t for t, _ in ROWS], "intent": [i for _, i in ROWS]})),
        ("a.parquet", parquet({"text": [t for t, _ in ROWS], "intent": pa.array([i for _, i in ROWS]).dictionary_encode()})),
    ],
)
def test_every_format_gives_the_same_messages(source: Callable[..., Source], name: str, content: bytes | str) -> None:
    messages, rejections = read_messages(source(name, content))
    assert [(m.text, m.intent) for m in messages] == ROWS
    assert rejections == []


def test_the_row_is_the_line_where_it_starts(source: Callable[..., Source]) -> None:
    content = 'text,intent\n"two\nlines",faq\n\nnext,faq\n'
    assert [m.row for m in read_messages(source("a.csv", content))[0]] == [2, 5]
    assert [m.row for m in read_messages(source("b.jsonl", "\n" + JSONL))[0]] == [2, 3, 4]
    assert [m.row for m in read_messages(source("c.parquet", parquet({"text": ["a", "b"], "intent": ["x", "y"]})))[0]] == [1, 2]


def test_files_are_read_in_order_of_name_and_named_relative_to_the_folder(source: Callable[..., Source]) -> None:
    source("tickets/b.csv", CSV)
    both = source("tickets/a.csv", CSV, paths=("tickets/*.csv", "tickets/a.csv"))
    assert [m.file for m in read_messages(both)[0]] == ["tickets/a.csv"] * 3 + ["tickets/b.csv"] * 3


def test_a_file_in_another_encoding_is_read_when_the_source_says_so(source: Callable[..., Source]) -> None:
    assert read_messages(source("a.csv", CSV.encode("cp932"), encoding="cp932"))[0][2].text == "返品したい"
    assert read_messages(source("a.csv", CSV.encode("utf-16"), encoding="utf-16"))[0][2].text == "返品したい"


# ── columns and labels ──────────────────────────────────────────────────────────────────────────────────────────────


def test_columns_labels_and_splits_are_mapped(source: Callable[..., Source], tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('"Refund request" = "return_request"\nspam = ""\nOther = "faq"\n')
    content = (
        "body,category,also,tags,set\nmoney back,Refund request,Other,slang;typo,fit\nbuy now,spam,,,fit\nhm,Other,spam,,held\nx,new,,,\n"
    )
    messages, rejections = read_messages(
        source(
            "a.csv",
            content,
            text="body",
            intent="category",
            secondary_intent="also",
            slices="tags",
            split="set",
            split_map={"fit": "train", "held": "golden"},
            label_map="labels.toml",
        )
    )
    assert [(m.intent, m.secondary_intent, m.slices, m.split) for m in messages] == [
        ("return_request", "faq", ("slang", "typo"), "train"),
        ("faq", None, (), "golden"),
    ]
    assert [(r.row, r.reason) for r in rejections] == [(3, "left_out"), (5, "unknown_label")]
    assert "'new' is not in labels.toml" in rejections[1].detail


def test_lists_and_nulls_of_json_are_understood(source: Callable[..., Source]) -> None:
    rows = [
        {"text": "a", "intent": "faq", "second": None, "slices": ["slang", "emoji"], "split": "dev"},
        {"text": "b", "intent": 7, "second": "faq", "slices": None, "split": ""},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    messages, _ = read_messages(source("a.jsonl", content, secondary_intent="second", slices="slices", split="split"))
    assert [(m.intent, m.secondary_intent, m.slices, m.split) for m in messages] == [
        ("faq", None, ("slang", "emoji"), "validation"),
        ("7", "faq", (), None),
    ]


def test_an_explicit_list_of_labels_refuses_others_and_the_out_of_scope_label_passes(source: Callable[..., Source]) -> None:
    content = "text,intent\na,faq\nb,oos\nc,other\n"
    scoped = source("a.csv", content, labels=("faq",), out_of_scope="oos")
    assert [m.intent for m in read_messages(scoped)[0]] == ["faq", "oos"]
    assert reasons(scoped) == [(4, "unknown_label")]


def test_keep_makes_other_rows_no_part_of_the_source(source: Callable[..., Source]) -> None:
    content = "".join(json.dumps({"text": str(i), "intent": "faq", "agreed": i % 2 == 0}) + "\n" for i in range(4))
    messages, rejections = read_messages(source("a.jsonl", content, keep={"agreed": ("true",)}))
    assert [m.text for m in messages] == ["0", "2"] and rejections == []


# ── rows that are refused ───────────────────────────────────────────────────────────────────────────────────────────


def test_rows_with_faults_are_refused_with_their_reason_and_the_rest_is_read(source: Callable[..., Source]) -> None:
    lines = [
        json.dumps({"text": "fine", "intent": "faq"}),
        json.dumps({"text": "  ", "intent": "faq"}),
        json.dumps({"text": None, "intent": "faq"}),
        '{"text": NaN, "intent": "faq"}',
        json.dumps({"text": 20931, "intent": "faq"}),
        json.dumps({"text": "nul\0byte", "intent": "faq"}),
        '{"text": "half \\ud83d of a pair", "intent": "faq"}',
        json.dumps({"text": "no label", "intent": ""}),
        json.dumps({"text": "no label either"}),
        '{"text": "label", "intent": "\\udc00"}',
        '{"text": "cut off',
        "[1, 2]",
        json.dumps({"text": "x" * 200_000, "intent": "faq"}),
        json.dumps({"text": "bad split", "intent": "faq", "split": "holdout"}),
    ]
    found = source("a.jsonl", "\n".join(lines), split="split")
    assert [m.text for m in read_messages(found)[0]] == ["fine"]
    assert reasons(found) == [
        (2, "empty_text"),
        (3, "empty_text"),
        (4, "empty_text"),
        (5, "not_text"),
        (6, "nul_character"),
        (7, "lone_surrogate"),
        (8, "empty_label"),
        (9, "empty_label"),
        (10, "lone_surrogate"),
        (11, "malformed_row"),
        (12, "malformed_row"),
        (13, "too_long"),
        (14, "unknown_split"),
    ]


def test_a_message_of_200_kilobytes_in_csv_is_one_refused_row(source: Callable[..., Source]) -> None:
    assert reasons(source("a.csv", CSV + "x" * 200_000 + ",faq\n")) == [(5, "too_long")]


def test_an_unquoted_comma_refuses_its_row_and_no_other(source: Callable[..., Source]) -> None:
    found = source("a.csv", CSV + "one, two,faq\nfine,faq\n")
    assert reasons(found) == [(5, "malformed_row")]
    assert len(read_messages(found)[0]) == 4


def test_a_null_and_a_nan_in_parquet_are_empty_text(source: Callable[..., Source]) -> None:
    assert reasons(source("a.parquet", parquet({"text": ["a", None], "intent": ["x", "y"]}))) == [(2, "empty_text")]


# ── files that are refused ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", ["a.csv", "is empty"]),
        ("a.csv", "text,intent\n", ["a.csv", "no rows"]),
        ("a.jsonl", "\n\n", ["a.jsonl", "no rows"]),
        ("a.parquet", parquet({"text": pa.array([], pa.string()), "intent": pa.array([], pa.string())}), ["a.parquet", "no rows"]),
        ("a.csv", "body,category\nhello,faq\n", ["a.csv", "no column 'text'", "'body', 'category'", "Set text"]),
        ("a.jsonl", '{"txt": "a", "intent": "b"}\n', ["no column 'text'", 'Set text = "txt"']),
        ("a.parquet", parquet({"text": ["a"], "label": ["b"]}), ["no column 'intent'", "'text', 'label'"]),
        ("a.csv", "text,intent\nok,faq\ncaf\xe9,faq\n".encode("latin-1"), ["a.csv line 3", "0xe9", "not utf-8", "UTF-8"]),
        ("a.csv", CSV.encode("utf-16"), ["UTF-16", 'encoding = "utf-16"']),
        ("a.csv", 'text,intent\nok,faq\n"never closed,faq\nmore,faq\n', ["a.csv line", "not CSV", "Double the quotes"]),
        ("a.parquet", parquet({"text": ["a"] * 50, "intent": ["b"] * 50})[:-40], ["a.parquet", "not a whole Parquet file", "again"]),
        ("a.parquet", b"PAR1", ["not a whole Parquet file"]),
        ("a.csv.gz", gzip.compress(CSV.encode())[:-12], ["a.csv.gz", "not a whole gzip file"]),
        ("a.csv.gz", CSV, ["not a whole gzip file"]),
        ("a.xlsx", "x", ["'xlsx' are not read", "CSV"]),
        ("a.jsonl", "not json\nnor this\n", ["none of its 2 rows", "malformed_row", "a.jsonl row 1"]),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault_and_remedy(
    source: Callable[..., Source], name: str, content: bytes | str, words: list[str]
) -> None:
    with pytest.raises(BadInput) as error:
        read_messages(source(name, content))
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and error.value.remedy


def test_when_every_label_is_unknown_the_first_is_named(source: Callable[..., Source], tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('a = "faq"\n')
    with pytest.raises(BadInput, match="none of its 3 rows.*unknown_label.*'order_tracking' is not in labels.toml"):
        read_messages(source("a.csv", CSV, label_map="labels.toml"))


def test_a_pattern_without_files_says_what_is_there(source: Callable[..., Source]) -> None:
    with pytest.raises(BadInput, match=r"tickets/\*\.csv: no file matches; .* holds a\.csv"):
        read_messages(source("a.csv", CSV, paths=("tickets/*.csv",)))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such label map"), ("not toml", "not TOML"), ('[a]\nb = "c"\n', "quote labels that hold a dot")],
)
def test_a_label_map_that_cannot_be_used_is_named(source: Callable[..., Source], tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "labels.toml").write_text(content)
    with pytest.raises(BadInput, match=f"labels.toml: .*{words}"):
        read_messages(source("a.csv", CSV, label_map="labels.toml"))


def test_a_keep_that_matches_nothing_is_named(source: Callable[..., Source]) -> None:
    with pytest.raises(BadInput, match="no row has the values that keep asks for"):
        read_messages(source("a.csv", CSV, keep={"intent": ("nothing",)}))
    with pytest.raises(BadInput, match="no column 'agreed', which keep asks for"):
        read_messages(source("a.csv", CSV, keep={"agreed": ("true",)}))


def test_an_unknown_encoding_is_named(source: Callable[..., Source]) -> None:
    with pytest.raises(BadInput, match="encoding 'klingon' is unknown"):
        read_messages(source("a.csv", CSV, encoding="klingon"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["a.csv", "a.tsv.gz", "a.jsonl", "a.parquet"]),
    st.binary(max_size=60) | st.text('text,intent\n"{}:;\t\0 a', max_size=60).map(str.encode),
    st.sampled_from([b"", b"text,intent\n", b'{"text": "a", "intent": "b"}\n', b"PAR1"]),
)
def test_any_bytes_give_messages_or_one_line_that_names_the_file(tmp_path: Path, name: str, content: bytes, start: bytes) -> None:
    (tmp_path / name).write_bytes(start + content)
    try:
        read_messages(Source("a", (name,), folder=tmp_path))
    except BadInput as error:
        assert name in str(error) and "\n" not in str(error)


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_table_or_many_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mangaassist.toml"
    path.write_text('[sources.labeled_messages]\npaths = ["a.csv"]\ntext = "body"\n')
    assert load_sources(path) == (Source("own", ("a.csv",), text="body", folder=tmp_path),)
    path.write_text(
        '[[sources.labeled_messages]]\npaths = "a.csv"\n[[sources.labeled_messages]]\nname = "b"\npaths = ["b.csv"]\nkeep = {x = true}\n'
    )
    assert load_sources(path) == (
        Source("own", ("a.csv",), folder=tmp_path),
        Source("b", ("b.csv",), keep={"x": ("true",)}, folder=tmp_path),
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"path": ["a.csv"]}, "unknown key 'path'. Did you mean 'paths'?"),
        ({"paths": []}, "no paths"),
        ({"paths": ["a.csv"], "text": 3}, "text = 3 is not a string"),
        ({"paths": ["a.csv"], "synthetic": "yes"}, "true or false"),
        ({"paths": ["a.csv"], "limit_per_intent": 0}, "a whole number above 0"),
        ({"paths": ["a.csv"], "split_map": {"x": "holdout"}}, "split_map"),
        ({"paths": ["a.csv"], "keep": "x"}, "keep"),
        ({"paths": ["a.csv"], "folder": "x"}, "unknown key 'folder'"),
        ("a.csv", "not a table"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(table: Any, words: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_sources([table], folder=Path(), where="mangaassist.toml")
    assert words in str(error.value) and "mangaassist.toml [sources.labeled_messages] 1" in str(error.value)


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="two sources are named 'a'"):
        parse_sources([{"name": "a", "paths": ["x.csv"]}] * 2, folder=Path(), where="mangaassist.toml")
    with pytest.raises(BadInput, match="no source"):
        parse_sources([], folder=Path(), where="mangaassist.toml")


def test_a_settings_file_without_the_table_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "mangaassist.toml").write_text("[sources]\n")
    with pytest.raises(BadInput, match=r"no \[sources.labeled_messages\] in it"):
        load_sources(tmp_path / "mangaassist.toml")
    with pytest.raises(BadInput, match="no such file"):
        load_sources(tmp_path / "nowhere.toml")


def test_the_digest_changes_with_bytes_settings_and_labels_but_not_with_the_place(source: Callable[..., Source], tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('a = "faq"\n')
    first = digest_of_sources([source("a.csv", CSV, label_map="labels.toml")])
    assert digest_of_sources([source("a.csv", CSV, label_map="labels.toml")]) == first
    (tmp_path / "labels.toml").write_text('a = "faq"  # a comment\n')
    assert digest_of_sources([source("a.csv", CSV, label_map="labels.toml")]) == first
    (tmp_path / "labels.toml").write_text('a = "chitchat"\n')
    changed = digest_of_sources([source("a.csv", CSV, label_map="labels.toml")])
    others = {digest_of_sources([source("a.csv", CSV)]), digest_of_sources([source("a.csv", CSV, licence="MIT")])}
    assert len({first, changed, digest_of_sources([source("a.csv", CSV + "x,faq\n")]), *others}) == 5
