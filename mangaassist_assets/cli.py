"""The verbs people type. Exit codes: 0 done, 1 not done, 2 the command or a setting cannot be used.

Errors are one line that names the remedy; --debug shows where they come from.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mangaassist_assets.lib.errors import BadInput, MangaAssistError
from mangaassist_assets.settings import PREFIX, PROJECT, Settings, current

app = typer.Typer(
    help="One asset graph: labelled messages in, a measured, gated and served intent classifier out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(soft_wrap=True)


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


def main() -> None:
    """Runs a verb; turns errors that people are meant to read into one line."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    try:
        app()
    except MangaAssistError as error:
        if "--debug" in sys.argv:
            raise
        _complain(str(error))
        sys.exit(2 if isinstance(error, BadInput) else 1)
    except KeyboardInterrupt:
        _complain("Interrupted; `mangaassist run` goes on from here.")
        sys.exit(130)


# ── build ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def run(home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Build what is missing or stale, show the tables to decide by, name the next steps."""
    from mangaassist_assets import runs
    from mangaassist_assets.definitions import definitions
    from mangaassist_assets.lib.artifacts import House

    settings, began = current(), time.monotonic()
    built: list[str] = []
    failures: list[runs.Progress] = []
    with _progress(as_json) as show, runs.only_run(settings.home), runs.open_instance(settings.home) as instance:
        House(settings.home, settings.store).sweep()
        runs.fail_abandoned_runs(instance)
        graph = definitions()
        _observe_sources(settings, instance)
        for event in runs.bring_up_to_date(graph, instance):
            show(event)
            if event.state == "built":
                built.append(str(event.target))
            elif event.state == "failed":
                failures.append(event)
    seconds = time.monotonic() - began
    for failure in failures:
        _complain(f"{failure.target}: {failure.message}")
        if debug:
            _complain(failure.detail)
    tables = [] if failures else _decision_tables(settings)
    if as_json:
        _print_json(
            {
                "ok": not failures,
                "built": built,
                "failed": [{"target": str(f.target), "message": f.message} for f in failures],
                "seconds": round(seconds, 2),
                "home": str(settings.home),
                "tables": [{"title": t.title, "headers": t.headers, "rows": t.rows} for t in tables],
            }
        )
    else:
        for table in tables:
            _print_table(table.title, table.headers, table.rows)
        if not failures:
            out.print(f"\n{len(built)} built in {seconds:.0f} s." if built else f"\nNothing to do: all is up to date ({seconds:.1f} s).")
            _print_next()
        else:
            out.print(f"\n{len(built)} built, {len(failures)} failed. The last release still serves. Correct it and run again.")
    raise typer.Exit(1 if failures else 0)


def _observe_sources(settings: Settings, instance: Any) -> None:
    """Records the digest of the source files, so that changed files make what is read from them stale."""
    from mangaassist_assets.sources import observe

    observe(settings, instance)


def _decision_tables(settings: Settings) -> Sequence[Any]:
    from mangaassist_assets.lib.metrics.report import decision_tables

    return decision_tables(_warehouse(settings))


def _warehouse(settings: Settings) -> Path:
    return settings.home / "warehouse" / "metrics.duckdb"


def _print_next() -> None:
    command = "mangaassist" if shutil.which("mangaassist") else os.path.relpath(sys.argv[0])
    out.print("\nNext:")
    for verb, what in (
        ("ui", "the graph, its checks and plots, in the browser"),
        ("serve", "the champion answers at http://localhost:3000/v1/classify"),
        ('sql "SELECT * FROM model_selection"', "any question on the metric tables"),
    ):
        out.print(f"  [bold]{command} {verb}[/bold]  {what}", highlight=False)


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """A function that shows events: a live line on a terminal, one line for each asset elsewhere, nothing for --json.

    Dagster redirects the standard streams into its compute logs while an asset runs; progress goes to a copy of stderr.
    """
    with os.fdopen(os.dup(2), "w", buffering=1) as stderr:
        console = Console(file=stderr, soft_wrap=True)
        started: dict[str, float] = {}
        status = console.status("Looking for what is missing or stale") if console.is_terminal and not quiet else None
        if status:
            status.start()

        def show(event: Any) -> None:
            name = str(event.target)
            if event.state == "started":
                started[name] = time.monotonic()
                if status:
                    status.update(f"Building {name}")
            elif not quiet:
                seconds = time.monotonic() - started.get(name, time.monotonic())
                mark = "[green]built [/green]" if event.state == "built" else "[red]failed[/red]"
                console.print(f"{mark} {name.replace('[', chr(92) + '[')}  [dim]{seconds:.1f} s[/dim]", highlight=False)

        try:
            yield show
        finally:
            if status:
                status.stop()


# ── look and serve ──────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def ui(
    home: Home = None,
    config: Config = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3001,
    debug: Debug = False,
) -> None:
    """Open the Dagster UI on the instance that `run` writes to."""
    from mangaassist_assets.runs import prepare_instance

    settings = current()
    folder = prepare_instance(settings.home)
    workspace = PROJECT / "workspace.yaml"
    where = ["-w", str(workspace)] if workspace.exists() else ["-m", "mangaassist_assets.definitions"]
    _become(["dagster", "dev", *where, "-h", host, "-p", str(port)], settings, DAGSTER_HOME=str(folder))


@app.command()
def serve(
    home: Home = None,
    config: Config = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    debug: Debug = False,
) -> None:
    """Serve the champion."""
    settings = current()
    _become(["bentoml", "serve", "bento.service:MangaAssist", "--working-dir", str(PROJECT), "--host", host, "--port", str(port)], settings)


def _become(command: Sequence[str], settings: Settings, **environment: str) -> None:
    """Replaces this process by a tool of the same environment, told the same home."""
    tool = Path(sys.executable).with_name(command[0])
    program = str(tool) if tool.exists() else command[0]
    sys.stdout.flush()
    os.execvpe(program, [program, *command[1:]], os.environ | {f"{PREFIX}HOME": str(settings.home)} | environment)


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT on the tables of metrics.duckdb.")],
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask the metric tables."""
    from mangaassist_assets.lib.metrics.warehouse import query

    answer = query(_warehouse(current()), statement)
    if as_json:
        _print_json({"columns": answer.columns, "rows": answer.rows})
    else:
        _print_table("", answer.columns, [[_cell(value) for value in row] for row in answer.rows])


@app.command()
def doctor(home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Check this machine and installation, each line with its remedy."""
    from mangaassist_assets.doctor import examine

    findings = list(examine(current()))
    if as_json:
        _print_json({"ok": all(f.ok for f in findings), "findings": [f._asdict() for f in findings]})
    else:
        for finding in findings:
            out.print(f"{'[green]ok   [/green]' if finding.ok else '[red]FALLS[/red]'} {finding.what}: {finding.seen}", highlight=False)
            if not finding.ok:
                out.print(f"      {finding.remedy}", highlight=False)
    raise typer.Exit(0 if all(f.ok for f in findings) else 1)


# ── how things are printed ──────────────────────────────────────────────────────────────────────────────────────────


def _print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table, soft_wrap=False)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def _complain(line: str) -> None:
    sys.stderr.write(line.rstrip() + "\n")


if __name__ == "__main__":
    main()
