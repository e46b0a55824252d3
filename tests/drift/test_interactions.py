"""Every line of a day's segments is a row, a word about a row, a duplicate, or in quarantine with its reason."""

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.drift.interactions import (
    INGESTED,
    INTERACTIONS,
    QUARANTINED,
    RETRIEVALS,
    Answer,
    Feedback,
    Retrieve,
    Shadow,
    line_of,
    read_day,
)
from mangaassist_assets.lib.drift.segments import recover

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = NOW.date()


def after(seconds):
    return NOW + dt.timedelta(seconds=seconds)


def answer(number=1, **more):
    fields = {"text": "where is my order", "language": "en", "route": "student", "latency_ms": 1.5, "intent": "faq", "confidence": 0.5}
    return Answer(**{"request_id": f"20261124-aa-{number:x}", "occurred_at": after(number), **fields, **more})


def feedback(number=1, **more):
    return Feedback(**{"request_id": f"20261124-aa-{number:x}", "at": after(100), **more})


def ingest(folder, *segments):
    """Segments are lists of records or of bytes."""
    place = folder / DAY.isoformat()
    place.mkdir()
    for number, lines in enumerate(segments):
        content = b"".join(line if isinstance(line, bytes) else line_of(line) for line in lines)
        (place / f"w-{number:06d}.jsonl").write_bytes(content)
    return read_day(folder, DAY)


def counted(found):
    return {name: count for name, count in found.counts.to_pylist()[0].items() if count}


def reasons(found):
    return [(row["segment"], row["line"], row["reason"]) for row in found.quarantined.to_pylist()]


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_becomes_a_row_with_all_its_fields(tmp_path):
    given_fields = {
        "session": "ab" * 8, "secondary_intent": "chitchat", "model_digest": "c" * 64, "arm": "canary", "index_digest": "d" * 64,
        "input_tokens": 10, "output_tokens": 20, "cost_usd": 0.25, "retrieved": ["a", "b"], "prompt_variant": "short", "response": "Hello",
        "generator": "m-1", "flags": ["probe"], "sampling_probability": 0.5, "shadow_digest": "e" * 64, "shadow_intent": "faq",
        "shadow_confidence": 0.25, "shadow_latency_ms": 2.0,
    }  # fmt: skip
    found = ingest(tmp_path, [answer(**given_fields)])
    assert found.table.schema == INTERACTIONS
    (row,) = found.table.to_pylist()
    assert {name: row[name] for name in given_fields} == given_fields
    assert (row["request_id"], row["occurred_at"], row["text"], row["intent"]) == ("20261124-aa-1", after(1), "where is my order", "faq")
    assert (row["latency_ms"], row["confidence"], row["error"], row["thumbs_up"], row["feedback_at"]) == (1.5, 0.5, None, None, None)
    assert counted(found) == {"answers": 1}


def test_a_day_without_segments_has_no_rows(tmp_path):
    found = read_day(tmp_path, DAY)
    schemas = (found.table.schema, found.retrievals.schema, found.quarantined.schema, found.counts.schema)
    assert schemas == (INTERACTIONS, RETRIEVALS, QUARANTINED, INGESTED)
    assert (found.table.num_rows, found.quarantined.num_rows, counted(found)) == (0, 0, {})


def test_rows_are_in_order_of_time_and_request_id_however_segments_lie(tmp_path):
    found = ingest(tmp_path, [answer(3), answer(2, occurred_at=after(5))], [answer(1), answer(5)])
    assert [row["request_id"][-1] for row in found.table.to_pylist()] == ["1", "3", "2", "5"]


def test_an_answer_that_was_sealed_twice_counts_once(tmp_path):
    found = ingest(tmp_path, [answer(1), answer(2)], [answer(1), answer(2), answer(3)])
    assert counted(found) == {"answers": 3, "duplicates": 2}


def test_a_field_of_a_newer_writer_is_left_unread(tmp_path):
    line = json.loads(line_of(answer())) | {"mood": {"deep": [1, 2, 3]}}
    assert counted(ingest(tmp_path, [json.dumps(line).encode() + b"\n"])) == {"answers": 1}


def test_an_answer_that_failed_has_an_error_and_no_intent(tmp_path):
    found = ingest(tmp_path, [answer(intent=None, confidence=None, error="deadline")])
    assert (found.table["error"].to_pylist(), found.table["intent"].to_pylist()) == (["deadline"], [None])


def test_a_clock_that_jumps_loses_nothing_and_what_lies_after_the_day_is_counted_late(tmp_path):
    found = ingest(tmp_path, [answer(1, occurred_at=after(-90_000)), answer(2, occurred_at=after(50_000)), answer(3)])
    assert counted(found) == {"answers": 3, "late": 1}


def test_more_answers_than_a_batch_are_all_there(tmp_path, monkeypatch):
    monkeypatch.setattr("mangaassist_assets.lib.drift.interactions.BATCH_ROWS", 3)
    found = ingest(tmp_path, [answer(i, retrieved=[f"d{i}"]) for i in range(10)])
    assert found.table["retrieved"].to_pylist() == [[f"d{i}"] for i in range(10)]


# ── what is said of answers ─────────────────────────────────────────────────────────────────────────────────────────


def test_feedback_joins_its_answer_in_whichever_segment_it_comes_first(tmp_path):
    found = ingest(tmp_path, [feedback(2, thumbs_up=True, escalated=False, converted=True)], [answer(1), answer(2)])
    rows = [[row[name] for name in ("thumbs_up", "escalated", "converted", "feedback_at")] for row in found.table.to_pylist()]
    assert rows == [[None] * 4, [True, False, True, after(100)]]
    assert counted(found) == {"answers": 2, "feedback": 1}


def test_the_last_feedback_wins_and_null_leaves_standing_what_was_said(tmp_path):
    said = [feedback(at=after(30), converted=True), feedback(at=after(20), thumbs_up=False), feedback(at=after(10), thumbs_up=True)]
    (row,) = ingest(tmp_path, [answer(), *said]).table.to_pylist()
    assert (row["thumbs_up"], row["escalated"], row["converted"], row["feedback_at"]) == (False, None, True, after(30))


def test_feedback_that_came_twice_counts_once(tmp_path):
    found = ingest(tmp_path, [answer(), feedback(thumbs_up=True)], [feedback(thumbs_up=True)])
    assert counted(found) == {"answers": 1, "feedback": 1, "duplicates": 1}


def test_feedback_of_a_later_day_joins_and_is_counted_late(tmp_path):
    found = ingest(tmp_path, [answer(), feedback(at=after(200_000), escalated=True)])
    assert (found.table["escalated"].to_pylist(), counted(found)) == ([True], {"answers": 1, "feedback": 1, "late": 1})


def test_feedback_for_an_answer_that_is_not_there_is_in_quarantine_until_the_answer_comes(tmp_path):
    found = ingest(tmp_path, [feedback(9, thumbs_up=True)])
    assert reasons(found) == [("w-000000.jsonl", 1, "feedback for an answer that is not there")]
    assert counted(found) == {"quarantined": 1}
    (tmp_path / DAY.isoformat() / "later.jsonl").write_bytes(line_of(answer(9)))
    assert counted(read_day(tmp_path, DAY)) == {"answers": 1, "feedback": 1}


def test_a_shadow_result_of_its_own_joins_its_answer(tmp_path):
    shadow = Shadow(request_id="20261124-aa-2", shadow_digest="f" * 64, shadow_intent="faq", shadow_confidence=0.5, shadow_latency_ms=3.0)
    failed = Shadow(request_id="20261124-aa-1", shadow_digest="f" * 64)
    found = ingest(
        tmp_path,
        [answer(1), answer(2), answer(3, shadow_digest="0" * 64, shadow_intent="x", shadow_confidence=1.0)],
        [shadow, failed, shadow],
    )
    rows = [(row["shadow_digest"][0], row["shadow_intent"], row["shadow_latency_ms"]) for row in found.table.to_pylist()]
    assert rows == [("f", None, None), ("f", "faq", 3.0), ("0", "x", None)]
    assert counted(found) == {"answers": 3, "shadows": 2, "duplicates": 1}


def test_queries_lie_in_a_table_of_their_own_with_what_was_opened(tmp_path):
    query = Retrieve(
        request_id="20261124-aa-7",
        occurred_at=NOW,
        query="berserk",
        language="en",
        retrieved=["a", "b"],
        index_digest="1" * 64,
        latency_ms=2.0,
    )
    found = ingest(tmp_path, [query, answer(1), query, feedback(7, clicked=["b"], thumbs_up=True)])
    (row,) = found.retrievals.to_pylist()
    assert (row["query"], row["shown"], row["clicked"], row["thumbs_up"]) == ("berserk", ["a", "b"], ["b"], True)
    assert counted(found) == {"answers": 1, "retrievals": 1, "feedback": 1, "duplicates": 1}


# ── what is no record ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (line_of(answer(2))[:80], "not whole JSON"),
        (b"\0" * 300, "NUL bytes: it never reached the disk whole"),
        (line_of(answer(2))[:80] + b"\0" * 300 + line_of(answer(3))[200:-1], "NUL bytes: it never reached the disk whole"),
        (line_of(answer(2)).replace(b"where", b"wh\xff\xfere")[:-1], "not UTF-8"),
        (b"[]", "not a record: Expected `object`, got `array`"),
        (b"null", "not a record: Expected `object`, got `null`"),
        (b"{}", "not a record: Object missing required field `kind`"),
        (b'{"kind": "rumour"}', "not a record: Invalid value 'rumour' - at `$.kind`"),
        (b"[" * 100_000, "not a record: Expected `object`, got `array`"),
        (b'{"kind":"answer","deep":' + b"[" * 100_000, "not whole JSON"),
        (
            line_of(answer(2)).replace(b'"confidence":0.5', b'"confidence":"0.5"')[:-1],
            "not a record: Expected `float | null`, got `str` - at `$.confidence`",
        ),
        (
            line_of(answer(2)).replace(b'"confidence":0.5', b'"confidence":1.5')[:-1],
            "not a record: Expected `float` <= 1.0 - at `$.confidence`",
        ),
        (line_of(answer(2)).replace(b'"confidence":0.5', b'"confidence":NaN')[:-1], "not whole JSON"),
        (line_of(answer(2)).replace(b'"confidence":0.5', b'"confidence":null')[:-1], "not a record: intent and confidence come together"),
        (
            line_of(answer(2)).replace(b"12:00:02Z", b"12:00:02")[:-1],
            "not a record: Expected `datetime` with a timezone component - at `$.occurred_at`",
        ),
        (line_of(answer(2)).replace(b"20261124-", b"20261123-")[:-1], "its request_id is not of this day"),
        (line_of(answer(2)).replace(b"where", b"\\ud800")[:-1], "not whole JSON"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_in_quarantine_and_the_lines_around_it_are_read(tmp_path, line, reason):
    found = ingest(tmp_path, [answer(1), line + b"\n", answer(4)])
    assert counted(found) == {"answers": 2, "quarantined": 1}
    (segment, number, said) = reasons(found)[0]
    assert (segment, number) == ("w-000000.jsonl", 2)
    assert said == reason


def test_a_torn_last_line_is_in_quarantine_and_a_whole_one_without_its_newline_is_read(tmp_path):
    found = ingest(tmp_path, [answer(1), line_of(answer(2))[:-30]], [answer(3), line_of(answer(4))[:-1]])
    assert (counted(found), reasons(found)[0][:2]) == ({"answers": 3, "quarantined": 1}, ("w-000000.jsonl", 2))


def test_previews_hold_no_personal_data_and_no_control_characters(tmp_path):
    found = ingest(tmp_path, [b'{"text":"\0\x1b mail mika@example.com or card 4111 1111 1111 1111' + b"x" * 5000 + b"\n"])
    (row,) = found.quarantined.to_pylist()
    assert row["preview"].startswith('{"text":" mail <EMAIL> or card <CARD>')
    assert len(row["preview"]) <= 80


def test_a_reason_holds_no_personal_data(tmp_path):
    found = ingest(tmp_path, [b'{"kind": "mika@example.com"}\n'])
    assert "<EMAIL>" in reasons(found)[0][2]
    assert "mika" not in reasons(found)[0][2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["cut", "flip", "nul", "keep"]), st.integers(0, 10**6)), min_size=1, max_size=12),
    st.text(max_size=30),
)
def test_no_damage_to_one_line_touches_another(tmp_path_factory, damages, text):
    text = text.encode("utf-8", "ignore").decode()
    lines, whole = [], set()
    for number, (damage, seed) in enumerate(damages):
        line = bytearray(line_of(answer(number, text=text))[:-1])
        at = seed % len(line)
        if damage == "cut":
            del line[at:]
        elif damage == "flip":
            line[at] = seed % 256 if seed % 256 != 10 else 0
        elif damage == "nul":
            line[at : at + 50] = bytes(len(line[at : at + 50]))
        else:
            whole.add(f"20261124-aa-{number:x}")
        lines.append(bytes(line) + b"\n")
    found = ingest(tmp_path_factory.mktemp("day"), lines)
    assert whole <= set(found.table["request_id"].to_pylist())
    blank = sum(not line.strip() for line in lines)
    assert found.table.num_rows + counted(found).get("duplicates", 0) + found.quarantined.num_rows == len(lines) - blank


# ── the whole way ───────────────────────────────────────────────────────────────────────────────────────────────────

SERVICE = """
import datetime as dt, os, sys, time
from pathlib import Path
from mangaassist_assets.lib.drift.interactions import Answer, line_of
from mangaassist_assets.lib.drift.segments import Journal, JournalSettings
now = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
journal = Journal(Path(sys.argv[1]), clock=lambda: now, settings=JournalSettings(1 << 16, 0.005, 0.05))
for number in range(10**9):
    name = f"20261124-{os.getpid()}-{number:x}"
    line = line_of(Answer(request_id=name, occurred_at=now, text="how long is the ferry to Sado", language="en", route="student",
                          latency_ms=1.0, intent="faq", confidence=0.5))
    while not journal.append(line):
        time.sleep(0.001)
    os.write(1, name.encode() + b"\\n")
"""


def test_two_services_killed_at_any_moment_lose_no_acknowledged_answer(tmp_path):
    children = [subprocess.Popen([sys.executable, "-c", SERVICE, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    said = b""
    for seed, child in enumerate(children):
        said += child.stdout.readline()
        threading.Timer(random.Random(seed).uniform(0.02, 0.3), os.kill, (child.pid, signal.SIGKILL)).start()
    for child in children:
        said += child.stdout.read()
        child.wait()
        child.stdout.close()
    acknowledged = {line.decode() for line in said.split(b"\n")[:-1]}
    recover(tmp_path)
    found = read_day(tmp_path, DAY)
    assert acknowledged <= set(found.table["request_id"].to_pylist())
    assert found.quarantined.num_rows <= 2
    assert counted(found).get("duplicates", 0) == 0
