"""What every verb shares: its common options, and how it speaks."""

import datetime as dt
import getpass
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mangaassist_assets.settings import PREFIX, current

out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def _use_home(value: Path | None) -> None:
    if value is not None:
        os.environ[f"{PREFIX}HOME"] = str(value.resolve())
        current.cache_clear()


def _use_config(value: Path | None) -> None:
    if value is not None:
        os.environ[f"{PREFIX}CONFIG"] = str(value.resolve())
        current.cache_clear()


Home = Annotated[Path | None, typer.Option("--home", callback=_use_home, help="Where the bytes live, instead of .mangaassist.")]
Config = Annotated[Path | None, typer.Option("--config", callback=_use_config, is_eager=True, help="Another mangaassist.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Why = Annotated[str, typer.Option("--why", help="The reason, kept in the log.")]
By = Annotated[str, typer.Option("--by", default_factory=getpass.getuser, help="Who decides.")]


def now() -> dt.datetime:
    """The clock of a person's decision."""
    return dt.datetime.now(dt.UTC)


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, its cells folded where the terminal is narrow."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table, soft_wrap=False, markup=False)


def cell(value: Any) -> str:
    """A value of a result as people read it."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    """One JSON object on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def complain(line: str) -> None:
    """One line to standard error."""
    sys.stderr.write(line.rstrip() + "\n")
