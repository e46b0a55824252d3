"""The index for new chunks and a new adapter, by the cheapest way that is good enough, and its turn to serve.

Changes: the index that serves is kept, and the few chunks that differ from what it was built from are logged, to be served beside it. Fold:
a linear adapter moves to the query; the vectors stay as they are, and it takes a moment. Rebuild: stored base vectors stream through the
adapter. A fold whose measured recall falls short is refused, and the index is rebuilt.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mangaassist_assets.lib.errors import DamagedArtifact
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.differences import difference
from mangaassist_assets.lib.retrieval.fold import FoldedIndex, FoldRefused, check_recall, fold
from mangaassist_assets.lib.retrieval.index import ChunkIndex, Vectors, VectorSource, open_index
from mangaassist_assets.lib.retrieval.pointer import Pointer, swap
from mangaassist_assets.lib.retrieval.rebuild import FORMAT, IndexSettings, rebuild
from mangaassist_assets.lib.retrieval.segments import ChangeLog
from mangaassist_assets.lib.retrieval.space import SpaceMismatch
from mangaassist_assets.lib.retrieval.workers import run_shards

RECALL_QUERIES = 200


@dataclass(frozen=True)
class Swapped:
    """What serves now.

    Attributes:
        digest: of the index.
        strategy: folded, flat or ivf; changes where the index that served was kept.
        recall_at_10: of the index against a comparison with all vectors; None where it was kept, and had been measured before it served.
        n: queries behind it.
        refused: why the fold was not taken, "" where it was, or nothing was to fold.
        rows: chunks.
        changed: chunks that were logged as new, changed or gone.
        changes_upto: the last change that belongs to what serves.
    """

    digest: str
    strategy: str
    recall_at_10: float | None
    n: int
    refused: str
    rows: int
    changed: int
    changes_upto: int


def swap_index(
    source: VectorSource,
    adapter: Adapter,
    queries: Vectors,
    home: Path,
    settings: IndexSettings,
    *,
    workers: str = "local:1",
    recall: float = 0.95,
) -> Swapped:
    """Logs what changed, or folds or rebuilds, warms, and lets the new index serve. Killed and called again it goes on.

    Args:
        source: base vectors of all chunks.
        adapter: the one to serve; the identity serves the base index as it is.
        queries: (n, D) base vectors of real queries, for the recall gate and to warm.
        home: the folder of all indexes.
        settings: how indexes are built.
        workers: who builds, as in `run_shards`.
        recall: least recall@10 of a fold.

    Raises:
        BadInput: there are no vectors, or the rebuilt index falls short of `recall` as well.
        Conflict: another index was put in place meanwhile.
    """
    pointer, log = Pointer(home), ChangeLog.of(home, source.space)
    expected = pointer.read().current
    wanted = None if adapter.kind == "identity" else adapter
    kept, changed = _kept(home, expected, log, source, settings)
    upto = log.last
    if kept is not None and kept.space.adapter == ("" if wanted is None else wanted.digest):
        return Swapped(kept.digest, "changes", None, 0, "", len(source), changed, upto)

    build = partial(rebuild, home=home, settings=settings, run=partial(run_shards, workers=workers), changes_upto=upto)
    base = None if kept is None else _root(kept)
    if base is None or base.space != source.space:
        base = open_index(build(source, None), verify=False)
    asked = queries[np.random.default_rng(settings.seed).permutation(len(queries))[:RECALL_QUERIES]]
    mapped = asked if wanted is None else wanted.apply(asked)
    index: ChunkIndex = base
    refused = ""
    try:
        if wanted is not None:
            index = fold(base, wanted)
        found = check_recall(index, mapped, floor=recall)
    except FoldRefused as error:
        if wanted is None:
            raise
        refused = error.problem
        index = open_index(build(source, wanted), verify=False)
        found = check_recall(index, mapped, floor=recall)
    swap(pointer, index.path, log, wanted, mapped, expected=expected)
    return Swapped(index.digest, index.facts["strategy"], found, len(asked), refused, len(source), changed, upto)


def _kept(home: Path, digest: str, log: ChangeLog, source: VectorSource, settings: IndexSettings) -> tuple[ChunkIndex | None, int]:
    """The index that serves, where it can go on with the changes in `log`, and how many chunks were logged for that.

    A catalogue that is compared chunk by chunk is rebuilt in a moment, so only inverted lists are kept; what is damaged is not.
    """
    if not digest or len(source) <= settings.most_flat:
        return None, 0
    try:
        index = open_index(home / f"sha256-{digest}")
        facts, base = _root(index).facts, dataclasses.replace(index.space, adapter="", dimension=source.space.dimension)
        if base != source.space or facts.get("format") != FORMAT or facts["settings"] != dataclasses.asdict(settings):
            return None, 0
        found = difference(index, log, source)
    except (DamagedArtifact, SpaceMismatch):  # the latter: changes of another encoder, which a rollback left behind
        return None, 0
    if found is None:
        return None, 0
    if len(found):
        log.append(found.upserted, found.vectors, found.deleted)
    return index, len(found)


def _root(index: ChunkIndex) -> ChunkIndex:
    """The index that holds the vectors."""
    return index.base if isinstance(index, FoldedIndex) else index
