"""Queries with judgements out of files that people have.

A `QuerySource` says where queries lie, what their columns mean, and where their judgements are: in the row itself, or in files of one
judgement a row as TREC and BEIR publish them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.files import FileSet, cell, contents, parse_tables, rows

TABLE = "sources.retrieval_pairs"
MAX_CHARS = 4_000
SPLITS = {name: split for split, names in {
    "train": ("train", "training", "pool"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "golden", "held_out", "holdout"),
}.items() for name in names}  # fmt: skip
TREC_COLUMNS = ("query_id", "iteration", "document_id", "relevance")

QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), False, {"description": "the source's own id, unique over all sources"}),
        pa.field("query", pa.string(), False, {"description": "as typed"}),
        pa.field("relevant", pa.list_(pa.string()), False, {"description": "document ids that answer it, best first; at least one"}),
        pa.field("grades", pa.list_(pa.float32()), False, {"description": "how relevant each is, above 0; 1 where nothing is said"}),
        pa.field("not_relevant", pa.list_(pa.string()), False, {"description": "document ids judged to be wrong answers"}),
        pa.field("kind", pa.string(), False, {"description": "a word that groups queries; empty where nothing is said"}),
        pa.field("slices", pa.list_(pa.string()), False, {"description": "names under which it is reported"}),
        pa.field("split", pa.string(), False, {"description": "train, validation or test"}),
        pa.field("source", pa.string(), False, {"description": "where it comes from"}),
    ]
)


@dataclass(frozen=True)
class QuerySource:
    """Where queries and judgements lie and what their columns mean.

    Attributes:
        name: of the source.
        paths: files or patterns of queries, as in `lib/files.py`.
        id, query: columns of the query's own id and of its text.
        relevant, not_relevant: columns of document ids, lists or text with spaces or commas between; used without `judgements`.
        kind, slices, split: columns, each read where it is there.
        judgements: files or patterns with one judgement a row: columns as below, or TREC's four without a header (.qrels, .txt). Queries
            that they don't name are left out.
        judged_query, judged_document, relevance: columns of a judgement; a relevance above 0 is a grade, others are wrong answers.
        use_as: split of all its queries, whatever the column says; "" for what the column says.
        licence: of the rows.
        encoding: of CSV and JSON lines.
        folder: where relative paths start.
    """

    name: str
    paths: tuple[str, ...]
    id: str = "query_id"
    query: str = "query"
    relevant: str = "relevant"
    not_relevant: str = "not_relevant"
    kind: str = "kind"
    slices: str = "slices"
    split: str = "split"
    judgements: tuple[str, ...] = ()
    judged_query: str = "query_id"
    judged_document: str = "document_id"
    relevance: str = "relevance"
    use_as: str = ""
    licence: str = "not stated"
    encoding: str = "utf-8"
    folder: Path = Path()

    @property
    def files(self) -> FileSet:
        return FileSet(self.paths, self.folder, self.encoding, self.name, TABLE)

    @property
    def judgement_files(self) -> FileSet:
        return FileSet(self.judgements, self.folder, self.encoding, self.name, TABLE)


@dataclass(frozen=True, slots=True)
class RejectedQuery:
    """One row that goes no further: `reason` is a machine word, `detail` tells a person."""

    source: str
    file: str
    row: int
    reason: str
    detail: str


@dataclass
class _Judged:
    """Judgements of one query in the order read."""

    relevant: dict[str, float]
    not_relevant: dict[str, None]


def parse_queries(entries: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, folder: Path, where: str) -> tuple[QuerySource, ...]:
    """Sources from parsed TOML, one table or an array of them; relative paths start at `folder`.

    Raises:
        BadInput: an unknown key, a value of another type, or none at all.
    """
    known, lists = [f.name for f in fields(QuerySource) if f.name != "folder"], ("paths", "judgements")
    sources: list[QuerySource] = []
    for place, values in parse_tables(entries, known, lists, where=where, table=TABLE, example="queries/*.jsonl"):
        if values.get("use_as") and values["use_as"] not in SPLITS:
            raise BadInput(f"use_as = {values['use_as']!r} is no split", where=place, remedy="Set it to train, validation or test.")
        sources.append(QuerySource(**{"name": f"queries_{len(sources) + 1}", **values, "folder": folder}))
    return tuple(sources)


def digest_of_queries(sources: Sequence[QuerySource]) -> str:
    """SHA-256 over the settings and the bytes of every file: equal digests give equal queries."""
    parts: list[Any] = []
    for source in sources:
        settings = {f.name: getattr(source, f.name) for f in fields(QuerySource) if f.name != "folder"}
        files = [source.files, source.judgement_files] if source.judgements else [source.files]
        parts.append([_json_ready(settings), [[name, digest_of(content)] for each in files for name, content in contents(each)]])
    return digest_of(parts)


def _json_ready(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with tuples as lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def read_queries(sources: Sequence[QuerySource], documents: Collection[str]) -> tuple[pa.Table, list[RejectedQuery]]:
    """All queries that can be used, columns QUERIES, in order of their id; of a repeated id the first row counts. No sources, no queries.

    Args:
        sources: where they lie.
        documents: ids that exist. A judgement of another document is dropped; a query left without a relevant one is rejected.

    Raises:
        BadInput: a file cannot be read as a whole, or not one query could be used.
    """
    if not sources:
        return QUERIES.empty_table(), []
    known = documents if isinstance(documents, (set, frozenset, dict)) else set(documents)
    queries: dict[str, dict[str, Any]] = {}
    rejected: list[RejectedQuery] = []
    for source in sources:
        judged = _judgements(source, rejected) if source.judgements else None
        for name, content in contents(source.files):
            needed = [("id", source.id), ("query", source.query)] + ([] if judged is not None else [("relevant", source.relevant)])
            optional = [(key, getattr(source, key)) for key in ("not_relevant", "kind", "slices", "split")]
            for row, cells in _rows(source.files, name, content, needed, optional):
                found = ("malformed_row", cells) if isinstance(cells, str) else _query(source, cells, judged, known)
                if found is None:
                    continue
                if isinstance(found, dict) and found["query_id"] in queries:
                    found = ("duplicate_id", f"id {found['query_id']!r} has been read already")
                if isinstance(found, dict):
                    queries[found["query_id"]] = found
                else:
                    rejected.append(RejectedQuery(source.name, name, row, *found))
    if not queries:
        first = ""
        if rejected:
            first = f"; the first of {len(rejected):,} rejected rows: {rejected[0].file} row {rejected[0].row}: {rejected[0].detail}"
        remedy = "Correct id, query or judgements of the source, or the files."
        raise BadInput(f"not one query could be used{first}", where=TABLE, remedy=remedy)
    return pa.Table.from_pylist([queries[key] for key in sorted(queries)], schema=QUERIES), rejected


def _rows(
    files: FileSet, name: str, content: bytes, needed: Sequence[tuple[str, str]], optional: Sequence[tuple[str, str]]
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Rows with the needed columns, and with those of the optional ones that are there (only Parquet reads what it is asked for)."""
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        try:
            there = set(pq.read_schema(pa.BufferReader(content)).names)
        except (pa.ArrowException, OSError):
            there = set()  # `rows` says what is wrong with the file
        needed = [*needed, *(pair for pair in optional if pair[1] in there)]
    return rows(files, name, content, needed)


def _judgements(source: QuerySource, rejected: list[RejectedQuery]) -> dict[str, _Judged]:
    judged: dict[str, _Judged] = {}
    columns = [("judged_query", source.judged_query), ("judged_document", source.judged_document), ("relevance", source.relevance)]
    for name, content in contents(source.judgement_files):
        trec = name.removesuffix(".gz").endswith((".qrels", ".txt"))
        query, document, relevance = ("query_id", "document_id", "relevance") if trec else (c for _, c in columns)
        for row, cells in _trec_rows(content) if trec else rows(source.judgement_files, name, content, columns):
            if isinstance(cells, str):
                rejected.append(RejectedQuery(source.name, name, row, "malformed_row", cells))
                continue
            try:
                grade = float(cell(cells.get(relevance)))
            except ValueError:
                grade = float("nan")
            if not abs(grade) < 1e6:
                detail = f"relevance {cells.get(relevance)!r} is not a number"
                rejected.append(RejectedQuery(source.name, name, row, "bad_relevance", detail))
                continue
            own = judged.setdefault(cell(cells.get(query)), _Judged({}, {}))
            if grade > 0:
                own.relevant[cell(cells.get(document))] = grade
            else:
                own.not_relevant[cell(cells.get(document))] = None
    return judged


def _trec_rows(content: bytes) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        parts = line.split()
        if len(parts) == len(TREC_COLUMNS):
            yield number, dict(zip(TREC_COLUMNS, parts, strict=True))
        elif parts:
            yield number, f"{len(parts)} words where TREC has four: query, iteration, document, relevance"


def _query(
    source: QuerySource, cells: Mapping[str, Any], judged: Mapping[str, _Judged] | None, documents: Collection[str]
) -> dict[str, Any] | tuple[str, str] | None:
    """The query of a row, or reason and detail of why there is none, or None where nothing judges it."""
    identity, text = cell(cells.get(source.id)), cell(cells.get(source.query))
    if not identity:
        return "empty_id", f"column {source.id!r} is empty"
    if judged is None:
        own = _Judged(dict.fromkeys(_words(cells.get(source.relevant)), 1.0), dict.fromkeys(_words(cells.get(source.not_relevant))))
    elif identity not in judged:
        return None
    else:
        own = judged[identity]
    if not text:
        return "empty_query", f"column {source.query!r} is empty"
    if len(text) > MAX_CHARS:
        return "too_long", f"{len(text):,} characters, at most {MAX_CHARS:,} are taken"
    try:
        (identity + text).encode()
    except UnicodeEncodeError:
        return "lone_surrogate", "half of a UTF-16 pair without its other half"
    relevant = {document: grade for document, grade in own.relevant.items() if document in documents}
    if not relevant:
        unknown = next(iter(own.relevant), None)
        return ("no_relevant", "no document is judged relevant") if unknown is None else ("unknown_document", f"no document {unknown!r}")
    said = source.use_as or cell(cells.get(source.split)).lower() or "train"
    if said not in SPLITS:
        return "unknown_split", f"split {said!r} is none of train, validation, test"
    best_first = sorted(relevant, key=lambda document: -relevant[document])
    return {
        "query_id": identity,
        "query": text,
        "relevant": best_first,
        "grades": [relevant[document] for document in best_first],
        "not_relevant": [document for document in own.not_relevant if document in documents and document not in relevant],
        "kind": cell(cells.get(source.kind)),
        "slices": _words(cells.get(source.slices)),
        "split": SPLITS[said],
        "source": source.name,
    }


def _words(value: Any) -> list[str]:
    """A cell as a list: of a list its items, of text what spaces, commas or semicolons part."""
    if isinstance(value, (list, tuple)):
        return [word for item in value if (word := cell(item))]
    return cell(value).replace(",", " ").replace(";", " ").split()
