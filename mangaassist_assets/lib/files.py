"""Rows out of files that people have: CSV, JSON lines or Parquet, gzipped or not, local or on S3.

What is wrong with a file as a whole (missing, empty, truncated, in another encoding, without the column) is BadInput, with the file, the
line and the remedy. What is wrong with one row is said in its place, and the rest is read.
"""

import csv
import difflib
import fnmatch
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mangaassist_assets.lib.errors import BadInput

Cells = Mapping[str, Any]
Columns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class FileSet:
    """Files that belong together.

    Attributes:
        paths: files or patterns (`*`, `?`, `**`), relative to `folder`, absolute, or `s3://bucket/...`. The format is told by the
            name: .csv, .tsv, .jsonl, .ndjson, .parquet; all but Parquet also with .gz.
        folder: where relative paths start.
        encoding: of CSV and JSON lines.
        name: of the source, for messages.
        table: of the setting that names the files, for remedies.
    """

    paths: tuple[str, ...]
    folder: Path
    encoding: str
    name: str
    table: str


def contents(files: FileSet) -> Iterator[tuple[str, bytes]]:
    """Name (relative to the folder where it lies below it) and unpacked content of every file, by pattern and then by name, each once.

    Raises:
        BadInput: nothing matches, or a file is empty or cannot be read.
    """
    seen: set[str] = set()
    for pattern in files.paths:
        for name, content in _remote_files(files, pattern) if "://" in pattern else _local_files(files, pattern):
            if name not in seen:
                seen.add(name)
                if not content:
                    raise BadInput("it is empty", where=name, remedy="Put rows in it, or take it out of paths.")
                yield name, _unpacked(name, content)


def _local_files(files: FileSet, pattern: str) -> Iterator[tuple[str, bytes]]:
    start, rest = (
        (Path(Path(pattern).anchor), str(Path(pattern).relative_to(Path(pattern).anchor)))
        if Path(pattern).is_absolute()
        else (files.folder, pattern)
    )
    full = start / rest
    if any(sign in rest for sign in "*?["):
        found = sorted(path for path in start.glob(rest) if path.is_file())
    else:
        found = [full] if full.is_file() else []
    if not found:
        parent = next((p for p in full.parents if p.is_dir()), Path())
        there = sorted(p.name + "/" * p.is_dir() for p in parent.iterdir())
        listing = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") if there else "nothing"
        raise BadInput(f"no file matches; {parent} holds {listing}", where=str(full), remedy=f"Correct paths in [{files.table}].")
    for path in found:
        name = (path.relative_to(files.folder) if path.is_relative_to(files.folder) else path).as_posix()
        try:
            yield name, path.read_bytes()
        except OSError as error:
            raise BadInput(f"cannot be read ({error.strerror})", where=str(path), remedy="Check the file and its permissions.") from error


def _remote_files(files: FileSet, pattern: str) -> Iterator[tuple[str, bytes]]:
    scheme, _, rest = pattern.partition("://")
    literal = re.split(r"[*?\[]", rest, maxsplit=1)[0]
    try:
        system, path = pafs.FileSystem.from_uri(f"{scheme}://{literal if literal == rest else literal.rpartition('/')[0]}")
        if literal == rest:
            found = [path] if system.get_file_info(path).type == pafs.FileType.File else []
        else:
            listed = system.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
            matches = re.compile(fnmatch.translate(rest)).match
            found = sorted(info.path for info in listed if info.type == pafs.FileType.File and matches(info.path))
        if not found:
            raise BadInput("no object matches", where=pattern, remedy=f"Correct paths in [{files.table}]; `aws s3 ls` shows what is there.")
        for name in found:
            with system.open_input_stream(name) as stream:
                yield f"{scheme}://{name}", stream.read()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"cannot be read ({reason})", where=pattern, remedy="Check the address, AWS_ENDPOINT_URL, AWS_REGION and the credentials."
        ) from error


def _unpacked(name: str, content: bytes) -> bytes:
    if not name.endswith(".gz"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise BadInput(f"not a whole gzip file ({error})", where=name, remedy="Copy or compress it again.") from error


def rows(files: FileSet, name: str, content: bytes, columns: Columns, optional: Collection[str] = ()) -> Iterator[tuple[int, Cells | str]]:
    """Number and cells of each row of one file; a string in place of cells says what is wrong with the row.

    Args:
        files: says the encoding, and where a remedy points.
        name: of the file; its ending tells the format.
        content: its unpacked bytes.
        columns: (setting, column) of all that must be there.
        optional: columns that are read as well where there are any; of Parquet, all others are left unread.

    Raises:
        BadInput: another kind of file, not whole, in another encoding, or without a column.
    """
    kind = name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind in ("csv", "tsv"):
        return _csv_rows(files, name, _decoded(files, name, content), columns)
    if kind in ("jsonl", "ndjson"):
        return _json_rows(files, name, _decoded(files, name, content), columns)
    if kind == "parquet":
        return _parquet_rows(files, name, content, columns, optional)
    raise BadInput(
        f"files of kind {kind!r} are not read", where=name, remedy="Give CSV (.csv, .tsv), JSON lines (.jsonl) or Parquet (.parquet)."
    )


def _decoded(files: FileSet, name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig" if files.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else files.encoding)
    except LookupError as error:
        raise BadInput(
            f"encoding {files.encoding!r} is unknown",
            where=f"source {files.name!r}",
            remedy='Name one, such as "utf-8", "cp1252" or "cp932".',
        ) from error
    except UnicodeError as error:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise BadInput(
                "not UTF-8 but UTF-16", where=f"{name} line 1", remedy='Save it as UTF-8, or set encoding = "utf-16" for the source.'
            ) from error
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise BadInput(
            f"byte {at + 1:,} (0x{content[at]:02x}) is not {files.encoding}",
            where=f"{name} line {content.count(10, 0, at) + 1:,}",
            remedy='Save it as UTF-8, or set encoding for the source ("cp1252" for Western Excel, "cp932" for Japanese Excel).',
        ) from error


def _csv_rows(files: FileSet, name: str, text: str, columns: Columns) -> Iterator[tuple[int, Cells | str]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a long message is a row to reject, not a file that fails
    header_line = text[: text.find("\n")] if "\n" in text else text
    delimiter = max("\t;,", key=header_line.count) if any(sign in header_line for sign in "\t;,") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 0
    try:
        header = [column.strip() for column in next(reader, [])]
        _require_columns(files, name, header, columns)
        line = reader.line_num
        for cells in reader:
            start, line = line + 1, reader.line_num
            if len(cells) == len(header):
                yield start, dict(zip(header, cells, strict=True))
            elif cells:
                yield start, f"{len(cells)} cells under {len(header)} columns; quote cells that hold a {delimiter!r}"
    except csv.Error as error:
        raise BadInput(
            f"not CSV ({error})",
            where=f"{name} line {line + 1:,}",
            remedy='Double the quotes inside quoted cells ("") and close each quote.',
        ) from error


def _json_rows(files: FileSet, name: str, text: str, columns: Columns) -> Iterator[tuple[int, Cells | str]]:
    there: set[str] = set()
    objects = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})"
            continue
        if not isinstance(cells, dict):
            yield number, f"a JSON {type(cells).__name__}, not an object"
            continue
        objects += 1
        there |= cells.keys()
        yield number, cells
    if objects:
        _require_columns(files, name, sorted(there), columns)


def _parquet_rows(
    files: FileSet, name: str, content: bytes, columns: Columns, optional: Collection[str]
) -> Iterator[tuple[int, Cells | str]]:
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            _require_columns(files, name, file.schema_arrow.names, columns)
            wanted = [column for column in file.schema_arrow.names if column in {*(column for _, column in columns), *optional}]
            row = 0
            for batch in file.iter_batches(columns=wanted):
                for cells in batch.to_pylist():
                    row += 1
                    yield row, cells
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"not a whole Parquet file ({' '.join(str(error).split())[:200]})", where=name, remedy="Copy or write it again."
        ) from error


def _require_columns(files: FileSet, name: str, there: Sequence[str], columns: Columns) -> None:
    for key, column in columns:
        if column in there:
            continue
        if key == "keep":
            raise BadInput(
                f"no column {column!r}, which keep asks for; it has {', '.join(map(repr, there))}",
                where=name,
                remedy=f"Correct keep in [{files.table}].",
            )
        near = difflib.get_close_matches(column, there, 1, 0.5)
        remedy = f'Set {key} = "{near[0]}"' if near else f"Set {key} to one of them"
        raise BadInput(
            f"no column {column!r}; it has {', '.join(map(repr, there)) or 'none'}", where=name, remedy=f"{remedy} in [{files.table}]."
        )


def cell(value: Any) -> str:
    """A cell of any format as trimmed text: "" for nothing and NaN, whole numbers without a fraction, booleans in lower case."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def parse_tables(
    entries: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    known: Sequence[str],
    lists: Sequence[str],
    *,
    where: str,
    table: str,
    example: str,
) -> list[tuple[str, dict[str, Any]]]:
    """Place and checked values of each table of a setting that names files: one table or an array of them.

    Args:
        entries: parsed TOML.
        known: its keys.
        lists: those whose values are lists of strings, or one string; all others are strings.
        where: the file.
        table: the setting.
        example: paths to show where there are none.

    Raises:
        BadInput: an unknown key, a value of another type, no paths, or no table at all.
    """
    tables = [entries] if isinstance(entries, Mapping) else list(entries)
    if not tables:
        raise BadInput("no source in it", where=f"{where} [{table}]", remedy=f'Add one with paths = ["{example}"].')
    found = []
    for number, given in enumerate(tables, 1):
        place, values = f"{where} [{table}] {number}", {}
        for key, value in given.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                remedy = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(known)}."
                raise BadInput(f"unknown key {key!r}", where=place, remedy=remedy)
            if key in lists:
                value = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
                if not isinstance(value, tuple) or not all(isinstance(v, str) and v for v in value):
                    raise BadInput(f"{key} = {value!r} is not a list of strings", where=place, remedy=f"Set {key} to a list of strings.")
            elif not isinstance(value, str) or not value:
                raise BadInput(f"{key} = {value!r} is not a string", where=place, remedy=f"Set {key} to a string.")
            values[key] = value
        if not values.get("paths"):
            raise BadInput("no paths", where=place, remedy=f'Add paths = ["{example}"].')
        found.append((place, values))
    return found
