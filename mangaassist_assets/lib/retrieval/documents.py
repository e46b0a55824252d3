"""The store's documents out of files that people have: what is sold, and what its policies say.

A `CatalogSource` says where the files lie and what their columns mean. A document keeps the parts of its text apart, so that
chunks can point back at them; what a shopper filters by (stock, language, format) comes from its parts, or from columns.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.files import FileSet, cell, contents, parse_tables, rows

TABLE = "sources.catalog"
MAX_CHARS = 200_000


@dataclass(frozen=True)
class CatalogSource:
    """Where documents lie and what their columns mean.

    Attributes:
        name: of the source.
        paths: files or patterns, as in `lib/files.py`.
        id, title: columns of the document's own id and of its title.
        text: columns of its text; the first is prose, each further one is said after its name.
        aliases: columns of other names, text or lists.
        similar: column with ids of documents that someone who likes this one may like, or None.
        parts: column with a list of tables, one for each thing that can be bought, or None.
        part_text: columns of a part that are said in its line; all where empty.
        in_stock, language, format: columns to filter by, of the parts where there are any, else of the document.
        kind: a word that groups documents; a filter.
        licence: of the rows.
        encoding: of CSV and JSON lines.
        folder: where relative paths start.
    """

    name: str
    paths: tuple[str, ...]
    id: str = "id"
    title: str = "title"
    text: tuple[str, ...] = ("text",)
    aliases: tuple[str, ...] = ()
    similar: str | None = None
    parts: str | None = None
    part_text: tuple[str, ...] = ()
    in_stock: str = "in_stock"
    language: str = "language"
    format: str = "format"
    kind: str = "document"
    licence: str = "not stated"
    encoding: str = "utf-8"
    folder: Path = Path()

    @property
    def files(self) -> FileSet:
        return FileSet(self.paths, self.folder, self.encoding, self.name, TABLE)

    @property
    def filters(self) -> tuple[str, ...]:
        """Columns of documents without parts that may be left out."""
        return self.in_stock, self.language, self.format

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Setting and name of every column that the files must have."""
        listed = [("text", c) for c in self.text] + [("aliases", c) for c in self.aliases]
        named = [(key, getattr(self, key)) for key in ("id", "title", "similar", "parts")]
        return [(key, column) for key, column in named if column is not None] + listed


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        document_id: the source's own id, unique over all sources.
        kind: see `CatalogSource.kind`.
        title: as shown.
        text: NFKC, at most MAX_CHARS characters.
        aliases: other names, the title's own left out.
        similar: ids of similar documents.
        parts: one line for each thing that can be bought.
        in_stock: whether any part can be bought now; None where nothing is said.
        languages, formats: of all parts, sorted.
    """

    document_id: str
    kind: str
    title: str
    text: str
    aliases: tuple[str, ...]
    similar: tuple[str, ...]
    parts: tuple[str, ...]
    in_stock: bool | None
    languages: tuple[str, ...]
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RejectedDocument:
    """One row that goes no further: `reason` is a machine word, `detail` tells a person."""

    source: str
    file: str
    row: int
    reason: str
    detail: str


def parse_catalog(entries: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, folder: Path, where: str) -> tuple[CatalogSource, ...]:
    """Sources from parsed TOML, one table or an array of them; relative paths start at `folder`.

    Raises:
        BadInput: an unknown key, a value of another type, or none at all.
    """
    known, lists = [f.name for f in fields(CatalogSource) if f.name != "folder"], ("paths", "text", "aliases", "part_text")
    sources: list[CatalogSource] = []
    for place, values in parse_tables(entries, known, lists, where=where, table=TABLE, example="products/*.jsonl"):
        if values.get("text") == ():
            raise BadInput("text names no column", where=place, remedy='Set text = "description".')
        sources.append(CatalogSource(**{"name": f"catalog_{len(sources) + 1}", **values, "folder": folder}))
    return tuple(sources)


def digest_of_catalog(sources: Sequence[CatalogSource]) -> str:
    """SHA-256 over the settings and the bytes of every file: equal digests give equal documents."""
    parts: list[Any] = []
    for source in sources:
        settings = {f.name: getattr(source, f.name) for f in fields(CatalogSource) if f.name != "folder"}
        parts.append([settings, [[name, digest_of(content)] for name, content in contents(source.files)]])
    return digest_of(parts)


def read_documents(sources: Sequence[CatalogSource]) -> tuple[list[Document], list[RejectedDocument]]:
    """All documents in order of their id; of a repeated id the first row counts.

    Raises:
        BadInput: a file cannot be read as a whole, or not one document could be used.
    """
    documents: dict[str, Document] = {}
    rejected: list[RejectedDocument] = []
    for source in sources:
        for name, content in contents(source.files):
            for row, cells in rows(source.files, name, content, source.columns, source.filters):
                found = ("malformed_row", cells) if isinstance(cells, str) else _document(source, cells)
                if isinstance(found, Document) and found.document_id in documents:
                    found = ("duplicate_id", f"id {found.document_id!r} has been read already")
                if isinstance(found, Document):
                    documents[found.document_id] = found
                else:
                    rejected.append(RejectedDocument(source.name, name, row, *found))
    if not documents:
        first = (
            f"; the first of {len(rejected):,} rejected rows: {rejected[0].file} row {rejected[0].row}: {rejected[0].detail}"
            if rejected
            else ""
        )
        raise BadInput(
            f"not one document could be read{first}", where=TABLE, remedy="Correct id, title or text of the source, or the file."
        )
    return [documents[key] for key in sorted(documents)], rejected


def _document(source: CatalogSource, cells: Mapping[str, Any]) -> Document | tuple[str, str]:
    """The document of a row, or reason and detail of why there is none."""
    identity, title = cell(cells.get(source.id)), _clean(cells.get(source.title))
    if not identity:
        return "empty_id", f"column {source.id!r} is empty"
    if "#" in identity or any(ch.isspace() for ch in identity):
        return "bad_id", f"id {identity!r} holds a space or '#'"
    first, *further = source.text
    said = [_clean(cells.get(first))]
    said += [f"{column.replace('_', ' ').capitalize()}: {words}." for column in further if (words := _clean(cells.get(column)))]
    text = "\n".join(part for part in said if part)
    if not text.strip() and not title:
        return "empty_text", f"columns {', '.join(map(repr, (source.title, *source.text)))} are empty"
    if len(text) > MAX_CHARS:
        return "too_long", f"{len(text):,} characters, at most {MAX_CHARS:,} are taken; split the document"
    if "\0" in text + title:
        return "nul_character", "a NUL character"
    try:
        (text + title + identity).encode()
    except UnicodeEncodeError:
        return "lone_surrogate", "half of a UTF-16 pair without its other half"
    parts = [part for part in (cells.get(source.parts) if source.parts else None) or [] if isinstance(part, Mapping)]
    sold: list[Mapping[str, Any]] = parts or [cells]
    stock = [flag for part in sold if (flag := _flag(part.get(source.in_stock))) is not None]
    aliases = dict.fromkeys(name for column in source.aliases for name in _words(cells.get(column)) if name != title)
    return Document(
        identity,
        source.kind,
        title or identity,
        text,
        tuple(aliases),
        tuple(_words(cells.get(source.similar))) if source.similar else (),
        tuple(_line(part, source.part_text or tuple(part)) for part in parts),
        any(stock) if stock else None,
        tuple(sorted({word.lower() for part in sold for word in _words(part.get(source.language))})),
        tuple(sorted({word.lower() for part in sold for word in _words(part.get(source.format))})),
    )


def _line(part: Mapping[str, Any], columns: Sequence[str]) -> str:
    """What a part says: flags by their name where they are true, words as they are, figures after their name."""
    said = []
    for column in columns:
        name, value = column.replace("_", " "), part.get(column)
        if isinstance(value, bool):
            said.append(name if value else f"not {name}")
        elif words := _clean(value):
            said.append(f"{name} {words}" if words[0].isdigit() else words.replace("_", " "))
    return ", ".join(said)


def _words(value: Any) -> list[str]:
    """A cell as a list of trimmed texts: of a list its items."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return [word for item in items if (word := unicodedata.normalize("NFKC", cell(item)))]


def _clean(value: Any) -> str:
    return ", ".join(_words(value))


def _flag(value: Any) -> bool | None:
    word = cell(value).lower()
    return True if word in ("true", "1", "yes") else False if word in ("false", "0", "no") else None
