"""What makes two vectors comparable: the embedding space they were made in.

Two encoders may share a dimension and nothing else. Every set of vectors, every index and every query names its space, and
an index refuses a query from another one.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput


class SpaceMismatch(BadInput):
    """Vectors of one embedding space met an index of another."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """Everything that decides what a vector means.

    Attributes:
        encoder: its name, for people.
        encoder_digest: SHA-256 of its weights.
        pooling: how token states become one vector.
        normalised: whether vectors have length 1.
        dimension: components of a vector.
        adapter: digest of the adapter applied to the encoder's vectors, "" for none.
    """

    encoder: str
    encoder_digest: str
    pooling: str
    normalised: bool
    dimension: int
    adapter: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over all attributes."""
        return digest_of(dataclasses.asdict(self))

    @property
    def name(self) -> str:
        """Short and unique: the encoder and the first 12 digits of the digest."""
        return f"{self.encoder.rsplit('/', 1)[-1]}-{self.digest[:12]}"

    def adapted(self, adapter_digest: str, dimension: int | None = None) -> "EmbeddingSpace":
        """The space that an adapter maps this one into."""
        return dataclasses.replace(self, adapter=adapter_digest, dimension=dimension or self.dimension)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "EmbeddingSpace":
        return cls(**content)


def check_space(index: EmbeddingSpace, query: EmbeddingSpace) -> None:
    """Refuses what cannot be compared.

    Raises:
        SpaceMismatch: the spaces differ, even where their dimensions agree.
    """
    if index != query:
        differing = [
            f"{f.name} {getattr(query, f.name)!r} instead of {getattr(index, f.name)!r}"
            for f in dataclasses.fields(index)
            if getattr(index, f.name) != getattr(query, f.name)
        ]
        raise SpaceMismatch(
            f"the query is of embedding space {query.name}, the index of {index.name}: {', '.join(differing)}",
            where="chunk index",
            remedy="Encode the query with the index's encoder and adapter, or rebuild the index.",
        )
