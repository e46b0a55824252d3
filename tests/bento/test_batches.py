import asyncio
import random
import threading

import pytest
from prometheus_client import CollectorRegistry

from bento.batches import LONGEST_TOKENS, Batcher, tokens
from bento.metrics import Metrics

from .conftest import StandIn, running, until

pytestmark = pytest.mark.anyio


async def test_requests_that_run_together_each_get_their_own_texts_back_in_order():
    cascade = StandIn(seconds=0.001)
    async with running(cascade) as service:
        draw = random.Random(1)
        asked = [[f"{draw.choice(['rules', 'student', 'other'])} {i}/{j}" for j in range(draw.randint(1, 60))] for i in range(40)]
        answers = await asyncio.gather(*(service.classify(*texts) for texts in asked))
        for texts, answer in zip(asked, answers, strict=True):
            assert [r["secondary_intent"] for r in answer.json()["results"]] == [f"one: {t}" for t in texts]
        slow = sum(t.startswith("other") for texts in asked for t in texts)
        assert sum(map(len, cascade.batches)) == slow
        assert len(cascade.batches) < 40


async def test_an_idle_classifier_starts_at_once_and_what_arrives_meanwhile_is_one_batch():
    cascade = StandIn()
    async with running(cascade) as service:
        cascade.gate.clear()
        first = asyncio.create_task(service.classify("first"))
        await until(lambda: service.metric("mangaassist_waiting_texts") == 0 and service.pipeline._in_work == 1)
        others = [asyncio.create_task(service.classify(f"later {i}")) for i in range(10)]
        await until(lambda: service.metric("mangaassist_waiting_texts") == 10)
        cascade.gate.set()
        await asyncio.gather(first, *others)
        assert [len(b) for b in cascade.batches] == [1, 10]


async def test_a_long_request_does_not_hold_up_a_short_one():
    cascade = StandIn()
    async with running(cascade) as service:
        cascade.gate.clear()
        long = asyncio.create_task(service.classify(*(f"long {i}" for i in range(256))))
        await until(lambda: service.pipeline._in_work == 1 and service.metric("mangaassist_waiting_texts") < 256)
        short = asyncio.create_task(service.classify("short"))
        await until(lambda: service.pipeline._in_work == 2)
        cascade.gate.set()
        await asyncio.gather(long, short)
        assert any("short" in batch for batch in cascade.batches[:3])
        assert sum(map(len, cascade.batches)) == 257


async def test_a_batch_stays_within_its_tokens_padding_included():
    cascade = StandIn()
    async with running(cascade, max_batch_tokens=200) as service:
        texts = [("word " * n).strip() for n in (1, 90, 2, 3, 80, 1, 1, 1, 200)]
        assert (await service.classify(*texts)).status_code == 200
        assert sum(map(len, cascade.batches)) == len(texts)
        assert all(len(b) == 1 or len(b) * max(map(tokens, b)) <= 200 for b in cascade.batches)


async def test_a_text_that_fails_the_classifier_fails_no_other_request(caplog):
    cascade = StandIn()
    async with running(cascade) as service:
        cascade.gate.clear()
        first = asyncio.create_task(service.classify("first"))
        await until(lambda: service.pipeline._in_work == 1)
        bad = asyncio.create_task(service.classify("fine", "poison private@example.org"))
        good = asyncio.create_task(service.classify("good"))
        await until(lambda: service.pipeline._in_work == 3)
        cascade.gate.set()
        assert [(await t).status_code for t in (first, bad, good)] == [200, 503, 200]
        assert (await bad).json()["error"]["code"] == "classifier_failed"
        assert "ValueError" in caplog.text and "private" not in caplog.text
        assert service.metric("mangaassist_waiting_texts") == 0 and service.pipeline._in_work == 0


async def test_what_is_asked_beyond_the_queue_is_told_when_to_come_back():
    cascade = StandIn()
    async with running(cascade, max_waiting_texts=20) as service:
        cascade.gate.clear()
        first = asyncio.create_task(service.classify("first"))
        await until(lambda: service.pipeline._in_work == 1)
        queued = asyncio.create_task(service.classify(*("queued",) * 20))
        await until(lambda: service.metric("mangaassist_waiting_texts") == 20)
        shed = await service.classify("one more")
        assert (shed.status_code, shed.json()["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(shed.headers["retry-after"]) <= 60
        assert (await service.classify("rules still answer")).status_code == 200
        cascade.gate.set()
        assert [(await t).status_code for t in (first, queued)] == [200, 200]
        assert (await service.classify("one more")).status_code == 200


async def test_requests_beyond_the_concurrency_are_shed():
    cascade = StandIn()
    async with running(cascade, max_requests=3) as service:
        cascade.gate.clear()
        held = [asyncio.create_task(service.classify("held")) for _ in range(3)]
        await until(lambda: service.pipeline._in_work == 3)
        assert (await service.classify("rules 1")).status_code == 503
        cascade.gate.set()
        assert [(await t).status_code for t in held] == [200] * 3
        assert (await service.classify("rules 1")).status_code == 200


async def test_a_request_past_its_deadline_is_given_up_and_leaves_nothing_behind():
    cascade = StandIn()
    async with running(cascade, deadline_s=0.05) as service:
        cascade.gate.clear()
        late = [asyncio.create_task(service.classify(f"late {i}", "late")) for i in range(5)]
        assert {(await t).json()["error"]["code"] for t in late} == {"deadline"}
        assert service.metric("mangaassist_waiting_texts") == 0 and service.pipeline._in_work == 0
        cascade.gate.set()
        assert (await service.classify("in time")).status_code == 200


async def test_a_queue_that_cannot_be_answered_within_the_deadline_takes_no_more():
    cascade = StandIn(seconds=0.02)
    async with running(cascade, deadline_s=0.3, max_batch_tokens=1) as service:  # one text a batch
        await asyncio.gather(*(service.classify("pace") for _ in range(12)))
        codes = [r.status_code for r in await asyncio.gather(*(service.classify("burst") for _ in range(100)))]
        assert codes.count(200) >= 5 and codes.count(503) >= 50
        assert len(cascade.batches) < 60


async def test_several_runners_run_at_the_same_time():
    inside, most = 0, 0
    lock = threading.Lock()
    both = threading.Barrier(2, timeout=5)

    def classify(texts):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait()
        with lock:
            inside -= 1
        return [None] * len(texts)

    batcher = Batcher(classify, runners=2, max_tokens=1, metrics=Metrics(CollectorRegistry()))
    await asyncio.gather(*(batcher.ask(["a"]).answer for _ in range(4)))
    assert most == 2
    batcher.close()


async def test_a_closed_batcher_answers_what_it_was_asked_and_ends_its_threads():
    gate, before = threading.Event(), set(threading.enumerate())
    batcher = Batcher(lambda texts: gate.wait(5) and [len(t) for t in texts], runners=1, max_tokens=1, metrics=Metrics(CollectorRegistry()))
    asked = [batcher.ask(["a" * n]) for n in range(1, 6)]
    await asyncio.sleep(0.01)
    batcher.close()
    gate.set()
    assert [(await a.answer)[0] for a in asked] == [1, 2, 3, 4, 5]
    await until(lambda: not any(t.name.startswith("classifier") for t in set(threading.enumerate()) - before))


def test_tokens_are_counted_roughly_and_no_further_than_the_classifier_reads():
    assert tokens("where is my order") == 7
    assert tokens("おすすめ") == 7
    assert tokens("a" * 4_000) == tokens("漫" * 4_000) == LONGEST_TOKENS
