"""`dbt_like_sql/{raw,model,main}/<table>.sql`: one SELECT per file, and the header comment is its only metadata.

    -- asset.description = One row per release and metric: ...
    -- asset.column = latency_ms_p99 | ms | 99th percentile of latency.
    -- asset.unique = release, metric
    -- asset.not_null = release, metric
    -- asset.accepted = verdict | PASS, FAIL, INCONCLUSIVE
    -- asset.range = threshold | 0 | 1
    -- asset.test = intervals_are_ordered | SELECT * FROM main.gates WHERE ci_low > ci_high

A comment line that opens with three spaces or more continues the line above it; other comments are for people. Dependencies
and column lineage come from the SELECT itself (sqlglot), so no file states them twice and none can state them wrongly.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import lineage
from sqlglot.optimizer.scope import traverse_scope

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput

SQL_FOLDER = Path(__file__).parents[3] / "dbt_like_sql"

# What each layer may read: the lake, then one step at a time towards the tables people query.
LAYERS: Mapping[str, tuple[str, ...]] = {"raw": ("lake",), "model": ("raw", "model"), "main": ("raw", "model", "main")}


def identifier(name: str) -> str:
    """`name` quoted as an identifier: columns such as at and by are also words of SQL."""
    return exp.to_identifier(name, quoted=True).sql("duckdb")


def literal(text: str) -> str:
    """`text` quoted as a string."""
    return exp.Literal.string(text).sql("duckdb")


@dataclass(frozen=True, slots=True)
class Unit:
    """How a column is measured: its words in a comment, and the values it can have."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    numeric: bool = True


UNITS: Mapping[str, Unit] = {
    "text": Unit("text", numeric=False),
    "list": Unit("list of text", numeric=False),
    "flag": Unit("true or false", numeric=False),
    "date": Unit("date, UTC", numeric=False),
    "time": Unit("point in time, UTC", numeric=False),
    "count": Unit("count", 0),
    "ratio": Unit("ratio, 0..1", 0, 1),
    "ratio change": Unit("difference of ratios, -1..1", -1, 1),
    "own": Unit("in the metric's own unit, which its name ends with"),
    "ms": Unit("milliseconds", 0),
    "s": Unit("seconds", 0),
    "per second": Unit("per second", 0),
    "MB": Unit("megabytes of 10^6 bytes", 0),
    "usd": Unit("US dollars", 0),
    "usd change": Unit("difference of US dollars"),
    "usd per hour": Unit("US dollars per hour", 0),
    "usd per million": Unit("US dollars per million requests", 0),
    "usd per point": Unit("US dollars per percentage point"),
    "nats": Unit("nats", 0),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One documented column of a file's SELECT."""

    name: str
    unit: str
    description: str

    @property
    def comment(self) -> str:
        """Description and unit in one sentence each, as stored in the database."""
        return f"{self.description.rstrip('.')}. Unit: {UNITS[self.unit].words}."


@dataclass(frozen=True, slots=True)
class SqlTest:
    """A claim about a table; `sql` returns the rows that break it."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class LakeSource:
    """A lake table as SQL names it: `lake.<group>.<asset>`, or `lake.<group>.<asset>__<part>` for a part that is not `data`."""

    group: str
    asset: str
    part: str

    @property
    def name(self) -> str:
        """The name that `House` knows it by."""
        return f"{self.group}/{self.asset}"


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One SELECT, what its columns mean, what must hold of it, and what it reads.

    Attributes:
        inputs: the tables it reads, sorted, such as `lake.release.offline_gates` or `raw.offline_gates`.
        lineage: for each column the (table, column) pairs it is computed from; empty for constants and counts of rows.
        digest: SHA-256 of the file's text.
    """

    schema: str
    table: str
    sql: str
    description: str
    columns: tuple[Column, ...]
    tests: tuple[SqlTest, ...]
    inputs: tuple[str, ...]
    digest: str
    lineage: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`schema.table`, as SQL refers to it."""
        return f"{self.schema}.{self.table}"

    @property
    def where(self) -> str:
        """The file, as errors name it."""
        return f"dbt_like_sql/{self.schema}/{self.table}.sql"


def lake_source(reference: str) -> LakeSource | None:
    """The lake table behind `lake.<group>.<asset>[__part]`; None for a table of a SQL file."""
    if not reference.startswith("lake."):
        return None
    _, group, table = reference.split(".")
    asset, _, part = table.partition("__")
    return LakeSource(group, asset, part or "data")


def read_sql_files(folder: Path = SQL_FOLDER) -> tuple[SqlFile, ...]:
    """Reads every file below `folder`, each after the files that it reads, names in alphabetical order otherwise.

    Raises:
        BadInput: a file is not one documented SELECT, reads a table that is not there or lies downstream, or reads itself by a detour.
    """
    paths = sorted(folder.glob("*/*.sql"))
    if not paths:
        raise BadInput("no raw/, model/ or main/ with SQL files", where=str(folder), remedy="Run from a whole checkout of the project.")
    parsed = {file.name: (file, query) for file, query in map(_read, paths)}
    for file, _ in parsed.values():
        _check_inputs(file, parsed.keys())
    try:
        upstream = {name: [i for i in file.inputs if i in parsed] for name, (file, _) in parsed.items()}
        order = list(TopologicalSorter(upstream).static_order())
    except CycleError as error:
        cycle = error.args[1]
        problem, where = f"files read each other in a circle: {' <- '.join(cycle)}", parsed[cycle[0]][0].where
        raise BadInput(problem, where=where, remedy="Break the circle in one of them.") from error
    schema: dict[str, dict[str, dict[str, str]]] = {layer: {} for layer in LAYERS}
    for file, _ in parsed.values():
        schema[file.schema][file.table] = {column.name: "unknown" for column in file.columns}
    return tuple(_with_lineage(*parsed[name], schema) for name in order)


def _read(path: Path) -> tuple[SqlFile, exp.Query]:
    where = f"dbt_like_sql/{path.parent.name}/{path.name}"
    schema, table = path.parent.name, path.stem
    if schema not in LAYERS or not re.fullmatch(r"[a-z][a-z0-9_]*", table):
        remedy = f"Put it in {', '.join(LAYERS)}, under a name of [a-z0-9_]."
        raise BadInput("the folder is the schema and the name is the table", where=where, remedy=remedy)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("not UTF-8", where=where, remedy="Save it as UTF-8.") from error
    header, sql = _split_header(text)
    query = _parse_one_select(sql, where)
    description, columns, tests = _parse_header(header, f"{schema}.{table}", where)
    _compare_columns(columns, query, where)
    inputs = _references(query, where)
    for test in tests:
        if strange := set(_references(sqlglot.parse_one(test.sql, dialect="duckdb"), where)) - {f"{schema}.{table}", *inputs}:
            remedy = f"Test {schema}.{table} and what it reads; put a claim about other tables beside them."
            raise BadInput(f"test {test.name} reads {min(strange)}, which the file does not", where=where, remedy=remedy)
    return SqlFile(schema, table, sql, description, columns, tests, inputs, digest_of(text)), query


def _split_header(text: str) -> tuple[list[tuple[str, str]], str]:
    """The `-- asset.<key> = <value>` lines above the first line of SQL, and the SQL."""
    lines, header, last = text.splitlines(), list[tuple[str, str]](), False
    for number, line in enumerate(lines):
        if line.strip() and not line.startswith("--"):
            return header, "\n".join(lines[number:]).strip().removesuffix(";").rstrip()
        if found := re.fullmatch(r"--\s*asset\.(\w+)\s*=\s*(.*?)\s*", line):
            header.append((found[1], found[2]))
            last = True
        elif last and re.match(r"--\s{3,}\S", line):
            header[-1] = (header[-1][0], f"{header[-1][1]} {line[2:].strip()}")
        else:
            last = False
    return header, ""


def _parse_one_select(sql: str, where: str) -> exp.Query:
    remedy = "Write exactly one SELECT, below the header."
    try:
        statements = [s for s in sqlglot.parse(sql, dialect="duckdb") if s is not None]
    except SqlglotError as error:
        raise BadInput(f"not SQL that DuckDB reads ({_first_line(error)})", where=where, remedy=remedy) from error
    if len(statements) != 1:
        raise BadInput(f"{len(statements)} statements", where=where, remedy=remedy)
    query = statements[0]
    if not isinstance(query, exp.Query):
        raise BadInput(f"a {query.key.upper()} statement", where=where, remedy=remedy)
    for selected in query.selects:
        if selected.is_star or not selected.alias_or_name:
            problem = f"column {selected.sql('duckdb')!r} has no name of its own"
            raise BadInput(problem, where=where, remedy="List the columns; give each an alias.")
    return query


def _parse_header(header: Iterable[tuple[str, str]], table: str, where: str) -> tuple[str, tuple[Column, ...], tuple[SqlTest, ...]]:
    descriptions, columns, tests = list[str](), dict[str, Column](), list[SqlTest]()

    def fields(key: str, value: str, count: int) -> list[str]:
        parts = [part.strip() for part in value.split("|", count - 1)]
        if len(parts) != count:
            raise BadInput(f"`asset.{key} = {value}` has {len(parts)} fields, wants {count}", where=where, remedy="Separate them by |.")
        return parts

    def known(name: str) -> str:
        if name.strip() not in columns:
            problem = f"a test names column {name.strip()!r}, which has no asset.column line above it"
            raise BadInput(problem, where=where, remedy="Correct the name, or document the column.")
        return identifier(name.strip())

    for key, value in header:
        match key:
            case "description":
                descriptions.append(value)
            case "column":
                name, unit, words = fields(key, value, 3)
                if unit not in UNITS:
                    raise BadInput(f"column {name!r} has unknown unit {unit!r}", where=where, remedy=f"Use one of: {', '.join(UNITS)}.")
                if name in columns or not words:
                    problem = "documented twice" if name in columns else "without a description"
                    raise BadInput(f"column {name!r} is {problem}", where=where, remedy="Write one asset.column line for it.")
                columns[name] = Column(name, unit, words)
            case "unique":
                names = ", ".join(known(part) for part in value.split(","))
                tests.append(SqlTest("rows_are_unique", f"SELECT {names}, count(*) AS times FROM {table} GROUP BY ALL HAVING count(*) > 1"))
            case "not_null":
                absent = " OR ".join(f"{known(part)} IS NULL" for part in value.split(","))
                tests.append(SqlTest("required_values_are_there", f"SELECT * FROM {table} WHERE {absent}"))
            case "accepted":
                name, values = fields(key, value, 2)
                quoted = ", ".join(literal(part.strip()) for part in values.split(","))
                tests.append(SqlTest(f"{name}_is_a_known_word", f"SELECT * FROM {table} WHERE {known(name)} NOT IN ({quoted})"))
            case "range":
                name, low, high = fields(key, value, 3)
                try:
                    outside = _outside(known(name), float(low or -math.inf), float(high or math.inf))
                except ValueError as error:
                    raise BadInput(f"`asset.range = {value}` has no numbers", where=where, remedy="Write column | low | high.") from error
                tests.append(SqlTest(f"{name}_is_in_range", f"SELECT * FROM {table} WHERE {outside}"))
            case "test":
                name, sql = fields(key, value, 2)
                _check_test(name, sql, where)
                tests.append(SqlTest(name, sql))
            case _:
                known_keys = "description, column, unique, not_null, accepted, range or test"
                raise BadInput(f"unknown header line asset.{key}", where=where, remedy=f"Use {known_keys}.")
    if len(descriptions) != 1 or not descriptions[0].startswith("One row per "):
        remedy = "Write `-- asset.description = One row per ...`."
        raise BadInput("no single asset.description that states the grain", where=where, remedy=remedy)
    measured = [_outside(identifier(c.name), UNITS[c.unit].low, UNITS[c.unit].high) for c in columns.values() if UNITS[c.unit].numeric]
    if measured:
        tests.append(SqlTest("values_fit_their_units", f"SELECT * FROM {table} WHERE {' OR '.join(measured)}"))
    if doubled := sorted({t.name for t in tests if [u.name for u in tests].count(t.name) > 1}):
        raise BadInput(f"two tests are named {doubled[0]}", where=where, remedy="Join them, or name one differently.")
    return descriptions[0], tuple(columns.values()), tuple(tests)


def _check_test(name: str, sql: str, where: str) -> None:
    remedy = "Write `-- asset.test = name | SELECT ...` that returns the failing rows."
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BadInput(f"test name {name!r} is not a word of [a-z0-9_]", where=where, remedy=remedy)
    try:
        query = sqlglot.parse_one(sql, dialect="duckdb")
    except SqlglotError as error:
        raise BadInput(f"test {name} is not one SELECT ({_first_line(error)})", where=where, remedy=remedy) from error
    if not isinstance(query, exp.Query):
        raise BadInput(f"test {name} is not a SELECT", where=where, remedy=remedy)


def _outside(column: str, low: float, high: float) -> str:
    """Condition that a value is NaN or outside [low, high]; NULL, which means not measured, passes."""
    limits = [f"isnan({column}::DOUBLE)"]
    limits += [f"{column} < {low:g}"] if math.isfinite(low) else []
    limits += [f"{column} > {high:g}"] if math.isfinite(high) else []
    return " OR ".join(limits)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _compare_columns(columns: tuple[Column, ...], query: exp.Query, where: str) -> None:
    documented, selected = [c.name for c in columns], query.named_selects
    if twice := [name for name in selected if selected.count(name) > 1]:
        raise BadInput(f"column {twice[0]!r} is selected twice", where=where, remedy="Give one of them another alias.")
    if bare := [name for name in selected if name not in documented]:
        remedy = f"Write `-- asset.column = {bare[0]} | unit | what it is`."
        raise BadInput(f"column {bare[0]!r} has no header line", where=where, remedy=remedy)
    if stray := [name for name in documented if name not in selected]:
        problem = f"the header documents {stray[0]!r}, which the SELECT does not return"
        raise BadInput(problem, where=where, remedy="Select it or remove the line.")


def _references(query: exp.Expr, where: str) -> tuple[str, ...]:
    """The tables outside the query that it reads; sqlglot's scopes tell them from CTEs of the same name."""
    tables = {id(s): s for scope in traverse_scope(query) for s in scope.sources.values() if isinstance(s, exp.Table)}
    names = set[str]()
    for table in tables.values():
        if not isinstance(table.this, exp.Identifier):
            problem = f"reads {table.sql('duckdb')!r}, which is not a table"
            raise BadInput(problem, where=where, remedy="Read lake, raw, model or main tables only.")
        if not table.db:
            remedy = f"Write its schema, such as raw.{table.name} or lake.<group>.{table.name}."
            raise BadInput(f"table {table.name!r} has no schema and is no CTE", where=where, remedy=remedy)
        names.add(_full_name(table))
    return tuple(sorted(names))


def _full_name(table: exp.Table) -> str:
    return ".".join(part.name for part in table.parts)


def _check_inputs(file: SqlFile, known: Iterable[str]) -> None:
    for name in file.inputs:
        parts = name.split(".")
        if parts[0] not in LAYERS[file.schema]:
            problem = f"reads {name}, but {file.schema}/ reads only {' and '.join(LAYERS[file.schema])}"
            raise BadInput(problem, where=file.where, remedy="Read it through a file of the layer below.")
        if parts[0] == "lake" and len(parts) != 3:
            raise BadInput(f"reads {name}", where=file.where, remedy="Write lake.<group>.<asset>, or lake.<group>.<asset>__<part>.")
        if parts[0] != "lake" and name not in known:
            remedy = f"Write dbt_like_sql/{parts[0]}/{parts[-1]}.sql, or correct the name."
            raise BadInput(f"reads {name}, which no file makes", where=file.where, remedy=remedy)


def _with_lineage(file: SqlFile, query: exp.Query, schema: Mapping[str, object]) -> SqlFile:
    sources = dict[str, tuple[tuple[str, str], ...]]()
    try:
        nodes = lineage(None, query, dialect="duckdb", schema=dict(schema))
    except SqlglotError as error:
        remedy = "Write it with its table, such as gates.verdict."
        raise BadInput(f"a column cannot be traced to a table ({_first_line(error)})", where=file.where, remedy=remedy) from error
    for column, node in nodes.items():
        leaves = [(leaf.expression, leaf.name) for leaf in node.walk()]
        pairs = {(_full_name(t), exp.to_column(name, dialect="duckdb").name) for t, name in leaves if isinstance(t, exp.Table)}
        sources[column] = tuple(sorted(pairs))
    return replace(file, lineage=sources)
