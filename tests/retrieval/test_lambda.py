"""The adapter as a Lambda function gives what the library gives, from the bundle that was released, and from no other."""

import ast
import base64
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mangaassist_assets.lib.artifacts import House, digest_of
from mangaassist_assets.lib.retrieval.adapter import FILE, Adapter
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

HANDLER = Path(__file__).parents[2] / "deploy" / "lambda" / "adapter" / "handler.py"
D = 12
SPACE = EmbeddingSpace("tiny", "0" * 64, "mean", True, D)
RNG = np.random.default_rng(6)


def drawn(*shape):
    return (0.4 * RNG.standard_normal(shape)).astype(np.float32)


ADAPTERS = {
    "identity": Adapter.identity(D),
    "linear": Adapter("linear", D, {"weight": np.eye(D, dtype=np.float32) + drawn(D, D)}),
    "low_rank": Adapter("low_rank", D, {"up": drawn(D, 3), "down": drawn(3, D)}),
    "mlp": Adapter("mlp", D, {"out": drawn(D, 5), "into": drawn(5, D), "bias": drawn(5)}),
}
VECTORS = drawn(4, D) / 0.4
REQUEST = {"vectors": VECTORS.tolist(), "space": SPACE.to_json()}


@pytest.fixture(scope="module")
def s3():
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ENDPOINT_URL": f"http://{host}:{port}", **settings}.items():
            patch.setenv(f"AWS_{name}", value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="lake")
        yield client
    server.stop()


@pytest.fixture
def function(monkeypatch):
    """A new instance of the function, as after a cold start."""
    spec = importlib.util.spec_from_file_location("handler", HANDLER)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "handler", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def release(s3, tmp_path, monkeypatch):
    """Publishes an adapter's bundle as the graph does, points the function to it, and returns its prefix on S3 and the adapter's digest."""

    def release(adapter, kind="embedding_adapter"):
        facts = {"space": SPACE.to_json(), "family": adapter.kind}
        content = adapter.to_bytes()
        bundle = House(tmp_path, "s3://lake/team").write_bundle(kind, {FILE: content}, facts)
        monkeypatch.setenv("ADAPTER_BUNDLE", f"s3://lake/team/bundles/{bundle.path.name}")
        return f"team/bundles/{bundle.path.name}", digest_of(content)

    return release


def by_http(body, **more):
    return {"version": "2.0", "requestContext": {"http": {"method": "POST", "path": "/"}}, "body": body, "isBase64Encoded": False, **more}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_family_gives_what_the_library_gives(function, release, kind):
    adapter = ADAPTERS[kind]
    _, digest = release(adapter)
    answer = function.handler(REQUEST, None)
    assert np.allclose(answer["vectors"], adapter.apply(VECTORS), atol=1e-6)
    assert EmbeddingSpace.from_json(answer["space"]) == SPACE.adapted(digest)


@pytest.mark.parametrize("kind", ["identity", "linear", "low_rank"])
def test_folded_vectors_ask_an_index_of_the_base_space(function, release, kind):
    adapter, documents = ADAPTERS[kind], drawn(7, D)
    release(adapter)
    folded = np.asarray(function.handler(REQUEST | {"fold": True}, None)["vectors"])
    cosines = (folded @ documents.T) / adapter.document_norms(documents)
    assert np.allclose(cosines, adapter.apply(VECTORS) @ adapter.apply(documents).T, atol=1e-5)


def test_an_mlp_cannot_be_folded(function, release):
    release(ADAPTERS["mlp"])
    assert "cannot be folded" in function.handler(REQUEST | {"fold": True}, None)["error"]["message"]


def test_it_answers_over_http_in_plain_text_and_base64(function, release):
    release(ADAPTERS["linear"])
    plain = json.dumps(REQUEST)
    for event in (by_http(plain), by_http(base64.b64encode(plain.encode()).decode(), isBase64Encoded=True)):
        reply = function.handler(event, None)
        assert (reply["statusCode"], reply["headers"]) == (200, {"content-type": "application/json"})
        assert np.allclose(json.loads(reply["body"])["vectors"], ADAPTERS["linear"].apply(VECTORS), atol=1e-6)
        json.dumps(reply)  # Lambda itself turns what is returned into JSON


def test_the_bundle_is_fetched_once_for_all_calls_of_an_instance(function, release, monkeypatch):
    release(ADAPTERS["linear"])
    fetched = []
    fetch = function._fetch
    monkeypatch.setattr(function, "_fetch", lambda *at: fetched.append(at) or fetch(*at))
    for _ in range(3):
        function.handler(REQUEST, None)
    assert len(fetched) == 2


def test_vectors_of_another_space_are_refused_although_the_dimensions_agree(function, release):
    release(ADAPTERS["linear"])
    for space in (SPACE.adapted("1" * 64).to_json(), SPACE.to_json() | {"encoder_digest": "f" * 64}, {}, None):
        assert function.handler(REQUEST | {"space": space}, None)["error"]["code"] == "space_mismatch"


IMPOSSIBLE = [
    None,
    [],
    {},
    {"vectors": []},
    {"vectors": "none"},
    {"vectors": [[1.0] * (D - 1)]},
    {"vectors": [[1.0] * D, [float("nan")] + [1.0] * (D - 1)]},
    {"vectors": [[1e39] * D]},
    {"vectors": [[10**400] * D]},
    {"vectors": [[0] * D]},
    {"vectors": [["1"] * D]},
    {"vectors": [[True] * D]},
    {"vectors": [[1.0] * D] * 1001},
    {"vectors": [[1.0] * D], "fold": "yes"},
]


def test_impossible_requests_get_400_and_a_reason(function, release):
    release(ADAPTERS["linear"])
    for request in IMPOSSIBLE:
        body = request | {"space": SPACE.to_json()} if isinstance(request, dict) else request
        reply = function.handler(by_http(json.dumps(body)), None)
        assert (reply["statusCode"], json.loads(reply["body"])["error"]["code"]) == (400, "bad_input"), request


def test_a_body_that_is_no_json_gets_400(function):
    for body in (None, "", "{", "[" * 100_000, "\x00"):
        assert function.handler(by_http(body), None)["statusCode"] == 400
    assert function.handler(by_http("not base64", isBase64Encoded=True), None)["statusCode"] == 400


def test_a_bundle_that_was_tampered_with_is_not_used_until_it_is_put_right(s3, function, release):
    place, _ = release(ADAPTERS["linear"])
    right = s3.get_object(Bucket="lake", Key=f"{place}/{FILE}")["Body"].read()
    for key, content in ((FILE, right[:-1] + b"x"), (FILE, right[:-4]), (FILE, b"")):
        s3.put_object(Bucket="lake", Key=f"{place}/{key}", Body=content)
        reply = function.handler(by_http(json.dumps(REQUEST)), None)
        assert reply["statusCode"] == 503 and json.loads(reply["body"])["error"]["code"] == "damaged_artifact"
    s3.put_object(Bucket="lake", Key=f"{place}/{FILE}", Body=right)
    assert "vectors" in function.handler(REQUEST, None)


def test_a_manifest_that_was_tampered_with_is_not_believed(s3, function, release):
    place, _ = release(ADAPTERS["linear"])
    manifest = json.loads(s3.get_object(Bucket="lake", Key=f"{place}/manifest.json")["Body"].read())
    manifest["facts"]["space"]["encoder"] = "another"
    for content in (json.dumps(manifest), "{}", "[]", "not JSON"):
        s3.put_object(Bucket="lake", Key=f"{place}/manifest.json", Body=content.encode())
        assert function.handler(REQUEST, None)["error"]["code"] == "damaged_artifact"


def test_a_bundle_of_another_kind_is_not_used(function, release):
    release(ADAPTERS["linear"], kind="intent_classifier")
    assert function.handler(REQUEST, None)["error"]["code"] == "damaged_artifact"


@pytest.mark.parametrize("uri", ["", "s3://lake/team", "s3://lake/bundles/sha256-" + "0" * 64, "file:///bundles/sha256-" + "0" * 64])
def test_a_bundle_that_is_not_there_is_unavailable(s3, function, monkeypatch, uri):
    monkeypatch.setenv("ADAPTER_BUNDLE", uri)
    assert function.handler(REQUEST, None)["error"]["code"] == "unavailable"


def test_tensors_that_do_not_fit_their_family_are_refused(function):
    from safetensors.numpy import save

    for kind, tensors in {
        "linear": {"weight": np.eye(D - 1, dtype=np.float32)},
        "low_rank": {"up": drawn(D, 3), "down": drawn(2, D)},
        "mlp": {"out": drawn(D, 5), "into": drawn(4, D), "bias": drawn(5)},
    }.items():
        with pytest.raises(ValueError, match=f"a {kind} adapter of 12 components"):
            function._read(save(tensors, metadata={"kind": kind}), D)
    with pytest.raises(ValueError, match="not as its header says"):
        function._read(save({"weight": np.eye(D)}, metadata={"kind": "linear"}), D)


def test_it_needs_nothing_but_numpy_and_what_lambda_brings():
    tree = ast.walk(ast.parse(HANDLER.read_text("utf-8")))
    imported = {alias.name.split(".")[0] for node in tree if isinstance(node, ast.Import) for alias in node.names}
    tree = ast.walk(ast.parse(HANDLER.read_text("utf-8")))
    imported |= {node.module.split(".")[0] for node in tree if isinstance(node, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"numpy", "boto3", "botocore"}
