"""What is answered is written down: every text once, without personal data, before its reply is sent, and never in its way."""

import asyncio
import datetime as dt
import os
import re
import stat
import threading

import pytest
from prometheus_client import CollectorRegistry

from bento import interactions as module
from bento.interactions import Answers, Interactions, salt_of
from bento.metrics import Metrics
from mangaassist_assets.lib.drift.interactions import Shadow, read_day
from mangaassist_assets.lib.drift.segments import Journal, day_of, sealed
from mangaassist_assets.lib.errors import DamagedArtifact
from mangaassist_assets.lib.intents.prediction import Prediction

from .conftest import DIGEST, NOW, Notes, StandIn, running, running_in, until
from .test_retrieval import World

pytestmark = pytest.mark.anyio


async def test_each_text_is_one_record_and_a_request_one_append():
    async with running() as service:
        answers = (await service.classify("rules 1", "other ２", "student おすすめ", session_id="visit-1")).json()["results"]
        assert len(service.notes.lines) == 1
        records = service.notes.records("answer")
        for answer, record in zip(answers, records, strict=True):
            assert {name: record[name] for name in answer} == answer
            assert dt.datetime.fromisoformat(record["occurred_at"]) == NOW
            assert (record["model_digest"], record["arm"], record["error"]) == (DIGEST, "champion", None)
            assert record["latency_ms"] > 0 and re.fullmatch("[0-9a-f]{16}", record["session"])
        assert [record["text"] for record in records] == ["rules 1", "other 2", "student おすすめ"]
        assert [record["language"] for record in records] == ["en", "en", "mixed"]
        assert service.metric("mangaassist_interactions_total", kind="answer") == 3


async def test_a_probe_is_marked_and_belongs_to_no_session():
    async with running() as service:
        answers = [(await service.classify("rules", session_id="a", probe=probe)).json()["results"] for probe in (True, False)]
        probed, plain = service.notes.records("answer")
        assert answers[0][0].keys() == answers[1][0].keys()
        assert (probed["flags"], probed["session"]) == (["probe"], None)
        assert "flags" not in plain and plain["session"]


async def test_nothing_that_identifies_a_shopper_is_written():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        await service.classify("rules me@example.com", "call me on 07700 900123", session_id="me@example.com")
        await service.http.post("/v1/retrieve", json={"query": "ship to me@example.com"})
        written = b"".join(service.notes.lines)
        assert b"<EMAIL>" in written and b"<PHONE>" in written
        assert b"example.com" not in written and b"900123" not in written


async def test_a_session_is_the_same_within_a_house_and_another_in_the_next(tmp_path):
    seen = []
    for home in ("one", "one", "two"):
        (tmp_path / home).mkdir(exist_ok=True)
        async with running_in(tmp_path / home) as service:
            for session in ("a", "b", None):
                await service.classify("rules", session_id=session)
            seen.append([record["session"] for record in service.notes.records("answer")])
    assert seen[0] == seen[1] and seen[0][2] is None
    assert len({seen[0][0], seen[0][1], seen[2][0], seen[2][1]}) == 4


@pytest.mark.parametrize("session", ['""', '"' + "s" * 257 + '"', "5", '"\\ud800"'])
async def test_a_session_that_cannot_be_is_refused(session):
    async with running() as service:
        body = f'{{"texts": ["rules"], "session_id": {session}}}'.encode()
        answer = await service.http.post("/v1/classify", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422) and not service.notes.lines


async def test_what_is_not_answered_is_not_written():
    cascade = StandIn()
    async with running(cascade, deadline_s=0.05) as service:
        assert (await service.classify("rules", "")).status_code == 422
        assert (await service.classify("poison")).status_code == 503
        cascade.gate.clear()
        assert (await service.classify("late")).status_code == 503
        cascade.gate.set()
        assert not service.notes.lines


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_name_begins_with_the_day_of_its_record_wherever_the_clock_jumps():
    now, names = [NOW], []
    async with running(clock=lambda: now[0]) as service:
        for moment in (NOW, dt.datetime(2026, 3, 1, 23, 59, 59, 999_999, dt.UTC), dt.datetime(2026, 3, 2, tzinfo=dt.UTC), NOW):
            now[0] = moment
            names.append((await service.classify("rules")).json()["results"][0]["request_id"])
            assert day_of(names[-1]) == moment.date()
        assert len(set(names)) == 4
        assert all(re.fullmatch("[0-9]{8}-[0-9a-f]{12}-[0-9a-f]+", name) for name in names)


def test_the_salt_is_made_once_by_many_and_is_its_owners_alone(tmp_path):
    found, start = [], threading.Barrier(8)

    def ask():
        start.wait()
        found.append(salt_of(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found[0]) == 32
    assert stat.S_IMODE(os.stat(tmp_path / "salt").st_mode) == 0o600
    assert os.listdir(tmp_path) == ["salt"]


def test_a_salt_that_nobody_made_here_is_refused(tmp_path):
    (tmp_path / "salt").write_bytes(b"salt")
    with pytest.raises(DamagedArtifact, match="not a salt"):
        salt_of(tmp_path)


# ── where nothing can be written ────────────────────────────────────────────────────────────────────────────────────


async def test_without_a_house_all_is_answered_and_none_is_made(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    home = tmp_path / "home"
    async with running_in(home) as service:
        assert (await service.classify("rules 1", "rules 2")).status_code == 200
        assert service.metric("mangaassist_interactions_not_written_total", reason="not_open") == 2
        assert not home.exists() and "mangaassist run" in caplog.text
        home.mkdir()
        await until((home / "interactions" / "salt").exists)
        await asyncio.sleep(0.05)
        await service.classify("rules 3")
        assert [record["text"] for record in service.notes.records("answer")] == ["rules 3"]


@pytest.mark.parametrize(("problem", "reason"), [("no space left on device", "disk"), (None, "behind")])
async def test_a_journal_without_room_costs_records_and_no_answer(problem, reason, monkeypatch, caplog):
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    async with running() as service:
        service.notes.room, service.notes.problem = False, problem
        assert (await service.classify("rules 1", "rules 2", "other")).status_code == 200
        assert service.metric("mangaassist_interactions_not_written_total", reason=reason) == 3
        name = f"{NOW:%Y%m%d}-0123456789ab-1"
        told = await service.feedback(request_id=name, thumbs_up=True)
        assert (told.status_code, told.json()["error"]["code"]) == (503, "not_written") and "retry-after" in told.headers
        await asyncio.sleep(0.05)
        assert caplog.text.count("no space left") == (1 if problem else 0), "each problem is said once"
        service.notes.room = True
        assert (await service.feedback(request_id=name, thumbs_up=True)).status_code == 200


async def test_a_house_that_cannot_be_written_to_is_said_and_everything_is_answered(tmp_path, caplog):
    (tmp_path / "interactions").write_text("a file where the folder should be")
    async with running_in(tmp_path) as service:
        assert (await service.classify("rules")).status_code == 200
        assert "interactions" in caplog.text and service.metric("mangaassist_interactions_not_written_total", reason="not_open") == 1


async def test_writing_can_be_turned_off(tmp_path):
    async with running_in(tmp_path, interactions=False) as service:
        answer = (await service.classify("rules", session_id="a")).json()["results"][0]
        assert day_of(answer["request_id"]) == NOW.date()
        assert not os.listdir(tmp_path) and not service.notes.lines
        assert service.metric("mangaassist_interactions_not_written_total", reason="not_open") == 0
        assert (await service.feedback(request_id=answer["request_id"], thumbs_up=True)).status_code == 503


# ── feedback ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_feedback_is_written_down_as_often_as_it_is_told():
    async with running() as service:
        name = (await service.classify("rules")).json()["results"][0]["request_id"]
        for thumbs_up in (True, False, False):
            answer = await service.feedback(request_id=name, thumbs_up=thumbs_up, clicked=["ms-0050", "返品"])
            assert (answer.status_code, answer.json()) == (200, {"accepted": True})
        records = service.notes.records("feedback")
        assert [record["thumbs_up"] for record in records] == [True, False, False]
        assert records[0] == {
            "kind": "feedback",
            "request_id": name,
            "at": "2026-03-01T12:00:00Z",
            "thumbs_up": True,
            "escalated": None,
            "converted": None,
            "clicked": ["ms-0050", "返品"],
        }
        assert service.metric("mangaassist_interactions_total", kind="feedback") == 3
        assert service.metric("mangaassist_requests_total", route="/v1/feedback", code="200") == 3


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"request_id": "20260301-0123456789ab-1f", "escalated": True}, 200, None),
        ({"request_id": "20260130-0123456789ab-1f", "converted": False}, 200, None),
        ({"request_id": "20260129-0123456789ab-1f", "converted": False}, 422, "too_late"),
        ({"request_id": "20260302-0123456789ab-1f", "thumbs_up": True}, 422, "not_answered_yet"),
        ({"request_id": "20260231-0123456789ab-1f", "thumbs_up": True}, 422, "invalid_request"),
        ({"request_id": "5f0c2b9d81aa-1", "thumbs_up": True}, 422, "invalid_request"),
        ({"request_id": "20260301-0123456789ab-1\n", "thumbs_up": True}, 422, "invalid_request"),
        ({"request_id": "../../../etc/passwd", "thumbs_up": True}, 422, "invalid_request"),
        ({"request_id": "20260301-0123456789ab-1f"}, 422, "no_feedback"),
        ({"request_id": "20260301-0123456789ab-1f", "thumbs_up": None}, 422, "no_feedback"),
        ({"request_id": "20260301-0123456789ab-1f", "thumbs_up": "yes"}, 422, "invalid_request"),
        ({"request_id": "20260301-0123456789ab-1f", "thumbs_up": 1}, 422, "invalid_request"),
        ({"request_id": "20260301-0123456789ab-1f", "clicked": ["me@example.com"]}, 422, "invalid_request"),
        ({"request_id": "20260301-0123456789ab-1f", "clicked": ["a"] * 101}, 422, "invalid_request"),
        ({"request_id": "20260301-0123456789ab-1f", "comment": "good"}, 422, "invalid_request"),
        ({"thumbs_up": True}, 422, "invalid_request"),
    ],
)
async def test_feedback_that_cannot_be_is_refused_with_a_sentence(told, status, code):
    async with running() as service:
        answer = await service.feedback(**told)
        assert answer.status_code == status
        if code:
            assert answer.json()["error"]["code"] == code and answer.json()["error"]["message"].endswith(".")
            assert not service.notes.lines
        assert (await service.http.get("/v1/feedback")).headers["allow"] == "POST"


# ── retrieval ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_retrieved_is_written_under_the_name_that_the_reply_gives():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        answer = (await service.http.post("/v1/retrieve", json={"query": "dark  ｆantasy", "k": 2})).json()
        (record,) = service.notes.records("retrieve")
        assert record.pop("latency_ms") > 0
        assert record == {
            "kind": "retrieve",
            "request_id": answer["request_id"],
            "occurred_at": "2026-03-01T12:00:00Z",
            "query": "dark fantasy",
            "language": "en",
            "retrieved": ["one", "one"],
            "index_digest": "one",
        }
        assert day_of(answer["request_id"]) == NOW.date()


# ── on disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def on_disk(folder):
    return Journal(folder, clock=lambda: NOW)


async def test_what_was_answered_lies_in_the_segments_of_its_day(tmp_path):
    async with running_in(tmp_path, journal=on_disk) as service:
        names = [r["request_id"] for _ in range(20) for r in (await service.classify("rules 1", "other 2")).json()["results"]]
        await service.feedback(request_id=names[0].replace("20260301", "20260215"), thumbs_up=True)
    folder = tmp_path / "interactions"
    assert {str(day) for day in sealed(folder)} == {"2026-03-01", "2026-02-15"}
    found = read_day(folder, NOW.date())
    assert sorted(found.table["request_id"].to_pylist()) == sorted(names) and not len(found.quarantined)
    assert set(found.table["model_digest"].to_pylist()) == {DIGEST}


async def test_everything_that_is_written_is_read_again(tmp_path):
    world = World()
    async with running_in(tmp_path, shelf=world, retriever=world.load, journal=on_disk) as service:
        answer = (await service.classify("other me@example.com", session_id="a")).json()["results"][0]
        query = (await service.http.post("/v1/retrieve", json={"query": "berserk"})).json()["request_id"]
        for told in ({"thumbs_up": True}, {"escalated": True}, {"thumbs_up": False}):
            await service.feedback(request_id=answer["request_id"], **told)
        await service.feedback(request_id=query, clicked=["one"])
        service.pipeline.interactions.shadowed([Shadow(request_id=answer["request_id"], shadow_digest="s" * 64, shadow_intent="faq")])
    found = read_day(tmp_path / "interactions", NOW.date())
    (row,), (retrieval,) = found.table.to_pylist(), found.retrievals.to_pylist()
    assert not len(found.quarantined)
    assert (row["text"], row["intent"], row["route"]) == ("other <EMAIL>", answer["intent"], answer["route"])
    assert (row["thumbs_up"], row["escalated"], row["converted"]) == (False, True, None)
    assert (row["shadow_digest"], row["shadow_intent"], row["occurred_at"]) == ("s" * 64, "faq", NOW)
    assert (retrieval["query"], retrieval["shown"], retrieval["clicked"]) == ("berserk", ["one"] * 5, ["one"])


def test_what_bundles_answers_have_in_common_is_written_of_each_bundle_by_itself(tmp_path):
    notes = Notes()
    book = Interactions(tmp_path, open_journal=lambda folder: notes, clock=lambda: NOW, metrics=Metrics(CollectorRegistry()))
    asyncio.run(book._open())
    said = [Prediction("faq", 0.5, None, "rules")]
    for answer in (Answers(["a"], said, "one"), Answers(["b"], said, "two", "canary"), Answers(["c"], said, "one", "canary", "deadline")):
        book.answered(answer, None, 1.0)
    assert [(r["text"], r["model_digest"], r["arm"], r["error"]) for r in notes.records("answer")] == [
        ("a", "one", "champion", None),
        ("b", "two", "canary", None),
        ("c", "one", "canary", "deadline"),
    ]
