"""A chunk index in OpenSearch: the same questions and answers as `index.ChunkIndex`, from a k-NN index on a cluster.

A document is one chunk, its `_id` the chunk's id. `vector` is what the HNSW graph holds (faiss, half precision, inner product); it is left
out of the stored document, which has `half`, the same vector as base64 of little-endian float16: a tenth of its size as JSON.
An index is never changed after its build but by changes of chunks; its mapping's `_meta` names its embedding space, so a query of another
space is refused even where the dimensions agree.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput, Conflict, MangaAssistError, MissingEvidence, Unavailable
from mangaassist_assets.lib.retrieval.fold import PROJECTED, FoldRefused, matrix_of
from mangaassist_assets.lib.retrieval.index import Adapter, Vectors, check_queries
from mangaassist_assets.lib.retrieval.index_files import KIND
from mangaassist_assets.lib.retrieval.opensearch_cluster import BUSY, Cluster, OpenSearchSettings
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, check_space

MOST: Final = 10_000  # k of a k-NN query: docs.opensearch.org, "k-NN query"
QUERIES: Final = 64  # in one request
FILTERS: Final = {"in_stock": "in_stock", "language": "languages", "format": "formats", "kind": "kind"}
SHOWN: Final = ("document_id", "kind", "title", "text", "in_stock", "languages", "formats")
Found = list[list[tuple[str, float]]]


def index_body(settings: OpenSearchSettings, dimension: int) -> dict[str, Any]:
    """Settings and mapping of a new index, as the build wants them: no refresh, no replicas.

    Deletions are remembered for an hour instead of a minute, so that an older version sent late cannot bring a chunk back.
    """
    keyword = {"type": "keyword"}
    shown = {"type": "text", "index": False}
    method = {
        "name": "hnsw",
        "engine": "faiss",
        "space_type": "innerproduct",
        "parameters": {
            "m": settings.m,
            "ef_construction": settings.ef_construction,
            "encoder": {"name": "sq", "parameters": {"type": "fp16"}},
        },
    }
    return {
        "settings": {
            "index": {
                "knn": True,
                "number_of_shards": settings.shards,
                "number_of_replicas": 0,
                "refresh_interval": "-1",
                "gc_deletes": "1h",
            }
        },
        "mappings": {
            "dynamic": "strict",
            "_source": {"excludes": ["vector"]},
            "properties": {
                "document_id": keyword,
                "kind": keyword,
                "digest": keyword,
                "in_stock": {"type": "boolean"},
                "languages": keyword,
                "formats": keyword,
                "title": shown,
                "text": shown,
                "half": {"type": "binary"},
                "vector": {"type": "knn_vector", "dimension": dimension, "method": method},
            },
        },
    }


def document(row: Mapping[str, Any], vector: Vectors) -> str:
    """One chunk as a line of JSON: a row of CHUNKS and its vector (D,)."""
    fields = {name: row[name] for name in ("digest", *SHOWN)}
    fields["half"] = base64.b64encode(vector.astype("<f2").tobytes()).decode()
    fields["vector"] = vector.astype(np.float64).round(6).tolist()  # six digits: more than half precision keeps, half the bytes
    return msgspec.json.encode(fields).decode()  # four times as fast as json, and this is what a build spends its time on


def inner_product(score: float) -> float:
    """The inner product behind a score of the faiss engine: 1 + p for p > 0, else 1 / (1 - p) (docs.opensearch.org, "Spaces")."""
    return score - 1 if score > 1 else 1 - 1 / score


class OpenSearchIndex:
    """One index of the cluster, by its own name: a swap of the alias meanwhile does not touch it.

    Args:
        cluster: where it is.
        name: of the index.
        meta: what its build wrote into `_meta`.
        fold: a linear adapter that moves to the query, see `fold.fold`; None answers in the index's own space.

    Attributes:
        digest: of what it was built from and how; of the adapter too where that is folded.
        space: the embedding space that it answers in.
    """

    def __init__(self, cluster: Cluster, name: str, meta: Mapping[str, Any], fold: Adapter | None = None) -> None:
        self.cluster, self.name, self.meta = cluster, name, dict(meta)
        self.space = EmbeddingSpace.from_json(meta["space"])
        self.digest = str(meta["digest"])
        self._matrix: Vectors | None = None  # (D', D)
        if fold is not None:
            if self.space.adapter:
                raise FoldRefused(f"index {name} is of the adapted space {self.space.name}, wanted one of the base space")
            self._matrix = matrix_of(fold, self.space.dimension)
            self.space = self.space.adapted(fold.digest, len(self._matrix))
            self.digest = digest_of([self.digest, fold.digest])

    def folded(self, adapter: Adapter) -> "OpenSearchIndex":
        """This index, answering in the adapter's space; nothing on the cluster is touched.

        Its recall has to be measured with `opensearch_publish.check_parity` before it serves.

        Raises:
            FoldRefused: the adapter is not linear, or the index is adapted already.
        """
        return OpenSearchIndex(self.cluster, self.name, self.meta, adapter)

    def __len__(self) -> int:
        return int(self.cluster.ask(lambda client: client.count(index=self.name), patience_s=self._patience)["count"])

    @property
    def _patience(self) -> float:
        return self.cluster.settings.search_patience_s

    def find(self, vectors: Vectors, k: int, space: EmbeddingSpace, filters: Mapping[str, Any] | None = None) -> Found:
        """The k nearest chunks of each query, ids with cosines, best first; equal scores in order of id.

        Args:
            vectors: (n, D) float32, of length 1, in `space`.
            k: how many for each, at most 10,000.
            space: the embedding space of the queries.
            filters: only chunks with these values: in_stock (bool), language, format, kind. The cluster applies them while it walks the
                graph, so that k are found where so many exist.

        Raises:
            SpaceMismatch: the queries are of another space, even if of the same dimension.
            BadInput: a shape, number or filter is unusable.
            Unavailable: the cluster is busy or away, or a shard did not answer: a part of the index is never taken for the whole.
            MissingEvidence: the index was removed; open the serving one.
        """
        check_space(self.space, space)
        check_queries(vectors, k, self.space.dimension)
        if k > MOST:
            raise BadInput(f"k is {k:,}", where="query of the chunk index", remedy=f"Ask for at most {MOST:,} results.")
        allowed = _filter(filters or {})
        asked = vectors if self._matrix is None else vectors @ self._matrix
        count = k if self._matrix is None else min(MOST, max(4 * k, PROJECTED))
        found: Found = []
        for start in range(0, len(asked), QUERIES):
            block = asked[start : start + QUERIES]
            for query, hits in zip(block, self._search([self._body(q, count, allowed) for q in block]), strict=True):
                scored = [(str(hit["_id"]), inner_product(float(hit["_score"]))) for hit in hits]
                if self._matrix is not None and hits:
                    scored = self._rescored(query, hits, self._matrix)
                found.append(sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k])
        return found

    def _body(self, query: Vectors, count: int, allowed: list[dict[str, Any]]) -> dict[str, Any]:
        # Stays at the accuracy asked for where more are wanted than the graph search would keep.
        effort = max(self.cluster.settings.ef_search, count if self._matrix is None else 2 * count)
        knn: dict[str, Any] = {"vector": query.tolist(), "k": count, "method_parameters": {"ef_search": effort}}
        if allowed:
            knn["filter"] = {"bool": {"filter": allowed}}
        return {"size": count, "_source": ["half"] if self._matrix is not None else False, "query": {"knn": {"vector": knn}}}

    def _rescored(self, query: Vectors, hits: Sequence[Mapping[str, Any]], matrix: Vectors) -> list[tuple[str, float]]:
        """The cosines in the adapted space: (W^T y).d / |W d|, `query` being W^T y."""
        halves = b"".join(base64.b64decode(hit["_source"]["half"]) for hit in hits)
        stored = np.frombuffer(halves, "<f2").reshape(len(hits), -1).astype(np.float32)
        cosines = (stored @ query) / np.linalg.norm(stored @ matrix.T, axis=1)
        return [(str(hit["_id"]), cosine) for hit, cosine in zip(hits, cosines.tolist(), strict=True)]

    def _search(self, bodies: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
        lines = "".join(f"{json.dumps({'index': self.name})}\n{json.dumps(body)}\n" for body in bodies)
        reply = self.cluster.ask(lambda client: client.msearch(body=lines), patience_s=self._patience)
        return [self._hits(answer) for answer in reply["responses"]]

    def _hits(self, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
        if "error" in answer:
            status = int(answer.get("status", 500))
            failure: MangaAssistError = self.cluster.failure(status, answer["error"])
            raise Unavailable(str(failure)) if status in BUSY else failure
        if answer.get("timed_out") or answer["_shards"]["failed"]:
            shards = answer["_shards"]
            raise Unavailable(f"{self.cluster.name}: {shards['failed']} of {shards['total']} shards of {self.name} did not answer in time")
        return list(answer["hits"]["hits"])

    def chunks(self, chunk_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What is shown of some chunks (document_id, title, text, ...) by id; those that are gone are left out."""
        if not chunk_ids:
            return {}
        body = {"ids": list(chunk_ids)}
        reply = self.cluster.ask(
            lambda client: client.mget(body=body, index=self.name, _source_includes=",".join(SHOWN)), patience_s=self._patience
        )
        return {str(found["_id"]): dict(found["_source"]) for found in reply["docs"] if found.get("found")}

    def warm(self) -> None:
        """Loads the graphs of all shards, replicas too, into the cluster's memory.

        Raises:
            Unavailable: some shard could not load them.
        """
        shards = self.cluster.ask(lambda client: client.knn.warmup(index=self.name))["_shards"]
        if shards["failed"]:
            raise Unavailable(
                f"{self.cluster.name}: {shards['failed']} of {shards['total']} shards of {self.name} could not load their graphs"
            )


def _filter(filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    for name, value in filters.items():
        if name not in FILTERS or not isinstance(value, bool if name == "in_stock" else str):
            raise BadInput(
                f"{name} = {value!r} is not a filter",
                where="query of the chunk index",
                remedy="Use in_stock (bool), language, format or kind.",
            )
    return [{"term": {FILTERS[name]: value}} for name, value in sorted(filters.items())]


def serving(cluster: Cluster, *, patience_s: float | None = None) -> OpenSearchIndex | None:
    """The index that the alias names, or None before the first.

    Raises:
        Conflict: it names several, after two publishers ran at the same time.
    """
    alias = cluster.settings.alias
    try:
        found = cluster.ask(lambda client: client.indices.get(index=alias), patience_s=patience_s)
    except MissingEvidence:
        return None
    if len(found) > 1:
        raise Conflict(f"{cluster.name}: alias {alias} names {', '.join(sorted(found))}. Leave it on one of them.")
    ((name, described),) = found.items()
    meta = described["mappings"].get("_meta", {})
    if meta.get("kind") != KIND:
        raise Conflict(f"{cluster.name}: {alias} names {name}, which is no chunk index. Set retrieval.opensearch.alias to another name.")
    return OpenSearchIndex(cluster, name, meta)


def open_serving(cluster: Cluster) -> OpenSearchIndex:
    """The index that serves; raises MissingEvidence before the first, otherwise as `serving`."""
    found = serving(cluster, patience_s=cluster.settings.search_patience_s)
    if found is None:
        raise MissingEvidence(f"{cluster.name}: no index serves as {cluster.settings.alias} yet. Materialise `chunk_index`.")
    return found
