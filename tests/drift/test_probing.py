import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mangaassist_assets.lib.drift.probing import AT_ONCE, Probed, probe
from mangaassist_assets.lib.errors import BadInput, MissingEvidence, Unavailable

LABELS = {f"message {i}": "faq" if i % 2 else "chitchat" for i in range(100)}


@pytest.fixture
def service():
    """A service that says faq to everything; `asked` are the requests it got, `refuses` makes it say no."""

    class Handler(BaseHTTPRequestHandler):
        asked, refuses = [], False

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.asked.append((self.path, body))
            reply = {"results": [{"intent": "faq"} for _ in body["texts"]]}
            if Handler.refuses:
                reply = {"error": {"code": "not_ready", "message": "Nothing is served yet."}}
            self.send_response(503 if Handler.refuses else 200)
            self.end_headers()
            self.wfile.write(json.dumps(reply).encode())

        def log_message(self, *_): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Handler.url = f"http://127.0.0.1:{server.server_port}"
        yield Handler
        server.shutdown()


def test_the_same_golden_messages_are_asked_each_time_and_marked_as_probes(service):
    first = probe(service.url, LABELS, 70)
    texts = [text for _, body in service.asked for text in body["texts"]]
    assert first == Probed(70, sum(LABELS[text] == "faq" for text in texts))
    assert len(texts) == len(set(texts)) == 70 and max(len(body["texts"]) for _, body in service.asked) == AT_ONCE
    assert {(path, body["probe"]) for path, body in service.asked} == {("/v1/classify", True)}
    service.asked.clear()
    assert probe(f"{service.url}/", LABELS, 70) == first
    assert [text for _, body in service.asked for text in body["texts"]] == texts


def test_what_stands_in_the_way_is_said_with_its_remedy(service):
    service.refuses = True
    with pytest.raises(Unavailable, match="503.*Nothing is served yet"):
        probe(service.url, LABELS, 5)
    with pytest.raises(Unavailable, match="mangaassist serve"):
        probe("http://127.0.0.1:9", LABELS, 5)
    with pytest.raises(BadInput, match="address"):
        probe("localhost:3000", LABELS, 5)
    with pytest.raises(MissingEvidence, match="golden"):
        probe(service.url, {}, 5)
