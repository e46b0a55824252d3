"""`inbox/labels/` under the home folder: where labels arrive, and from where settled ones go into training.

    filled exports       CSV with a column item_id, or .json of Label Studio: they are imported into the queue and stay where they are
    queue-<week>.jsonl   what the queue has settled, written by it: derived from its log, never edited
    other .csv, .jsonl   finished labels from elsewhere, columns text, intent, secondary_intent and split
    *.refused.csv        rows of an export that were not taken, with the reason

Finished labels are one more source of labelled messages. Conflicts and half-labelled items are not among them. A text nearly equal to a
golden, test or validation message is refused where sources are read, as from every source.
"""

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mangaassist_assets.lib.artifacts import digest_of, digest_of_file, write_atomic
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.label_files import is_refusals, read_answers, write_refused
from mangaassist_assets.lib.messages.queue import FOLDER, Answer, Queue, Refusal, Taken
from mangaassist_assets.lib.messages.queue_state import State, glance
from mangaassist_assets.lib.messages.reading import Source

INBOX = Path("inbox", "labels")
NAME = "queue"
LICENCE = "own"


@dataclass(frozen=True)
class Imported:
    """What became of one filled export.

    Attributes:
        file: its name.
        taken, unchanged, empty: rows that are new, that were taken before, and that nobody filled.
        refused: rows that were not taken.
        beside: where those were written; None where there are none.
    """

    file: str
    taken: int
    unchanged: int
    empty: int
    refused: tuple[Refusal, ...]
    beside: Path | None

    def __str__(self) -> str:
        """One line for people."""
        line = f"{self.file}: {self.taken} taken"
        if self.refused:
            reasons = [refusal.reason for refusal in self.refused]
            words = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
            line += f", {len(reasons)} refused ({words}; see {self.beside.name if self.beside else self.file})"
        if self.unchanged:
            line += f", {self.unchanged} taken before"
        return line + (f", {self.empty} left empty" if self.empty else "")


def import_labels(queue: Queue, path: Path, *, at: dt.datetime, by: str) -> Imported:
    """Enters a filled export into the queue; rows that are refused are written beside it. Doing it again changes nothing.

    Raises:
        BadInput: the file as a whole cannot be read.
    """
    answers, unreadable, empty = read_answers(path)
    taken = queue.label(answers, at=at, by=by) if answers else Taken(0, 0, ())
    refused = tuple(sorted((*unreadable, *taken.refused), key=lambda refusal: refusal.answer.row))
    return Imported(path.name, taken.taken, taken.unchanged, empty, refused, write_refused(path, refused))


def take_in(queue: Queue, home: Path, *, at: dt.datetime, by: str) -> list[Imported]:
    """Imports every filled export in the inbox; one that cannot be read as a whole is refused as a whole, and the others are taken."""
    found = []
    for path in _filled(home / INBOX):
        try:
            found.append(import_labels(queue, path, at=at, by=by))
        except BadInput as error:
            whole = (Refusal(Answer(0, "", "", "", "", None), "unreadable_file", str(error)),)
            found.append(Imported(path.name, 0, 0, 0, whole, write_refused(path, whole)))
    return found


def publish(home: Path, state: State) -> None:
    """Writes what is settled, one file a week of sampling; files that are right already are left alone."""
    weeks: dict[dt.date, list[str]] = {}
    for item in state.items.values():
        if (outcome := item.outcome) is not None:
            row = {
                "message_id": item.message_id,
                "text": item.text,
                "intent": outcome.intent,
                "secondary_intent": outcome.secondary_intent or "",
                "split": "train",
                "stratum": item.stratum,
                "labels": len(item.labels),
                "adjudicated": item.decision is not None,
            }
            weeks.setdefault(item.week, []).append(json.dumps(row, ensure_ascii=False) + "\n")
    for week, lines in weeks.items():
        path, content = home / INBOX / f"queue-{week}.jsonl", "".join(lines).encode()
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)


def inbox_source(home: Path) -> Source | None:
    """The finished labels in the inbox as a source of labelled messages; None where there are none.

    Once a queue has said what its intents are, labels outside them are refused row by row.
    """
    names = tuple(path.name for path in _files(home / INBOX) if not _is_export(path))
    if not names:
        return None
    intents, _ = glance(home / FOLDER)
    return Source(
        NAME,
        names,
        secondary_intent="secondary_intent",
        split="split",
        labels=tuple(sorted(intents)) or None,
        licence=LICENCE,
        folder=home / INBOX,
    )


def digest_of_inbox(home: Path) -> str:
    """Digest of what people did to the queue: filled exports in the inbox by content, and events of the log by number."""
    exports = [[path.name, digest_of_file(path)] for path in _filled(home / INBOX)]
    _, by_people = glance(home / FOLDER)
    return digest_of([exports, list(by_people)])


def _filled(folder: Path) -> Iterator[Path]:
    return (path for path in _files(folder) if _is_export(path))


def _files(folder: Path) -> list[Path]:
    """Files of labels, by name; hidden and empty ones, and lists of what was refused, are none."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".csv", ".jsonl", ".json") and not path.name.startswith(".") and not is_refusals(path) and path.stat().st_size
    )


def _is_export(path: Path) -> bool:
    if path.suffix != ".csv":
        return path.suffix == ".json"
    with path.open("rb") as stream:
        return b"item_id" in stream.readline()
