"""Several kinds of evidence for a document, weighed into one score by weights that are learned from judged queries.

Score = sum of weight x evidence, the same weights for every document; softmax over documents reads as the probability that this is the
document that was wanted. The weights maximise the probability that goes to relevant documents. They are held near weights that do without
training, so that a few hundred queries improve them and ten don't spoil them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.glossary import Glossary, Said, without
from mangaassist_assets.lib.retrieval.lexical import LexicalIndex
from mangaassist_assets.lib.retrieval.postings import Floats
from mangaassist_assets.lib.retrieval.words import fold, is_japanese, pieces

LEAST_NAMED = 0.5  # cosine at which a mention counts as the name of a series
SURELY_NAMED = 0.6  # cosine at which the words of a mention are a name and nothing else
NEAR_BEST = 0.05  # mentions so close to the best one are meant as well
MOST_JUDGED = 1000  # documents that a training query is compared with
CHANNELS = ("meaning", "words", "added", "alike", "within", "words_best", "added_best")
NEIGHBOURS = ("meaning_near", "words_near", "added_near")
FEATURES = (
    *CHANNELS,
    *(f"japanese_{name}" for name in CHANNELS),
    *NEIGHBOURS,
    "as_written",
    "liked",
    "likes",
    "both_like",
    "itself",
)


@dataclass(frozen=True)
class Evidence:
    """What speaks for each document, all (documents,) unless said otherwise.

    Attributes:
        meaning: cosine of query, in English where the glossary knows how, and the nearest chunk.
        as_written: the same for the query as it was typed.
        words: BM25 of the query's words, of the best chunk.
        added: BM25 of what the glossary adds to them.
        alike, within: see `lexical.Names`.
        named: how surely the query asks for something like this document, 0 for all others.
        japanese: whether the query has Japanese script; one value.
    """

    meaning: Floats
    as_written: Floats
    words: Floats
    added: Floats
    alike: Floats
    within: Floats
    named: Floats
    japanese: bool


def gather(query: str, said: Said, index: LexicalIndex, glossary: Glossary, meaning: Floats, as_written: Floats) -> Evidence:
    """Asks every channel.

    Args:
        query: as typed.
        said: what `glossary` makes of it.
        index: of the documents.
        glossary: names the words that say nothing, and the phrases that ask for something similar.
        meaning: (documents,) cosines from the vector index, see `Evidence`.
        as_written: the same.
    """
    names = index.match_names(query)
    named = np.zeros(len(index.documents), np.float32)
    wanted, surest = query, SURELY_NAMED
    for mention in glossary.mentions(query):
        alike = index.match_names(mention).alike
        named = np.maximum(named, alike)
        if (sure := float(alike.max(initial=0))) >= surest:
            wanted, surest = without(query, mention), sure
    named[named < max(LEAST_NAMED, float(named.max(initial=0)) - NEAR_BEST)] = 0
    if wanted != query:  # the name says what the thing wanted is like, not what it is called
        said = glossary.say(wanted)
        names.alike[named > 0] = 0
        names.within[named > 0] = 0
    return Evidence(
        meaning,
        as_written,
        index.best_chunk(index.match_words(fold(wanted), glossary.ignored)),
        index.best_chunk(index.match_words(fold(" ".join(said.added)), glossary.ignored)),
        names.alike,
        names.within,
        named,
        any(is_japanese(piece) for piece in pieces(fold(query))),
    )


def features(evidence: Evidence, index: LexicalIndex) -> Floats:
    """The numbers that are weighed, (FEATURES, documents), each scaled to about 0..1."""
    near = index.mean_of_neighbours
    words: Floats = evidence.words / np.float32(5)
    added: Floats = evidence.added / np.float32(5)
    channels: list[Floats] = [
        evidence.meaning * 4,
        words,
        added,
        evidence.alike * 3,
        evidence.within**4 * 2,  # a name that is there in half says little
        words / max(float(words.max(initial=0)), 1e-6),
        added / max(float(added.max(initial=0)), 1e-6),
    ]
    liked, likes = index.sum_over_neighbours(evidence.named)
    rows = [
        *channels,
        *(channel * np.float32(evidence.japanese) for channel in channels),
        near(evidence.meaning) * 4,
        near(words),
        near(added),
        evidence.as_written * np.float32(4 * evidence.japanese),
        liked,
        likes,
        liked * likes,
        evidence.named * 2,
    ]
    return np.stack(rows).astype(np.float32)


@dataclass(frozen=True)
class Fusion:
    """Weights by name of feature; one that is missing is 0."""

    weights: Mapping[str, float]

    def scores(self, features: Floats) -> Floats:
        """(FEATURES, documents) -> (documents,)"""
        scores: Floats = self._vector @ features
        return scores

    @property
    def _vector(self) -> Floats:
        return np.array([self.weights.get(name, 0.0) for name in FEATURES], np.float32)


# Rounded from what is learned on the bundled queries.
UNTRAINED = Fusion(
    {
        "meaning": 3.0,
        "words": 2.5,
        "added": 1.0,
        "alike": 1.0,
        "within": 0.5,
        "words_best": 2.0,
        "added_best": 1.0,
        "meaning_near": 0.5,
        "words_near": 1.0,
        "added_near": 0.5,
        "liked": 2.0,
        "likes": 1.5,
        "itself": -1.0,
    }
)


@dataclass(frozen=True)
class JudgedQuery:
    """One training query: its features (FEATURES, candidates) and which columns are relevant (at least one)."""

    features: Floats
    relevant: NDArray[np.intp]


def judge(features: Floats, relevant: Sequence[int]) -> JudgedQuery:
    """Keeps the relevant documents and those that some channel finds best, at most some MOST_JUDGED."""
    documents = features.shape[1]
    kept = np.arange(documents)
    if documents > MOST_JUDGED:
        share = MOST_JUDGED // len(CHANNELS)
        best = [np.argpartition(-features[row], share)[:share] for row in range(len(CHANNELS))]
        kept = np.unique(np.concatenate([*best, np.asarray(relevant, np.intp)]))
    return JudgedQuery(features[:, kept], np.flatnonzero(np.isin(kept, relevant)))


def learn(queries: Sequence[JudgedQuery], *, held: float = 0.3, start: Fusion = UNTRAINED) -> Fusion:
    """Weights that minimise the mean of -log(probability of the relevant documents) + held / queries x distance from `start` squared.

    The problem is small and smooth; L-BFGS solves it in seconds, and the same queries always give the same weights.

    Args:
        queries: judged queries that are in no evaluation, with evidence from models that were not trained on them.
        held: how strongly weights stay where they start.
        start: weights to stay near.

    Raises:
        BadInput: a query has no relevant document.
    """
    from scipy.optimize import minimize

    if not queries:
        return start
    if any(len(query.relevant) == 0 for query in queries):
        raise BadInput("a query has no relevant document", where="training of the fusion", remedy="Leave it out.")
    at = start._vector.astype(np.float64)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total, slope = 0.0, np.zeros_like(weights)
        for query in queries:
            scores = weights @ query.features
            odds = np.exp(scores - scores.max())
            probability = odds / odds.sum()
            right = float(probability[query.relevant].sum()) + 1e-12
            total -= float(np.log(right))
            wanted = np.zeros_like(probability)
            wanted[query.relevant] = probability[query.relevant] / right
            slope += query.features @ (probability - wanted)
        pull = held / len(queries)
        distance = weights - at
        return total / len(queries) + pull * float(distance @ distance), slope / len(queries) + 2 * pull * distance

    found = minimize(loss, at, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    return Fusion({name: round(float(weight), 4) for name, weight in zip(FEATURES, found, strict=True)})
