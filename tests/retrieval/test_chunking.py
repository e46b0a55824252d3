"""Chunks cover their document, point back at it, and are cut again only where it changed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mangaassist_assets.lib.retrieval import chunking
from mangaassist_assets.lib.retrieval.chunking import CHUNKS, Chunking, chunk_documents, embedded_text, spans
from mangaassist_assets.lib.retrieval.documents import Document

SMALL = Chunking(max_chars=40)


def document(identity="d1", text="First sentence here. Second one follows. And a third. A fourth ends it.", **changes):
    made = Document(identity, "policy", "Returns", text, ("返品",), ("d2",), (), True, ("en",), ("paperback",))
    return replace(made, **changes)


def rows(*documents, previous=None, settings=SMALL):
    return chunk_documents(documents, previous, settings).table.to_pylist()


def test_a_chunk_has_a_stable_id_its_place_in_the_text_and_what_it_is_filtered_by():
    document_ = document()
    found = rows(document_)
    assert chunk_documents([document_], None, SMALL).table.schema.equals(CHUNKS)
    assert [row["chunk_id"] for row in found] == [f"d1#{n}" for n in range(len(found))] and len(found) > 1
    assert all(row["text"] == document_.text[row["start"] : row["end"]] for row in found)
    first = found[0]
    assert (first["title"], first["aliases"], first["similar"]) == ("Returns", ["返品"], ["d2"])
    assert (first["in_stock"], first["languages"], first["formats"], first["kind"]) == (True, ["en"], ["paperback"], "policy")
    assert embedded_text(first["title"], first["text"]).startswith("Returns. First sentence here.")
    assert embedded_text("", "text") == "text"


def test_parts_follow_the_text_as_lines_without_a_place_in_it():
    found = rows(document(text="Short.", parts=("paperback, in stock", "digital, in stock", "omnibus, not in stock")))
    assert [(row["start"], row["end"], row["text"]) for row in found] == [
        (0, 6, "Short."),
        (-1, -1, "paperback, in stock\ndigital, in stock"),
        (-1, -1, "omnibus, not in stock"),
    ]
    assert len(rows(document(parts=("x" * 100,)))[-1]["text"]) == 40


def test_a_document_of_a_title_alone_is_one_chunk():
    (row,) = rows(document(text=""))
    assert (row["text"], row["start"], row["end"]) == ("", 0, 0)


@given(st.text(alphabet="ab .!?。！\n", max_size=200), st.integers(5, 30), st.integers(0, 3))
def test_spans_cover_the_text_in_order_and_none_is_too_long(text, max_chars, overlap):
    found = spans(text, Chunking(max_chars, overlap))
    covered = set()
    for start, end in found:
        assert 0 <= start < end <= len(text) and end - start <= max_chars
        covered |= set(range(start, end))
    assert covered == set(range(len(text)))
    assert all(a < c and b < d for (a, b), (c, d) in zip(found, found[1:], strict=False))


def test_neighbours_share_a_sentence_and_are_cut_between_sentences():
    text = "One is here. Two is here. Three is here. Four is here."
    found = [text[start:end] for start, end in spans(text, Chunking(30, 1))]
    assert found == ["One is here. Two is here. ", "Two is here. Three is here. ", "Three is here. Four is here."]
    assert spans("返品できます。三十日以内です。", Chunking(8, 0)) == [(0, 7), (7, 15)]


def test_a_sentence_longer_than_a_chunk_is_cut_at_a_space_or_anywhere():
    assert spans("word " * 10, Chunking(22, 0))[0] == (0, 20)
    assert spans("x" * 50, Chunking(20, 0)) == [(0, 20), (20, 40), (40, 50)]


def test_a_document_that_has_not_changed_keeps_its_rows_without_being_cut_again(monkeypatch):
    documents = [document("a"), document("b", text="Another text.")]
    before = chunk_documents(documents, None, SMALL)
    assert (before.kept, before.cut, before.gone) == (0, 2, 0)
    cut = []
    monkeypatch.setattr(
        chunking, "_cut", lambda document, *rest, real=chunking._cut: cut.append(document.document_id) or real(document, *rest)
    )
    again = chunk_documents(documents, before.table, SMALL)
    assert cut == [] and (again.kept, again.cut, again.gone) == (2, 0, 0)
    assert again.table.equals(before.table)


@pytest.mark.parametrize(
    "change", [{"text": "New."}, {"title": "New"}, {"aliases": ("x",)}, {"in_stock": False}, {"parts": ("digital",)}, {"kind": "faq"}]
)
def test_whatever_changes_in_a_document_cuts_it_again_and_changes_the_digests_of_its_chunks_alone(change):
    before = chunk_documents([document("a"), document("b")], None, SMALL)
    after = chunk_documents([document("a", **change), document("b")], before.table, SMALL)
    assert (after.kept, after.cut, after.gone) == (1, 1, 0)
    old, new = ({row["chunk_id"]: row["digest"] for row in chunked.table.to_pylist()} for chunked in (before, after))
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    assert changed and all(key.startswith("a#") for key in changed)
    assert after.table.equals(chunk_documents([document("a", **change), document("b")], None, SMALL).table)


def test_other_settings_cut_everything_again_and_gone_documents_are_counted():
    before = chunk_documents([document("a"), document("b")], None, SMALL)
    after = chunk_documents([document("a")], before.table, Chunking(max_chars=60))
    assert (after.kept, after.cut, after.gone) == (0, 1, 1)
    assert {row["document_id"] for row in after.table.to_pylist()} == {"a"}


def test_chunks_come_in_order_of_document_and_position_whatever_the_order_of_documents():
    long = document("b", text="A sentence of some length. " * 30)
    assert rows(long, document("a")) == rows(document("a"), long)
    found = rows(document("a"), long)
    assert [(row["document_id"], row["position"]) for row in found] == sorted((row["document_id"], row["position"]) for row in found)
    assert len(found) > 12
