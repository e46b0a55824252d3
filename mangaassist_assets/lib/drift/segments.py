"""Where a service leaves what it answered: journals in memory-mapped files, sealed into segments by day.

    <folder>/open/<writer>-<number>.journal            being written, one writer each
    <folder>/<YYYY-MM-DD>/<writer>-<number>.jsonl      sealed: whole, on disk, never changed again

A record is one line of JSON. It lies in the day of its interaction, which the first eight characters of a request id name. A writer
holds a lock on its open files for as long as it lives, whatever ends it, so that `recover` seals those of the dead and of nobody else.
"""

import contextlib
import datetime as dt
import fcntl
import mmap
import os
import queue
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mangaassist_assets.lib.artifacts import digest_of, sync_folder
from mangaassist_assets.lib.errors import BadInput, Unavailable

OPEN = "open"
SPARE_FILES = 2
BLOCK_BYTES = 1 << 16
_DAY_FOLDER = re.compile(r"\d{4}-\d\d-\d\d")
_REQUEST_DAY = re.compile(rb'"request_id"\s*:\s*"(\d{8})-')  # inside a string the quotes would be escaped


@dataclass(frozen=True)
class JournalSettings:
    """How interactions are written.

    Attributes:
        file_bytes: size of an open file; also the longest that can be appended at once.
        sync_s: seconds between flushes to disk: what a power cut may take. A killed process takes nothing.
        seal_s: seconds after which a file that is not full is sealed, and so may be read.
    """

    file_bytes: int = 1 << 22
    sync_s: float = 1.0
    seal_s: float = 60.0

    def __post_init__(self) -> None:
        if not BLOCK_BYTES <= self.file_bytes <= 1 << 30:
            raise BadInput(
                f"{self.file_bytes:,} bytes", where="journal.file_bytes", remedy="Give 65,536 (64 KiB) to 1,073,741,824 (1 GiB)."
            )
        for name in ("sync_s", "seal_s"):
            if not 0 < getattr(self, name) <= 86_400:
                raise BadInput(f"{getattr(self, name)} seconds", where=f"journal.{name}", remedy="Give a number above 0, up to 86,400.")


def day_of(request_id: str) -> dt.date:
    """UTC day of the interaction that a request id names; BadInput where it names none."""
    digits, dash, _ = request_id[:9].partition("-")
    found = _parse_day(digits) if dash else None
    if found is None:
        raise BadInput("not a request id", where="request_id", remedy="Send the one that came with the answer.")
    return found


def _parse_day(digits: str) -> dt.date | None:
    if len(digits) == 8 and digits.isascii() and digits.isdecimal():
        with contextlib.suppress(ValueError):
            return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    return None


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _File:
    """An open journal file.

    Attributes:
        end: bytes appended.
        synced: bytes known to be on disk.
        since: monotonic seconds of the first record.
    """

    __slots__ = ("end", "handle", "map", "path", "since", "synced")

    def __init__(self, path: Path, handle: int, size: int) -> None:
        self.path, self.handle, self.map = path, handle, mmap.mmap(handle, size)
        self.end = self.synced = 0
        self.since = 0.0

    def close(self) -> None:
        self.map.close()
        os.close(self.handle)


class Journal:
    """Appends records without a system call or a wait; a thread behind it allocates, flushes and seals.

    Files change hands through queues whose every step is atomic: the appender takes the file in use, copies, and puts it back; the
    thread takes it only in between. Disk space is allocated before a file is used, so a full disk shows itself in the thread, and
    `append` says False while there is no file to write to. The thread's work on files goes block by block, between calls that release
    the interpreter, so that requests wait microseconds for it.

    Args:
        folder: of all interactions.
        clock: aware time; a line that names no day is filed under its day.
        settings: sizes and intervals.

    Attributes:
        written: records appended.
        lost: records that found no room.
        problem: why files cannot be made, flushed or sealed at present; None while they can.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], dt.datetime], settings: JournalSettings | None = None) -> None:
        self.folder, self.written, self.lost = folder, 0, 0
        self.problem: str | None = None
        self._clock, self._settings = clock, settings or JournalSettings()
        self._writer, self._number = f"{os.getpid()}-{secrets.token_hex(4)}", 0
        self._size = self._settings.file_bytes
        self._in_use: deque[_File] = deque()
        self._ready: deque[_File] = deque()
        self._full: queue.SimpleQueue[_File | None] = queue.SimpleQueue()
        self._files: list[_File] = []  # all that are not sealed yet; the thread's alone
        self._waiting: list[_File] = []
        self._closing = False
        self._attempt(self._prepare)
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def append(self, lines: bytes) -> bool:
        """Appends whole lines, each ended by a newline; False where there was no room, and they are counted as lost."""
        try:
            file = self._in_use.pop()
        except IndexError:
            return self._append_to_next(lines)
        start = file.end
        end = start + len(lines)
        if end > self._size:
            self._full.put(file)
            return self._append_to_next(lines)
        try:
            file.map[start:end] = lines
            file.end = end
        finally:
            self._in_use.append(file)
        self.written += lines.count(b"\n")
        return True

    def _append_to_next(self, lines: bytes) -> bool:
        count = lines.count(b"\n")
        if len(lines) > self._size or self._closing or not self._ready:
            self.lost += count
            return False
        file = self._ready.popleft()
        file.since = time.monotonic()
        file.map[: len(lines)] = lines
        file.end = len(lines)
        self._in_use.append(file)
        self.written += count
        return True

    def close(self) -> None:
        """Seals everything; what cannot be sealed stays for `recover`, and `problem` says why."""
        if self._closing:
            return
        self._closing = True
        self._full.put(None)
        self._thread.join()
        self._waiting += list(self._in_use)
        self._in_use.clear()
        while not self._full.empty():
            if (file := self._full.get()) is not None:
                self._waiting.append(file)
        self._attempt(self._seal_waiting)
        for file in self._files:
            if not file.end:
                file.path.unlink(missing_ok=True)
            file.close()
        self._files.clear()

    # ── the thread behind ───────────────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        self._attempt(lambda: recover(self.folder), self._prepare)
        while not self._closing:
            with contextlib.suppress(queue.Empty):
                if (file := self._full.get(timeout=self._settings.sync_s)) is not None:
                    self._waiting.append(file)
            self._attempt(self._prepare, self._take_old, self._sync, self._seal_waiting)

    def _attempt(self, *steps: Callable[[], object]) -> None:
        problem = None
        for step in steps:
            try:
                step()
            except (OSError, Unavailable) as error:
                problem = str(error)
        self.problem = problem

    def _prepare(self) -> None:
        while len(self._ready) < SPARE_FILES:
            file = self._create()
            self._files.append(file)
            self._ready.append(file)

    def _create(self) -> _File:
        """A locked file whose blocks are all allocated; it gets its name last, so that nobody recovers it before it is locked."""
        self._number += 1
        path = self.folder / OPEN / f"{self._writer}-{self._number:06d}.journal"
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            _allocate(handle, self._size)
            beside.rename(path)
            sync_folder(path.parent)
            return _File(path, handle, self._size)
        except BaseException:
            os.close(handle)
            beside.unlink(missing_ok=True)
            raise

    def _take_old(self) -> None:
        with contextlib.suppress(IndexError):  # in the appender's hands just now: the next round sees to it
            if time.monotonic() - self._in_use[0].since >= self._settings.seal_s:
                self._waiting.append(self._in_use.pop())

    def _sync(self) -> None:
        for file in self._files:
            if (end := file.end) > file.synced:
                os.fsync(file.handle)
                file.synced = end

    def _seal_waiting(self) -> None:
        while self._waiting:
            file = self._waiting[0]
            _seal(file.handle, file.end, file.path, self.folder, otherwise=self._clock().astimezone(dt.UTC).date())
            self._waiting.pop(0)
            self._files.remove(file)
            file.close()


def _allocate(handle: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:  # macOS
        for start in range(0, size, BLOCK_BYTES):
            os.pwrite(handle, bytes(min(BLOCK_BYTES, size - start)), start)


# ── sealing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _seal(handle: int, end: int, path: Path, folder: Path, *, otherwise: dt.date) -> None:
    """Makes an open file the segment of its day, or copies its lines into a segment for each of their days and removes the file.

    Args:
        handle: of the file, locked: nobody else seals it, so that a second try writes the same names again.
        end: bytes of it that were written.
        path: of the file; its name is the segments' name.
        folder: of all interactions.
        otherwise: day of lines that name none and follow none that does.
    """
    only = _only_day(handle, end)
    if only is not None:
        os.ftruncate(handle, end)
        os.fsync(handle)
        final = _segment(folder, only, path.stem)
        path.rename(final)
        sync_folder(final.parent)
        sync_folder(folder)
        return
    streams: dict[dt.date, tuple[int, Path, Path]] = {}
    try:
        day, rest, start = otherwise, b"", 0
        while start < end:
            block = os.pread(handle, min(BLOCK_BYTES, end - start), start)
            if not block:
                break
            start += len(block)
            whole, newline, rest = (rest + block).rpartition(b"\n")
            day = _write_by_day(whole + newline, day, streams, folder, path.stem)
        if rest:  # torn when its writer was killed; a line of its own, so that ingestion can say so
            _write_by_day(rest + b"\n", day, streams, folder, path.stem)
        for stream, _, _ in streams.values():
            os.fsync(stream)
        for _, beside, final in streams.values():
            beside.rename(final)
            sync_folder(final.parent)
        if streams:
            sync_folder(folder)
        path.unlink(missing_ok=True)
    finally:
        for stream, beside, _ in streams.values():
            os.close(stream)
            beside.unlink(missing_ok=True)


def _only_day(handle: int, end: int) -> dt.date | None:
    """The day that every line of an open file names, as nearly always; None where they differ, one names none, or the last is torn."""
    found, rest, start = None, b"", 0
    while start < end:
        block = os.pread(handle, min(BLOCK_BYTES, end - start), start)
        start += len(block)
        whole, newline, rest = (rest + block).rpartition(b"\n")
        lines = whole + newline
        named = found or _REQUEST_DAY.search(lines)
        if not block or named is None or lines.count(b'"request_id":"' + named[1] + b"-") != lines.count(b"\n"):
            return None
        found = named
    return _parse_day(found[1].decode()) if found and not rest else None


def _write_by_day(lines: bytes, day: dt.date, streams: dict[dt.date, tuple[int, Path, Path]], folder: Path, name: str) -> dt.date:
    """Writes each line to the stream of its day, or of the day before it in the file; returns the last day."""
    first = _REQUEST_DAY.search(lines)
    if first is not None and lines.count(b'"request_id":"' + first[1] + b"-") == lines.count(b"\n"):
        day = _parse_day(first[1].decode()) or day
        _write(lines, day, streams, folder, name)
        return day
    for line in lines.split(b"\n")[:-1]:
        found = _REQUEST_DAY.search(line)
        day = (_parse_day(found[1].decode()) if found else None) or day
        _write(line + b"\n", day, streams, folder, name)
    return day


def _write(content: bytes, day: dt.date, streams: dict[dt.date, tuple[int, Path, Path]], folder: Path, name: str) -> None:
    if day not in streams:
        final = _segment(folder, day, name)
        beside = final.with_name(f".{final.name}.tmp")
        streams[day] = (os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), beside, final)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(streams[day][0], rest) :]


def _segment(folder: Path, day: dt.date, name: str) -> Path:
    """Where a segment goes; its folder is there."""
    final = folder / day.isoformat() / f"{name}.jsonl"
    final.parent.mkdir(parents=True, exist_ok=True)
    return final


def recover(folder: Path) -> int:
    """Seals the open files of writers that are no more, and returns how many; safe beside writers and other recoverers.

    Raises:
        Unavailable: a file could not be sealed; it stays, and so does every record in it.
    """
    sealed_files, problem = 0, ""
    for name in _names(folder / OPEN):
        path = folder / OPEN / name
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # sealed meanwhile
            continue
        except OSError as error:
            problem = f"{path}: {error.strerror}"
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = os.fstat(handle)
            if not state.st_nlink:
                continue
            if name.endswith(".tmp"):  # killed before it was a journal
                path.unlink(missing_ok=True)
                continue
            _seal(handle, _end_of(handle, state.st_size), path, folder, otherwise=dt.datetime.fromtimestamp(state.st_mtime, dt.UTC).date())
            sealed_files += 1
        except BlockingIOError:  # its writer lives
            continue
        except OSError as error:
            problem = f"{path}: {error.strerror}"
        finally:
            os.close(handle)
    if problem:
        raise Unavailable(f"{problem}; its interactions wait there. Make room on the disk, or let this user write to it.")
    return sealed_files


def _end_of(handle: int, size: int) -> int:
    """One after the last byte that is not NUL: open files are allocated as NULs."""
    for start in range((size - 1) // BLOCK_BYTES * BLOCK_BYTES, -1, -BLOCK_BYTES):
        written = os.pread(handle, BLOCK_BYTES, start).rstrip(b"\0")
        if written:
            return start + len(written)
    return 0


# ── what is there ───────────────────────────────────────────────────────────────────────────────────────────────────


def sealed(folder: Path) -> dict[dt.date, list[str]]:
    """Names of the sealed segments of each day that has any, days and names sorted."""
    days = {name: _segments(folder / name) for name in _names(folder) if _DAY_FOLDER.fullmatch(name)}
    found = {_parse_day(name.replace("-", "")): segments for name, segments in days.items() if segments}
    return {day: segments for day, segments in found.items() if day is not None}


def digest_of_day(folder: Path, day: dt.date) -> str:
    """SHA-256 over the names and sizes of a day's segments; they never change, so it tells their content."""
    return digest_of([[path.name, path.stat().st_size] for path in segments_of(folder, day)])


def segments_of(folder: Path, day: dt.date) -> list[Path]:
    """The sealed segments of one day, by name."""
    place = folder / day.isoformat()
    return [place / name for name in _segments(place)]


def _segments(place: Path) -> list[str]:
    return [name for name in _names(place) if name.endswith(".jsonl") and not name.startswith(".")]


def _names(place: Path) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except (FileNotFoundError, NotADirectoryError):
        return []
