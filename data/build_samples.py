"""Builds the bundled message files from upstream copies.

    python data/build_samples.py FOLDER

FOLDER holds `bitext/v8k_splits/{train,dev,test}.csv`, `clinc150/{data_full.json,domains.json}` and
`manga_messages/messages.jsonl`; README.md beside this file says where they come from. The same input gives the same bytes.
"""

import csv
import gzip
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
CLINC_SMALL_TALK = {"train": 12, "val": 2, "test": 2}  # rows of each small-talk intent
CLINC_OTHER = {"train": 2}  # rows of each other intent, and for every third of them one more to measure with
CLINC_OUT_OF_SCOPE = {"train": 70, "val": 15, "test": 15}


def write_gzip(path: Path, text: str) -> None:
    """Without a time stamp or a file name in the header, so that equal text gives equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def as_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV text with a header line."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return sink.getvalue()


def bitext(upstream: Path) -> str:
    """All 8,100 rows of the split edition, with the split as a column."""
    columns = ("utterance", "intent", "category", "tags")
    rows = []
    for split in ("train", "dev", "test"):
        with (upstream / "bitext" / "v8k_splits" / f"{split}.csv").open(encoding="utf-8-sig", newline="") as stream:
            rows += [[*(row[column] for column in columns), split] for row in csv.DictReader(stream)]
    return as_csv((*columns, "split"), rows)


def clinc150(upstream: Path) -> str:
    """A part of every intent and of the out-of-scope rows, chosen by hash within the splits that CLINC150 made."""
    folder = upstream / "clinc150"
    domain_of = {
        intent: domain for domain, intents in json.loads((folder / "domains.json").read_text("utf-8")).items() for intent in intents
    }
    by_part: dict[tuple[str, str], list[str]] = {}
    for name, pairs in json.loads((folder / "data_full.json").read_text("utf-8")).items():
        for text, intent in pairs:
            by_part.setdefault((name.removeprefix("oos_"), intent), []).append(text)
    rows = []
    for split, intent in sorted(by_part, key=lambda part: (part[1], part[0])):
        if intent == "oos":
            count = CLINC_OUT_OF_SCOPE[split]
        elif domain_of[intent] == "small_talk":
            count = CLINC_SMALL_TALK[split]
        else:
            count = CLINC_OTHER.get(split, int(_hash(f"{split} {intent}") % 3 == 0))
        chosen = sorted(by_part[split, intent], key=_hash)[:count]
        rows += [[text, intent, domain_of.get(intent, "none"), split] for text in chosen]
    return as_csv(("text", "intent", "domain", "split"), rows)


def manga(upstream: Path) -> str:
    """All rows as they are."""
    return (upstream / "manga_messages" / "messages.jsonl").read_text("utf-8")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def main(upstream: Path, target: Path = HERE / "messages") -> None:
    """Writes the three files to `target`."""
    write_gzip(target / "bitext.csv.gz", bitext(upstream))
    write_gzip(target / "clinc150.csv.gz", clinc150(upstream))
    write_gzip(target / "manga.jsonl.gz", manga(upstream))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
