"""`mangaassist queue`: messages out to annotators, labels back in. Exit codes as everywhere: 0 done, 1 not done, 2 cannot be used."""

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.settings import current
from mangaassist_assets.terminal import By, Config, Debug, Home, Json, Why, now, out, print_json, print_table

queue = typer.Typer(help="Messages out to annotators, labels back in.", no_args_is_help=True, add_completion=False)


@queue.command()
def export(
    path: Annotated[Path, typer.Argument(help="File to write: .csv for a spreadsheet, .json for Label Studio.")],
    annotator: Annotated[str, typer.Option("--annotator", default_factory=getpass.getuser, help="Who will label it.")],
    count: Annotated[int, typer.Option(min=1, help="At most so many messages.")] = 100,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Lease messages to an annotator and write them to a file; what they hold already comes first, its lease renewed."""
    from mangaassist_assets.lib.messages.label_files import check_name, write_export

    check_name(path)
    log, at = _queue(), now()
    items = log.lease(annotator, count, at=at)
    if not items:
        counts = log.state().counts(at)
        _tell({"items": 0} | counts, f"Nothing is open to {annotator}: {_counted(counts)}.", as_json)
        raise typer.Exit(1)
    write_export(path, items, annotator)
    until = max(item.leases[annotator] for item in items)
    line = f"{path}: {len(items)} messages, leased to {annotator} until {until:%Y-%m-%d %H:%M} UTC."
    _tell(
        {"items": len(items), "file": str(path), "annotator": annotator, "leased_until": until.isoformat()},
        f"{line}\nNext: fill intent and secondary_intent, then `mangaassist queue import {path}`.",
        as_json,
    )


@queue.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A filled export: CSV, or JSON from Label Studio.")],
    by: By,
    new_intent: Annotated[list[str] | None, typer.Option("--new-intent", help="Also accept this intent, from now on.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take labels in; rows that cannot be taken are written beside the file with the reason. Exit code 1 where there are any."""
    from mangaassist_assets.lib.messages.label_inbox import import_labels, publish

    log, at = _queue(), now()
    if new_intent:
        log.accept(new_intent, at=at, by=by)
    found = import_labels(log, path, at=at, by=by)
    state = log.state()
    publish(current().home, state)
    counts = state.counts(at)
    refused = [
        {"row": refusal.answer.row, "item_id": refusal.answer.item_id, "reason": refusal.reason, "detail": refusal.detail}
        for refusal in found.refused
    ]
    report = {"file": found.file, "taken": found.taken, "unchanged": found.unchanged, "empty": found.empty, "refused": refused}
    lines = [f"{found}.", f"Queue: {_counted(counts)}."]
    if counts["conflict"]:
        lines.append("Next: `mangaassist queue status` shows the conflicts, `mangaassist queue adjudicate` decides them.")
    _tell(report | {"refused_file": str(found.beside) if found.beside else None, "queue": counts}, "\n".join(lines), as_json)
    raise typer.Exit(1 if found.refused else 0)


@queue.command()
def status(home: Home = None, config: Config = None, as_json: Json = False, debug: Debug = False) -> None:
    """Show where the queue stands, how far annotators agree, and the conflicts that wait for a decision."""
    from mangaassist_assets.lib.messages.agreement import agreement

    state, at = _queue().state(), now()
    counts, conflicts, kappa = state.counts(at), state.conflicts(), agreement(state).to_pylist()
    if as_json:
        waiting = [
            {"item_id": item.item_id, "text": item.text, "labels": {name: list(label) for name, label in item.labels.items()}}
            for item in conflicts
        ]
        print_json({"version": state.version, "states": counts, "agreement": kappa, "conflicts": waiting})
        return
    out.print(f"Queue      {_counted(counts)}", highlight=False)
    pairs = kappa[0]
    if pairs["kappa"] is not None:
        interval = f"{pairs['ci_low']:.2f} to {pairs['ci_high']:.2f}"
        out.print(f"Agreement  kappa {pairs['kappa']:.2f} ({interval}) on {pairs['n']} messages labelled twice", highlight=False)
    else:
        out.print("Agreement  not measured yet", highlight=False)
    if conflicts:
        rows = [
            (i.item_id, i.text, "; ".join(f"{who}: {' + '.join(filter(None, said))}" for who, said in i.labels.items())) for i in conflicts
        ]
        print_table("Conflicts", ("item", "text", "labels"), rows)
        out.print("Next: `mangaassist queue adjudicate <item> <intent> --why ...`", highlight=False, markup=False)


@queue.command()
def adjudicate(
    item: Annotated[str, typer.Argument(help="Its id, from `mangaassist queue status` or the table label_queue.")],
    intent: Annotated[str, typer.Argument(help="What it is.")],
    by: By,
    why: Why,
    secondary: Annotated[str | None, typer.Option("--secondary", help="Its second intent, if it has one.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Decide a conflict, or correct a label that is wrong."""
    from mangaassist_assets.lib.messages.label_inbox import publish
    from mangaassist_assets.lib.messages.queue_state import Label

    at = now()
    state = _queue().adjudicate(item, Label(intent, secondary), at=at, by=by, why=why)
    publish(current().home, state)
    counts = state.counts(at)
    left = f"{counts['conflict']} conflicts left" if counts["conflict"] else "no conflict left"
    _tell({"item_id": item, "intent": intent, "secondary_intent": secondary, "queue": counts}, f"{item} is {intent}; {left}.", as_json)


def _queue() -> Any:
    """The queue of this home.

    Raises:
        BadInput: nothing was ever queued.
    """
    from mangaassist_assets.lib.messages.queue import FOLDER, Queue

    log = Queue(current().home / FOLDER, current().labelling)
    if not log.state().items:
        raise BadInput(
            "nothing was ever queued", where=str(log.folder), remedy="`mangaassist run` queues a week's sample once there is traffic."
        )
    return log


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {state}" for state, n in counts.items())


def _tell(report: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        out.print(text, highlight=False, markup=False)
