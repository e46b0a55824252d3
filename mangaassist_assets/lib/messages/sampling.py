"""Which of a week's requests are worth a label: a random slice that measures, and an uncertain, diverse part that teaches.

The control slice is a simple random sample of all answers. It is drawn by permanent random numbers (Ohlsson 1995): the requests whose
salted hashes are smallest, so that segments which arrive late change few of them.

The uncertain part is drawn with probability proportional to uncertainty x diversity. Near-duplicates count as one text. A text's size is
(1 - confidence) / sqrt(U), U the uncertainty of its cluster together: a cluster with four times the doubt gets twice the labels, not four
times. Drawing is systematic along the clusters (Madow 1949), so that inclusion probabilities are exact and each cluster gets its
expected number, rounded up or down.
"""

import datetime as dt
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.messages.duplicates import near_duplicate_groups, near_duplicates_of
from mangaassist_assets.lib.messages.labelling import message_id
from mangaassist_assets.lib.messages.queue import Labelling
from mangaassist_assets.lib.messages.splitting import bucket

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SAMPLE = pa.schema(
    [
        ("week", pa.date32()),
        ("request_id", pa.string()),
        ("message_id", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("intent", pa.string()),
        ("confidence", pa.float32()),
        ("model_digest", pa.string()),
        ("stratum", pa.string()),
        ("inclusion_probability", pa.float64()),
        ("cluster", pa.int64()),
        ("represents", pa.int64()),
    ]
)
COPIED = ("request_id", "text", "language", "intent", "confidence", "model_digest")
READ = (*COPIED, "flags", "error")  # columns of interactions that are needed
COMPONENTS = 48


def low_confidence_sample(interactions: pa.Table, labelled: Sequence[str], week: dt.date, settings: Labelling) -> pa.Table:
    """One row per request of one week to label, columns SAMPLE, control slice first.

    Args:
        interactions: columns READ of the week's answers, in their order of time. Probes, failed answers and those without a text are
            no part of what is drawn from.
        labelled: texts that have a label, golden ones among them; what is nearly equal to one is left out of the uncertain part.
        week: its Monday.
        settings: how many, and the seed.
    """
    answers = _answers(interactions)
    numbers = np.array([bucket(request, f"control {settings.seed}") for request in answers["request_id"].to_pylist()])
    control = np.argsort(numbers, kind="stable")[: settings.control_per_week]
    shares = np.full(len(control), len(control) / max(1, len(answers)))
    slice_ = _rows(answers, control, week, "control", shares, np.full(len(control), -1), np.ones(len(control), np.int64))

    pool, counts = _least_confident(answers, control, settings.pool)
    texts = answers["text"].take(pool).to_pylist()
    fresh = np.array([near is None for near in near_duplicates_of(texts, labelled, settings.near_duplicate)], bool)
    pool, counts = pool[fresh], counts[fresh]
    texts = [text for text, kept in zip(texts, fresh, strict=True) if kept]
    root = near_duplicate_groups(texts, settings.near_duplicate)
    first = np.unique(root)  # ascending confidence: a group's first text is its least confident
    represents = np.bincount(root, counts, minlength=len(texts))[first].astype(np.int64)
    cluster = _clusters([texts[i] for i in first], settings.clusters, settings.seed)
    doubt = 1 - answers["confidence"].take(pool[first]).to_numpy().astype(np.float64)
    rng = np.random.default_rng([settings.seed, week.toordinal()])
    drawn, probability = _draw(_sizes(doubt, cluster), cluster, settings.sample_per_week - len(control), rng)
    uncertain = _rows(answers, pool[first][drawn], week, "uncertain", probability[drawn], cluster[drawn], represents[drawn])
    return pa.concat_tables([slice_, uncertain])


def _answers(interactions: pa.Table) -> pa.Table:
    """What customers asked and a model answered, in the order given."""
    table = interactions.select(READ)
    probes = np.zeros(len(table), bool)
    flags = table["flags"].combine_chunks()
    probes[
        np.unique(pc.list_parent_indices(flags).to_numpy()[pc.equal(pc.list_flatten(flags), "probe").to_numpy(zero_copy_only=False)])
    ] = True
    has_text = pc.greater(pc.fill_null(pc.utf8_length(table["text"]), 0), 0)
    answered = pc.and_(pc.is_valid(table["intent"]), pc.is_valid(table["confidence"]))
    return table.filter(pc.and_(pc.and_(has_text, answered), pc.and_(pc.is_null(table["error"]), pa.array(~probes)))).combine_chunks()


def _least_confident(answers: pa.Table, control: Ints, pool: int) -> tuple[Ints, Ints]:
    """Rows of the `pool` least confident distinct texts outside the control slice, least confident first, and requests behind each."""
    codes = answers["text"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    order = np.argsort(answers["confidence"].to_numpy(), kind="stable")
    text, place, counts = np.unique(codes[order], return_index=True, return_counts=True)
    outside = ~np.isin(text, codes[control])
    place, counts = place[outside], counts[outside]
    by_confidence = np.argsort(place)[:pool]
    return order[place[by_confidence]], counts[by_confidence].astype(np.int64)


def _clusters(texts: Sequence[str], clusters: int, seed: int) -> Ints:
    """k-means over tf-idf of words and character n-grams, projected to COMPONENTS dimensions; shape (n,)."""
    if len(texts) <= clusters:
        return np.arange(len(texts))
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD

    from mangaassist_assets.lib.intents.features import Ngrams

    vectors = Ngrams.fit(texts, most_terms=30_000).matrix(texts)
    if vectors.shape[1] > COMPONENTS:
        vectors = TruncatedSVD(COMPONENTS, random_state=seed).fit_transform(vectors)
    found = MiniBatchKMeans(clusters, random_state=seed, n_init=1, batch_size=4096).fit_predict(vectors)
    return np.asarray(found, np.int64)


def _sizes(doubt: Floats, cluster: Ints) -> Floats:
    """Each text's claim to be drawn, from its doubt (n,) and its cluster (n,)."""
    doubt = np.maximum(doubt, 1e-6)
    together = np.bincount(cluster, doubt)[cluster] if len(doubt) else doubt
    return np.asarray(doubt / np.sqrt(together), np.float64)


def _draw(sizes: Floats, cluster: Ints, n: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Indices of `n` drawn texts (all where there are fewer), cluster by cluster, and the inclusion probability of every text."""
    if n >= len(sizes):
        return np.lexsort((-sizes, cluster)), np.ones(len(sizes))
    probability = np.zeros(len(sizes))
    sure = np.zeros(len(sizes), bool)
    while True:  # a text that would be drawn more than once is drawn for sure, and the rest share what is left
        probability[~sure] = (n - sure.sum()) * sizes[~sure] / sizes[~sure].sum()
        over = ~sure & (probability >= 1)
        if not over.any():
            break
        sure |= over
        probability[over] = 1.0
    order = np.lexsort((-sizes, cluster))
    steps = np.cumsum(probability[order])
    marks = rng.uniform() + np.arange(n)
    chosen = np.minimum(np.searchsorted(steps, marks, side="right"), len(steps) - 1)
    return order[np.unique(chosen)], probability


def _rows(answers: pa.Table, rows: Ints, week: dt.date, stratum: str, probability: Floats, cluster: Ints, represents: Ints) -> pa.Table:
    taken = answers.select(COPIED).take(pa.array(rows, pa.int64()))
    columns = {name: taken[name] for name in COPIED} | {
        "week": pa.array([week] * len(rows), pa.date32()),
        "message_id": pa.array([message_id(text) for text in taken["text"].to_pylist()], pa.string()),
        "stratum": pa.array([stratum] * len(rows), pa.string()),
        "inclusion_probability": pa.array(probability, pa.float64()),
        "cluster": pa.array([int(c) if c >= 0 else None for c in cluster], pa.int64()),
        "represents": pa.array(represents, pa.int64()),
    }
    return pa.table({f.name: columns[f.name].cast(f.type) for f in SAMPLE}, SAMPLE)
