"""What the service asks: a query in, the chunks a shop assistant would lay on the counter out.

A `Retriever` asks the vector index and the lexical index, weighs their evidence with a learned fusion, filters, and returns the best
chunk of each of the best documents. Its bundle, of kind `retriever`, holds everything but encoder, adapter and vector index, and
names the embedding space that it was made for.
"""

import difflib
import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mangaassist_assets.lib.artifacts import Bundle, House
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.messages.normalising import is_well_formed
from mangaassist_assets.lib.retrieval.fusion import Evidence, Fusion, JudgedQuery, features, gather, judge
from mangaassist_assets.lib.retrieval.glossary import Glossary
from mangaassist_assets.lib.retrieval.index import ChunkIndex
from mangaassist_assets.lib.retrieval.lexical import ARRAYS, STRINGS, LexicalIndex
from mangaassist_assets.lib.retrieval.postings import Floats
from mangaassist_assets.lib.retrieval.searching import LocalSearch, QueryEncoder, VectorSearch, passing
from mangaassist_assets.lib.retrieval.segments import LiveIndex
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, check_space
from mangaassist_assets.lib.retrieval.wording import Wording
from mangaassist_assets.lib.retrieval.words import fold

KIND = "retriever"
CHUNKS_FILE, GLOSSARY_FILE, FUSION_FILE = "chunks.parquet", "glossary.json", "fusion.json"
MOST_RESULTS = 100
MAX_CHARS = 4_000
NEAREST = 1_000  # chunks that the vector index is asked for; others count as far as the last of them
WORDS_AGAINST_COSINE = 0.05  # which chunk of a document is shown: its cosine and so much of its BM25
BEGINNING_AGAINST_COSINE = 0.1  # a document's first chunk says what it is
FILTERS: Mapping[str, type] = {"in_stock": bool, "language": str, "format": str, "kind": str}


@dataclass(frozen=True)
class Hit:
    """One chunk that answers.

    Attributes:
        score: the probability that the fusion gives to its document, 0..1.
    """

    chunk_id: str
    document_id: str
    score: float
    title: str
    text: str


class Retriever:
    """Answers queries; safe to share between threads.

    Args:
        chunks: the table of CHUNKS that `lexical` was built from.
        lexical: its lexical index.
        glossary: for queries.
        fusion: weights of the evidence.
        encoder: of queries, into the index's space.
        index: of the chunks' vectors.

    Raises:
        SpaceMismatch: encoder and index are of different spaces.
        DamagedArtifact: `lexical` is of another table.
    """

    def __init__(
        self, chunks: pa.Table, lexical: LexicalIndex, glossary: Glossary, fusion: Fusion, encoder: QueryEncoder, index: VectorSearch
    ) -> None:
        check_space(index.space, encoder.space)
        if lexical.chunk_ids != tuple(chunks["chunk_id"].to_pylist()):
            raise DamagedArtifact("retriever: its lexical index is of another table of chunks. Materialise it again.")
        self.lexical, self.glossary, self.fusion = lexical, glossary, fusion
        self._chunks, self._encoder, self._index = chunks, encoder, index
        self._wording = Wording(glossary, chunks)
        self._row = {chunk_id: i for i, chunk_id in enumerate(lexical.chunk_ids)}
        self._number = {document: i for i, document in enumerate(lexical.documents)}
        self._beginning = chunks["position"].to_numpy() == 0
        self._passing = functools.lru_cache(maxsize=64)(lambda filters: passing(chunks, dict(filters)))

    @property
    def space(self) -> EmbeddingSpace:
        """The embedding space that queries are compared in."""
        return self._index.space

    @property
    def index_digest(self) -> str:
        """The digest of the vector index."""
        return self._index.digest

    def retrieve(self, query: str, k: int = 10, filters: Mapping[str, Any] | None = None, *, per_document: int = 1) -> list[Hit]:
        """The best chunks, best document first.

        Args:
            query: as typed; English, Japanese or both.
            k: at most so many, 1..100.
            filters: in_stock (bool), language, format and kind (str); documents that say nothing about one do not pass it.
            per_document: at most so many chunks of one document, the best first.

        Raises:
            BadInput: the query is empty, too long or no text, k is out of range, or a filter is unknown.
        """
        check_query(query, k, per_document)
        wanted = check_filters(filters or {})
        allowed = self._passing(tuple(sorted(wanted.items())))
        [(evidence, cosines)] = self._ask([query], wanted)
        scores = self.fusion.scores(features(evidence, self.lexical))
        documents = np.unique(self.lexical.document_of[allowed])
        if len(documents) == 0:
            return []
        odds = np.exp(scores[documents] - scores[documents].max())
        chances = odds / odds.sum()
        closeness = cosines + WORDS_AGAINST_COSINE * self.lexical.match_words(fold(query), self.glossary.ignored)
        closeness[self._beginning] += BEGINNING_AGAINST_COSINE
        hits: list[Hit] = []
        for i in np.argsort(-chances, kind="stable")[:k]:
            rows = np.flatnonzero((self.lexical.document_of == documents[i]) & allowed)
            best = rows[np.argsort(-closeness[rows], kind="stable")[:per_document]]
            hits += [self._hit(row, float(chances[i])) for row in best.tolist()]
        return hits[:k]

    def rank(self, queries: Sequence[str], k: int) -> dict[str, list[list[str]]]:
        """For each channel alone and for all of them fused: the ids of the k best documents of each query, best first."""
        ranked: dict[str, list[list[str]]] = {name: [] for name in ("dense", "words", "names", "fused")}
        for evidence, _ in self._ask(queries, {}):
            fused = self.fusion.scores(features(evidence, self.lexical))
            channels = (evidence.meaning, evidence.words, evidence.alike, fused)
            for name, scores in zip(ranked, channels, strict=True):
                order = np.argsort(-scores, kind="stable")[:k]
                ranked[name].append([self.lexical.documents[i] for i in order])
        return ranked

    def judged(self, queries: Sequence[str], relevant: Sequence[Sequence[str]]) -> list[JudgedQuery]:
        """Training queries of the fusion; one without a relevant document in the catalogue is left out."""
        found = []
        for (evidence, _), documents in zip(self._ask(queries, {}), relevant, strict=True):
            known = [self._number[document] for document in documents if document in self._number]
            if known:
                found.append(judge(features(evidence, self.lexical), known))
        return found

    def _ask(self, queries: Sequence[str], filters: Mapping[str, Any]) -> Iterator[tuple[Evidence, Floats]]:
        """Evidence for each query, with the cosine (chunks,) of what it means."""
        worded = [self._wording(query) for query in queries]
        texts = list(dict.fromkeys([*queries, *worded]))
        vectors = dict(zip(texts, self._encoder.encode(texts, queries=True), strict=True))
        for query, words in zip(queries, worded, strict=True):
            as_written = self._cosines(vectors[query], filters)
            meaning = as_written if words == query else self._cosines(vectors[words], filters)
            best = self.lexical.best_chunk
            yield gather(query, self.glossary.say(query), self.lexical, self.glossary, best(meaning), best(as_written)), meaning

    def _cosines(self, vector: Floats, filters: Mapping[str, Any]) -> Floats:
        """(chunks,); what the vector index did not find counts as far as the last that it found."""
        few = len(self._row) <= NEAREST  # all are found anyway
        [found] = self._index.find(vector[None], NEAREST, self.space, None if few or not filters else filters)
        known = [(row, score) for chunk_id, score in found if (row := self._row.get(chunk_id)) is not None]
        cosines = np.full(len(self._row), min((score for _, score in known), default=0.0), np.float32)
        if known:
            rows, scores = zip(*known, strict=True)
            cosines[list(rows)] = scores
        return cosines

    def _hit(self, row: int, score: float) -> Hit:
        chunk = {name: self._chunks[name][row].as_py() for name in ("chunk_id", "document_id", "title", "text")}
        return Hit(chunk["chunk_id"], chunk["document_id"], score, chunk["title"], chunk["text"])


def check_query(query: str, k: int, per_document: int) -> None:
    """Raises BadInput for what cannot be searched."""
    where = "query"
    if not isinstance(query, str) or not query.strip():
        raise BadInput("it is empty", where=where, remedy="Send some words.")
    if len(query) > MAX_CHARS:
        raise BadInput(f"it has {len(query):,} characters, at most {MAX_CHARS:,} are searched", where=where, remedy="Send a shorter one.")
    if not is_well_formed(query):
        raise BadInput("it is not well-formed Unicode", where=where, remedy="Send UTF-8.")
    for name, value in (("k", k), ("per_document", per_document)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_RESULTS:
            raise BadInput(f"{name} is {value!r}", where=where, remedy=f"Ask for 1 to {MOST_RESULTS}.")


def check_filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters that are set, None meaning that one is not; raises BadInput for an unknown name or a value of another type."""
    for name, value in filters.items():
        if name not in FILTERS:
            near = difflib.get_close_matches(name, FILTERS, 1)
            raise BadInput(
                f"unknown filter {name!r}",
                where="filters",
                remedy=f"Did you mean {near[0]!r}?" if near else f"Known filters: {', '.join(FILTERS)}.",
            )
        if value is not None and not isinstance(value, FILTERS[name]):
            kind = "true or false" if FILTERS[name] is bool else "a text"
            raise BadInput(f"{name} is {value!r}", where="filters", remedy=f"Set it to {kind}.")
    return {name: value for name, value in filters.items() if value is not None}


def write_retriever(
    house: House,
    chunks: pa.Table,
    lexical: LexicalIndex,
    glossary: Glossary,
    fusion: Fusion,
    *,
    space: EmbeddingSpace,
    facts: Mapping[str, Any],
) -> Bundle:
    """Publishes a bundle of kind `retriever`.

    Args:
        house: where to.
        chunks: what `lexical` was built from.
        lexical: as in `Retriever`.
        glossary: as in `Retriever`.
        fusion: as in `Retriever`.
        space: the embedding space that `fusion` was learned in.
        facts: further JSON values, such as the digests of encoder, adapter and index.
    """
    table = io.BytesIO()
    pq.write_table(chunks, table, compression="zstd")
    files = {
        **lexical.to_files(),
        CHUNKS_FILE: table.getvalue(),
        GLOSSARY_FILE: json.dumps(glossary.to_json(), ensure_ascii=False).encode(),
        FUSION_FILE: json.dumps(dict(fusion.weights)).encode(),
    }
    return house.write_bundle(KIND, files, {**facts, "space": space.to_json()})


def open_retriever(bundle: Bundle, encoder: QueryEncoder, index: VectorSearch | ChunkIndex | LiveIndex) -> Retriever:
    """The retriever of a bundle.

    Args:
        bundle: of kind `retriever`.
        encoder: of queries.
        index: the vector index to ask.

    Raises:
        SpaceMismatch: encoder, index and bundle are not of one space.
        DamagedArtifact: the bundle is of another kind or its files contradict each other.
    """
    if bundle.kind != KIND:
        raise DamagedArtifact(f"bundle {bundle.digest[:12]}: of kind {bundle.kind!r}, wanted {KIND!r}")
    check_space(EmbeddingSpace.from_json(bundle.facts["space"]), encoder.space)
    chunks = pq.read_table(bundle.file(CHUNKS_FILE))
    lexical = LexicalIndex.from_files({name: bundle.file(name).read_bytes() for name in (ARRAYS, STRINGS)})
    glossary = Glossary.from_json(json.loads(bundle.file(GLOSSARY_FILE).read_text("utf-8")))
    fusion = Fusion(json.loads(bundle.file(FUSION_FILE).read_text("utf-8")))
    search = LocalSearch(index, chunks) if isinstance(index, ChunkIndex | LiveIndex) else index
    return Retriever(chunks, lexical, glossary, fusion, encoder, search)
