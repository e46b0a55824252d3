"""The verbs people type. Exit codes: 0 done, 1 not done, 2 the command or a setting cannot be used.

Errors are one line that names the remedy; --debug shows where they come from.
"""

import datetime as dt
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
from rich.markup import escape

from mangaassist_assets.cli_queue import queue
from mangaassist_assets.lib.errors import BadInput, MangaAssistError
from mangaassist_assets.settings import PREFIX, PROJECT, Settings, current
from mangaassist_assets.terminal import By, Config, Debug, Home, Json, Why, cell, complain, now, out, print_json, print_table

app = typer.Typer(
    help="One asset graph: labelled messages in, a measured, gated and served intent classifier out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(queue, name="queue")


def main() -> None:
    """Runs a verb; turns errors that people are meant to read into one line."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    try:
        app()
    except MangaAssistError as error:
        if "--debug" in sys.argv:
            raise
        complain(str(error))
        code = 2 if isinstance(error, BadInput) else 1
    except KeyboardInterrupt:
        complain("Interrupted; `mangaassist run` goes on from here.")
        code = 130
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is closed by now, and DuckDB's bindings would list their leaks while the interpreter is taken down


# ── build ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def run(home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Build what is missing or stale, show the tables to decide by, name the next steps."""
    from mangaassist_assets import rehearsal, runs
    from mangaassist_assets.definitions import definitions
    from mangaassist_assets.lib.artifacts import House
    from mangaassist_assets.outside import look

    settings, began = current(), time.monotonic()
    built: list[str] = []
    failures: list[runs.Progress] = []

    def note(event: runs.Progress) -> None:
        show(event)
        if event.state == "built":
            built.append(str(event.target))
        elif event.state == "failed":
            failures.append(event)

    with _progress(as_json, settings.home / "run.log") as show, runs.only_run(settings.home), runs.open_instance(settings.home) as instance:
        House(settings.home, settings.store).sweep()
        runs.fail_abandoned_runs(instance)
        graph, plan = definitions(), rehearsal.planned(settings.home, settings.simulation, now().date())
        look(settings, instance)
        for event in runs.bring_up_to_date(graph, instance, clock=plan.first if plan else None):
            note(event)
        if plan and not failures:
            rehearsal.rehearse(graph, instance, settings, plan, note)
    seconds = time.monotonic() - began
    for failure in failures:
        complain(f"{failure.target}: {failure.message}")
        if debug:
            complain(failure.detail)
    tables = [] if failures else _decision_tables(settings)
    if as_json:
        print_json(
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
            print_table(table.title, table.headers, table.rows)
        if not failures:
            out.print(f"\n{len(built)} built in {seconds:.0f} s." if built else f"\nNothing to do: all is up to date ({seconds:.1f} s).")
            _print_next()
        else:
            out.print(f"\n{len(built)} built, {len(failures)} failed. The last release still serves. Correct it and run again.")
    raise typer.Exit(1 if failures else 0)


def _decision_tables(settings: Settings) -> Sequence[Any]:
    from mangaassist_assets.lib.metrics.report import decision_tables

    return decision_tables(_warehouse(settings))


def _warehouse(settings: Settings) -> Path:
    return settings.home / "warehouse" / "metrics.duckdb"


def _print_next() -> None:
    command = "mangaassist" if shutil.which("mangaassist") else os.path.relpath(Path(sys.executable).with_name("mangaassist"))
    out.print("\nNext:")
    for verb, what in (
        ("ui", "the graph, its checks and plots, in the browser"),
        ("serve", "the champion answers at http://localhost:3000/v1/classify"),
        ('sql "SELECT * FROM model_selection"', "any question on the metric tables"),
    ):
        out.print(f"  [bold]{command} {verb}[/bold]  {what}", highlight=False)


@contextmanager
def _progress(quiet: bool, log: Path) -> Iterator[Any]:
    """A function that shows events: a live line on a terminal, one line for each asset elsewhere, nothing for --json.

    What libraries print meanwhile goes to the file `log`, beneath Python's own streams as well; progress goes to a copy of stderr.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.dup(2), "w", buffering=1) as stderr, _redirected(log):
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
                    status.update(f"Building {escape(name)}")
            elif not quiet:
                seconds = time.monotonic() - started.get(name, time.monotonic())
                mark = "[green]built [/green]" if event.state == "built" else "[red]failed[/red]"
                console.print(f"{mark} {escape(name)}  [dim]{seconds:.1f} s[/dim]", highlight=False)

        try:
            yield show
        finally:
            if status:
                status.stop()


@contextmanager
def _redirected(log: Path) -> Iterator[None]:
    """Standard output and standard error of this process, native code included, into a file."""
    kept = [os.dup(1), os.dup(2)]
    try:
        with log.open("w") as stream:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)


@app.command()
def simulate(
    scenario: Annotated[str, typer.Option(help="What changes in the traffic; docs/simulation.md lists them.")] = "new_intent",
    days: Annotated[int, typer.Option(min=1, help="Of traffic.")] = 90,
    per_day: Annotated[int, typer.Option("--per-day", min=1, help="Mean number of messages a day.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 20,
    start: Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day; the one after the last there is.")] = None,
    label: Annotated[bool, typer.Option("--label/--no-label", help="Label the queue from the truth after each week.")] = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Feed the loop with simulated traffic whose drift is known; the sensors of a running `mangaassist ui` pick it up."""
    from mangaassist_assets.simulation.feeding import feed

    answers, last = feed(
        current(),
        scenario,
        days=days,
        per_day=per_day,
        seed=seed,
        start=start.date() if start else None,
        today=now().date(),
        label=label,
        told=lambda day, n: None if as_json else out.print(f"{day}  {n:,} answers", highlight=False),
    )
    if as_json:
        print_json({"scenario": scenario, "days": days, "answers": answers, "last_day": last.isoformat()})
        return
    out.print(
        f"\n{answers:,} answers until {last}. Next: `mangaassist run`, or leave it to the sensors of `mangaassist ui`.", highlight=False
    )


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
def probe(
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:3000",
    count: Annotated[int, typer.Option(min=1, help="At most so many golden messages, the same ones each time.")] = 100,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask a running service golden messages, once a day: where it answers them worse, drift_triage blames the model."""
    from mangaassist_assets.defs.drift.space import probe_labels
    from mangaassist_assets.lib.artifacts import House
    from mangaassist_assets.lib.drift.probing import probe as put

    settings = current()
    probed = put(url, probe_labels(House(settings.home, settings.store)), count)
    if as_json:
        print_json({"n": probed.n, "right": probed.right})
    else:
        out.print(f"{probed.right} of {probed.n} golden messages answered with their label. Next: the same tomorrow.", highlight=False)


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
        print_json({"columns": answer.columns, "rows": answer.rows})
    else:
        print_table("", answer.columns, [[cell(value) for value in row] for row in answer.rows])


@app.command()
def doctor(home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Check this machine and installation, each line with its remedy."""
    from mangaassist_assets.doctor import examine

    findings = list(examine(current()))
    if as_json:
        print_json({"ok": all(f.ok for f in findings), "findings": [f._asdict() for f in findings]})
    else:
        for finding in findings:
            out.print(f"{'[green]ok   [/green]' if finding.ok else '[red]FALLS[/red]'} {finding.what}: {finding.seen}", highlight=False)
            if not finding.ok:
                out.print(f"      {finding.remedy}", highlight=False)
    raise typer.Exit(0 if all(f.ok for f in findings) else 1)


# ── decide ──────────────────────────────────────────────────────────────────────────────────────────────────────────

Release = Annotated[str, typer.Argument(help="Digest of the release, or its first characters.")]


@app.command()
def status(home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Show who is champion, which releases wait for a decision, and what is stale."""
    from mangaassist_assets import runs
    from mangaassist_assets.definitions import definitions
    from mangaassist_assets.lib.release.log import current as fold
    from mangaassist_assets.lib.release.progress import outlook, read_verdicts
    from mangaassist_assets.outside import look

    settings = current()
    state = fold(settings.home / "releases")
    with runs.open_instance(settings.home) as instance:
        look(settings, instance)
        stale = [str(target) for target in runs.needed(definitions(), instance)]
    last = dict(state.releases)
    if as_json:
        releases = [
            {"release": r, "stage": c.to_state, "at": c.at.isoformat(), "by": c.by, "verdict": c.verdict, "reason": c.reason}
            for r, c in last.items()
        ]
        print_json({"champion": state.champion, "previous": state.previous, "releases": releases, "stale": stale})
        return
    out.print(f"Champion  {state.champion[:12] if state.champion else 'none yet'}", highlight=False)
    rows = [(r[:12], c.to_state.value, f"{c.at:%Y-%m-%d %H:%M} UTC", c.by, c.verdict or "", c.reason) for r, c in reversed(last.items())]
    if rows:
        print_table("Releases", ("release", "stage", "since", "by", "verdict", "reason"), rows)
    for line in outlook(state, read_verdicts(_house())):
        out.print(line, highlight=False)
    out.print(f"Stale     {', '.join(stale) or 'nothing'}", highlight=False, markup=False)


@app.command()
def approve(
    release: Release, why: Why, by: By, home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Move a release on by one step: past the gates that stopped it, or from held to champion; bring back one that was replaced."""
    from mangaassist_assets.lib.release.approvals import approve as enter

    _tell(enter(_house(), _full_name(release), by=by, why=why, at=now(), rules=current().release), as_json)


@app.command()
def reject(
    release: Release, why: Why, by: By, home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Reject a release for good."""
    _tell(_release_log().reject(_full_name(release), by=by, at=now(), why=why), as_json)


@app.command()
def rollback(why: Why, by: By, home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Return to the champion before; a running service takes it up by itself."""
    log = _release_log()
    if previous := log.state().previous:
        _house().bundle(previous)
    _tell(log.rollback(by=by, at=now(), why=why), as_json)


@app.command()
def rollback_index(home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Return to the chunk index before; a running service takes it up by itself."""
    from mangaassist_assets.lib.retrieval.pointer import Pointer
    from mangaassist_assets.lib.retrieval.served import INDEXES

    pointed = Pointer(current().home / INDEXES).rollback()
    if as_json:
        print_json({"index": pointed.current, "previous": pointed.previous})
        return
    out.print(f"Index {pointed.current[:12]} serves again; {pointed.previous[:12]} is kept.", highlight=False)
    out.print("The next `chunk_index` takes over: correct what it is built from first.", highlight=False)


def _house() -> Any:
    from mangaassist_assets.lib.artifacts import House

    return House(current().home, current().store)


def _release_log() -> Any:
    from mangaassist_assets.lib.release.log import ReleaseLog

    return ReleaseLog(current().home / "releases")


def _full_name(release: str) -> str:
    known = [name for name in _release_log().state().releases if name.startswith(release)]
    if len(known) != 1 or not release:
        problem = f"{len(known)} releases begin like that" if known else "no release begins like that"
        raise BadInput(problem, where=f"release {release!r}", remedy="Copy its digest from `mangaassist status`.")
    return known[0]


def _tell(state: Any, as_json: bool) -> None:
    if as_json:
        print_json({"champion": state.champion, "event": state.version})
    else:
        champion = state.champion[:12] if state.champion else "none"
        out.print(f"Champion  {champion}  (event {state.version} of the release log)", highlight=False)


if __name__ == "__main__":
    main()
