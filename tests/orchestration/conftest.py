"""A project small enough for tests: 120 messages of three intents, and only the candidates that train in a second."""

import csv
import json
import random
from pathlib import Path

import pytest

OPENINGS = {
    "order_tracking": ["where is my parcel", "track my order", "has my package shipped", "when will my box arrive"],
    "return_request": ["i want to return this", "send back a damaged volume", "refund for the wrong book", "return my manga"],
    "chitchat": ["hello there", "how are you today", "nice weather", "you are funny"],
}
WORDS = (
    "naruto bleach one piece berserk volume nine please today thanks again friend red blue box set hardcover deluxe signed copy tokyo cat "
    "rain shop night train paper ink hero"
).split()


def write_messages(path: Path, rows: int = 120, seed: int = 1) -> None:
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["body", "category"])
        for i in range(rows):
            intent = list(OPENINGS)[i % len(OPENINGS)]
            writer.writerow([f"{draw.choice(OPENINGS[intent])} {' '.join(draw.sample(WORDS, 6))}", intent])


def write_catalog(path: Path) -> None:
    """Eight books and two policies."""
    draw = random.Random(2)
    books = [
        {
            "id": f"b{i}",
            "name": f"{word.capitalize()} {draw.choice(WORDS)}",
            "about": " ".join(draw.sample(WORDS, 12)),
            "in_stock": i % 2 == 0,
        }
        for i, word in enumerate(("naruto", "bleach", "berserk", "hero", "cat", "rain", "night", "train"))
    ]
    rules = [{"id": f"p{i}", "name": name, "about": f"{name} takes {i + 3} days."} for i, name in enumerate(("Shipping", "Returns"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in books + rules), encoding="utf-8")


@pytest.fixture(scope="session")
def write_project():
    """Writes a small project into a folder."""
    return _write_project


def _write_project(folder: Path, *, candidates: tuple[str, ...] = ("rules", "linear"), extra: str = "") -> Path:
    """A folder with `mangaassist.toml`, `tickets.csv` and `catalog.jsonl`; its home will be `folder/.mangaassist`."""
    write_messages(folder / "tickets.csv")
    write_catalog(folder / "catalog.jsonl")
    (folder / "mangaassist.toml").write_text(
        f"""{extra}
[sources.labeled_messages]
paths = ["tickets.csv"]
text = "body"
intent = "category"

[sources.catalog]
paths = ["catalog.jsonl"]
title = "name"
text = "about"

[intents]
candidates = {list(candidates)}

[intents.benchmark]
seconds = 0.2
max_seconds = 0.2
repeats = 2

[messages.augmentation]
count = 60
""".replace("'", '"')
    )
    return folder
