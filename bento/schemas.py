"""What the service reads and writes: types, limits, refusals, and the OpenAPI document made from them."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from typing_extensions import TypedDict

from mangaassist_assets.lib.serving import ServiceSettings, State

# ── replies ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Result(TypedDict):
    """What one text wants. `confidence` lies in 0..1; `request_id` names this answer in feedback and logs."""

    intent: str
    confidence: float
    secondary_intent: str | None
    route: Literal["rules", "student", "classifier"]
    request_id: str


class ClassifyReply(TypedDict):
    """One result per text, in the order asked."""

    results: list[Result]


class Found(TypedDict):
    """One chunk that answers; `score` is the probability that its document does, 0..1; `document_id` is the source's own id."""

    chunk_id: str
    document_id: str
    score: float
    title: str
    text: str


class RetrieveReply(TypedDict):
    """Chunks, best first, and what they were found with; `request_id` names this answer in feedback."""

    results: list[Found]
    embedding_space: str
    index: str
    request_id: str


class FeedbackReply(TypedDict):
    """What was told is written down."""

    accepted: bool


class ModelReply(TypedDict):
    """What is served, by the digests of bundles; canary and shadow run beside the champion. Those `refused` could not be loaded."""

    state: State | Literal["none"]
    digest: str | None
    champion: str | None
    canary: str | None
    shadow: str | None
    refused: str | None
    canary_refused: str | None
    shadow_refused: str | None
    labels: list[str]
    out_of_scope_label: str | None
    provider: str
    thresholds: dict[str, float]
    index: str | None
    embedding_space: str | None


class Status(TypedDict):
    """Alive."""

    status: str


class Ready(TypedDict):
    """Ready: the champion serves, and the index does where there is one; `refused` is an index that could not be loaded."""

    status: str
    index: Literal["served", "none", "refused"]


class Problem(TypedDict):
    """A machine word, and a sentence that says what to do."""

    code: str
    message: str


class ErrorReply(TypedDict):
    """Every answer that is not 200."""

    error: Problem


# ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ClassifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to classify, each as a shopper wrote it; `session_id` is the same for all that one shopper asks in one visit.

    A `probe` is a message whose right intent is known, sent to see whether the champion still finds it: it is counted apart from traffic.
    """

    texts: list[str]
    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    probe: bool = False


class RetrieveRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to look for: `filters` may hold in_stock (true or false), language, format and kind."""

    query: str
    k: int = 5
    filters: dict[str, bool | str] = {}


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What became of the answer `request_id`: null or left out where nothing is known. `clicked` names documents that were retrieved."""

    request_id: Annotated[str, msgspec.Meta(pattern="^[0-9]{8}-[0-9a-f]{12}-[0-9a-f]{1,16}$(?!\n)")]
    thumbs_up: bool | None = None
    escalated: bool | None = None
    converted: bool | None = None
    clicked: Annotated[list[Annotated[str, msgspec.Meta(pattern=r"^[\w.:/#-]{1,128}$(?!\n)")]], msgspec.Meta(max_length=100)] | None = None


class Refusal(Exception):
    """An answer that is not 200.

    Args:
        status: HTTP status, 4xx or 503.
        code: machine word.
        message: what is wrong and what to do.
        retry_after_s: seconds to wait before asking again, with 503.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s


_decode = msgspec.json.Decoder(ClassifyRequest).decode
_decode_retrieve = msgspec.json.Decoder(RetrieveRequest).decode
_decode_feedback = msgspec.json.Decoder(FeedbackRequest).decode
_SHAPE = 'Send {"texts": ["...", ...]}.'
_RETRIEVE_SHAPE = 'Send {"query": "...", "k": 5, "filters": {"in_stock": true}}.'
_FEEDBACK_SHAPE = 'Send {"request_id": "...", "thumbs_up": true}.'
R = TypeVar("R")
_HALF_A_PAIR = re.compile(rb"\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f]", re.IGNORECASE)


def read_texts(body: bytes, limits: ServiceSettings) -> ClassifyRequest:
    """The texts of a request body, and the session that asks.

    The types are checked while the JSON is read, so that a document nested ten thousand deep, or with a million elements
    of another kind, costs no more than its first wrong byte.

    Raises:
        Refusal: the body is not UTF-8, not JSON, not of this shape, or beyond a limit.
    """
    asked = _decoded(_decode, body, _SHAPE)
    texts = asked.texts
    if not texts:
        raise Refusal(422, "no_texts", f"texts is empty. {_SHAPE}")
    if len(texts) > limits.max_texts:
        raise Refusal(422, "too_many_texts", f"{len(texts)} texts; at most {limits.max_texts} go into one request. Send several requests.")
    for place, text in enumerate(texts):
        if len(text) > limits.max_text_chars:
            raise Refusal(
                422, "text_too_long", f"texts[{place}] has {len(text)} characters; at most {limits.max_text_chars} are read. Shorten it."
            )
    return asked


def read_query(body: bytes) -> RetrieveRequest:
    """The query of a request body; what it may hold is the retriever's to check.

    Raises:
        Refusal: the body is not UTF-8, not JSON, or not of this shape.
    """
    return _decoded(_decode_retrieve, body, _RETRIEVE_SHAPE)


def read_feedback(body: bytes) -> FeedbackRequest:
    """What became of an answer; of which day that may be is the journal's to check.

    Raises:
        Refusal: the body is not UTF-8, not JSON, not of this shape, or tells nothing.
    """
    told = _decoded(_decode_feedback, body, _FEEDBACK_SHAPE)
    if told.thumbs_up is told.escalated is told.converted is told.clicked is None:
        raise Refusal(422, "no_feedback", "It tells nothing. Send thumbs_up, escalated, converted or clicked.")
    return told


def _decoded(decode: Callable[[bytes], R], body: bytes, shape: str) -> R:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(422, "invalid_request", f"{str(error)[:200]}. {shape}") from None
    except msgspec.DecodeError as error:
        if _HALF_A_PAIR.search(body):
            raise Refusal(
                400, "lone_surrogate", "A \\ud800-\\udfff escape stands without its other half. Send well-formed Unicode."
            ) from None
        raise Refusal(400, "invalid_json", f"The body is not JSON: {error}. {shape}") from None
    except UnicodeDecodeError:
        raise Refusal(400, "invalid_utf8", "The body is not UTF-8. Encode it as UTF-8.") from None


# ── the OpenAPI document ────────────────────────────────────────────────────────────────────────────────────────────


def openapi(limits: ServiceSettings, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the service; the schemas come from the types above."""
    requests = [ClassifyRequest, RetrieveRequest, FeedbackRequest]
    replies = [ClassifyReply, RetrieveReply, FeedbackReply, ModelReply, Status, Ready, ErrorReply]
    _, schemas = msgspec.json.schema_components([*requests, *replies], ref_template="#/components/schemas/{name}")
    texts = schemas["ClassifyRequest"]["properties"]["texts"]
    texts |= {"minItems": 1, "maxItems": limits.max_texts, "items": {"type": "string", "minLength": 1, "maxLength": limits.max_text_chars}}
    schemas["ClassifyRequest"]["example"] = {"texts": ["where is my order?", "おすすめの漫画は?"], "session_id": "visit-8041"}

    def reply(name: str, description: str) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}

    def problem(description: str) -> dict[str, Any]:
        return reply("ErrorReply", description)

    later = problem("Not ready, overloaded, or too slow; ask again after Retry-After seconds.")
    later["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}}
    classify: dict[str, Any] = {
        "operationId": "classify",
        "summary": "Intent, confidence and second intent of each text",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ClassifyRequest"}}}},
        "responses": {
            "200": reply("ClassifyReply", "One result per text, in the order asked."),
            "400": problem("Not JSON, not UTF-8, or a lone surrogate."),
            "408": problem(f"The body did not arrive within {limits.body_s:g} seconds."),
            "413": problem(f"The body is longer than {limits.max_request_bytes} bytes."),
            "415": problem("Not application/json."),
            "422": problem(
                f"JSON of another shape, more than {limits.max_texts} texts, or a text over {limits.max_text_chars} characters."
            ),
            "503": later,
        },
    }

    schemas["RetrieveRequest"]["example"] = {"query": "dark fantasy manga like Berserk", "k": 3, "filters": {"in_stock": True}}
    retrieve: dict[str, Any] = {
        "operationId": "retrieve",
        "summary": "Chunks of the catalogue and the policies that answer a query",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/RetrieveRequest"}}}},
        "responses": classify["responses"]
        | {
            "200": reply("RetrieveReply", "Chunks, best first."),
            "422": problem("JSON of another shape, an empty query or an unknown filter."),
        },
    }

    schemas["FeedbackRequest"]["example"] = {"request_id": "20260101-5f0c2b9d81aa-1", "thumbs_up": True}
    feedback: dict[str, Any] = {
        "operationId": "feedback",
        "summary": "What became of an answer; the last word on a request_id counts",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FeedbackRequest"}}}},
        "responses": classify["responses"]
        | {
            "200": reply("FeedbackReply", "Written down."),
            "422": problem(
                f"JSON of another shape, nothing told, or an answer of a day to come or more than {limits.feedback_days} days ago."
            ),
        },
    }

    def get(operation: str, summary: str, ok: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
        return {
            "get": {
                "operationId": operation,
                "summary": summary,
                "responses": {"200": ok} | {code.lstrip("_"): r for code, r in others.items()},
            }
        }

    def page(media: str, description: str) -> dict[str, Any]:
        return {"description": description, "content": {media: {}}}

    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MangaAssist",
            "version": version,
            "description": "What a shopper's message wants, and which of the store's documents answer it.",
        },
        "servers": [{"url": "."}],
        "paths": {
            "/v1/classify": {"post": classify},
            "/v1/retrieve": {"post": retrieve},
            "/v1/feedback": {"post": feedback},
            "/v1/model": get("model", "What is served", reply("ModelReply", "Digests, labels, provider, thresholds.")),
            "/livez": get("livez", "The process answers", reply("Status", "Alive.")),
            "/readyz": get(
                "readyz",
                "The champion is verified, warmed and on the provider asked for; so is the index, where there is one",
                reply("Ready", "Ready."),
                _503=later,
            ),
            "/metrics": get("metrics", "Prometheus metrics", page("text/plain", "Text exposition format.")),
            "/docs.json": get("docs", "This document", page("application/json", "OpenAPI.")),
            "/invocations": {
                "post": classify | {"operationId": "invocations", "summary": "/v1/classify under the name that SageMaker calls"}
            },
            "/ping": get("ping", "/readyz under the name that SageMaker calls", reply("Ready", "Ready."), _503=later),
        },
        "components": {"schemas": schemas},
    }
