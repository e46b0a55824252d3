"""Documents cut into chunks: what is embedded, searched and shown.

A chunk has a stable id (document and position), a digest of everything that is embedded or shown, and the span of the document's text it
comes from. A document that has not changed keeps its chunks, row by row, without being cut again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.retrieval.documents import Document

CHUNKS = pa.schema(
    [
        pa.field("chunk_id", pa.string(), False),
        pa.field("document_id", pa.string(), False),
        pa.field("kind", pa.string(), False),
        pa.field("position", pa.int32(), False),
        pa.field("start", pa.int32(), False),
        pa.field("end", pa.int32(), False),
        pa.field("digest", pa.string(), False),
        pa.field("document_digest", pa.string(), False),
        pa.field("title", pa.string(), False),
        pa.field("text", pa.string(), False),
        pa.field("aliases", pa.list_(pa.string()), False),
        pa.field("similar", pa.list_(pa.string()), False),
        pa.field("in_stock", pa.bool_(), True),
        pa.field("languages", pa.list_(pa.string()), False),
        pa.field("formats", pa.list_(pa.string()), False),
    ]
)
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])|\n+")


@dataclass(frozen=True)
class Chunking:
    """How documents are cut.

    Attributes:
        max_chars: longest chunk; the embedded encoder reads 256 tokens, about 1,000 characters of English.
        overlap_sentences: sentences that two neighbouring chunks share.
    """

    max_chars: int = 900
    overlap_sentences: int = 1


@dataclass(frozen=True)
class Chunked:
    """Chunks in order of chunk_id, and how many documents were kept, cut and dropped."""

    table: pa.Table
    kept: int
    cut: int
    gone: int


def embedded_text(title: str, text: str) -> str:
    """What the encoder reads of a chunk."""
    return f"{title}. {text}" if title else text


def chunk_documents(documents: Sequence[Document], previous: pa.Table | None, settings: Chunking) -> Chunked:
    """Cuts what is new or changed.

    Args:
        documents: with unique ids.
        previous: the table of an earlier call, or None.
        settings: how to cut.
    """
    old: dict[str, list[dict[str, Any]]] = {}
    for row in previous.to_pylist() if previous is not None else []:
        old.setdefault(row["document_id"], []).append(row)
    found: list[dict[str, Any]] = []
    kept = 0
    for document in documents:
        digest = digest_of([list(map(_plain, vars(document).values())), settings.max_chars, settings.overlap_sentences])
        before = old.pop(document.document_id, [])
        if before and before[0]["document_digest"] == digest:
            kept += 1
            found += before
        else:
            found += _cut(document, digest, settings)
    found.sort(key=lambda row: (row["document_id"], row["position"]))
    return Chunked(pa.Table.from_pylist(found, schema=CHUNKS), kept, len(documents) - kept, len(old))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _cut(document: Document, document_digest: str, settings: Chunking) -> list[dict[str, Any]]:
    pieces = [(start, end, document.text[start:end]) for start, end in spans(document.text, settings)] or [(0, 0, "")]
    if document.parts:
        pieces += [(-1, -1, text) for text in _joined(document.parts, settings.max_chars)]
    rows = []
    for position, (start, end, text) in enumerate(pieces):
        shown = {
            "document_id": document.document_id,
            "kind": document.kind,
            "title": document.title,
            "text": text,
            "aliases": list(document.aliases),
            "similar": list(document.similar),
            "in_stock": document.in_stock,
            "languages": list(document.languages),
            "formats": list(document.formats),
        }
        place = {"chunk_id": f"{document.document_id}#{position}", "position": position, "start": start, "end": end}
        rows.append(shown | place | {"digest": digest_of(shown), "document_digest": document_digest})
    return rows


def spans(text: str, settings: Chunking) -> list[tuple[int, int]]:
    """Spans of at most `max_chars` characters that cover the text, cut between sentences where there are any."""
    sentences: list[tuple[int, int]] = []
    at = 0
    for end in [m.end() for m in SENTENCE.finditer(text)] + [len(text)]:
        while end - at > settings.max_chars:  # a sentence longer than a chunk is cut at a space, or anywhere
            space = text.rfind(" ", at + settings.max_chars // 2, at + settings.max_chars)
            cut = space + 1 if space > 0 else at + settings.max_chars
            sentences.append((at, cut))
            at = cut
        if end > at:
            sentences.append((at, end))
            at = end
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(sentences):
        last = first
        while last + 1 < len(sentences) and sentences[last + 1][1] - sentences[first][0] <= settings.max_chars:
            last += 1
        found.append((sentences[first][0], sentences[last][1]))
        if last + 1 == len(sentences):
            break
        first = max(first + 1, last + 1 - settings.overlap_sentences)
        while first <= last and sentences[last + 1][1] - sentences[first][0] > settings.max_chars:
            first += 1  # a shared sentence that leaves no room for a new one would be a chunk of nothing new
    return found


def _joined(parts: Sequence[str], max_chars: int) -> list[str]:
    """Parts as lines, as many in one text as fit."""
    texts: list[str] = []
    for part in parts:
        line = part[:max_chars]
        if texts and len(texts[-1]) + 1 + len(line) <= max_chars:
            texts[-1] += "\n" + line
        else:
            texts.append(line)
    return texts
