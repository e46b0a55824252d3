"""What was acknowledged is found again: whoever is killed, whenever, and however full the disk is."""

import datetime as dt
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from mangaassist_assets.lib.drift import segments
from mangaassist_assets.lib.drift.segments import Journal, JournalSettings, day_of, digest_of_day, recover, sealed, segments_of
from mangaassist_assets.lib.errors import BadInput, Unavailable

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = NOW.date()
SMALL = JournalSettings(file_bytes=1 << 16, sync_s=0.01, seal_s=3600)


def record(number, day="20261124", length=100):
    return (
        json.dumps({"kind": "answer", "request_id": f"{day}-aa-{number:x}", "text": "x" * length}, separators=(",", ":")).encode() + b"\n"
    )


def open_journal(folder, settings=SMALL):
    return Journal(folder, clock=lambda: NOW, settings=settings)


def written(folder, day=DAY):
    return [line for path in segments_of(folder, day) for line in path.read_bytes().split(b"\n")[:-1]]


def numbers(folder, day=DAY):
    return sorted(int(json.loads(line)["request_id"].rpartition("-")[2], 16) for line in written(folder, day))


def eventually(claim, within_s=10.0):
    until = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < until
        time.sleep(0.005)


def append_all(journal, lines):
    for line in lines:
        eventually(lambda line=line: journal.append(line))


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_day_is_read_off_a_request_id():
    assert day_of("20261124-ab12-1f") == DAY


@pytest.mark.parametrize("odd", ["", "2026112-a", "20261124", "20261324-a-1", "２０２６1124-a", "2026112x-a-1", "-" * 20, "abcdefgh-1"])
def test_what_names_no_day_is_refused(odd):
    with pytest.raises(BadInput, match="not a request id"):
        day_of(odd)


@pytest.mark.parametrize("wrong", [{"file_bytes": 100}, {"file_bytes": 1 << 31}, {"sync_s": 0.0}, {"seal_s": float("nan")}, {"seal_s": -1}])
def test_settings_out_of_bounds_are_refused(wrong):
    with pytest.raises(BadInput, match=f"journal.{next(iter(wrong))}"):
        JournalSettings(**wrong)


# ── the ordinary life of a journal ──────────────────────────────────────────────────────────────────────────────────


def test_what_is_appended_is_sealed_by_day_when_the_journal_closes(tmp_path):
    journal = open_journal(tmp_path)
    assert journal.append(record(1) + record(2))
    assert journal.append(record(3, day="20261125"))
    assert sealed(tmp_path) == {}
    journal.close()
    assert (numbers(tmp_path), numbers(tmp_path, DAY + dt.timedelta(days=1))) == ([1, 2], [3])
    assert (journal.written, journal.lost, journal.problem) == (3, 0, None)
    assert os.listdir(tmp_path / "open") == []


def test_full_files_are_sealed_while_writing_goes_on_and_nothing_is_lost_between_them(tmp_path):
    journal = open_journal(tmp_path)
    append_all(journal, [record(i) for i in range(3000)])
    eventually(lambda: len(segments_of(tmp_path, DAY)) >= 4)
    journal.close()
    assert numbers(tmp_path) == list(range(3000))


def test_an_old_file_is_sealed_though_nothing_more_is_written(tmp_path):
    journal = open_journal(tmp_path, JournalSettings(file_bytes=1 << 16, sync_s=0.01, seal_s=0.05))
    journal.append(record(1))
    eventually(lambda: numbers(tmp_path) == [1])
    journal.append(record(2))
    eventually(lambda: numbers(tmp_path) == [1, 2])
    journal.close()


def test_a_journal_that_was_never_written_to_leaves_nothing(tmp_path):
    open_journal(tmp_path).close()
    assert (sealed(tmp_path), os.listdir(tmp_path / "open")) == ({}, [])


def test_a_closed_journal_takes_nothing_and_counts_it(tmp_path):
    journal = open_journal(tmp_path)
    journal.close()
    journal.close()
    assert (journal.append(record(1) + record(2)), journal.lost) == (False, 2)


def test_more_than_a_file_holds_is_counted_as_lost_and_the_rest_goes_on(tmp_path):
    journal = open_journal(tmp_path)
    assert not journal.append(record(1, length=1 << 17))
    append_all(journal, [record(2)])
    journal.close()
    assert (numbers(tmp_path), journal.lost) == ([2], 1)


def test_lines_that_name_no_day_go_with_the_lines_before_them_or_with_the_clock(tmp_path):
    journal = open_journal(tmp_path)
    journal.append(b"first\n" + record(1, day="20261201") + b'{"request_id": "20269999-a-1"}\n')
    journal.close()
    assert written(tmp_path) == [b"first"]
    assert len(written(tmp_path, dt.date(2026, 12, 1))) == 2


def test_a_text_that_quotes_a_record_does_not_move_the_record(tmp_path):
    line = json.dumps({"request_id": "20261124-a-1", "text": '"request_id":"20200101-a-1"'}).encode() + b"\n"
    journal = open_journal(tmp_path)
    journal.append(line)
    journal.close()
    assert written(tmp_path) == [line[:-1]]


def test_several_writers_share_a_folder(tmp_path):
    journals = [open_journal(tmp_path) for _ in range(3)]
    threads = [
        threading.Thread(target=append_all, args=(journal, [record(1000 * i + j) for j in range(1000)]))
        for i, journal in enumerate(journals)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recover(tmp_path) == 0  # all of them live
    for journal in journals:
        journal.close()
    assert numbers(tmp_path) == list(range(3000))


# ── kill -9 ─────────────────────────────────────────────────────────────────────────────────────────────────────────

WRITER = """
import datetime as dt, json, os, sys, time
from pathlib import Path
from mangaassist_assets.lib.drift.segments import Journal, JournalSettings
journal = Journal(Path(sys.argv[1]), clock=lambda: dt.datetime.now(dt.UTC), settings=JournalSettings(1 << 16, 0.005, 0.05))
for number in range(10**9):
    line = json.dumps({"kind": "feedback", "request_id": f"2026112{4 + number % 2}-aa-{number:x}", "at": "2026-11-24T12:00:00Z"})
    while not journal.append(line.encode() + b"\\n"):
        time.sleep(0.001)
    os.write(1, b"%d\\n" % number)
"""


@pytest.mark.parametrize("seed", range(4))
def test_every_acknowledged_record_survives_kill_9_at_any_moment(tmp_path, seed):
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        said = child.stdout.readline()
        threading.Timer(random.Random(seed).uniform(0.02, 0.4), os.kill, (child.pid, signal.SIGKILL)).start()
        said += child.stdout.read()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    acknowledged = {int(line) for line in said.split(b"\n")[:-1]}
    recover(tmp_path)
    found = numbers(tmp_path) + numbers(tmp_path, DAY + dt.timedelta(days=1))
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    assert set(found) <= acknowledged | {max(acknowledged) + 1}
    assert [name for name in os.listdir(tmp_path / "open") if name.endswith(".journal")] == []
    assert recover(tmp_path) == 0


def dead_journal(folder, content, size=1 << 16, name="1-dead-000001"):
    (folder / "open").mkdir(exist_ok=True)
    path = folder / "open" / f"{name}.journal"
    path.write_bytes(content.ljust(size, b"\0"))
    return path


def test_of_a_torn_record_the_rest_is_a_line_of_its_own_and_nothing_before_it_is_lost(tmp_path):
    path = dead_journal(tmp_path, record(1) + record(2) + record(3)[:60])
    assert recover(tmp_path) == 1
    assert written(tmp_path) == [record(1)[:-1], record(2)[:-1], record(3)[:60]]
    assert not path.exists()


def test_records_after_a_run_of_nuls_are_found(tmp_path):
    dead_journal(tmp_path, record(1) + bytes(5000) + record(2) + record(3))
    recover(tmp_path)
    assert [line.strip(b"\0") for line in written(tmp_path)] == [record(i)[:-1] for i in (1, 2, 3)]


def test_an_unused_file_and_one_that_never_got_its_name_are_removed(tmp_path):
    dead_journal(tmp_path, b"")
    (tmp_path / "open" / ".1-dead-000002.journal.tmp").write_bytes(bytes(100))
    recover(tmp_path)
    assert (sealed(tmp_path), os.listdir(tmp_path / "open")) == ({}, [])


@pytest.mark.parametrize("blow", range(1, 8))
def test_a_sealing_that_is_cut_short_anywhere_is_done_again_with_the_same_result(tmp_path, monkeypatch, blow):
    class Killed(BaseException): ...

    calls = iter(range(1, 100))

    def dies(real):
        def call(*arguments, **named):
            if next(calls) == blow:
                raise Killed
            return real(*arguments, **named)

        return call

    content = record(1) + record(2, day="20261125") + record(3)
    dead_journal(tmp_path, content)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        for name in ("fsync", "write"):
            patch.setattr(segments.os, name, dies(getattr(os, name)))
        patch.setattr(segments.Path, "rename", dies(segments.Path.rename))
        recover(tmp_path)
    recover(tmp_path)
    assert (numbers(tmp_path), numbers(tmp_path, DAY + dt.timedelta(days=1))) == ([1, 3], [2])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1-dead-000001.jsonl"] * 2


def test_a_journal_seals_what_its_dead_predecessor_left(tmp_path):
    dead_journal(tmp_path, record(7))
    journal = open_journal(tmp_path)
    eventually(lambda: numbers(tmp_path) == [7])
    journal.close()


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_on_a_full_disk_appending_says_no_counts_and_goes_on_when_there_is_room(tmp_path, monkeypatch):
    full = threading.Event()
    real = os.posix_fallocate

    def allocate(*arguments):
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(segments.os, "posix_fallocate", allocate)
    journal = open_journal(tmp_path)
    full.set()
    count = 0
    while journal.append(record(count)):
        count += 1
    assert journal.lost == 1
    eventually(lambda: "No space left" in (journal.problem or ""))
    full.clear()
    append_all(journal, [record(count)])
    eventually(lambda: journal.problem is None)
    journal.close()
    assert numbers(tmp_path) == list(range(count + 1))


def test_a_disk_that_is_full_from_the_start_is_no_reason_not_to_serve(tmp_path, monkeypatch):
    monkeypatch.setattr(segments.os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    journal = open_journal(tmp_path)
    assert not journal.append(record(1))
    assert "No space left" in journal.problem
    journal.close()
    assert (journal.lost, journal.written) == (1, 0)


def test_what_cannot_be_sealed_stays_and_is_sealed_later(tmp_path, monkeypatch):
    journal = open_journal(tmp_path)
    append_all(journal, [record(1), record(2, day="20261125")])  # of one day alone nothing would have to be copied
    with monkeypatch.context() as patch:
        patch.setattr(segments.os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        journal.close()
        assert "No space left" in journal.problem
        with pytest.raises(Unavailable, match="No space left on device; its interactions wait there"):
            recover(tmp_path)
    assert sealed(tmp_path) == {}
    assert recover(tmp_path) == 1
    assert numbers(tmp_path) + numbers(tmp_path, DAY + dt.timedelta(1)) == [1, 2]


def test_what_is_of_one_day_is_sealed_on_a_disk_without_room_for_a_copy(tmp_path, monkeypatch):
    journal = open_journal(tmp_path)
    append_all(journal, [record(1), record(2)])
    monkeypatch.setattr(segments.os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    journal.close()
    assert journal.problem is None
    assert numbers(tmp_path) == [1, 2]


LIMITED = """
import datetime as dt, resource, sys, time
from pathlib import Path
from mangaassist_assets.lib.drift.segments import Journal, JournalSettings
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
journal = Journal(Path(sys.argv[1]), clock=lambda: dt.datetime.now(dt.UTC), settings=JournalSettings(1 << 17, 0.01))
print(journal.append(b"{}\\n"), journal.lost, journal.problem)
journal.close()
"""


def test_a_limit_of_the_operating_system_on_files_is_like_a_full_disk(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split(maxsplit=2)[:2]) == (0, ["False", "1"]), done.stderr
    assert "File too large" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written_to_is_said_in_one_line(tmp_path):
    tmp_path.chmod(0o500)
    journal = open_journal(tmp_path / "interactions")
    assert "Permission denied" in journal.problem
    journal.close()


# ── what is there ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_segment_is_passed_over(tmp_path):
    for name in (
        "2026-11-24/a-1.jsonl",
        "2026-11-24/.a-2.jsonl.tmp",
        "2026-11-24/note.txt",
        "2026-13-01/a.jsonl",
        "20261124/a.jsonl",
        "salt/x",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "2026-11-25").mkdir()
    (tmp_path / "2026-11-26").touch()
    assert sealed(tmp_path) == {DAY: ["a-1.jsonl"]}
    assert sealed(tmp_path / "nowhere") == {}


def test_the_digest_of_a_day_changes_with_its_segments_only(tmp_path):
    empty = digest_of_day(tmp_path, DAY)
    (tmp_path / "2026-11-24").mkdir()
    (tmp_path / "2026-11-24" / "a-1.jsonl").write_bytes(record(1))
    one = digest_of_day(tmp_path, DAY)
    (tmp_path / "2026-11-24" / ".a-2.jsonl.tmp").write_bytes(record(2))
    assert digest_of_day(tmp_path, DAY) == one != empty
    (tmp_path / "2026-11-24" / "a-2.jsonl").write_bytes(record(2))
    assert digest_of_day(tmp_path, DAY) not in (one, empty)


def test_ten_thousand_segments_are_listed_in_under_a_tenth_of_a_second(tmp_path):
    one = tmp_path / "one"
    one.touch()
    for day in range(10):
        place = tmp_path / (DAY + dt.timedelta(days=day)).isoformat()
        place.mkdir()
        for number in range(1000):
            os.link(one, place / f"1-a-{number:06d}.jsonl")
    took = []
    for _ in range(5):
        began = time.perf_counter()
        found = sealed(tmp_path)
        took.append(time.perf_counter() - began)
    assert sum(map(len, found.values())) == 10_000
    assert min(took) < 0.1
