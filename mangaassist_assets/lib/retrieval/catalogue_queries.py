"""What the catalogue itself says a shopper might type: queries that nobody had to judge.

A document's names, single sentences of it, words of its listings ("Genres: action, adventure.") and "like <name>" for what is similar to
it. An adapter that also learns from these keeps what the encoder knows about documents that no judged query mentions.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mangaassist_assets.lib.retrieval.chunking import SENTENCE
from mangaassist_assets.lib.retrieval.pairs import QUERIES

LISTING = re.compile(r"^[A-Z][\w ]{1,24}: (.+)\.$")
SHORTEST_SENTENCE, LONGEST_TERM = 16, 40
LIKE = ("manga like {}", "something similar to {}", "{} みたいな漫画")


@dataclass(frozen=True)
class CatalogueQueries:
    """How many queries a document gives at most, by kind; all have to be encoded, so they cost what chunks cost.

    Attributes:
        names, sentences, listings, similar: per document.
        most: of all together; of a large catalogue a part of the documents is taken.
        seed: of what is taken.
    """

    names: int = 2
    sentences: int = 1
    listings: int = 2
    similar: int = 1
    most: int = 3_000
    seed: int = 20


def catalogue_queries(chunks: pa.Table, settings: CatalogueQueries) -> pa.Table:
    """Columns QUERIES, all for training, source `catalogue:<kind>`; equal chunks and settings give equal queries.

    Args:
        chunks: columns CHUNKS.
        settings: how many.
    """
    documents: dict[str, list[dict[str, Any]]] = {}
    for row in chunks.select(["document_id", "position", "start", "title", "text", "aliases", "similar"]).to_pylist():
        documents.setdefault(row["document_id"], []).append(row)
    found: list[dict[str, Any]] = []
    for document in sorted(documents, key=lambda document: _order(settings.seed, document)):
        if len(found) >= settings.most:
            break
        own = sorted(documents[document], key=lambda row: int(row["position"]))
        found += _of_document(document, own, documents.keys(), settings)
    found = sorted(found[: settings.most], key=lambda row: str(row["query_id"]))
    return pa.Table.from_pylist(found, schema=QUERIES)


def _of_document(document: str, rows: Sequence[dict[str, Any]], known: Iterable[str], settings: CatalogueQueries) -> list[dict[str, Any]]:
    def taken(texts: Iterable[str], n: int) -> list[str]:
        return sorted(dict.fromkeys(filter(None, texts)), key=lambda text: _order(settings.seed, document, text))[:n]

    names = [rows[0]["title"], *rows[0]["aliases"]]
    prose = [line for row in rows if row["start"] >= 0 for line in row["text"].split("\n")]
    listed = [match[1].split(", ") for line in prose if (match := LISTING.match(line))]
    terms = taken((term for items in listed for term in items if len(term) <= LONGEST_TERM), 3 * settings.listings)
    sentences = [text for line in prose if not LISTING.match(line) for text in SENTENCE.split(line) if len(text) >= SHORTEST_SENTENCE]
    near = [other for other in rows[0]["similar"] if other in known and other != document]
    texts = [("name", text, [document]) for text in taken(names, settings.names)]
    texts += [("sentence", text, [document]) for text in taken(sentences, settings.sentences)]
    if len(terms) > 1:
        texts += [("listing", " ".join(terms[2 * i : 2 * i + 2 + i % 2]), [document]) for i in range(settings.listings) if terms[2 * i :]]
    if near:
        likes = (form.format(name) for form in LIKE for name in names)
        texts += [("similar", text, near) for text in taken(likes, settings.similar)]
    return [
        {
            "query_id": f"catalogue-{document}-{kind}-{number}",
            "query": text,
            "relevant": relevant,
            "grades": [1.0] * len(relevant),
            "not_relevant": [document] if kind == "similar" else [],
            "kind": "",
            "slices": [],
            "split": "train",
            "source": f"catalogue:{kind}",
        }
        for number, (kind, text, relevant) in enumerate(texts)
    ]


def _order(seed: int, *key: str) -> bytes:
    """A place among its like that depends on nothing else."""
    return hashlib.sha256("\0".join((str(seed), *key)).encode("utf-8", "surrogatepass")).digest()
