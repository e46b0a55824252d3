"""Titan's answers become unit vectors in order; a busy Bedrock is waited for, and the budget holds whatever is in flight."""

import io
import json
import threading

import boto3
import numpy as np
import pytest
from botocore.exceptions import NoCredentialsError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import BadInput, Unavailable
from mangaassist_assets.lib.retrieval.encoders import EncoderSettings, load_encoder, open_encoder, write_encoder
from mangaassist_assets.lib.retrieval.titan import TitanEncoder, TitanSettings

D = 256
MODEL = "amazon.titan-embed-text-v2:0"


def settings(**changes):
    return TitanSettings(**{"budget_usd": 1.0, "dimensions": D, "parallel": 1, "region": "us-east-1", **changes})


def answer(seed=0, tokens=3, **changes):
    vector = np.random.default_rng(seed).normal(size=D)
    body = json.dumps({"embedding": (vector / np.linalg.norm(vector)).tolist(), "inputTextTokenCount": tokens, **changes}).encode()
    return {"body": StreamingBody(io.BytesIO(body), len(body)), "contentType": "application/json"}


def request(text):
    body = json.dumps({"inputText": text, "dimensions": D, "normalize": True}, ensure_ascii=False)
    return {"modelId": MODEL, "body": body, "contentType": "application/json", "accept": "application/json"}


@pytest.fixture
def bedrock():
    client = boto3.client("bedrock-runtime", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        yield client, stub
    client.close()


def encoder_of(client, waits=None, **changes):
    return TitanEncoder(settings(**changes), client=client, sleep=(waits if waits is not None else []).append)


def test_each_text_is_one_request_as_bedrock_documents_it_and_its_vector_comes_in_its_place(bedrock):
    client, stub = bedrock
    for seed, text in enumerate(["返品はできますか", "box set"]):
        stub.add_response("invoke_model", answer(seed), request(text))
    encoder = encoder_of(client)
    found = encoder.encode(["返品はできますか", "box set"])
    expected = [np.random.default_rng(seed).normal(size=D) for seed in (0, 1)]
    np.testing.assert_allclose(found, [v / np.linalg.norm(v) for v in expected], atol=1e-6)
    assert found.dtype == np.float32 and encoder.space.dimension == D and encoder.space.encoder == MODEL
    assert encoder.spent_usd == pytest.approx(6 * 0.00002 / 1000)
    stub.assert_no_pending_responses()
    assert encoder.encode([]).shape == (0, D)


def test_a_busy_bedrock_is_tried_again_with_growing_waits(bedrock):
    client, stub = bedrock
    for code in ("ThrottlingException", "ServiceUnavailableException", "ModelTimeoutException"):
        stub.add_client_error("invoke_model", code, "busy", 429)
    stub.add_response("invoke_model", answer())
    waits = []
    encoder = encoder_of(client, waits)
    assert encoder.encode(["hi"]).shape == (1, D)
    assert encoder.retries == 3 and len(waits) == 3
    assert all(0 <= wait <= 0.5 * 2**n for n, wait in enumerate(waits))
    assert encoder.spent_usd == pytest.approx((3 + 3) * 0.00002 / 1000)  # the try that timed out counts with its three possible tokens


def test_bedrock_that_stays_busy_or_refuses_is_told(bedrock):
    client, stub = bedrock
    for _ in range(2):
        stub.add_client_error("invoke_model", "ThrottlingException", "busy", 429)
    with pytest.raises(Unavailable, match="too busy after 2 tries"):
        encoder_of(client, attempts=2).encode(["hi"])
    stub.add_client_error("invoke_model", "AccessDeniedException", "You don't have access to the model.", 403)
    waits = []
    with pytest.raises(Unavailable, match="AccessDeniedException. You don't have access"):
        encoder_of(client, waits).encode(["hi"])
    assert waits == []


@pytest.mark.parametrize("changes", [{"embedding": [1.0, 2.0]}, {"embedding": None}, {"embedding": "x"}, {"inputTextTokenCount": None}])
def test_an_answer_of_another_form_is_refused(bedrock, changes):
    client, stub = bedrock
    stub.add_response("invoke_model", answer(**changes))
    with pytest.raises(Unavailable, match=MODEL):
        encoder_of(client).encode(["hi"])


class Counting:
    """A client of many threads that counts its calls; each answer costs ten tokens."""

    def __init__(self, raises=None):
        self.calls, self.raises, self.lock = 0, raises, threading.Lock()

    def invoke_model(self, **request):
        with self.lock:
            self.calls += 1
        if self.raises:
            raise self.raises
        return answer(tokens=10)


def test_the_budget_is_never_passed_however_many_calls_are_in_flight():
    cost = 10 * 0.00002 / 1000
    client = Counting()
    encoder = encoder_of(client, budget_usd=5.5 * cost, parallel=8)
    with pytest.raises(BadInput, match="budget"):
        encoder.encode(["123456789"] * 40)
    assert client.calls <= 5 and encoder.spent_usd <= 5.5 * cost
    with pytest.raises(BadInput, match="budget of 0 USD"):
        encoder_of(client, budget_usd=0.0).encode(["hi"])


def test_a_call_that_timed_out_counts_as_paid_and_missing_credentials_are_told():
    encoder = encoder_of(Counting(ReadTimeoutError(endpoint_url="https://bedrock")), attempts=3)
    with pytest.raises(Unavailable, match="too busy"):
        encoder.encode(["hi"])
    assert encoder.spent_usd == pytest.approx(3 * 3 * 0.00002 / 1000)
    with pytest.raises(Unavailable, match="credentials"):
        encoder_of(Counting(NoCredentialsError())).encode(["hi"])


@pytest.mark.parametrize("text", ["", "  ", "x" * 50_001])
def test_texts_that_titan_does_not_take_are_refused_before_a_call(text):
    client = Counting()
    with pytest.raises(BadInput, match="Titan"):
        encoder_of(client).encode(["hi", text])
    assert client.calls == 0


@pytest.mark.parametrize("changes", [{"dimensions": 384}, {"budget_usd": -1.0}, {"budget_usd": float("nan")}, {"attempts": 0}])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(BadInput, match="retrieval.encoding.titan"):
        settings(**changes)


def test_titan_is_an_encoder_by_name_and_in_a_bundle_without_a_call(tmp_path):
    chosen = EncoderSettings(titan=settings())
    encoder = load_encoder("titan", chosen)
    assert isinstance(encoder, TitanEncoder)
    assert encoder.space != load_encoder("titan", EncoderSettings(titan=settings(dimensions=512))).space
    assert open_encoder(write_encoder(House(tmp_path), "titan", chosen), chosen).space == encoder.space
