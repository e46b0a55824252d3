"""The retriever that serves, packed to travel with a Bento, and whether the home's or the packed one is wanted.

A packed retriever is a small home of its own: the bundles of retriever, encoder and adapter, the index that serves with its base and the
changes after it, and the pointer to it. What reads a home reads it.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from mangaassist_assets.lib.artifacts import House, open_bundle, write_atomic
from mangaassist_assets.lib.errors import DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.retrieval.index import open_index
from mangaassist_assets.lib.retrieval.pointer import Pointer
from mangaassist_assets.lib.retrieval.retriever import KIND
from mangaassist_assets.lib.retrieval.served import INDEXES, ServedRetriever, announce, served_retriever

ABSENT = "absent.json"
MOUNT = "Mount a home and name it in MANGAASSIST_HOME: the service follows its index."


@dataclass(frozen=True)
class Found(ServedRetriever):
    """What is wanted, and the house that holds it; two are equal where index and bundle are."""

    house: House = field(compare=False)


class RetrieverLookout:
    """Says again and again which retriever is wanted: the home's, and until the home has one the packed one.

    Args:
        house: the installation whose index is followed.
        packed: folder written by `pack_retriever`; may be absent.
    """

    def __init__(self, house: House, packed: Path) -> None:
        self._house, self._packed, self._follows = house, House(packed), False

    def __call__(self) -> Found:
        """What is wanted now; a home that was followed and is out of reach does not bring the packed one back.

        Raises:
            MissingEvidence: there is none; the message names the remedy.
        """
        try:
            return self._found(self._house)
        except MissingEvidence:
            if self._follows or not self._packed.home.is_dir():
                raise
        absent = self._packed.home / ABSENT
        if absent.is_file():
            raise MissingEvidence(json.loads(absent.read_text("utf-8"))["why"])
        return self._found(self._packed)

    def _found(self, house: House) -> Found:
        served = served_retriever(house.home)
        self._follows = house is self._house
        return Found(served.index, served.bundle, house)


def pack_retriever(house: House, folder: Path, *, most_bytes: int, with_index: bool = True) -> str:
    """Copies the retriever that serves into `folder`, every file checked where it came to lie.

    Args:
        house: whose retriever.
        folder: becomes the packed home.
        most_bytes: of all files together; a larger one is not packed.
        with_index: False where OpenSearch is searched instead.

    Returns:
        "" or, where nothing was packed, why: there is none, or it is too large. The folder then says the same to who asks for it.

    Raises:
        DamagedArtifact: something is not what was written, or was replaced meanwhile.
        MissingEvidence: a bundle is not there.
    """
    try:
        served = served_retriever(house.home)
    except MissingEvidence:
        return _absent(folder, f"This Bento was built where no index served. {MOUNT}")
    retriever = house.bundle(served.bundle, KIND)
    bundles = [retriever.path, *(house.bundle(retriever.facts[name]).path for name in ("encoder_bundle", "adapter_bundle"))]
    indexes = _folders_of(house.home / INDEXES / f"sha256-{served.index}") if with_index else []
    changes = sorted((house.home / INDEXES / "changes").glob("*.parquet")) if with_index else []
    size = sum(path.stat().st_size for top in (*bundles, *indexes) for path in top.rglob("*")) + sum(p.stat().st_size for p in changes)
    if size > most_bytes:
        most = f"more than the {most_bytes / 1e9:,.1f} GB of service.most_packed_bytes"
        return _absent(folder, f"The index with its texts and encoder takes {size / 1e9:,.1f} GB, {most}: this Bento carries none. {MOUNT}")
    try:
        for top in bundles:
            open_bundle(Path(shutil.copytree(top, folder / "bundles" / top.name)))
        for top in indexes:
            shutil.copytree(top, folder / INDEXES / top.name)
        for path in changes:
            (folder / INDEXES / "changes").mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder / INDEXES / "changes")
    except OSError as error:
        raise DamagedArtifact(f"{house.home}: the index was replaced while it was packed ({error}). Build the Bento again.") from error
    if with_index:
        open_index(folder / INDEXES / f"sha256-{served.index}")
    announce(folder, served.index, served.bundle)
    Pointer(folder / INDEXES).flip(served.index, expected="")
    return ""


def _folders_of(index: Path) -> list[Path]:
    """The folder of an index, and of the one that it answers from where it is folded."""
    base = open_index(index, verify=False).facts.get("base")
    return [index, index.parent / f"sha256-{base}"] if base else [index]


def _absent(folder: Path, why: str) -> str:
    write_atomic(folder / ABSENT, json.dumps({"why": why}).encode())
    return why
