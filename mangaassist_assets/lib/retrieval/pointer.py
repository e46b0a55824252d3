"""Which index serves: one small file, `current.json`, replaced atomically, that also names the index before it."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mangaassist_assets.lib.artifacts import MANIFEST, write_atomic
from mangaassist_assets.lib.errors import Conflict, DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.retrieval.index import Adapter, Vectors, open_index
from mangaassist_assets.lib.retrieval.segments import ChangeLog, LiveIndex


@dataclass(frozen=True)
class Pointed:
    """The digests of the index that serves and of the one before it; "" where there is none."""

    current: str = ""
    previous: str = ""


class Pointer:
    """Names the serving index among those in a folder.

    Args:
        home: the folder of all indexes.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path = home / "current.json"

    def read(self) -> Pointed:
        """What is pointed to now.

        Raises:
            DamagedArtifact: the file is not what `flip` writes.
        """
        try:
            return Pointed(**json.loads(self._path.read_text("utf-8")))
        except FileNotFoundError:
            return Pointed()
        except (ValueError, TypeError) as error:
            raise DamagedArtifact(f"{self._path}: not readable. Remove it and materialise `chunk_index` again.") from error

    def folder(self) -> Path:
        """The folder of the serving index; raises MissingEvidence before the first."""
        current = self.read().current
        if not current:
            raise MissingEvidence(f"{self._path}: no index serves yet. Materialise `chunk_index`.")
        return self.home / f"sha256-{current}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.home.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.home, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def flip(self, digest: str, *, expected: str) -> Pointed:
        """Points to `digest`, if `expected` is what serves now.

        Raises:
            Conflict: another index was put in place meanwhile.
        """
        with self._locked():
            now = self.read()
            if now.current != expected:
                raise Conflict(f"{self._path}: index {now.current[:12] or 'none'} serves, not {expected[:12] or 'none'}; decide anew.")
            after = now if digest == now.current else Pointed(digest, now.current)
            write_atomic(self._path, json.dumps(asdict(after), sort_keys=True).encode())
            return after

    def sweep(self, log: ChangeLog) -> int:
        """Removes indexes that neither serve nor can be gone back to, nor carry one that does, and changes in all the others.

        Returns how many indexes.
        A process that still has one open keeps what it has opened.
        """
        with self._locked():
            now = self.read()
            kept = {digest for digest in (now.current, now.previous) if digest}
            facts = [open_index(self.home / f"sha256-{digest}", verify=False).facts for digest in kept]
            log.prune(min((int(one.get("changes_upto", 0)) for one in facts), default=0))
            kept |= {one.get("base", "") for one in facts}
            old = [path for path in self.home.glob("sha256-*") if path.name.removeprefix("sha256-") not in kept]
            for path in old:
                (path / MANIFEST).unlink(missing_ok=True)  # first: without it the rest is no index any more
                shutil.rmtree(path)
            return len(old)

    def rollback(self) -> Pointed:
        """Puts the previous index back; the two change places.

        Raises:
            MissingEvidence: there is no previous index.
        """
        with self._locked():
            now = self.read()
            if not now.previous:
                raise MissingEvidence(f"{self._path}: there is no previous index to go back to.")
            after = Pointed(now.previous, now.current)
            write_atomic(self._path, json.dumps(asdict(after), sort_keys=True).encode())
            return after


def swap(pointer: Pointer, path: Path, log: ChangeLog, adapter: Adapter | None, queries: Vectors, *, expected: str) -> LiveIndex:
    """Verifies, replays what changed meanwhile, warms, and only then lets the index at `path` serve.

    Args:
        pointer: what to flip.
        path: the folder of the new index.
        log: changes; those after the new index's source are replayed.
        adapter: of the new index.
        queries: (n, D') in its space, asked once so that the first real one finds everything in memory.
        expected: the digest that serves now, "" for none.

    Returns:
        The new index, ready.

    Raises:
        DamagedArtifact: it is not whole; the old one goes on serving.
        Conflict: another index was put in place meanwhile.
    """
    ready = LiveIndex(open_index(path), log, adapter)
    ready.base.warm()
    ready.find(queries, 10, ready.space)
    pointer.flip(ready.digest, expected=expected)
    return ready
