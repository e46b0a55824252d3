"""Documents come out of people's files with their parts, filters and other names; what is wrong is told by file, row and remedy."""

import gzip
import json
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.documents import MAX_CHARS, CatalogSource, digest_of_catalog, parse_catalog, read_documents

DATA = Path(__file__).parents[2] / "data"
SERIES = {
    "id": "s1",
    "title": "Ｂerserk",
    "title_ja": "ベルセルク",
    "aliases": ["Beruseruku", "Berserk", ""],
    "synopsis": "A lone swordsman.",
    "first_published": 1989,
    "genres": ["dark fantasy", "horror"],
    "similar_to": ["s2", "s3"],
    "editions": [
        {"format": "paperback", "pages": 224, "language": "EN", "in_stock": False},
        {"format": "deluxe_hardcover", "pages": 696, "language": "en", "in_stock": True},
        {"format": "digital", "pages": None, "language": "ja", "in_stock": True},
    ],
}
OF_SERIES = {
    "text": ("synopsis", "first_published", "genres"),
    "aliases": ("title_ja", "aliases"),
    "similar": "similar_to",
    "parts": "editions",
    "part_text": ("format", "pages", "language", "in_stock"),
    "kind": "series",
}


@pytest.fixture
def source(tmp_path):
    """Writes rows, or the content of a file, and gives a source over it."""

    def make(content, file="products.jsonl", **options):
        if not isinstance(content, bytes):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode("utf-8", "surrogatepass")
        (tmp_path / file).write_bytes(content)
        return CatalogSource(**{"name": "shop", "paths": (file,), "folder": tmp_path, **options})

    return make


def test_a_document_says_prose_first_then_each_column_after_its_name(source):
    (found,), rejected = read_documents([source([SERIES], **OF_SERIES)])
    assert not rejected
    assert found.document_id == "s1" and found.kind == "series" and found.title == "Berserk"
    assert found.text == "A lone swordsman.\nFirst published: 1989.\nGenres: dark fantasy, horror."
    assert found.aliases == ("ベルセルク", "Beruseruku")
    assert found.similar == ("s2", "s3")


def test_parts_are_lines_and_say_what_the_document_can_be_filtered_by(source):
    (found,), _ = read_documents([source([SERIES], **OF_SERIES)])
    assert found.parts == ("paperback, pages 224, EN, not in stock", "deluxe hardcover, pages 696, en, in stock", "digital, ja, in stock")
    assert (found.in_stock, found.languages, found.formats) == (True, ("en", "ja"), ("deluxe_hardcover", "digital", "paperback"))


def table_bytes(rows, kind):
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    if kind == "csv":
        return "\n".join(",".join(map(str, cells)) for cells in [rows[0].keys(), *(row.values() for row in rows)]).encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_document_without_parts_has_its_filters_in_columns_of_every_format(source, name):
    rows = [
        {"sku": 7, "name": "Mug", "body": "A red mug", "in_stock": "yes", "language": "en", "format": "goods"},
        {"sku": 8, "name": "Pin", "body": "A pin", "in_stock": "no", "language": "", "format": "goods"},
        {"sku": 9, "name": "Map", "body": "A map", "in_stock": "", "language": "", "format": ""},
    ]
    content = table_bytes(rows, name.split(".")[1])
    found, rejected = read_documents(
        [source(gzip.compress(content) if name.endswith(".gz") else content, name, id="sku", title="name", text=("body",))]
    )
    assert not rejected
    assert [(d.document_id, d.title, d.text) for d in found] == [("7", "Mug", "A red mug"), ("8", "Pin", "A pin"), ("9", "Map", "A map")]
    assert [(d.in_stock, d.languages, d.formats) for d in found] == [
        (True, ("en",), ("goods",)),
        (False, (), ("goods",)),
        (None, (), ()),
    ]


def test_files_without_columns_to_filter_by_are_read(source):
    (found,), _ = read_documents([source(b"id,title,text\n1,Returns,Within 30 days\n", "policies.csv")])
    assert (found.in_stock, found.languages, found.formats, found.parts, found.similar) == (None, (), (), (), ())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "", "title": "t", "text": "x"}, "empty_id"),
        ({"id": "a b", "title": "t", "text": "x"}, "bad_id"),
        ({"id": "a#1", "title": "t", "text": "x"}, "bad_id"),
        ({"id": "a", "title": " ", "text": None}, "empty_text"),
        ({"id": "a", "title": "t", "text": "x" * 5_000_000}, "too_long"),
        ({"id": "a", "title": "t", "text": "x\0y"}, "nul_character"),
        ({"id": "a", "title": "t", "text": "half \ud83d"}, "lone_surrogate"),
        ({"id": "ok", "title": "again", "text": "x"}, "duplicate_id"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_and_the_rest_is_read(source, row, reason):
    if reason == "lone_surrogate":
        content = (json.dumps({"id": "ok", "title": "t", "text": "x"}) + "\n" + json.dumps(row) + "\n").encode()
    else:
        content = [{"id": "ok", "title": "t", "text": "x"}, row]
    found, rejected = read_documents([source(content)])
    assert [document.title for document in found] == ["t"]
    assert [(r.reason, r.row, r.file, r.source) for r in rejected] == [(reason, 2, "products.jsonl", "shop")]
    assert rejected[0].detail and len(rejected[0].detail) < 200


def test_text_of_just_the_longest_length_is_taken_and_a_title_alone_is_enough(source):
    found, rejected = read_documents([source([{"id": "a", "title": "", "text": "x" * MAX_CHARS}, {"id": "b", "title": "t", "text": ""}])])
    assert not rejected
    assert [(d.title, len(d.text)) for d in found] == [("a", MAX_CHARS), ("t", 0)]


def test_a_line_that_is_not_json_is_one_rejected_row(source):
    _, rejected = read_documents([source(b'{"id": "a", "title": "t", "text": "x"}\n{"id": \n[1]\n')])
    assert [(r.reason, r.row) for r in rejected] == [("malformed_row", 2), ("malformed_row", 3)]


def test_an_id_of_an_earlier_source_counts_once_and_documents_come_in_order_of_id(source):
    one = source([{"id": "b", "title": "first", "text": "x"}, {"id": "a", "title": "a", "text": "x"}])
    two = source([{"id": "b", "title": "second", "text": "x"}, {"id": "c", "title": "c", "text": "x"}], "more.jsonl", name="more")
    found, rejected = read_documents([one, two])
    assert [d.title for d in found] == ["a", "first", "c"]
    assert [(r.source, r.reason) for r in rejected] == [("more", "duplicate_id")]


def test_nothing_that_can_be_read_names_the_first_row_that_could_not(source):
    with pytest.raises(
        BadInput, match="not one document could be read; the first of 2 rejected rows: products.jsonl row 1: .*'id' is empty"
    ):
        read_documents([source([{"id": "", "title": "t", "text": "x"}] * 2)])


def test_a_missing_column_names_the_nearest_one_and_the_setting(source):
    with pytest.raises(BadInput, match=r'no column .titel.*Set title = "title" in \[sources.catalog\]'):
        read_documents([source(b"id,title,text\n1,a,b\n", "a.csv", title="titel")])


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(text):
    return parse_catalog(tomllib.loads(text)["sources"]["catalog"], folder=Path(), where="mangaassist.toml")


def test_one_table_or_several_are_sources():
    (one,) = parse('[sources.catalog]\npaths = "a.csv"\ntext = "body"')
    assert one.paths == ("a.csv",) and one.text == ("body",) and one.name == "catalog_1" and one.kind == "document"
    assert [s.name for s in parse('[[sources.catalog]]\npaths = ["a.csv"]\n[[sources.catalog]]\npaths = ["b.csv"]\nname = "b"')] == [
        "catalog_1",
        "b",
    ]


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ('paths = ["a"]\naliasses = "b"', "Did you mean 'aliases'"),
        ('paths = ["a"]\nquux = 1', "Known keys: "),
        ('paths = ["a"]\ntitle = 3', "Set title to a string"),
        ('paths = ["a", 3]', "list of strings"),
        ('paths = ["a"]\ntext = []', 'Set text = "description"'),
        ("title = 'x'", "Add paths"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_with_its_remedy(entry, remedy):
    with pytest.raises(BadInput, match=remedy):
        parse(f"[sources.catalog]\n{entry}")


def test_the_digest_follows_bytes_and_settings_but_not_the_folder(source, tmp_path):
    rows = [{"id": "a", "title": "t", "text": "x"}]
    first = digest_of_catalog([source(rows)])
    assert digest_of_catalog([source(rows)]) == first
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/products.jsonl").write_bytes((tmp_path / "products.jsonl").read_bytes())
    assert digest_of_catalog([CatalogSource("shop", ("products.jsonl",), folder=tmp_path / "moved")]) == first
    assert digest_of_catalog([source(rows, kind="series")]) != first
    assert digest_of_catalog([source([rows[0] | {"text": "y"}])]) != first


def test_the_bundled_catalogue_is_read_without_a_rejected_row_and_names_only_documents_that_exist():
    entries = tomllib.loads((DATA / "catalog.toml").read_text("utf-8"))["sources"]["catalog"]
    found, rejected = read_documents(parse_catalog(entries, folder=DATA, where="catalog.toml"))
    assert not rejected
    assert {d.kind for d in found} == {"series", "policy"}
    known = {d.document_id for d in found}
    assert all(set(d.similar) <= known for d in found)
    assert all(d.parts and d.in_stock is not None for d in found if d.kind == "series")
