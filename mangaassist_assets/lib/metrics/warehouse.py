"""Runs SQL files on Arrow tables, and publishes the results as one DuckDB file.

DuckDB has one writer, and even read-only connections wait for it. So nothing ever writes to the file that people open: `build`
makes a fresh one beside it and renames it into place. Whoever has the old file open goes on reading the old rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import fsync
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot

from mangaassist_assets.lib.artifacts import House, beside_of, digest_of, digest_of_table, sync_folder
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.metrics.sql_files import SqlFile, SqlTest, identifier, lake_source, literal

READING = ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN])  # SHOW, DESCRIBE and SUMMARIZE are kinds of SELECT


@dataclass(frozen=True, slots=True)
class Published:
    """What a build put into the database file.

    Attributes:
        rows: number of rows by table.
        digest: SHA-256 over every table's content and comments; equal for equal content.
    """

    path: Path
    rows: Mapping[str, int]
    digest: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of running one file.

    Attributes:
        failing: for each test of the file the rows that break its claim.
        digest: SHA-256 of the stored result; None where it was not stored because a claim about a main table is broken.
    """

    file: SqlFile
    table: pa.Table
    failing: Mapping[str, pa.Table]
    digest: str | None


@dataclass(frozen=True, slots=True)
class Rows:
    """The answer to a query: names of the columns, and one tuple per row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def as_dicts(self) -> list[dict[str, Any]]:
        """One dictionary per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def lake_name(file: SqlFile) -> str:
    """Where a file's result lies in the lake: `metrics/<schema>/<table>`."""
    return f"metrics/{file.schema}/{file.table}"


def read_input(house: House, reference: str) -> pa.Table:
    """The table that SQL calls `reference`; all partitions together where it has partitions.

    Raises:
        MissingEvidence: its asset was never materialised.
        DamagedArtifact: its bytes are not Parquet.
    """
    source = lake_source(reference)
    if source is None:
        return house.read_table("metrics/" + reference.replace(".", "/"))
    if not house.has_table(source.name, part=source.part) and house.partitions(source.name):
        return house.read_partitions(source.name, part=source.part)
    return house.read_table(source.name, part=source.part)


def run_file(file: SqlFile, inputs: Mapping[str, pa.Table]) -> pa.Table:
    """Runs one file's SELECT in a fresh in-memory database that can reach nothing else.

    Rows come in the order of the file's own ORDER BY, else sorted by all columns, so that equal inputs give an equal digest.

    Args:
        file: what to run.
        inputs: a table for each of `file.inputs`, keyed by that name.

    Raises:
        MissingEvidence: a table of `file.inputs` is not given.
        BadInput: DuckDB refuses the SELECT, or a column has no type because it is a bare NULL.
    """
    if missing := [name for name in file.inputs if name not in inputs]:
        raise MissingEvidence(f"{file.where}: {missing[0]} is not there. Materialise its asset first.")
    with _sealed({name: inputs[name] for name in file.inputs}) as connection:
        return _run(connection, file)


def failing_rows(tests: Iterable[SqlTest], tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Runs tests on the tables they name, keyed by `schema.table`; returns by test the rows that break its claim."""
    with _sealed(tables) as connection:
        return _failing(connection, tests)


def run_files(files: Iterable[SqlFile], house: House) -> Iterator[Outcome]:
    """Runs files in the order given, tests each result and stores it in the lake.

    A main table that breaks a claim is not stored, so the last sound one stays published, and nothing that reads it is run.
    A broken claim about raw or model is reported and goes on: the tables people read are where a wrong value does harm.

    Raises:
        MissingEvidence: an input was never made.
        BadInput: DuckDB refuses a SELECT or a test.
    """
    there: set[str] = set()
    refused: set[str] = set()
    with _sealed({}) as connection:
        for file in files:
            if refused & set(file.inputs):
                refused.add(file.name)
                continue
            for name in file.inputs:
                if name not in there:
                    _add(connection, name, read_input(house, name))
                    there.add(name)
            table = _run(connection, file)
            _add(connection, file.name, table)
            there.add(file.name)
            failing = _failing(connection, file.tests)
            if file.schema == "main" and any(rows.num_rows for rows in failing.values()):
                refused.add(file.name)
                yield Outcome(file, table, failing, None)
            else:
                yield Outcome(file, table, failing, house.write_table(lake_name(file), table))


def build(files: Iterable[SqlFile], house: House, path: Path) -> Published:
    """Publishes the results of all `main` files as tables with comments, in a fresh DuckDB file at `path`.

    Raises:
        MissingEvidence: a main table was never materialised.
        DamagedArtifact: a stored result is of another shape than its file now describes.
    """
    mains = sorted((file for file in files if file.schema == "main"), key=lambda file: file.table)
    tables = {file.table: house.read_table(lake_name(file)) for file in mains}
    for file in mains:
        if tables[file.table].column_names != [column.name for column in file.columns]:
            raise DamagedArtifact(f"{lake_name(file)}: made by another {file.where}. Materialise {file.name} again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_logs(path)
    beside = beside_of(path)
    try:
        connection = duckdb.connect(str(beside))
        try:
            connection.begin()
            for file in mains:
                _publish(connection, file, tables[file.table])
            connection.commit()
            connection.execute("CHECKPOINT")
        finally:
            connection.close()
        with beside.open("rb") as stream:
            fsync(stream.fileno())
        # A log that somebody's own writes left belongs to the old file; replayed on the new one it would make it unreadable.
        _log_of(path).unlink(missing_ok=True)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        _log_of(beside).unlink(missing_ok=True)
    sync_folder(path.parent)
    content = {file.table: [digest_of_table(tables[file.table]), file.description, *(c.comment for c in file.columns)] for file in mains}
    return Published(path, {name: table.num_rows for name, table in tables.items()}, digest_of(content))


def query(path: Path, sql: str) -> Rows:
    """Answers one statement from the published file: read-only, without access to files or network.

    Raises:
        MissingEvidence: nothing is published yet.
        DamagedArtifact: the file is not a database that this DuckDB reads.
        BadInput: the statement is empty, more than one, wrong, or asks for what is not allowed.
    """
    if not path.exists():
        raise MissingEvidence(f"{path}: no metrics are published. Run `mangaassist run`.")
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        try:
            # Attached, not opened: DuckDB hands a process that has the replaced file open that old one again when it opens the path.
            connection.execute(f"ATTACH {literal(str(path))} AS metrics (READ_ONLY)")
        except duckdb.Error as error:
            raise DamagedArtifact(f"{path}: {_one_line(error)}. Materialise `metrics_warehouse` again.") from error
        connection.execute("USE metrics")
        _seal(connection)
        try:
            sql.encode()  # text that is not Unicode, which DuckDB's client would answer with a TypeError
            if [statement.type for statement in connection.extract_statements(sql)] not in READING:
                raise BadInput("not one question", where="sql", remedy='Ask with one SELECT, such as "SELECT * FROM model_selection".')
            answer = connection.execute(sql)
            return Rows(tuple(column[0] for column in answer.description or ()), tuple(answer.fetchall()))
        except (duckdb.Error, ValueError) as error:  # ValueError: a kind of statement that the Python client has no name for
            remedy = '`mangaassist sql "SHOW TABLES"` and `"DESCRIBE <table>"` list what there is.'
            raise BadInput(_one_line(error), where="sql", remedy=remedy) from error


def _publish(connection: duckdb.DuckDBPyConnection, file: SqlFile, table: pa.Table) -> None:
    table_name = f"main.{identifier(file.table)}"
    connection.register("incoming", table)
    connection.execute(f"CREATE TABLE {table_name} AS SELECT * FROM incoming")
    connection.unregister("incoming")
    connection.execute(f"COMMENT ON TABLE {table_name} IS {literal(file.description)}")
    for column in file.columns:
        connection.execute(f"COMMENT ON COLUMN {table_name}.{identifier(column.name)} IS {literal(column.comment)}")


@contextmanager
def _sealed(tables: Mapping[str, pa.Table]) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database with `tables` as views of Arrow memory, closed to files, network and Python's variables."""
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("ATTACH ':memory:' AS lake")
        _seal(connection)
        for name, table in tables.items():
            _add(connection, name, table)
        yield connection


def _add(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    """Lets statements see `table` as `name`."""
    *schema, last = (identifier(part) for part in name.split("."))
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {'.'.join(schema)}")
    registered = f"arrow_{name.replace('.', '_')}"
    connection.register(registered, table)
    connection.execute(f"CREATE VIEW {'.'.join([*schema, last])} AS SELECT * FROM {registered}")


def _run(connection: duckdb.DuckDBPyConnection, file: SqlFile) -> pa.Table:
    ordered = sqlglot.parse_one(file.sql, dialect="duckdb").args.get("order") is not None
    sql = file.sql if ordered else f"SELECT * FROM ({file.sql}\n) ORDER BY ALL"
    table = _arrow(connection, sql, where=file.where)
    if untyped := [column.name for column in table.schema if pa.types.is_null(column.type)]:
        raise BadInput(f"column {untyped[0]!r} has no type", where=file.where, remedy="Cast it, such as NULL::DOUBLE.")
    return table


def _failing(connection: duckdb.DuckDBPyConnection, tests: Iterable[SqlTest]) -> dict[str, pa.Table]:
    return {test.name: _arrow(connection, test.sql, where=f"test {test.name}") for test in tests}


def _seal(connection: duckdb.DuckDBPyConnection) -> None:
    """Closes a connection to files, network and Python's variables, for good."""
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _arrow(connection: duckdb.DuckDBPyConnection, sql: str, *, where: str) -> pa.Table:
    try:
        return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise BadInput(_one_line(error), where=where, remedy="Correct the SELECT, or materialise what it reads again.") from error


def _one_line(error: Exception) -> str:
    """DuckDB's message up to its excerpt of the statement."""
    return " ".join(str(error).split("\n\nLINE")[0].split()).rstrip(".!")


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _sweep_logs(path: Path) -> None:
    """Removes logs whose database is gone: what a build that was killed leaves after its temporary file is swept."""
    for log in path.parent.glob(f".{path.name}.*.tmp.wal"):
        if not log.with_suffix("").exists():
            log.unlink(missing_ok=True)
