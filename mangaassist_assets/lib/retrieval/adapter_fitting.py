"""One adapter fitted to pairs, and kept close to the encoder.

The loss is InfoNCE (van den Oord et al. 2018) over in-batch, hard and random chunks; of a query with several relevant documents any may
be found: the sum over them stands inside the logarithm (Miech et al. 2020, MIL-NCE). Two thousand pairs are few for D x D weights, so
the learned change is pulled towards zero, that is, the adapter towards the identity, and general queries and the documents that answer
them are pulled to stay where they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import BadInput, MissingEvidence
from mangaassist_assets.lib.retrieval.adapter import Adapter, Kind
from mangaassist_assets.lib.retrieval.splits import of_split

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

GENERAL = "general"


@dataclass(frozen=True)
class Family:
    """A family to try: its kind, how strongly it is pulled to the identity, and for low_rank and mlp its inner width."""

    kind: Kind
    pull: float
    width: int = 0


@dataclass(frozen=True)
class AdapterTraining:
    """How adapters are trained and chosen.

    Attributes:
        families: tried one after the other.
        shares: of the learned change that are tried of each.
        steps, batch, learning_rate: of Adam with cosine decay.
        candidates: chunks that a batch is ranked against, at least: positives, hard negatives, and random ones up to this number.
        temperature: of the softmax over cosines.
        general_pull: weight of the pull on general queries and their documents.
        not_foldable_penalty: nDCG@10 that a family which can't be folded must gain over the best that can, as it costs a rebuild.
        general_loss: most recall_at_3 that general validation queries may lose.
        validation_chunks: chunks that validation queries are ranked against, at most.
        seed: of initial weights and sampling.
    """

    families: tuple[Family, ...] = (
        Family("linear", 8.0),
        Family("linear", 2.0),
        Family("low_rank", 2.0, 64),
        Family("mlp", 1.0, 384),
    )
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    steps: int = 120
    batch: int = 192
    learning_rate: float = 2e-3
    candidates: int = 768
    temperature: float = 0.05
    general_pull: float = 1.0
    not_foldable_penalty: float = 0.01
    general_loss: float = 0.01
    validation_chunks: int = 50_000
    seed: int = 20


@dataclass(frozen=True)
class TrainingData:
    """What an adapter learns from.

    Attributes:
        queries: columns QUERIES; judged ones of train and validation, and those of the catalogue.
        query_vectors: (n, D), of length 1, in their order.
        chunks: columns chunk_id and document_id at least.
        chunk_vectors: (m, D), of length 1, in their order; may be memory-mapped.
        pairs: columns PAIRS.
    """

    queries: pa.Table
    query_vectors: Floats
    chunks: pa.Table
    chunk_vectors: Floats
    pairs: pa.Table


@dataclass(frozen=True)
class Examples:
    """Pairs as rows: query (B,), positive (B,), negatives (B, H) with -1 for none, and the owner ids that count as relevant (B, R)."""

    queries: Ints
    positives: Ints
    negatives: Ints
    relevant: Ints
    probability: NDArray[np.float64]


def examples_of(data: TrainingData, splits: Sequence[str]) -> Examples:
    """The pairs of the given splits.

    Raises:
        MissingEvidence: there is none.
        BadInput: one names an unknown query, chunk or document.
    """
    pairs = of_split(data.pairs, *splits)
    if not pairs.num_rows:
        raise MissingEvidence(f"no pair of split {' or '.join(splits)}: an adapter cannot be trained. Materialise retrieval_pairs.")
    query_row = {query_id: row for row, query_id in enumerate(data.queries["query_id"].to_pylist())}
    chunk_row = {chunk_id: row for row, chunk_id in enumerate(data.chunks["chunk_id"].to_pylist())}
    owner_id = _owner_ids(data)[0]
    rows = pairs.to_pylist()
    try:
        queries = np.array([query_row[row["query_id"]] for row in rows], np.int64)
        positives = np.array([chunk_row[row["positive"]] for row in rows], np.int64)
        negatives = _padded([[chunk_row[chunk] for chunk in row["negatives"]] for row in rows])
        relevant = _padded([[owner_id[document] for document in row["relevant"]] for row in rows])
    except KeyError as error:
        remedy = "Materialise retrieval_pairs again, for the present chunks and queries."
        raise BadInput(f"a pair names {error.args[0]!r}, which is no query or chunk", where="retrieval pairs", remedy=remedy) from error
    weight = np.array([row["weight"] for row in rows], np.float64)
    return Examples(queries, positives, negatives, relevant, weight / weight.sum())


def _owner_ids(data: TrainingData) -> tuple[dict[str, int], Ints]:
    """A number for each document, and of each chunk its document's, shape (m,)."""
    number: dict[str, int] = {}
    of_chunk = [number.setdefault(document, len(number)) for document in data.chunks["document_id"].to_pylist()]
    return number, np.array(of_chunk, np.int64)


def _padded(lists: Sequence[Sequence[int]]) -> Ints:
    """Lists as rows of one array, -1 where a list is shorter than the longest."""
    table = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int64)
    for row, items in enumerate(lists):
        table[row, : len(items)] = items
    return table


def _anchors(data: TrainingData, examples: Examples) -> Floats:
    """Vectors of the training's general queries and of the chunks that answer them, which should stay where they are."""
    general = np.flatnonzero([GENERAL in slices for slices in data.queries["slices"].to_pylist()])
    own = np.isin(examples.queries, general)
    rows = (np.unique(examples.queries[own]), np.unique(examples.positives[own]))
    return np.concatenate([np.asarray(v[r], np.float32) for v, r in zip((data.query_vectors, data.chunk_vectors), rows, strict=True)])


def fit(family: Family, data: TrainingData, examples: Examples, settings: AdapterTraining) -> Adapter:
    """The adapter of one family after `settings.steps` steps on the examples; the whole of its learned change."""
    import torch
    from torch.nn.functional import normalize

    rng = np.random.default_rng(settings.seed)
    dimension = int(data.chunk_vectors.shape[1])
    module = _Module(family, dimension, settings.seed)
    optimiser = torch.optim.Adam(module.parameters, lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    owners = _owner_ids(data)[1]
    anchors = torch.from_numpy(_anchors(data, examples))
    batch = min(settings.batch, len(examples.queries))
    for _ in range(settings.steps):
        rows = rng.choice(len(examples.queries), batch, p=examples.probability)
        hard = examples.negatives[rows]
        must = np.unique(np.concatenate([examples.positives[rows], hard[hard >= 0]]))
        fill = rng.integers(0, len(owners), max(0, settings.candidates - len(must)))
        chunks = np.union1d(must, fill)
        right = torch.from_numpy(_is_relevant(owners[chunks], examples.relevant[rows], len(owners)))  # (B, C)
        queries = torch.from_numpy(np.asarray(data.query_vectors[examples.queries[rows]], np.float32))
        documents = torch.from_numpy(np.asarray(data.chunk_vectors[chunks], np.float32))
        cosines = normalize(module(queries), dim=1) @ normalize(module(documents), dim=1).T / settings.temperature
        found = torch.logsumexp(cosines.masked_fill(~right, -1e9), 1)
        loss = (torch.logsumexp(cosines, 1) - found).mean() + family.pull * module.change() / dimension
        if len(anchors):
            loss = loss + settings.general_pull * (module(anchors) - anchors).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return module.adapter()


def _is_relevant(owners: Ints, relevant: Ints, documents: int) -> NDArray[np.bool_]:
    """Owners (C,) and relevant documents (B, R) with -1 for none -> (B, C)."""
    marks = np.zeros((len(relevant), documents + 1), bool)  # the last column takes the -1
    np.put_along_axis(marks, relevant, True, axis=1)
    marks[:, -1] = False
    return marks[:, owners]


class _Module:
    """The trainable form of an adapter: its parameters hold the change alone, which starts at zero."""

    def __init__(self, family: Family, dimension: int, seed: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        self.family, self.dimension = family, dimension
        inner = dimension if family.kind == "linear" else family.width
        self.out = torch.zeros(dimension, inner, requires_grad=True)
        self.parameters = [self.out]
        if family.kind != "linear":
            # rows of length about 1, so that an input of length 1 has a standard deviation of 1 / sqrt(D) in each
            self.into = (torch.randn(inner, dimension, generator=generator) * dimension**-0.5).requires_grad_()
            self.parameters.append(self.into)
        if family.kind == "mlp":
            self.bias = torch.zeros(inner, requires_grad=True)
            self.parameters.append(self.bias)

    def __call__(self, x: "torch.Tensor") -> "torch.Tensor":
        import torch

        if self.family.kind == "linear":
            return x + x @ self.out.T
        hidden = x @ self.into.T
        if self.family.kind == "mlp":
            hidden = torch.relu(hidden + self.bias)
        adapted: torch.Tensor = x + hidden @ self.out.T
        return adapted

    def change(self) -> "torch.Tensor":
        """Squared Frobenius norm of the change of a matrix; of an mlp, of its outer weights."""
        matrix = self.out @ self.into if self.family.kind == "low_rank" else self.out
        norm: torch.Tensor = matrix.square().sum()
        return norm

    def adapter(self) -> Adapter:
        def array(tensor: "torch.Tensor") -> Floats:
            return np.ascontiguousarray(tensor.detach().numpy(), np.float32)

        tensors: dict[str, Any]
        if self.family.kind == "linear":
            tensors = {"weight": np.eye(self.dimension, dtype=np.float32) + array(self.out)}
        elif self.family.kind == "low_rank":
            tensors = {"up": array(self.out), "down": array(self.into)}
        else:
            tensors = {"out": array(self.out), "into": array(self.into), "bias": array(self.bias)}
        return Adapter(self.family.kind, self.dimension, tensors)
