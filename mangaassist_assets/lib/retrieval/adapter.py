"""An adapter maps the encoder's vectors into a space where the store's queries lie nearer to their documents.

Every family is the identity plus a learned change, so that an untrained adapter changes nothing:

    identity    x
    linear      W x                          foldable
    low_rank    (I + U V) x                  foldable
    mlp         x + B relu(A x + c)          not foldable: an index has to be rebuilt

followed by division by the length. Queries and documents take the same map. For a matrix W the inner product of adapted vectors is
(W q) . (W d) = (W^T W q) . d, so that an index of the encoder's own vectors answers in the adapted space: see `query_side`.
"""

import functools
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact

Floats = NDArray[np.float32]
Kind = Literal["identity", "linear", "low_rank", "mlp"]

TENSORS: Mapping[str, tuple[str, ...]] = {"identity": (), "linear": ("weight",), "low_rank": ("up", "down"), "mlp": ("out", "into", "bias")}
FILE = "adapter.safetensors"


@dataclass(frozen=True)
class Adapter:
    """A trained map from D components to D components.

    Attributes:
        kind: the family.
        dimension: D.
        tensors: float32. linear: weight (D, D). low_rank: up (D, R), down (R, D). mlp: out (D, H), into (H, D), bias (H,).
    """

    kind: Kind
    dimension: int
    tensors: Mapping[str, Floats]

    def __post_init__(self) -> None:
        d, found = self.dimension, {name: tensor.shape for name, tensor in self.tensors.items()}
        inner = {"low_rank": "down", "mlp": "into"}.get(self.kind)
        r = found[inner][0] if inner in found and len(found[inner]) == 2 else 0
        wanted: dict[str, dict[str, tuple[int, ...]]] = {
            "identity": {},
            "linear": {"weight": (d, d)},
            "low_rank": {"up": (d, r), "down": (r, d)},
            "mlp": {"out": (d, r), "into": (r, d), "bias": (r,)},
        }
        if self.kind not in wanted or found != wanted[self.kind] or (inner and r < 1):
            raise DamagedArtifact(f"a {self.kind} adapter of {d} components with tensors {found}. Materialise embedding_adapter again.")
        if not all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in self.tensors.values()):
            raise DamagedArtifact(f"a {self.kind} adapter whose tensors are not finite float32. Materialise embedding_adapter again.")

    @classmethod
    def identity(cls, dimension: int) -> "Adapter":
        """The adapter that changes nothing."""
        return cls("identity", dimension, {})

    @property
    def foldable(self) -> bool:
        """Whether an index of unadapted vectors can answer for it."""
        return self.kind != "mlp"

    @functools.cached_property
    def matrix(self) -> Floats:
        """W of shape (D, D); BadInput for a family that is no matrix."""
        eye = np.eye(self.dimension, dtype=np.float32)
        if self.kind == "identity":
            return eye
        if self.kind == "linear":
            return self.tensors["weight"]
        if self.kind == "low_rank":
            return eye + self.tensors["up"] @ self.tensors["down"]
        raise BadInput("an mlp adapter cannot be folded into the query", where="embedding adapter", remedy="Rebuild the index instead.")

    def raw(self, vectors: Floats) -> Floats:
        """(n, D) -> (n, D), before division by the length."""
        x = self._checked(vectors)
        if self.kind == "identity":
            return x
        if self.kind == "linear":
            return np.asarray(x @ self.tensors["weight"].T, np.float32)
        if self.kind == "low_rank":
            return np.asarray(x + (x @ self.tensors["down"].T) @ self.tensors["up"].T, np.float32)
        hidden = np.maximum(x @ self.tensors["into"].T + self.tensors["bias"], 0)
        return np.asarray(x + hidden @ self.tensors["out"].T, np.float32)

    def apply(self, vectors: Floats) -> Floats:
        """(n, D) -> (n, D) of length 1, for queries and documents alike.

        Raises:
            BadInput: another dimension, a vector that is not finite, or one that becomes zero.
        """
        y = self.raw(vectors)
        length = np.linalg.norm(y, axis=1, keepdims=True)
        if not (np.isfinite(length).all() and (length > 0).all()):
            row = int(np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))[0])
            raise BadInput(f"vector {row} is zero or not finite", where="embedding adapter", remedy="Encode its text again.")
        return np.asarray(y / length, np.float32)

    def query_side(self, queries: Floats) -> Floats:
        """W^T W q for each query, (n, D) -> (n, D): its inner product with an unadapted d is (W q) . (W d).

        For cosines divide by `document_norms` of the documents; lengths of queries don't change a ranking.

        Raises:
            BadInput: the family is no matrix, or another dimension.
        """
        x, w = self._checked(queries), self.matrix
        return np.asarray((x @ w.T) @ w, np.float32)

    def document_norms(self, documents: Floats) -> Floats:
        """|W d| for each document, (n, D) -> (n,)."""
        return np.asarray(np.linalg.norm(self.raw(documents), axis=1), np.float32)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes`."""
        return digest_of(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The adapter as a safetensors file; equal adapters give equal bytes."""
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(self.tensors[name]) for name in TENSORS[self.kind]}
        content = bytes(save(tensors, metadata={"kind": self.kind, "dimension": str(self.dimension)}))
        size = struct.unpack("<Q", content[:8])[0]
        header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
        return content[:8] + header.ljust(size) + content[8 + size :]  # safetensors writes metadata in an order that changes

    @classmethod
    def from_bytes(cls, content: bytes) -> "Adapter":
        """The adapter of a safetensors file.

        Raises:
            DamagedArtifact: it is no such file, or its tensors don't fit the family.
        """
        from safetensors.numpy import load

        try:
            size = struct.unpack("<Q", content[:8])[0]
            facts = json.loads(content[8 : 8 + size])["__metadata__"]
            kind, dimension, tensors = facts["kind"], int(facts["dimension"]), load(content)
        except Exception as error:  # safetensors has its own error class, and a damaged header can raise any
            raise DamagedArtifact(f"{FILE} cannot be read ({type(error).__name__}). Materialise embedding_adapter again.") from error
        return cls(kind, dimension, tensors)

    def blended(self, share: float) -> "Adapter":
        """The adapter `share` of the way from the identity to this one; the learned change is scaled by it."""
        if self.kind == "linear":
            eye = np.eye(self.dimension, dtype=np.float32)
            return Adapter(self.kind, self.dimension, {"weight": np.asarray(eye + share * (self.tensors["weight"] - eye), np.float32)})
        scaled = {"low_rank": "up", "mlp": "out"}.get(self.kind)
        return Adapter(
            self.kind,
            self.dimension,
            {name: np.asarray(share * t, np.float32) if name == scaled else t for name, t in self.tensors.items()},
        )

    def _checked(self, vectors: Floats) -> Floats:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise BadInput(
                f"vectors of shape {vectors.shape}, wanted (n, {self.dimension})",
                where="embedding adapter",
                remedy="Encode with the encoder that the adapter was trained for.",
            )
        return np.asarray(vectors, np.float32)
