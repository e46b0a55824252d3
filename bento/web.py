"""HTTP by hand: the few routes of the service as one ASGI application.

BentoML's own stack spends about three milliseconds a request on tracing, access logs, contexts and typed endpoints
(`benchmarks/serve.py` measures it). This application stands in front of it and answers everything but a few
static files, so that a text which a rule answers costs what the rule costs.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec

from bento.faults import logger, place_of
from bento.metrics import CONTENT_TYPE
from bento.pipeline import HungUp, Pipeline
from bento.schemas import (
    ErrorReply,
    FeedbackReply,
    Problem,
    Ready,
    Refusal,
    Status,
    openapi,
    read_feedback,
    read_query,
    read_texts,
)
from bento.shelves import Shelves

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

HALF_READ = 64  # bodies that arrive in pieces, at the same time; each holds up to max_request_bytes
JSON = (b"content-type", b"application/json")
BEHIND = ("/static_content/", "/schema.json")  # the page's scripts and styles; what BentoML's own clients ask for
ALIASES = {"/healthz": "/livez", "/ping": "/readyz", "/invocations": "/v1/classify"}
PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>MangaAssist</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script src="./static_content/swagger-ui-standalone-preset.js"></script>
<script src="./static_content/swagger-initializer.js"></script></body></html>
"""
PAGE_HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"),
)

encode = msgspec.json.Encoder().encode


class Web:
    """The service's routes.

    Args:
        pipeline: classifies.
        shelves: retrieves.
        version: for the OpenAPI document.
        behind: BentoML's application, for its life span and its static files.
    """

    def __init__(self, pipeline: Pipeline, shelves: Shelves, *, version: str = "0", behind: ASGIApp | None = None) -> None:
        self._shelves = shelves
        self._pipeline, self._metrics, self._limits, self._behind = pipeline, pipeline.metrics, pipeline.settings, behind
        self._document = encode(openapi(pipeline.settings, version))
        self._half_read = 0
        self._post: dict[str, Callable[[Headers, Receive], Awaitable[bytes]]] = {
            "/v1/classify": self._classify,
            "/v1/retrieve": self._retrieve,
            "/v1/feedback": self._feedback,
        }
        self._get: dict[str, Callable[[], tuple[Headers, bytes]]] = {
            "/v1/model": lambda: ((JSON,), encode(pipeline.model() | shelves.model())),
            "/livez": lambda: ((JSON,), encode(Status(status="alive"))),
            "/readyz": self._ready,
            "/metrics": lambda: (((b"content-type", CONTENT_TYPE.encode()),), self._metrics.render()),
            "/docs.json": lambda: ((JSON,), self._document),
            "/": lambda: (PAGE_HEADERS, PAGE),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif self._behind is not None:
            await self._behind(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = str(ALIASES.get(scope["path"], scope["path"])), scope["method"]
        if path.startswith(BEHIND) and self._behind is not None and method in ("GET", "HEAD"):
            await self._behind(scope, receive, send)
            return
        status = 200
        headers: Headers = (JSON,)
        try:
            if (post := self._post.get(path)) is not None:
                if method != "POST":
                    raise Refusal(405, "method_not_allowed", f"{path} takes POST.")
                body = await post(scope["headers"], receive)
            elif (answer := self._get.get(path)) is None:
                raise Refusal(404, "not_found", "There is no such route. /docs.json lists them.")
            elif method not in ("GET", "HEAD"):
                raise Refusal(405, "method_not_allowed", f"{path} takes GET.")
            else:
                headers, body = answer()
        except Refusal as refusal:
            status = refusal.status
            headers, body = self._refuse(refusal, path)
        except HungUp:
            self._metrics.answered(path, 499)
            return
        except Exception as error:
            # The message of an error may quote a text: its type and place are what is logged.
            logger.error("%s failed: %s", path, place_of(error))
            status = 503
            headers, body = self._refuse(
                Refusal(503, "internal_error", "The service failed on this request; its log says where. Ask again.", 1), path
            )
        self._metrics.answered(path, status)
        await send({"type": "http.response.start", "status": status, "headers": (*headers, (b"content-length", b"%d" % len(body)))})
        await send({"type": "http.response.body", "body": body})

    def _ready(self) -> tuple[Headers, bytes]:
        self._pipeline.served()
        index = self._shelves.state
        if index == "starting":
            raise Refusal(
                503, "not_ready", "The service is starting: the index is being verified and warmed. Ask again in some seconds.", 5
            )
        return (JSON,), encode(Ready(status="ready", index=index))

    async def _classify(self, headers: Headers, receive: Receive) -> bytes:
        asked = read_texts(await self._body(headers, receive), self._limits)
        return await self._pipeline.answer(asked, receive)

    async def _retrieve(self, headers: Headers, receive: Receive) -> bytes:
        asked = read_query(await self._body(headers, receive))
        return encode(await self._shelves.retrieve(asked))

    async def _feedback(self, headers: Headers, receive: Receive) -> bytes:
        self._pipeline.interactions.judged(read_feedback(await self._body(headers, receive)))
        return encode(FeedbackReply(accepted=True))

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body of a JSON request; anything else is refused before a byte of it is read."""
        body, media, length = b"", b"", 0
        for name, value in headers:
            if name == b"content-type":
                media = value
            elif name == b"content-length":
                length = int(value[:19])
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise Refusal(415, "unsupported_encoding", "The body is compressed. Send it as it is.")
        if media != b"application/json":
            _check_media(media)
        if length > self._limits.max_request_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.body_s):
                message = await receive()
                body = await self._rest(message, receive) if message.get("more_body") else message.get("body", b"")
        except TimeoutError:
            raise Refusal(408, "slow_body", f"The body did not arrive within {self._limits.body_s:g} seconds. Send it again.") from None
        if message["type"] == "http.disconnect":
            raise HungUp
        if len(body) > self._limits.max_request_bytes:
            raise self._too_large()
        return body

    async def _rest(self, message: Message, receive: Receive) -> bytes:
        """A body that arrives in pieces. Few may at once, so that slow clients hold little memory; whole ones are not held up."""
        if self._half_read >= HALF_READ:
            raise Refusal(503, "overloaded", "Too many requests arrive slowly at the same time. Ask again after Retry-After seconds.", 1)
        self._half_read += 1
        try:
            body = bytearray(message.get("body", b""))
            while message.get("more_body"):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HungUp
                body += message.get("body", b"")
                if len(body) > self._limits.max_request_bytes:
                    raise self._too_large()
            return bytes(body)
        finally:
            self._half_read -= 1

    def _refuse(self, refusal: Refusal, path: str) -> tuple[Headers, bytes]:
        headers = [JSON]
        if refusal.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
        if refusal.status == 405:
            headers.append((b"allow", b"POST" if path in self._post else b"GET, HEAD"))
        if refusal.status == 408:
            headers.append((b"connection", b"close"))  # what may still arrive is not a request; after 413 the server reads past it
        return headers, encode(ErrorReply(error=Problem(code=refusal.code, message=refusal.message)))

    def _too_large(self) -> Refusal:
        return Refusal(
            413, "request_too_large", f"The body is over {self._limits.max_request_bytes} bytes. Send fewer texts in one request."
        )


def _check_media(media: bytes) -> None:
    kind, _, parameters = media.lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if kind.strip() != b"application/json" or charset not in (b"", b"charset=utf-8"):
        raise Refusal(415, "unsupported_media_type", "Only application/json in UTF-8 is read. Send content-type: application/json.")
