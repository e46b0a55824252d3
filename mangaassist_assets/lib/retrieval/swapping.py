"""The index for a new adapter, by the cheaper of two ways that is good enough, and its turn to serve.

Fold: a linear adapter moves to the query; the vectors stay as they are, and it takes a moment. Rebuild: stored base vectors stream through
the adapter. A fold whose measured recall falls short is refused, and the index is rebuilt.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.fold import FoldRefused, check_recall, fold
from mangaassist_assets.lib.retrieval.index import ChunkIndex, Vectors, VectorSource, open_index
from mangaassist_assets.lib.retrieval.pointer import Pointer, swap
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings, rebuild
from mangaassist_assets.lib.retrieval.segments import ChangeLog
from mangaassist_assets.lib.retrieval.workers import run_shards

RECALL_QUERIES = 200


@dataclass(frozen=True)
class Swapped:
    """What serves now.

    Attributes:
        digest: of the index.
        strategy: folded, flat or ivf.
        recall_at_10: of the index against a comparison with all vectors.
        n: queries behind it.
        refused: why the fold was not taken, "" where it was, or nothing was to fold.
        rows: chunks.
    """

    digest: str
    strategy: str
    recall_at_10: float
    n: int
    refused: str
    rows: int


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
    """Builds what is missing, folds or rebuilds, warms, and lets the new index serve.

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
    pointer, log = Pointer(home), ChangeLog(home / "changes", source.space)
    expected, upto = pointer.read().current, log.last
    build = partial(rebuild, home=home, settings=settings, run=partial(run_shards, workers=workers), changes_upto=upto)
    base = open_index(build(source, None), verify=False)
    asked = queries[np.random.default_rng(settings.seed).permutation(len(queries))[:RECALL_QUERIES]]
    wanted = None if adapter.kind == "identity" else adapter
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
    return Swapped(index.digest, index.facts["strategy"], found, len(asked), refused, len(index))
