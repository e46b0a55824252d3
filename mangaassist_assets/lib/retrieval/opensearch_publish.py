"""A new index in OpenSearch takes the place of the one that serves, without a gap: build, compare, catch up, warm, swap the alias.

The serving index is not touched until the last step, one atomic request. Every chunk is written with an external version (one more than the
number of the last change it includes): sending it twice is harmless, and an older vector never overwrites a newer one. `_meta` of the new
index counts the rows that are safely in it, so that a build that was killed, or gave up on a busy cluster, goes on there.
"""

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput, Conflict, MissingEvidence, Unavailable
from mangaassist_assets.lib.retrieval.index import Adapter, Vectors, VectorSource, adapted, blocks_of, exact_neighbours, space_of
from mangaassist_assets.lib.retrieval.index_files import KIND
from mangaassist_assets.lib.retrieval.opensearch import OpenSearchIndex, document, index_body, serving
from mangaassist_assets.lib.retrieval.opensearch_cluster import Cluster
from mangaassist_assets.lib.retrieval.segments import ChangeLog

BLOCK: Final = 20_000  # rows between two notes of progress
Described = Mapping[str, Mapping[str, Any]]
Describe = Callable[[Sequence[str]], Described]
Progress = Callable[[int, int], None]


class ParityFailed(BadInput):
    """A new index does not answer as the vectors that it was built from do; the old one goes on serving."""


def describe_from(chunks: pa.Table) -> Describe:
    """Looks up rows of a table CHUNKS by chunk id."""
    ids = chunks["chunk_id"].combine_chunks()

    def describe(chunk_ids: Sequence[str]) -> Described:
        rows = pc.index_in(pa.array(chunk_ids, pa.string()), value_set=ids)
        return {row["chunk_id"]: row for row in chunks.take(rows.drop_null()).to_pylist()}

    return describe


def publish(
    cluster: Cluster,
    source: VectorSource,
    describe: Describe,
    adapter: Adapter | None,
    log: ChangeLog,
    queries: Vectors,
    *,
    now: dt.datetime,
    changes_upto: int = 0,
    floor: float = 0.95,
    progress: Progress | None = None,
) -> OpenSearchIndex:
    """Makes an index of `source` serve; the old one is kept for `keep_days`.

    Args:
        cluster: where to.
        source: base vectors.
        describe: gives the rows of CHUNKS of some ids; all ids of `source` and `log` that are not deleted must be known to it.
        adapter: maps vectors into the index's space; None leaves them in the base space.
        log: changes; those after `changes_upto` are replayed.
        queries: (n, D') in the index's space, for the comparison with the vectors themselves and to warm the index.
        now: with a time zone.
        changes_upto: the last change that `source` includes.
        floor: least recall@10.
        progress: told the rows written and their number.

    Raises:
        BadInput: a vector or chunk cannot be written.
        ParityFailed: rows are missing, or the recall is below `floor`.
        Unavailable: the cluster stayed busy or away; the next call goes on where this one stopped.
        Conflict: another index was put in place meanwhile.
    """
    before = serving(cluster)
    index = build(cluster, source, describe, adapter, now=now, changes_upto=changes_upto, progress=progress)
    if before is not None and before.name == index.name:
        catch_up(before, log, adapter, describe)
        return before
    if int(index.meta["changes_upto"]) == changes_upto:  # else it has changes that the source knows nothing of
        try:
            check_parity(index, source, adapter, queries, rows=len(source), floor=floor)
        except ParityFailed:
            _drop(cluster, index.name)  # so that the next call builds it anew
            raise
    catch_up(index, log, adapter, describe)
    index.warm()
    index.find(queries, 10, index.space)
    catch_up(index, log, adapter, describe)
    return flip(cluster, index, expected=before.name if before else "", now=now)


def build(
    cluster: Cluster,
    source: VectorSource,
    describe: Describe,
    adapter: Adapter | None,
    *,
    now: dt.datetime,
    changes_upto: int = 0,
    progress: Progress | None = None,
) -> OpenSearchIndex:
    """Writes all rows of `source` into an index of their own, or what is missing in it; see `publish`."""
    settings = cluster.settings
    n = len(source)
    if not n:
        raise BadInput("there are no vectors", where="chunk index", remedy="Materialise `chunk_embeddings` of some catalogue.")
    dimension = adapted(source.vectors(0, 1), adapter).shape[1]
    space = space_of(source.space, adapter, dimension)
    body = index_body(settings, dimension)
    facts = {"kind": KIND, "source": source.digest, "rows": n, "space": space.to_json(), "base_changes": changes_upto}
    digest = digest_of([facts, body])
    name = f"{settings.alias}-{digest[:16]}"
    meta = _meta_of(cluster, name)
    if meta is None:
        meta = {**facts, "digest": digest, "done": 0, "complete": False, "changes_upto": changes_upto, "started_at": _stamp(now)}
        _create(cluster, name, {**body, "mappings": {**body["mappings"], "_meta": meta}})
    if not meta["complete"]:
        for start in range(int(meta["done"]), n, BLOCK):
            stop = min(start + BLOCK, n)
            ids = source.chunk_ids(start, stop).to_pylist()
            cluster.bulk(name, list(_index_lines(ids, adapted(source.vectors(start, stop), adapter), describe(ids), changes_upto)))
            meta = _note(cluster, name, meta, done=stop)
            if progress:
                progress(stop, n)
        _open_for_search(cluster, name)
        meta = _note(cluster, name, meta, complete=True)
    return OpenSearchIndex(cluster, name, meta)


def _create(cluster: Cluster, name: str, body: Mapping[str, Any]) -> None:
    try:
        cluster.ask(lambda client: client.indices.create(index=name, body=body))
    except BadInput:  # a try that timed out may have made it all the same
        if _meta_of(cluster, name) is None:
            raise


def _index_lines(ids: Sequence[str], vectors: Vectors, rows: Described, change: int) -> Iterator[str]:
    for chunk_id, vector in zip(ids, vectors, strict=True):
        if chunk_id not in rows:
            raise BadInput(
                "it has a vector but is no chunk of the catalogue", where=f"chunk {chunk_id}", remedy="Materialise `catalog_chunks`."
            )
        yield f"{_action('index', chunk_id, change)}{document(rows[chunk_id], vector)}\n"


def _action(kind: str, chunk_id: str, change: int) -> str:
    """The metadata line; a version that is there already counts as written, so what a time-out left unclear can be sent again."""
    return json.dumps({kind: {"_id": chunk_id, "version": change + 1, "version_type": "external_gte"}}, ensure_ascii=False) + "\n"


def _open_for_search(cluster: Cluster, name: str) -> None:
    replicas = cluster.settings.replicas
    ready = {"index": {"refresh_interval": "1s", "number_of_replicas": replicas}}
    cluster.ask(lambda client: client.indices.refresh(index=name))
    cluster.ask(lambda client: client.indices.put_settings(index=name, body=ready))
    try:
        cluster.ask(lambda client: client.cluster.health(index=name, wait_for_status="green"))
    except Unavailable as error:
        raise Unavailable(f"{error} Its {replicas} replicas found no node, perhaps: see retrieval.opensearch.replicas.") from error


def _meta_of(cluster: Cluster, name: str) -> dict[str, Any] | None:
    try:
        return dict(cluster.ask(lambda client: client.indices.get_mapping(index=name))[name]["mappings"]["_meta"])
    except MissingEvidence:
        return None


def _note(cluster: Cluster, name: str, meta: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    after = {**meta, **changed}
    cluster.ask(lambda client: client.indices.put_mapping(index=name, body={"_meta": after}))
    return after


def _stamp(now: dt.datetime) -> str:
    return now.astimezone(dt.UTC).isoformat(timespec="seconds")


def check_parity(
    index: OpenSearchIndex,
    source: VectorSource,
    adapter: Adapter | None,
    queries: Vectors,
    *,
    rows: int | None = None,
    k: int = 10,
    floor: float = 0.95,
) -> float:
    """Recall@k of `index` against a comparison with all vectors of `source`, one pass over them; also the gate of a folded index.

    Raises:
        ParityFailed: `index` has not `rows` chunks (None: that is not asked), or the recall is below `floor`.
    """
    remedy = "Materialise `chunk_index` again; the serving index is as it was."
    if rows is not None and len(index) != rows:
        raise ParityFailed(f"it has {len(index):,} chunks instead of {rows:,}", where=f"index {index.name}", remedy=remedy)
    true = exact_neighbours(blocks_of(source, adapter), queries, min(k, len(source)))
    found = index.find(queries, true.shape[1], index.space)
    hit = [
        len({chunk_id for chunk_id, _ in answer} & {source.chunk_ids(row, row + 1)[0].as_py() for row in neighbours})
        for answer, neighbours in zip(found, true.tolist(), strict=True)
    ]
    recall = float(np.mean(hit) / true.shape[1])
    if recall < floor:
        raise ParityFailed(f"recall@{k} is {recall:.3f}, {floor:.3f} is wanted", where=f"index {index.name}", remedy=remedy)
    return recall


def catch_up(index: OpenSearchIndex, log: ChangeLog, adapter: Adapter | None, describe: Describe) -> int:
    """Replays the changes that the index does not have yet, in order; returns how many batches.

    For an index that serves, and for a previous one before a rollback.
    """
    cluster, replayed = index.cluster, 0
    index.meta = _meta_of(cluster, index.name) or index.meta
    for change in log.after(int(index.meta["changes_upto"])):
        lines = [_action("delete", chunk_id, change.number) for chunk_id in change.deleted]
        if change.upserted:
            vectors = adapted(change.vectors, adapter)
            lines += _index_lines(change.upserted, vectors, describe(change.upserted), change.number)
        cluster.bulk(index.name, lines)
        index.meta = _note(cluster, index.name, index.meta, changes_upto=change.number)
        replayed += 1
    if replayed:
        cluster.ask(lambda client: client.indices.refresh(index=index.name))
    return replayed


def flip(cluster: Cluster, index: OpenSearchIndex, *, expected: str, now: dt.datetime) -> OpenSearchIndex:
    """Lets `index` serve, in one atomic request. A rollback is a flip to `previous`.

    Args:
        cluster: where it is.
        index: complete.
        expected: the name of the index that serves now, "" for none.
        now: with a time zone.

    Raises:
        Conflict: another one serves.
    """
    alias = cluster.settings.alias
    before = serving(cluster)
    if (before.name if before else "") != expected:
        raise Conflict(f"{cluster.name}: index {before.name if before else 'none'} serves, not {expected or 'none'}; decide anew.")
    if before is not None and before.name == index.name:
        return index
    actions: list[dict[str, Any]] = [{"add": {"index": index.name, "alias": alias}}]
    if before is not None:
        # Marked before, not after: if this process dies in between, an index that serves has a mark that nobody reads.
        _note(cluster, before.name, before.meta, retired_at=_stamp(now))
        actions.insert(0, {"remove": {"index": before.name, "alias": alias, "must_exist": True}})
    try:
        cluster.ask(lambda client: client.indices.update_aliases(body={"actions": actions}))
    except MissingEvidence as error:
        after = serving(cluster)  # a try that timed out may have been carried out
        if after is None or after.name != index.name:
            raise Conflict(f"{cluster.name}: the alias left {expected} meanwhile; decide anew.") from error
    serving(cluster)  # raises Conflict if two publishers were first at the same time
    return index


def _all(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """The `_meta` of every chunk index of this alias, by name."""
    alias = cluster.settings.alias
    found = cluster.ask(lambda client: client.indices.get_mapping(index=f"{alias}-*"))
    metas = {name: described["mappings"].get("_meta", {}) for name, described in found.items()}
    return {name: meta for name, meta in metas.items() if meta.get("kind") == KIND and name == f"{alias}-{str(meta['digest'])[:16]}"}


def previous(cluster: Cluster) -> OpenSearchIndex:
    """The complete index that served last before the one that serves now, as it was when it did.

    Before it is flipped to, `catch_up` can bring in what was logged since, while the log still has all of it.

    Raises:
        MissingEvidence: there is none any more.
    """
    now = serving(cluster)
    retired = [
        (meta["retired_at"], name, meta)
        for name, meta in _all(cluster).items()
        if meta.get("retired_at") and meta["complete"] and (now is None or name != now.name)
    ]
    if not retired:
        raise MissingEvidence(f"{cluster.name}: there is no previous index of {cluster.settings.alias} to go back to.")
    _, name, meta = max(retired, key=lambda one: one[:2])
    return OpenSearchIndex(cluster, name, meta)


def prune(cluster: Cluster, *, now: dt.datetime) -> list[str]:
    """Deletes indexes that ceased to serve, or builds that were begun, more than `keep_days` ago; returns their names.

    Never the serving one, and nothing that this project did not make.
    """
    limit = _stamp(now - dt.timedelta(days=cluster.settings.keep_days))
    current = serving(cluster)
    old = [
        name
        for name, meta in sorted(_all(cluster).items())
        if (current is None or name != current.name) and str(meta.get("retired_at") or meta["started_at"]) < limit
    ]
    for name in old:
        _drop(cluster, name)
    return old


def _drop(cluster: Cluster, name: str) -> None:
    with contextlib.suppress(MissingEvidence):  # a try that timed out was carried out, or somebody else was first
        cluster.ask(lambda client: client.indices.delete(index=name))
