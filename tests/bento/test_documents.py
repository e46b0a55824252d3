import json

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from bento.metrics import Metrics
from bento.schemas import openapi
from bento.web import ALIASES
from mangaassist_assets.lib.serving import ServiceSettings

from .conftest import DIGEST, running
from .test_retrieval import World

pytestmark = pytest.mark.anyio


async def test_the_openapi_document_names_every_route_and_no_other():
    world = World()
    async with running(shelf=world, retriever=world.load) as service:
        document = (await service.http.get("/docs.json")).json()
        assert document["openapi"].startswith("3.")
        served = {*service.web._post, *service.web._get, *ALIASES} - {"/", "/healthz"}
        assert set(document["paths"]) == served
        bodies = {"/v1/retrieve": {"query": "berserk"}, "/v1/feedback": {"request_id": "20260301-0123456789ab-1", "thumbs_up": True}}
        for path, operations in document["paths"].items():
            (method,) = operations
            body = None if method == "get" else bodies.get(path, {"texts": ["rules 1"]})
            answer = await service.http.request(method, path, json=body)
            assert answer.status_code == 200
            described = operations[method]["responses"]["200"]["content"]
            assert answer.headers["content-type"].split(";")[0] in described


async def test_answers_are_of_the_schemas_that_the_document_gives():
    from jsonschema import Draft202012Validator

    async with running() as service:
        document = (await service.http.get("/docs.json")).json()

        def check(name, value):
            Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]}).validate(value)

        check("ClassifyReply", (await service.classify("rules 1", "other")).json())
        check("ModelReply", (await service.http.get("/v1/model")).json())
        check("Status", (await service.http.get("/livez")).json())
        check("Ready", (await service.http.get("/readyz")).json())
        check("ErrorReply", (await service.http.get("/nowhere")).json())
        for name in ("ClassifyRequest", "RetrieveRequest", "FeedbackRequest"):
            check(name, document["components"]["schemas"][name]["example"])


def test_the_document_states_the_limits_that_are_set():
    texts = openapi(ServiceSettings(max_texts=3, max_text_chars=5), "1")["components"]["schemas"]["ClassifyRequest"]["properties"]["texts"]
    assert (texts["maxItems"], texts["items"]["maxLength"]) == (3, 5)
    json.dumps(openapi(ServiceSettings(), "1"))


async def test_the_model_is_named_by_digest_labels_provider_and_thresholds():
    async with running() as service:
        assert (await service.http.get("/v1/model")).json() == {
            "state": "champion",
            "digest": DIGEST,
            "champion": DIGEST,
            "canary": None,
            "shadow": None,
            "refused": None,
            "canary_refused": None,
            "shadow_refused": None,
            "labels": ["faq", "chitchat", "order_tracking"],
            "out_of_scope_label": None,
            "provider": "CPUExecutionProvider",
            "thresholds": {"student_confidence": 0.9},
            "index": None,
            "embedding_space": None,
        }


async def test_metrics_count_requests_messages_batches_and_the_model():
    async with running() as service:
        await service.classify("rules 1", "rules 2", "student 3", "other 4", "other 5")
        await service.classify("rules 6")
        await service.http.post("/v1/classify", content=b"{", headers={"content-type": "application/json"})
        seen = {
            (s.name, *sorted(s.labels.items())): s.value
            for family in text_string_to_metric_families((await service.http.get("/metrics")).text)
            for s in family.samples
        }
        assert seen["mangaassist_requests_total", ("code", "200"), ("route", "/v1/classify")] == 2
        assert seen["mangaassist_requests_total", ("code", "400"), ("route", "/v1/classify")] == 1
        assert {r: seen["mangaassist_messages_total", ("route", r)] for r in ("rules", "student", "classifier")} == {
            "rules": 3,
            "student": 1,
            "classifier": 2,
        }
        assert seen["mangaassist_classify_seconds_count",] == 2
        assert seen["mangaassist_batch_texts_sum",] == 2
        assert seen["mangaassist_model_info", ("digest", DIGEST), ("provider", "CPUExecutionProvider"), ("state", "champion")] == 1
        assert seen["mangaassist_ready",] == 1


async def test_no_request_can_make_a_new_label():
    async with running() as service:
        for i in range(50):
            await service.http.get(f"/scan/{i}")
            await service.http.request(f"METHOD{i}", "/v1/classify")
        text = (await service.http.get("/metrics")).text
        assert 'route="other"' in text and "/scan" not in text and "METHOD" not in text
        assert len(text.splitlines()) < 100


def test_counters_of_several_workers_are_added_up(tmp_path):
    """As in production: each worker is a process with the folder that the server gives it, emptied by every other server."""
    import os
    import subprocess
    import sys

    shared = tmp_path / "prometheus_multiproc_dir"
    shared.mkdir()
    worker = (
        "import sys; from bento.metrics import Metrics; m = Metrics(); "
        "m.answered('/v1/classify', 200); m.classified(['rules', 'student'], 0.001); m.serves('champion', sys.argv[1], 'champion', 'CPU'); "
        "m.written('answer', 3); "
        "print(m.render().decode())"
    )
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    (tmp_path / "mangaassist_metrics" / "999999999-1").mkdir(parents=True)
    for digest in ("a", "b"):
        last = subprocess.run([sys.executable, "-c", worker, digest], env=env, capture_output=True, text=True, check=True).stdout
        for file in shared.iterdir():  # what the start of another server under the same BENTOML_HOME does
            file.unlink()
    values = {(s.name, *sorted(s.labels.items())): s.value for f in text_string_to_metric_families(last) for s in f.samples}
    assert values["mangaassist_requests_total", ("code", "200"), ("route", "/v1/classify")] == 2
    assert values["mangaassist_messages_total", ("route", "student")] == 2
    assert values["mangaassist_classify_seconds_count",] == 2
    assert values["mangaassist_interactions_total", ("kind", "answer")] == 6
    assert values["mangaassist_reloads_total", ("outcome", "loaded")] == 2
    (own,) = (tmp_path / "mangaassist_metrics").iterdir()
    assert own.name.startswith(f"{os.getpid()}-")


def test_metrics_of_a_registry_stand_alone():
    one, two = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    one.answered("/livez", 200)
    assert b'route="/livez"' in one.render() and b'route="/livez"' not in two.render()
