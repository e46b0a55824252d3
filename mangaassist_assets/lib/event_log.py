"""An append-only log of numbered events that several processes may write: one file each, 000001.json, 000002.json, ...

An event is written beside its place, flushed, and linked to its number, which fails where the number is taken: of two writers who read the
same log one appends and the other learns that it did not, and an event appears whole or not at all.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mangaassist_assets.lib.artifacts import beside_of, sync_folder, write_flushed
from mangaassist_assets.lib.errors import DamagedArtifact, Unavailable

_NAME = re.compile(r"\d{6,}\.json")


def events(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of every event, in order, from 1; none where the folder is not there.

    Raises:
        DamagedArtifact: one that later ones rest on is missing.
    """
    names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)] if folder.is_dir() else []
    for expected, (number, name) in enumerate(sorted((int(name.partition(".")[0]), name) for name in names), 1):
        if number != expected:
            raise DamagedArtifact(f"{folder}: event {expected} is missing. Restore it from a backup.")
        yield number, (folder / name).read_bytes()


def append(folder: Path, number: int, content: bytes) -> bool:
    """Writes event `number`; False where somebody else wrote it meanwhile.

    Raises:
        Unavailable: the file system has no hard links.
    """
    path = folder / f"{number:06d}.json"
    folder.mkdir(parents=True, exist_ok=True)
    beside = beside_of(path)
    try:
        write_flushed(beside, content)
        os.link(beside, path)  # the swap: it fails where the number is taken
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise Unavailable(f"{folder}: its file system has no hard links; set MANGAASSIST_HOME to a folder on a local disk.") from error
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(folder)
    return True
