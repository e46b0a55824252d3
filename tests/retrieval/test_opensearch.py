"""Chunks go to OpenSearch, serve there, and make room for others without a gap.

Tests run against a server below that behaves as docs.opensearch.org says; with OPENSEARCH_URL set, those that need no fault of the server
run against a real one too (`docker compose up --wait opensearch`, then OPENSEARCH_URL=http://127.0.0.1:9200).
"""

import datetime as dt
import gzip
import json
import os
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from mangaassist_assets.lib.errors import BadInput, Conflict, MissingEvidence, Unavailable
from mangaassist_assets.lib.retrieval import opensearch_publish as publishing
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.chunking import CHUNKS
from mangaassist_assets.lib.retrieval.fold import FoldRefused, fold
from mangaassist_assets.lib.retrieval.index import build_flat, open_index
from mangaassist_assets.lib.retrieval.opensearch import inner_product, open_serving, serving
from mangaassist_assets.lib.retrieval.opensearch_cluster import Cluster, OpenSearchSettings
from mangaassist_assets.lib.retrieval.opensearch_publish import (
    ParityFailed,
    build,
    catch_up,
    check_parity,
    describe_from,
    flip,
    previous,
    prune,
    publish,
)
from mangaassist_assets.lib.retrieval.segments import ChangeLog
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, SpaceMismatch

D, N = 16, 120
SPACE = EmbeddingSpace("tiny", "0" * 64, "mean", True, D)
NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
REAL = os.environ.get("OPENSEARCH_URL")


# ── a server that behaves as OpenSearch documents it ────────────────────────────────────────────────────────────────


class Refusal(Exception):
    def __init__(self, status, kind, reason=""):
        self.status, self.error = status, {"type": kind, "reason": reason or kind}


class Index:
    def __init__(self, body):
        self.settings, self.mappings = body.get("settings", {}).get("index", {}), body["mappings"]
        self.docs, self.visible, self.versions = {}, {}, {}

    def write(self, action, meta, source):
        chunk_id, version, there = meta["_id"], meta["version"], self.versions.get(meta["_id"], -1)
        assert meta["version_type"] == "external_gte"
        if version < there:
            reason = f"[{chunk_id}]: version conflict, current version [{there}] is higher than the one provided [{version}]"
            raise Refusal(409, "version_conflict_engine_exception", reason)
        unknown = set(source or ()) - set(self.mappings["properties"])
        if unknown:
            raise Refusal(400, "strict_dynamic_mapping_exception", f"mapping set to strict, dynamic introduction of {sorted(unknown)}")
        if source and len(source["vector"]) != self.mappings["properties"]["vector"]["dimension"]:
            raise Refusal(400, "mapper_parsing_exception", "failed to parse field [vector] of type [knn_vector]")
        known = chunk_id in self.docs
        self.versions[chunk_id] = version
        if action == "delete":
            self.docs.pop(chunk_id, None)
            return (200, "deleted") if known else (404, "not_found")
        self.docs[chunk_id] = source
        return (200, "updated") if known else (201, "created")

    def search(self, body, deaf):
        knn = body["query"]["knn"]["vector"]
        assert 1 <= knn["k"] <= 10_000 and knn["method_parameters"]["ef_search"] >= knn["k"]
        hits = []
        for chunk_id, source in self.visible.items():
            terms = [next(iter(clause["term"].items())) for clause in knn.get("filter", {"bool": {"filter": []}})["bool"]["filter"]]
            if all(value == source[name] or (isinstance(source[name], list) and value in source[name]) for name, value in terms):
                p = float(np.float16(source["vector"]).astype(np.float32) @ np.float32(knn["vector"]))
                hits.append({"_id": chunk_id, "_score": 1 + p if p > 0 else 1 / (1 - p), "_source": self.shown(source, body["_source"])})
        hits = sorted(hits, key=lambda hit: -hit["_score"])[deaf : deaf + min(knn["k"], body["size"])]
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        return {"took": 1, "timed_out": False, "_shards": shards, "hits": {"hits": hits}, "status": 200}

    def shown(self, source, wanted):
        kept = {name: value for name, value in source.items() if name not in self.mappings["_source"]["excludes"]}
        return {name: kept[name] for name in kept if wanted and name in wanted}


class Server(ThreadingHTTPServer):
    """Indexes, aliases, and the faults that a test asks for: `faults` are [method and path pattern, status, times left].

    Status "lost" carries the request out and drops the answer; `full` refuses the first so many documents of a bulk, `deaf` hides the best
    so many results, `limit` is the largest body of a bulk in bytes.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.indexes, self.aliases, self.asked, self.faults = {}, {}, [], []
        self.full = self.deaf = 0
        self.limit, self.silent_shards, self.lock = 10**9, 0, threading.RLock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def fail(self, pattern, status, times=10**9):
        self.faults.append([pattern, status, times])

    def index(self, name):
        found = self.names(name)
        if not found:
            raise Refusal(404, "index_not_found_exception", f"no such index [{name}]")
        return self.indexes[found[0]]

    def names(self, name):
        if name.endswith("*"):
            return sorted(known for known in self.indexes if known.startswith(name[:-1]))
        return sorted(self.aliases.get(name, {name} & set(self.indexes)))

    def answer(self, method, path, query, body):
        match [method, *path.strip("/").split("/")]:
            case ["GET", "_cluster", "health", _]:
                return {"status": "green", "timed_out": False}
            case ["POST", "_aliases"]:
                return self.update_aliases(json.loads(body)["actions"])
            case [_, "_msearch"]:
                lines = [json.loads(line) for line in body.splitlines()]
                return {"responses": [self.one_search(*pair) for pair in zip(lines[::2], lines[1::2], strict=True)]}
            case ["GET", "_plugins", "_knn", "warmup", name]:
                assert self.index(name)
                return {"_shards": {"total": 1, "successful": 1, "failed": 0}}
            case ["PUT", name]:
                if name in self.indexes:
                    raise Refusal(400, "resource_already_exists_exception", f"index [{name}] already exists")
                self.indexes[name] = Index(json.loads(body))
            case ["GET", name]:
                self.index(name)
                return {n: {"mappings": self.indexes[n].mappings, "settings": {}, "aliases": {}} for n in self.names(name)}
            case ["DELETE", name]:
                self.index(name)
                del self.indexes[name]
            case ["GET", name, "_mapping"]:
                if not name.endswith("*"):
                    self.index(name)
                return {n: {"mappings": self.indexes[n].mappings} for n in self.names(name)}
            case ["PUT", name, "_mapping"]:
                self.index(name).mappings.update(json.loads(body))
            case ["PUT", name, "_settings"]:
                self.index(name).settings.update(json.loads(body)["index"])
            case ["POST", name, "_refresh"]:
                self.index(name).visible = dict(self.index(name).docs)
            case [_, name, "_count"]:
                return {"count": len(self.index(name).visible)}
            case [_, name, "_mget"]:
                return {"docs": [self.one_get(name, chunk_id, query) for chunk_id in json.loads(body)["ids"]]}
            case [_, name, "_bulk"]:
                return self.bulk(self.index(name), [json.loads(line) for line in body.decode().split("\n")[:-1]])
            case asked:
                raise Refusal(400, "illegal_argument_exception", f"no handler for {asked}")
        return {"acknowledged": True}

    def bulk(self, index, lines):
        items = []
        while lines:
            ((action, meta),) = lines.pop(0).items()
            source = None if action == "delete" else lines.pop(0)
            try:
                if self.full:
                    self.full -= 1
                    raise Refusal(429, "rejected_execution_exception", "rejected execution of primary operation")
                status, result = index.write(action, meta, source)
                items.append({action: {"_id": meta["_id"], "status": status, "result": result}})
            except Refusal as refusal:
                items.append({action: {"_id": meta["_id"], "status": refusal.status, "error": refusal.error}})
        return {"took": 1, "errors": any("error" in item for one in items for item in one.values()), "items": items}

    def one_search(self, header, body):
        try:
            found = self.index(header["index"]).search(body, self.deaf)
            found["_shards"]["failed"] = self.silent_shards
            return found
        except Refusal as refusal:
            return {"error": refusal.error, "status": refusal.status}

    def one_get(self, name, chunk_id, query):
        source = self.index(name).docs.get(chunk_id)
        if source is None:
            return {"_id": chunk_id, "found": False}
        wanted = re.search("_source_includes=([^&]*)", query)[1].replace("%2C", ",").split(",")
        return {"_id": chunk_id, "found": True, "_source": self.index(name).shown(source, wanted)}

    def update_aliases(self, actions):
        after = {alias: set(names) for alias, names in self.aliases.items()}
        for one in actions:
            ((action, told),) = one.items()
            names = after.setdefault(told["alias"], set())
            self.index(told["index"])
            if action == "add":
                names.add(told["index"])
            elif told["index"] in names:
                names.remove(told["index"])
            elif told.get("must_exist"):
                raise Refusal(404, "aliases_not_found_exception", f"aliases [{told['alias']}] missing")
        self.aliases = {alias: names for alias, names in after.items() if names}
        return {"acknowledged": True}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet, or each answer waits 40 ms for an acknowledgement

    def log_message(self, *_):
        pass

    def reply(self):
        server, (path, _, query) = self.server, self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with server.lock:
            server.asked.append((self.command, path, dict(self.headers), body))
            fault = next((f for f in server.faults if f[2] and re.fullmatch(f[0], f"{self.command} {path}")), None)
            if fault:
                fault[2] -= 1
            try:
                if len(body) > server.limit and path.endswith("_bulk"):
                    raise Refusal(413, "content_too_long")
                if fault and fault[1] != "lost":
                    raise Refusal(fault[1], "rejected_execution_exception" if fault[1] == 429 else "fault")
                status, answer = 200, server.answer(self.command, path, query, body)
            except Refusal as refusal:
                status, answer = refusal.status, {"error": refusal.error, "status": refusal.status}
        if fault and fault[1] == "lost":
            self.close_connection = True
            return
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = reply  # noqa: N815


# ── what the tests share ────────────────────────────────────────────────────────────────────────────────────────────


def unit(seed, n):
    drawn = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def name_of(row):
    return f"c{row:05d}#0"


class Source:
    def __init__(self, vectors=None, digest="first"):
        self.all, self.space, self.digest = unit(1, N) if vectors is None else vectors, SPACE, digest

    def __len__(self):
        return len(self.all)

    def chunk_ids(self, start, stop):
        return pa.array([name_of(row) for row in range(start, stop)])

    def vectors(self, start, stop):
        return self.all[start:stop].astype(np.float16)


def chunk(row, **changed):
    kind = "policy" if row % 10 == 0 else "series"
    shown = {"in_stock": [True, False, None][row % 3], "languages": ["ja", "en"] if row % 2 else ["en"], "formats": ["box_set"]}
    base = {"chunk_id": name_of(row), "document_id": f"c{row:05d}", "kind": kind, "position": 0, "start": 0, "end": 4, "digest": f"{row}"}
    return base | {"document_digest": "", "title": f"題 {row}", "text": f"text {row}", "aliases": [], "similar": []} | shown | changed


DESCRIBE = describe_from(pa.Table.from_pylist([chunk(row) for row in range(N + 10)], schema=CHUNKS))
W = np.eye(D, dtype=np.float32) + 0.3 * np.random.default_rng(3).standard_normal((D, D)).astype(np.float32)
LINEAR = Adapter("linear", D, {"weight": W})


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Waits(list):
    """Takes the place of sleep, and does something in the course of it."""

    def __init__(self):
        super().__init__()
        self.meanwhile = lambda: None

    def __call__(self, seconds):
        self.append(seconds)
        self.meanwhile()


@pytest.fixture
def waits():
    return Waits()


@pytest.fixture
def local(server, waits):
    with Cluster(OpenSearchSettings(server.url, "test-chunks", replicas=0, bulk_rows=25), sleep=waits) as cluster:
        yield cluster


@pytest.fixture(params=["local", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="OPENSEARCH_URL is not set"))])
def cluster(request):
    if request.param == "local":
        yield request.getfixturevalue("local")
        return
    with Cluster(OpenSearchSettings(REAL, f"test-{uuid.uuid4().hex[:12]}", replicas=0, bulk_rows=25)) as cluster:
        yield cluster
        for name in publishing._all(cluster):
            publishing._drop(cluster, name)


@pytest.fixture
def log(tmp_path):
    return ChangeLog(tmp_path / "changes", SPACE)


def put(cluster, log, source=None, adapter=None, now=NOW, queries=None, **more):
    return publish(
        cluster, Source() if source is None else source, DESCRIBE, adapter, log, unit(2, 8) if queries is None else queries, now=now, **more
    )


# ── searching ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_answers_as_the_embedded_index_does(cluster, log, tmp_path):
    index, embedded = put(cluster, log), open_index(build_flat(Source(), None, tmp_path))
    queries = unit(4, 70)  # more than go into one request
    for found, wanted in zip(index.find(queries, 5, SPACE), embedded.find(queries, N, SPACE), strict=True):
        cosines = dict(wanted)  # graphs hold half precision: what lies so near may change places
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted[:5]], abs=2e-3)
        assert [cosines[chunk_id] for chunk_id, _ in found] == pytest.approx([score for _, score in found], abs=2e-3)
    assert len(index) == N


def test_an_adapted_index_answers_in_the_adapters_space_and_in_no_other(cluster, log, tmp_path):
    queries = LINEAR.apply(unit(4, 6))
    index, embedded = put(cluster, log, adapter=LINEAR, queries=queries), open_index(build_flat(Source(), LINEAR, tmp_path))
    assert index.space == SPACE.adapted(LINEAR.digest) == open_serving(cluster).space
    for found, wanted in zip(index.find(queries, 3, index.space), embedded.find(queries, 3, index.space), strict=True):
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=2e-3)
    with pytest.raises(SpaceMismatch, match="adapter"):
        index.find(queries, 3, SPACE)


def test_a_folded_index_gives_a_rebuilt_ones_answers_from_the_base_index(cluster, log, tmp_path):
    base = put(cluster, log)
    index, folded = base.folded(LINEAR), fold(open_index(build_flat(Source(), None, tmp_path)), LINEAR)
    queries = LINEAR.apply(unit(4, 6))
    for found, wanted in zip(index.find(queries, 5, index.space), folded.find(queries, 5, folded.space), strict=True):
        assert [chunk_id for chunk_id, _ in found] == [chunk_id for chunk_id, _ in wanted]
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-3)
    assert check_parity(index, Source(), LINEAR, queries) == 1
    assert index.digest != base.digest and base.space == SPACE
    with pytest.raises(SpaceMismatch):
        index.find(queries, 5, SPACE)


def test_only_a_linear_adapter_folds_and_only_once(local, log):
    hidden = {"out": np.ones((D, 4), np.float32), "into": np.ones((4, D), np.float32), "bias": np.ones(4, np.float32)}
    base = put(local, log)
    with pytest.raises(FoldRefused, match="not linear"):
        base.folded(Adapter("mlp", D, hidden))
    with pytest.raises(FoldRefused, match="adapted space"):
        put(local, log, adapter=LINEAR).folded(LINEAR)


def test_filters_leave_as_many_results_as_exist(cluster, log):
    index = put(cluster, log)

    def rows(k=N, **filters):
        return {int(chunk_id[1:6]) for chunk_id, _ in index.find(unit(4, 1), k, SPACE, filters)[0]}

    assert rows(in_stock=True) == {row for row in range(N) if row % 3 == 0}
    assert rows(in_stock=False, language="ja") == {row for row in range(N) if row % 3 == 1 and row % 2}
    assert rows(kind="policy", format="box_set") == set(range(0, N, 10))
    assert len(rows(k=7, kind="policy")) == 7 and rows(format="kanzenban") == set()


@pytest.mark.parametrize("filters", [{"colour": "red"}, {"in_stock": "yes"}, {"language": True}])
def test_a_filter_that_does_not_exist_is_refused(local, log, filters):
    with pytest.raises(BadInput, match="is not a filter"):
        put(local, log).find(unit(4, 1), 3, SPACE, filters)


def test_impossible_queries_are_refused_before_they_are_sent(local, log):
    index = put(local, log)
    for vectors, k in ((np.full((1, D), np.nan, np.float32), 3), (unit(4, 1)[:, :5], 3), (unit(4, 1), 0), (unit(4, 1), 10_001)):
        with pytest.raises(BadInput, match="query of the chunk index"):
            index.find(vectors, k, SPACE)


def test_what_is_shown_comes_from_the_cluster_and_vectors_do_not(cluster, log):
    shown = put(cluster, log).chunks([name_of(3), "gone#0"])
    assert shown == {
        name_of(3): {name: chunk(3)[name] for name in ("document_id", "kind", "title", "text", "in_stock", "languages", "formats")}
    }


def test_a_part_of_the_index_is_never_taken_for_the_whole(server, local, log):
    index = put(local, log)
    server.silent_shards = 1
    with pytest.raises(Unavailable, match="1 of 1 shards of test-chunks-"):
        index.find(unit(4, 1), 3, SPACE)


def test_a_query_waits_a_moment_and_no_longer(server, local, log, waits):
    index = put(local, log)
    server.fail(".* /_msearch", 429, times=1)
    assert index.find(unit(4, 1), 3, SPACE)
    server.fail(".* /_msearch", 503)
    with pytest.raises(Unavailable, match="busy .HTTP 503."):
        index.find(unit(4, 1), 3, SPACE)
    assert sum(waits) < 2


def test_an_index_that_was_removed_says_so(server, local, log):
    index = put(local, log)
    server.indexes.clear()
    with pytest.raises(MissingEvidence, match="open the serving index again"):
        index.find(unit(4, 1), 3, SPACE)


@pytest.mark.parametrize("p", [-1.0, -0.3, 0.0, 1e-6, 0.4, 1.0])
def test_scores_are_turned_back_into_inner_products(p):
    assert inner_product(1 + p if p > 0 else 1 / (1 - p)) == pytest.approx(p, abs=1e-12)


# ── building and resuming ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_build_makes_graphs_for_inner_products_once_and_then_adds_replicas(server, waits, log):
    with Cluster(OpenSearchSettings(server.url, "shop", replicas=2, m=24, shards=3), sleep=waits) as cluster:
        index = put(cluster, log)
    created = next(json.loads(body) for method, path, _, body in server.asked if (method, path) == ("PUT", f"/{index.name}"))
    assert (
        created["settings"]["index"] | {"knn": True, "number_of_shards": 3, "number_of_replicas": 0, "refresh_interval": "-1"}
        == created["settings"]["index"]
    )
    method = created["mappings"]["properties"]["vector"]["method"]
    assert (method["engine"], method["space_type"], method["parameters"]["m"]) == ("faiss", "innerproduct", 24)
    assert server.indexes[index.name].settings["number_of_replicas"] == 2
    assert server.indexes[index.name].settings["refresh_interval"] == "1s"
    assert created["mappings"]["_meta"]["space"] == SPACE.to_json()


def test_only_what_was_refused_for_want_of_room_is_sent_again(server, local, log, waits):
    server.full = 40
    index = put(local, log)
    sent = [line for _, path, _, body in server.asked if path.endswith("_bulk") for line in body.decode().split("\n")[:-1:2]]
    assert len(index) == N and len(sent) == N + 40 and waits


def test_a_minute_of_429_is_waited_for(server, local, log, waits):
    server.fail("POST /test-chunks-.*/_bulk", 429)

    def relent():
        if sum(waits) > 60:
            server.faults.clear()

    waits.meanwhile = relent
    index = put(local, log)
    assert 60 < sum(waits) < 300 and len(index) == N
    assert all(later <= 30 for later in waits)


def test_a_cluster_that_stays_busy_is_given_up_and_the_next_call_goes_on_there(server, local, log, waits, monkeypatch):
    old = put(local, log)
    monkeypatch.setattr(publishing, "BLOCK", 50)
    monkeypatch.setattr(local._client, "bulk", fails_after(local._client.bulk, 3, lambda: server.fail("POST .*_bulk", 503)))
    with pytest.raises(Unavailable, match="busy .HTTP 503., after .* The serving index is as it was"):
        put(local, log, Source(unit(7, N), "second"), now=NOW)
    assert open_serving(local).name == old.name and 270 < sum(waits) < 602  # two requests at a time, each with its own patience
    server.faults.clear()
    seen = []
    new = put(local, log, Source(unit(7, N), "second"), progress=lambda done, n: seen.append((done, n)))
    assert seen == [(100, N), (120, N)]  # the first 50 were noted
    assert open_serving(local).name == new.name != old.name and len(new) == N


def fails_after(function, calls, fault):
    left = [calls]

    def wrapped(**arguments):
        left[0] -= 1
        if left[0] == 0:
            fault()
        return function(**arguments)

    return wrapped


def test_answers_that_are_lost_do_no_harm(server, local, log):
    for pattern in ("PUT /[^/]*", "POST .*_bulk", "PUT .*_mapping", "POST /_aliases"):
        server.fail(pattern, "lost", times=1)
    first = put(local, log)
    server.fail("POST /_aliases", "lost", times=1)
    second = put(local, log, Source(unit(7, N), "second"))
    assert open_serving(local).name == second.name != first.name
    server.fail("DELETE .*", "lost", times=1)
    assert prune(local, now=NOW + dt.timedelta(days=8)) == [first.name]


def test_a_cluster_that_is_away_is_named_without_its_password(server, log, waits):
    address = server.url.replace("//", "//robin:secret@")
    with Cluster(OpenSearchSettings(address, "test-chunks"), sleep=waits) as cluster:
        server.shutdown()
        server.server_close()
        with pytest.raises(Unavailable, match=r"OpenSearch at 127.0.0.1:\d+: it cannot be reached") as caught:
            put(cluster, log)
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_request_that_is_too_large_is_halved_until_it_fits(server, local, log):
    server.limit = 2_000
    assert len(put(local, log)) == N


def test_a_chunk_that_the_cluster_refuses_is_named(local, log, monkeypatch):
    monkeypatch.setattr(publishing, "document", lambda row, vector: json.dumps({"digest": "", "vector": [1, 2]}))
    with pytest.raises(BadInput, match=r"chunk c000\d\d#0: .*mapper_parsing_exception.* refused"):
        put(local, log)
    assert serving(local) is None


def test_refused_credentials_are_not_tried_again(server, local, log, waits):
    server.fail(".*", 403)
    with pytest.raises(Unavailable, match="credentials refused .HTTP 403"):
        put(local, log)
    assert not waits


def test_vectors_that_are_zero_or_of_no_chunk_stop_a_build(local, log):
    broken = unit(1, N)
    broken[5] = 0
    with pytest.raises(BadInput, match="zero or not finite"):
        put(local, log, Source(broken))
    with pytest.raises(BadInput, match=r"chunk c00130#0: it has a vector but is no chunk"):
        put(local, log, Source(unit(1, N + 20)))
    with pytest.raises(BadInput, match="no vectors"):
        put(local, log, Source(unit(1, 0)))


def test_requests_to_the_amazon_service_are_signed(server, waits, monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with Cluster(OpenSearchSettings(server.url, aws_region="eu-west-1"), sleep=waits) as cluster:
        assert serving(cluster) is None
    (_, _, headers, _), *_ = server.asked
    signature = {name.lower(): value for name, value in headers.items()}["authorization"]
    assert signature.startswith("AWS4-HMAC-SHA256") and "/eu-west-1/es/aws4_request" in signature


@pytest.mark.parametrize("wrong", [{"url": "localhost:9200"}, {"url": "ftp://host"}, {"url": "http://h", "bulk_rows": 0}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(BadInput, match=r"retrieval\.opensearch\."):
        Cluster(OpenSearchSettings(**wrong))


# ── swapping ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_index_takes_over_and_the_old_one_is_kept_for_some_days(cluster, log):
    old = put(cluster, log)
    new = put(cluster, log, Source(unit(7, N), "second"), now=NOW + dt.timedelta(days=30))
    assert open_serving(cluster).name == new.name
    assert old.find(unit(1, N)[:1], 1, SPACE)[0][0][0] == name_of(0)  # a service that still has it open goes on answering
    assert prune(cluster, now=NOW + dt.timedelta(days=36)) == []
    assert prune(cluster, now=NOW + dt.timedelta(days=38)) == [old.name]
    assert prune(cluster, now=NOW + dt.timedelta(days=380)) == []
    assert open_serving(cluster).find(unit(7, N)[:1], 1, SPACE)[0][0][0] == name_of(0)


def test_publishing_the_same_again_changes_nothing(server, local, log):
    first = put(local, log)
    before = len(server.asked)
    assert put(local, log).name == first.name
    assert {method for method, *_ in server.asked[before:]} == {"GET"}


def test_a_rollback_puts_the_previous_index_back_with_the_changes_since(cluster, log):
    old = put(cluster, log)
    new = put(cluster, log, Source(unit(7, N), "second"), now=NOW + dt.timedelta(days=1))
    log.append([], np.empty((0, D), np.float32), deleted=[name_of(9)])
    back = previous(cluster)
    assert back.name == old.name and catch_up(back, log, None, DESCRIBE) == 1
    flip(cluster, back, expected=new.name, now=NOW + dt.timedelta(days=2))
    assert open_serving(cluster).name == old.name and len(open_serving(cluster)) == N - 1
    assert previous(cluster).name == new.name


def test_there_is_nothing_to_go_back_to_after_the_first(local, log):
    put(local, log)
    with pytest.raises(MissingEvidence, match="no previous index"):
        previous(local)


def test_of_two_publishers_one_is_told_to_decide_anew(server, local, log):
    first = put(local, log)
    mine = build(local, Source(unit(7, N), "mine"), DESCRIBE, None, now=NOW)
    put(local, log, Source(unit(8, N), "theirs"))
    with pytest.raises(Conflict, match="decide anew"):
        flip(local, mine, expected=first.name, now=NOW)
    server.aliases["test-chunks"] = {first.name, mine.name}
    with pytest.raises(Conflict, match="names test-chunks-.*, test-chunks-"):
        open_serving(local)


def test_an_alias_that_leaves_in_the_last_moment_is_noticed(server, local, log):
    first = put(local, log)
    second = build(local, Source(unit(7, N), "second"), DESCRIBE, None, now=NOW)
    answer = server.answer

    def meanwhile(method, path, query, body):
        if path == "/_aliases":
            server.aliases = {"test-chunks": {third.name}}
        return answer(method, path, query, body)

    third = build(local, Source(unit(8, N), "third"), DESCRIBE, None, now=NOW)
    server.answer = meanwhile
    with pytest.raises(Conflict, match="the alias left"):
        flip(local, second, expected=first.name, now=NOW)
    assert open_serving(local).name == third.name


def test_an_index_that_answers_wrongly_does_not_serve_and_is_built_anew(server, local, log):
    old = put(local, log)
    server.deaf = 1
    with pytest.raises(ParityFailed, match=r"recall@10 is 0\.900, 0\.950 is wanted"):
        put(local, log, Source(unit(7, N), "second"))
    assert open_serving(local).name == old.name and list(server.indexes) == [old.name]
    server.deaf = 0
    assert open_serving(local).name != put(local, log, Source(unit(7, N), "second")).name == open_serving(local).name


def test_an_index_without_all_its_chunks_does_not_serve(server, local, log, monkeypatch):
    monkeypatch.setattr(Cluster, "bulk", lambda self, index, lines: None)
    with pytest.raises(ParityFailed, match="0 chunks instead of 120"):
        put(local, log)
    assert serving(local) is None


def test_the_graphs_are_loaded_before_the_alias_moves(server, local, log):
    put(local, log)
    paths = [path for _, path, *_ in server.asked]
    warmed = next(at for at, path in enumerate(paths) if path.startswith("/_plugins/_knn/warmup/"))
    assert warmed < paths.index("/_aliases")


def test_another_index_under_the_alias_is_left_alone(server, local, log):
    server.indexes["orders"] = Index({"mappings": {}})
    server.aliases["test-chunks"] = {"orders"}
    with pytest.raises(Conflict, match="no chunk index"):
        put(local, log)
    server.aliases.clear()
    server.indexes["test-chunks-orders"] = Index({"mappings": {"_meta": {"kind": "orders"}}})
    put(local, log)
    assert prune(local, now=NOW + dt.timedelta(days=400)) == [] and "test-chunks-orders" in server.indexes


# ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_changes_are_served_and_replayed_into_the_next_index(cluster, log):
    index = put(cluster, log)
    fresh = unit(9, 2)
    log.append([name_of(N), name_of(4)], fresh, deleted=[name_of(7), "never-there#0"])
    assert catch_up(index, log, None, DESCRIBE) == 1 and catch_up(open_serving(cluster), log, None, DESCRIBE) == 0
    second = put(cluster, log, Source(unit(1, N), "second"))  # of vectors from before the change
    for served in (index, second):
        assert [one[0][0] for one in served.find(fresh, 1, SPACE)] == [name_of(N), name_of(4)]
        assert served.find(unit(1, N)[7:8], 1, SPACE)[0][0][0] != name_of(7)
        assert len(served) == N


def test_changes_that_the_source_includes_are_not_replayed(local, log):
    log.append([], np.empty((0, D), np.float32), deleted=[name_of(7)])
    assert len(put(local, log, changes_upto=1)) == N


def test_changes_are_mapped_by_the_adapter(local, log):
    index = put(local, log, adapter=LINEAR, queries=LINEAR.apply(unit(2, 8)))
    fresh = unit(9, 1)
    log.append([name_of(N)], fresh)
    catch_up(index, log, LINEAR, DESCRIBE)
    ((chunk_id, score),) = index.find(LINEAR.apply(fresh), 1, index.space)[0]
    assert chunk_id == name_of(N) and score == pytest.approx(1, abs=2e-3)


def test_an_older_vector_never_replaces_a_newer_one(local, log):
    index = put(local, log)
    newer = unit(9, 1)
    log.append([name_of(4)], newer)
    catch_up(index, log, None, DESCRIBE)
    late = list(publishing._index_lines([name_of(4)], unit(1, N)[4:5], DESCRIBE([name_of(4)]), 0))
    assert local.bulk(index.name, late).superseded == 1
    local.ask(lambda client: client.indices.refresh(index=index.name))
    assert index.find(newer, 1, SPACE)[0][0] == (name_of(4), pytest.approx(1, abs=2e-3))


# ── a real one ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_compose_file_starts_one_node_that_only_this_machine_reaches():
    service = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text("utf-8"))["services"]["opensearch"]
    assert re.fullmatch(r"opensearchproject/opensearch:\d+\.\d+\.\d+", service["image"])
    assert service["environment"]["discovery.type"] == "single-node"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
