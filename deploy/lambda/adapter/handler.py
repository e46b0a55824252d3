"""The embedding adapter as an AWS Lambda function: vectors of the base space in, vectors of the adapted space out.

It needs numpy and the boto3 that Lambda provides, and nothing else of this project. `ADAPTER_BUNDLE` names one bundle on S3,
`s3://bucket/prefix/bundles/sha256-<digest>`; its manifest must have that digest and its adapter the digest that the manifest lists, so what
answers is the adapter that was released, byte for byte. A new adapter is a new value of the variable.
"""

import base64
import binascii
import functools
import hashlib
import json
import logging
import math
import os
import re
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

FILE: Final = "adapter.safetensors"
KIND: Final = "embedding_adapter"
MOST_VECTORS: Final = 1000  # Lambda takes and gives 6 MB at once
LARGEST: Final = float(np.finfo(np.float32).max)
TENSORS: Final = {"identity": (), "linear": ("weight",), "low_rank": ("up", "down"), "mlp": ("out", "into", "bias")}
LOG: Final = logging.getLogger("adapter")


class Refused(Exception):
    """What the caller is told: an HTTP status, a code for programs and a message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Adapter:
    """An adapter of a bundle; the four families are those of the project's `lib/retrieval/adapter.py`.

    Attributes:
        kind: identity, linear, low_rank or mlp.
        tensors: float32, of D components.
        base: the embedding space that it maps from, as JSON.
        digest: SHA-256 of its file.
    """

    kind: str
    tensors: dict[str, np.ndarray]
    base: dict[str, Any]
    digest: str

    def raw(self, x: np.ndarray) -> np.ndarray:
        """(n, D) to (n, D), before division by the length."""
        t = self.tensors
        if self.kind == "identity":
            return x
        if self.kind == "linear":
            return x @ t["weight"].T
        if self.kind == "low_rank":
            return x + (x @ t["down"].T) @ t["up"].T
        return x + np.maximum(x @ t["into"].T + t["bias"], 0) @ t["out"].T

    def apply(self, x: np.ndarray, *, fold: bool) -> np.ndarray:
        """(n, D) to (n, D): unit rows y of the adapted space, or W^T y to ask an index of the base space with."""
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large shows in its length
            y = self.raw(x)
            lengths = np.linalg.norm(y, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            row = int(np.argmin((np.isfinite(lengths) & (lengths > 0))[:, 0]))
            raise Refused(400, "bad_input", f"vector {row} is zero or too large")
        y = y / lengths
        if not fold or self.kind == "identity":
            return y
        if self.kind == "linear":
            return y @ self.tensors["weight"]
        if self.kind == "low_rank":
            return y + (y @ self.tensors["up"]) @ self.tensors["down"]
        raise Refused(400, "bad_input", "an mlp adapter cannot be folded into the query; ask an index that was rebuilt with it")


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """What Lambda calls: directly with the request, or by API Gateway or a function URL with the request as `body`.

    Request: `vectors` (n lists of D numbers), `space` (the embedding space they are in), `fold` (optional, false: see Adapter.apply).
    Answer: `vectors`, `space` (the adapted one); or `error` with `code` and `message`. By HTTP with the status, too.
    """
    by_http = isinstance(event, dict) and "requestContext" in event
    try:
        status, answer = 200, _answer(_body(event) if by_http else event)
    except Refused as refused:
        status, answer = refused.status, {"error": {"code": refused.code, "message": str(refused)}}
        if status >= 500:
            LOG.error("%s", refused)
    if not by_http:
        return answer
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(answer)}


def _body(event: dict[str, Any]) -> Any:
    body = event.get("body") or ""
    try:
        return json.loads(base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise Refused(400, "bad_input", "the body is not JSON") from error


def _answer(request: Any) -> dict[str, Any]:
    if not isinstance(request, dict) or not isinstance(request.get("fold", False), bool):
        raise Refused(400, "bad_input", "give an object with vectors, space and, where wanted, fold (true or false)")
    adapter = load(os.environ.get("ADAPTER_BUNDLE", ""))
    if request.get("space") != adapter.base:
        raise Refused(400, "space_mismatch", f"the vectors are of space {request.get('space')}, the adapter is for {adapter.base}")
    vectors = _vectors(request.get("vectors"), int(adapter.base["dimension"]))
    mapped = adapter.apply(vectors, fold=request.get("fold", False))
    # Seven digits give back every float32 that lies below 1 to half its last bit, in half the characters.
    return {"vectors": mapped.astype(np.float64).round(7).tolist(), "space": {**adapter.base, "adapter": adapter.digest}}


def _vectors(given: Any, dimension: int) -> np.ndarray:
    if not isinstance(given, list) or not 0 < len(given) <= MOST_VECTORS:
        raise Refused(400, "bad_input", f"give 1 to {MOST_VECTORS} vectors")
    right = all(isinstance(row, list) and len(row) == dimension and all(type(x) in (int, float) for x in row) for row in given)
    if not right or not all(-LARGEST < x < LARGEST for row in given for x in row):  # false for NaN
        raise Refused(400, "bad_input", f"each vector must be a list of {dimension} finite numbers")
    return np.asarray(given, np.float32)


@functools.cache  # once for each instance of the function; a failure is not kept
def load(uri: str) -> Adapter:
    """The adapter of a bundle, `s3://bucket/prefix/bundles/sha256-<digest>`; every digest is checked before a byte is used."""
    match = re.fullmatch(r"s3://([^/]+)/(.*/)?sha256-([0-9a-f]{64})/?", uri)
    if match is None:
        raise Refused(503, "unavailable", "ADAPTER_BUNDLE is not s3://bucket/prefix/bundles/sha256-<digest>")
    bucket, prefix, digest = match[1], match[2] or "", match[3]
    folder = f"{prefix}sha256-{digest}"
    manifest = _fetch(bucket, f"{folder}/manifest.json")
    content = _fetch(bucket, f"{folder}/{FILE}")
    try:
        told = json.loads(manifest)
        kind, files, facts = told["kind"], told["files"], told["facts"]
        canonical = json.dumps({"kind": kind, "files": files, "facts": facts}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if hashlib.sha256(canonical.encode()).hexdigest() != digest or kind != KIND:
            raise ValueError("its manifest is not the one that its name says")
        found = hashlib.sha256(content).hexdigest()
        if found != files[FILE]["sha256"]:
            raise ValueError(f"{FILE} is not the file that was written")
        base = dict(facts["space"])
        family, tensors = _read(content, int(base["dimension"]))
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise Refused(503, "damaged_artifact", f"{uri}: {error}. Publish the bundle again.") from error
    return Adapter(family, tensors, base, found)


@functools.cache
def _s3() -> Any:
    import boto3

    return boto3.client("s3")


def _fetch(bucket: str, key: str) -> bytes:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return bytes(_s3().get_object(Bucket=bucket, Key=key)["Body"].read())
    except (BotoCoreError, ClientError) as error:
        raise Refused(503, "unavailable", f"s3://{bucket}/{key}: {' '.join(str(error).split())}") from error


def _read(content: bytes, dimension: int) -> tuple[str, dict[str, np.ndarray]]:
    """Family and tensors of a safetensors file: eight bytes with the length of a JSON header, the header, the tensors' bytes."""
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    kind = header["__metadata__"]["kind"]
    tensors = {}
    for name in TENSORS[kind]:
        begin, end = header[name]["data_offsets"]
        shape = header[name]["shape"]
        if header[name]["dtype"] != "F32" or end - begin != 4 * math.prod(shape) or not 0 <= begin <= end <= len(content) - start:
            raise ValueError(f"tensor {name} is not as its header says")
        tensors[name] = np.frombuffer(content, "<f4", math.prod(shape), start + begin).reshape(shape)
    inner = {"linear": [dimension], "low_rank": [len(tensors.get("down", ()))], "mlp": [len(tensors.get("bias", ()))]}.get(kind, [])
    across = {name: tensors[name].shape for name in tensors}
    wanted = {name: (dimension, *inner) for name in ("weight", "up", "out")} | {name: (*inner, dimension) for name in ("down", "into")}
    wanted["bias"] = tuple(inner)
    if any(shape != wanted[name] for name, shape in across.items()) or not all(np.isfinite(t).all() for t in tensors.values()):
        raise ValueError(f"a {kind} adapter of {dimension} components with tensors {across}")
    return kind, tensors
