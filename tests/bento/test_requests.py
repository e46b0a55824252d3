import asyncio
import json

import pytest

from .conftest import StandIn, running

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}

REFUSED = {
    "not_json": (b"{", JSON, 400, "invalid_json"),
    "empty_body": (b"", JSON, 400, "invalid_json"),
    "trailing_characters": (b'{"texts": ["a"]} x', JSON, 400, "invalid_json"),
    "byte_order_mark": (b'\xef\xbb\xbf{"texts": ["a"]}', JSON, 400, "invalid_json"),
    "raw_control_character": (b'{"texts": ["a\x00b"]}', JSON, 400, "invalid_json"),
    "not_a_number": (b'{"texts": NaN}', JSON, 400, "invalid_json"),
    "infinity_in_list": (b'{"texts": [Infinity]}', JSON, (400, 422), None),
    "wrong_type": (b'{"texts": 5}', JSON, 422, "invalid_request"),
    "text_alone": (b'{"texts": "a"}', JSON, 422, "invalid_request"),
    "list_alone": (b'["a"]', JSON, 422, "invalid_request"),
    "no_field": (b"{}", JSON, 422, "invalid_request"),
    "misspelt_field": (b'{"text": ["a"]}', JSON, 422, "invalid_request"),
    "unknown_field": (b'{"texts": ["a"], "model": "b"}', JSON, 422, "invalid_request"),
    "number_in_list": (b'{"texts": ["a", 1]}', JSON, 422, "invalid_request"),
    "null_in_list": (b'{"texts": [null]}', JSON, 422, "invalid_request"),
    "empty_list": (b'{"texts": []}', JSON, 422, "no_texts"),
    "empty_text": (b'{"texts": ["a", ""]}', JSON, 422, "empty_text"),
    "nothing_but_invisible": ('{"texts": ["a", "\u200b \\u0000"]}'.encode(), JSON, 422, "empty_text"),
    "too_many_texts": (json.dumps({"texts": ["a"] * 257}).encode(), JSON, 422, "too_many_texts"),
    "hundred_thousand_texts": (json.dumps({"texts": ["a"] * 100_000}).encode(), JSON, 422, "too_many_texts"),
    "long_text": (json.dumps({"texts": ["a", "b" * 4_001]}).encode(), JSON, 422, "text_too_long"),
    "ten_megabytes": (json.dumps({"texts": ["a" * 10_000_000]}).encode(), JSON, 413, "request_too_large"),
    "deep_json": (b'{"texts":' + b"[" * 50_000 + b"]" * 50_000 + b"}", JSON, 422, "invalid_request"),
    "deep_json_in_unknown_field": (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", JSON, 422, "invalid_request"),
    "lone_surrogate": (b'{"texts": ["\\ud800"]}', JSON, 400, "lone_surrogate"),
    "lone_low_surrogate": (b'{"texts": ["a\\uDC00b"]}', JSON, 400, "lone_surrogate"),
    "invalid_utf8": (b'{"texts": ["\xff\xfe"]}', JSON, 400, "invalid_utf8"),
    "surrogate_in_utf8": (b'{"texts": ["\xed\xa0\x80"]}', JSON, 400, "invalid_utf8"),
    "latin1": ('{"texts": ["é"]}'.encode("latin-1"), JSON, 400, "invalid_utf8"),
    "utf16": ('{"texts": ["a"]}'.encode("utf-16"), JSON, 400, "invalid_json"),
    "pickle": (b"\x80\x04.", {"content-type": "application/vnd.bentoml+pickle"}, 415, "unsupported_media_type"),
    "multipart": (b"--x--", {"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
    "form": (b'{"texts": ["a"]}', {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    "no_media_type": (b'{"texts": ["a"]}', {}, 415, "unsupported_media_type"),
    "other_charset": (b'{"texts": ["a"]}', {"content-type": "application/json; charset=shift_jis"}, 415, "unsupported_media_type"),
    "compressed": (b"\x1f\x8b", JSON | {"content-encoding": "gzip"}, 415, "unsupported_encoding"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_request_is_refused_with_a_sentence_and_the_service_answers_the_next(case):
    body, headers, status, code = REFUSED[case]
    async with running() as service:
        answer = await service.http.post("/v1/classify", content=body, headers=headers)
        error = answer.json()["error"]
        assert answer.status_code == status or answer.status_code in (status if isinstance(status, tuple) else ())
        assert code is None or error["code"] == code
        assert set(answer.json()) == {"error"} and set(error) == {"code", "message"}
        assert error["message"].endswith(".") and "Traceback" not in error["message"] and len(error["message"]) < 300
        fine = await service.classify("where is my order", "おすすめの漫画は?", "a\u0000b", "😀" * 50)
        assert fine.status_code == 200
        assert [r["secondary_intent"] for r in fine.json()["results"]] == [
            "one: where is my order", "one: おすすめの漫画は?", "one: ab", "one: " + "😀" * 50,
        ]  # fmt: skip


async def test_a_key_of_a_megabyte_is_not_sent_back():
    async with running() as service:
        answer = await service.http.post("/v1/classify", content=b'{"' + b"k" * 1_000_000 + b'": 1}', headers=JSON)
        assert answer.status_code == 422 and len(answer.content) < 400


async def test_a_body_that_arrives_in_pieces_is_read_and_one_without_a_length_has_the_same_limit():
    async def pieces(size):
        yield b'{"texts": ["'
        for _ in range(size // 1000):
            yield b"a" * 1000
        yield b'"]}'

    async with running() as service:
        assert (await service.http.post("/v1/classify", content=pieces(3_000), headers=JSON)).status_code == 200
        answer = await service.http.post("/v1/classify", content=pieces(3_000_000), headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("media", ["application/json", "application/json; charset=utf-8", 'Application/JSON; charset="UTF-8"'])
async def test_json_is_json_however_it_is_spelt(media):
    async with running() as service:
        answer = await service.http.post("/v1/classify", content=b'{"texts": ["a"]}', headers={"content-type": media})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/classify", 405, "POST"),
        ("POST", "/v1/model", 405, "GET, HEAD"),
        ("DELETE", "/readyz", 405, "GET, HEAD"),
        ("POST", "/v1/classify/", 404, None),
        ("GET", "/schema.json", 404, None),
        ("POST", "/classify", 404, None),
        ("GET", "/static_content/../x", 404, None),
    ],
)
async def test_other_routes_and_methods_are_refused_as_json(method, path, status, allow):
    async with running() as service:
        answer = await service.http.request(method, path)
        assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
        assert answer.json()["error"]["message"]


async def test_routes_of_the_cascade_and_request_ids_are_answered_in_order():
    async with running() as service:
        answer = (await service.classify("rules 1", "other 2", "student 3", "other 4")).json()["results"]
        assert [r["route"] for r in answer] == ["rules", "classifier", "student", "classifier"]
        assert [r["secondary_intent"] for r in answer] == ["one: rules 1", "one: other 2", "one: student 3", "one: other 4"]
        again = (await service.classify("rules 1")).json()["results"]
        assert len({r["request_id"] for r in answer + again}) == 5


async def test_a_text_reaches_the_classifier_in_the_form_that_it_was_trained_on():
    async with running() as service:
        answer = (await service.classify("mail  ＭＥ at hana@example.org", "student hana@example.org")).json()["results"]
        assert [r["secondary_intent"] for r in answer] == ["one: mail ME at <EMAIL>", "one: student <EMAIL>"]


async def test_sagemakers_names_reach_the_same_routes():
    async with running() as service:
        assert (await service.http.get("/ping")).status_code == 200
        assert (await service.http.post("/invocations", json={"texts": ["rules 1"]})).json()["results"][0]["route"] == "rules"


async def test_a_websocket_is_closed():
    async with running() as service:
        sent = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message)

        await service.web({"type": "websocket", "path": "/v1/classify"}, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]


# ── clients that stall or leave ─────────────────────────────────────────────────────────────────────────────────────


def scope():
    return {"type": "http", "method": "POST", "path": "/v1/classify", "headers": [(b"content-type", b"application/json")]}


class Client:
    """Sends the messages given, then falls silent until it is told to leave."""

    def __init__(self, *messages):
        self.messages, self.left, self.sent = list(messages), asyncio.Event(), []

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)


async def test_a_body_that_never_ends_is_given_up():
    async with running(body_s=0.05) as service:
        for client in (Client(), Client({"type": "http.request", "body": b'{"te', "more_body": True})):
            await service.web(scope(), client.receive, client.send)
            assert client.sent[0]["status"] == 408
            assert (b"connection", b"close") in client.sent[0]["headers"]


async def test_many_slow_bodies_do_not_hold_up_whole_ones():
    async with running(body_s=5) as service:
        slow = [Client({"type": "http.request", "body": b"{", "more_body": True}) for _ in range(64)]
        tasks = [asyncio.create_task(service.web(scope(), c.receive, c.send)) for c in slow]
        await asyncio.sleep(0.01)
        another = Client({"type": "http.request", "body": b"{", "more_body": True})
        await service.web(scope(), another.receive, another.send)
        assert another.sent[0]["status"] == 503 and (b"retry-after", b"1") in another.sent[0]["headers"]
        whole = Client({"type": "http.request", "body": b'{"texts": ["rules 1"]}'})
        await service.web(scope(), whole.receive, whole.send)
        assert whole.sent[0]["status"] == 200
        for client in slow:
            client.left.set()
        await asyncio.gather(*tasks)
        assert all(not c.sent for c in slow)
        assert service.metric("mangaassist_requests_total", route="/v1/classify", code="499") == 64


async def test_a_client_that_leaves_takes_its_texts_out_of_the_queue():
    cascade = StandIn()
    async with running(cascade) as service:
        cascade.gate.clear()
        first = asyncio.create_task(service.classify("held up"))
        await asyncio.sleep(0.02)
        client = Client({"type": "http.request", "body": json.dumps({"texts": ["gone"] * 100}).encode()})
        task = asyncio.create_task(service.web(scope(), client.receive, client.send))
        await asyncio.sleep(0.02)
        assert service.metric("mangaassist_waiting_texts") == 100
        client.left.set()
        await task
        assert not client.sent and service.metric("mangaassist_waiting_texts") == 0
        cascade.gate.set()
        assert (await first).status_code == 200
        assert cascade.batches == [["held up"]]


async def test_an_unexpected_error_is_a_503_and_its_text_stays_out_of_the_log(caplog):
    class Broken(StandIn):
        def classify_fast(self, texts):
            if "secret" in texts[0]:
                raise KeyError(texts[0])
            return super().classify_fast(texts)

    async with running(Broken()) as service:
        with caplog.at_level("INFO"):
            answer = await service.classify("a secret")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert "KeyError" in caplog.text and "secret" not in caplog.text + answer.text


async def test_get_and_head_agree():
    async with running() as service:
        for path in ("/livez", "/readyz", "/v1/model", "/docs.json", "/"):
            got, head = await service.http.get(path), await service.http.head(path)
            assert got.status_code == head.status_code == 200
            assert got.headers["content-length"] == head.headers["content-length"]


async def test_the_page_loads_nothing_from_elsewhere():
    async with running() as service:
        page = await service.http.get("/")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "//" not in page.text.replace("<!DOCTYPE html>", "")
