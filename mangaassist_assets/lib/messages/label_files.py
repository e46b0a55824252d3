"""What annotators are handed and hand back: a CSV for a spreadsheet, or JSON for Label Studio.

    CSV    item_id, annotator, text, predicted, intent, secondary_intent; the last two are to be filled
    JSON   tasks as Label Studio imports them; back come its exports "JSON" or "JSON-MIN"

The model's answer stands in `predicted`, or as a prediction of the task, only for items that are labelled once and measure nothing.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mangaassist_assets.lib.artifacts import write_atomic
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.files import FileSet, cell, rows
from mangaassist_assets.lib.messages.normalising import normalise
from mangaassist_assets.lib.messages.queue import Answer, Refusal
from mangaassist_assets.lib.messages.queue_state import Item
from mangaassist_assets.lib.messages.redaction import redact

COLUMNS = ("item_id", "annotator", "text", "predicted", "intent", "secondary_intent")
REFUSED = ".refused.csv"
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet would run what starts so


def is_refusals(path: Path) -> bool:
    """Whether a file is a list that `write_refused` wrote."""
    return path.name.endswith(REFUSED)


def check_name(path: Path) -> None:
    """BadInput unless an export of that name can be written: nothing is leased for a file that cannot be."""
    if path.suffix not in (".csv", ".json"):
        raise BadInput(
            f"{path.suffix or 'no ending'} is no format", where=str(path), remedy="End the name in .csv or .json (Label Studio)."
        )
    if not path.absolute().parent.is_dir():
        raise BadInput("its folder does not exist", where=str(path), remedy="Create it, or name another.")


def write_export(path: Path, items: Sequence[Item], annotator: str) -> None:
    """Writes items for one annotator, format by the name's ending, which `check_name` has seen."""
    if path.suffix == ".csv":
        lines = [
            {
                "item_id": item.item_id,
                "annotator": annotator,
                "text": _shielded(item.text),
                "predicted": "" if item.is_blind else item.predicted,
                "intent": "",
                "secondary_intent": "",
            }
            for item in items
        ]
        write_atomic(path, _csv(COLUMNS, lines))
    else:
        write_atomic(path, json.dumps([_task(item, annotator) for item in items], ensure_ascii=False, indent=1).encode() + b"\n")


def read_answers(path: Path) -> tuple[list[Answer], list[Refusal], int]:
    """Answers of a filled export, rows that cannot be read as one, and how many rows were left empty.

    Raises:
        BadInput: the file cannot be read as a whole, or is no export.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror})", where=str(path), remedy="Correct the path.") from error
    answers: list[Answer] = []
    refused: list[Refusal] = []
    empty = 0
    for row, cells in _json_rows(path, content) if path.suffix == ".json" else _table_rows(path, content):
        answer = _answer(row, cells if isinstance(cells, Mapping) else {})
        if not isinstance(cells, Mapping):
            refused.append(Refusal(answer, "malformed_row", cells))
        elif answer.intent:
            answers.append(answer)
        elif answer.secondary_intent:
            refused.append(Refusal(answer, "empty_intent", "a second intent without a first"))
        else:
            empty += 1
    return answers, refused, empty


def write_refused(path: Path, refused: Sequence[Refusal]) -> Path | None:
    """Writes refused rows beside `path`, to correct and import again, and returns where; removes an older list where none is refused."""
    beside = path.with_name(path.stem + REFUSED)
    if not refused:
        beside.unlink(missing_ok=True)
        return None
    lines = [
        {
            "row": refusal.answer.row,
            "reason": refusal.reason,
            "detail": refusal.detail,
            "item_id": refusal.answer.item_id,
            "annotator": refusal.answer.annotator,
            "text": _shielded(redact(refusal.answer.text)),
            "predicted": "",
            "intent": refusal.answer.intent,
            "secondary_intent": refusal.answer.secondary_intent or "",
        }
        for refusal in refused
    ]
    write_atomic(beside, _csv(("row", "reason", "detail", *COLUMNS), lines))
    return beside


def _csv(columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> bytes:
    """With a byte-order mark: without one Excel reads Japanese as something else."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode("utf-8-sig", "replace")


def _shielded(text: str) -> str:
    """Behind an apostrophe where a spreadsheet would run it, or where it would look like one that was put behind it."""
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def _unshielded(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith((*_FORMULA, "'")) else text


def _answer(row: int, cells: Mapping[str, Any]) -> Answer:
    told = {name: cell(cells.get(name)) for name in COLUMNS}
    annotator = " ".join(told["annotator"].split())
    text = normalise(told["text"])
    return Answer(row, annotator, told["item_id"], text, told["intent"], _second(told["intent"], told["secondary_intent"]))


def _second(intent: str, secondary: str) -> str | None:
    return secondary if secondary and secondary != intent else None


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table_rows(path: Path, content: bytes) -> Sequence[tuple[int, Mapping[str, Any] | str]]:
    files = FileSet((path.name,), path.parent, "utf-8", path.name, "queue export")
    wanted = [(name, name) for name in ("item_id", "annotator", "text", "intent", "secondary_intent")]
    try:
        found = list(rows(files, path.name, content, wanted))
    except BadInput as error:
        raise BadInput(
            error.problem, where=error.where, remedy="Fill a file that `mangaassist queue export` wrote, saved as UTF-8."
        ) from error
    return [(row, cells if isinstance(cells, str) else {**cells, "text": _unshielded(cell(cells["text"]))}) for row, cells in found]


# ── Label Studio ────────────────────────────────────────────────────────────────────────────────────────────────────


def _task(item: Item, annotator: str) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {"item_id": item.item_id, "annotator": annotator, "text": item.text}}
    if not item.is_blind:
        choice = {"from_name": "intent", "to_name": "text", "type": "choices", "value": {"choices": [item.predicted]}}
        task["predictions"] = [{"model_version": "mangaassist", "score": item.confidence, "result": [choice]}]
    return task


def _json_rows(path: Path, content: bytes) -> Sequence[tuple[int, Mapping[str, Any] | str]]:
    try:
        tasks = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON ({error})", where=str(path), remedy="Export it from Label Studio as JSON or JSON-MIN again.") from error
    if not isinstance(tasks, list):
        raise BadInput("not a list of tasks", where=str(path), remedy="Export it from Label Studio as JSON or JSON-MIN.")
    return [(number, _cells(task)) for number, task in enumerate(tasks, 1)]


def _cells(task: Any) -> Mapping[str, Any] | str:
    """What a task says, whichever of the two forms it has; the last annotation that was not skipped counts."""
    if not isinstance(task, Mapping):
        return f"a JSON {type(task).__name__}, not a task"
    data = task.get("data", task)
    if not isinstance(data, Mapping) or "item_id" not in data:
        return "no item_id in it"
    chosen = {name: task.get(name) for name in ("intent", "secondary_intent")}
    annotations = task.get("annotations") or []
    done = [a for a in annotations if isinstance(a, Mapping) and not a.get("was_cancelled")] if isinstance(annotations, list) else []
    for result in (done[-1].get("result") or []) if done else []:
        if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping):
            chosen[str(result.get("from_name"))] = result["value"]
    return {name: data.get(name) for name in ("item_id", "annotator", "text")} | {name: _choice(value) for name, value in chosen.items()}


def _choice(value: Any) -> Any:
    """The first of the choices, which JSON-MIN gives alone where there is one."""
    if isinstance(value, Mapping):
        value = value.get("choices")
    return value[0] if isinstance(value, list) and value else value if isinstance(value, str) else ""
