"""Pairs are mined without leaks, an adapter learns what they teach, forgets nothing general, and stays the identity where it should."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.adapter import Adapter
from mangaassist_assets.lib.retrieval.adapter_fitting import AdapterTraining, Family, TrainingData
from mangaassist_assets.lib.retrieval.adapter_training import ADAPTER_CANDIDATES, train_adapter
from mangaassist_assets.lib.retrieval.catalogue_queries import CatalogueQueries, catalogue_queries
from mangaassist_assets.lib.retrieval.chunking import CHUNKS, Chunking, chunk_documents
from mangaassist_assets.lib.retrieval.documents import Document
from mangaassist_assets.lib.retrieval.evaluation import rank_documents
from mangaassist_assets.lib.retrieval.mining import PAIRS, Mining, exact_search, mine_pairs
from mangaassist_assets.lib.retrieval.pairs import QUERIES
from mangaassist_assets.lib.retrieval.separation import BINS, separation
from mangaassist_assets.lib.retrieval.splits import of_split

D, DOCUMENTS = 24, 120
QUICK = AdapterTraining(families=(Family("linear", 0.05),), shares=(0.5, 1.0), steps=60, batch=64, candidates=64, learning_rate=1e-2)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def chunks(n=DOCUMENTS):
    documents = [Document(f"d{i:03}", "series", f"Title {i}", f"Text {i}.", (), (), (), None, (), ()) for i in range(n)]
    return chunk_documents(documents, None, Chunking()).table


def queries(n, *, general=()):
    """Query i asks for document i mod DOCUMENTS; one in four chooses."""
    rows = [
        {
            "query_id": f"q{i:04}", "query": f"query {i} {i * 7919} {i * 104729}", "relevant": [f"d{i % DOCUMENTS:03}"], "grades": [1.0],
            "not_relevant": [f"d{(i + 1) % DOCUMENTS:03}"], "kind": "", "slices": ["general"] if i in general else [],
            "split": "validation" if i % 4 == 3 else "train", "source": "s",
        }
        for i in range(n)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=QUERIES)


def skewed(seed=0, n=480):
    """Queries lie at their document, but for a strong component in eight directions that says nothing: a matrix can take it out."""
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((DOCUMENTS, D))
    noise = np.zeros((n, D))
    noise[:, :8] = 4 * rng.standard_normal((n, 8))
    return unit(documents[np.arange(n) % DOCUMENTS] + noise), unit(documents)


def data(query_vectors, chunk_vectors, asked=None):
    asked = queries(len(query_vectors)) if asked is None else asked
    pairs = mine_pairs(asked, query_vectors, chunks(), chunk_vectors, Mining(), held_out=of_split(asked, "validation"))
    return TrainingData(asked, query_vectors, chunks(), chunk_vectors, pairs)


def recall(adapter, query_vectors, chunk_vectors):
    cosines = adapter.apply(query_vectors) @ adapter.apply(chunk_vectors).T
    ranked = rank_documents(cosines, chunks()["document_id"].to_pylist(), 3)
    return np.mean([f"d{i % DOCUMENTS:03}" in found for i, found in enumerate(ranked)])


# ── mining ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pair_holds_the_judged_look_alike_first_and_never_a_relevant_document():
    found = data(*skewed()).pairs
    assert found.schema == PAIRS
    for row in found.to_pylist():
        number = int(row["query_id"][1:])
        assert row["negatives"][0] == f"d{(number + 1) % DOCUMENTS:03}#0"
        assert not {chunk.split("#")[0] for chunk in row["negatives"]} & set(row["relevant"])
        assert len(row["negatives"]) <= Mining().negatives


def test_a_wrong_chunk_almost_as_near_as_the_answer_is_no_negative():
    x = unit(np.eye(4, dtype=np.float32))
    x[1] = x[0] + 0.05  # an answer that nobody judged, most likely
    asked = queries(1)
    asked = asked.set_column(4, asked.schema.field(4), pa.array([[]], pa.list_(pa.string())))
    vectors = unit(x[:1] + 0.02)
    (row,) = mine_pairs(asked, vectors, chunks(4), unit(x), Mining(), held_out=QUERIES.empty_table()).to_pylist()
    assert "d001#0" not in row["negatives"] and set(row["negatives"]) == {"d002#0", "d003#0"}


def test_copies_of_held_out_queries_and_test_queries_give_no_pair():
    x, y = skewed(n=8)
    rows = queries(8).to_pylist()
    rows[0]["query"] = rows[3]["query"].upper() + "!"  # of the validation query 3
    rows[1]["split"] = "test"
    asked = pa.Table.from_pylist(rows, schema=QUERIES)
    found = mine_pairs(asked, x, chunks(), y, Mining(), held_out=of_split(asked, "validation", "test"))
    assert set(found["query_id"].to_pylist()) == {"q0002", "q0003", "q0004", "q0005", "q0006", "q0007"}


def test_a_search_in_blocks_finds_what_one_product_finds():
    x, y = skewed()
    rows, scores = exact_search(y, block=7)(x[:20], 5)
    full = x[:20] @ y.T
    assert (rows == np.argsort(-full, axis=1, kind="stable")[:, :5]).all()
    assert np.allclose(scores, np.take_along_axis(full, rows, 1))


def test_unknown_documents_and_missing_vectors_are_bad_input():
    x, y = skewed(n=8)
    with pytest.raises(BadInput, match="'d004', which has no chunk"):
        mine_pairs(queries(8), x, chunks(4), y[:4], Mining(), held_out=QUERIES.empty_table())
    with pytest.raises(BadInput, match="7 vectors for 8 queries"):
        mine_pairs(queries(8), x[:7], chunks(), y, Mining(), held_out=QUERIES.empty_table())


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_adapter_takes_out_what_misleads_the_encoder_on_queries_it_never_saw():
    x, y = skewed()
    trained = train_adapter(data(x, y), QUICK)
    assert trained.adapter.kind == "linear" and trained.report.schema == ADAPTER_CANDIDATES
    unseen = skewed(seed=9)  # other documents, other noise
    assert recall(trained.adapter, *unseen) > recall(Adapter.identity(D), *unseen) + 0.15
    assert trained.report["chosen"].to_pylist().count(True) == 1


def test_equal_data_give_equal_bytes():
    x, y = skewed()
    first, second = (train_adapter(data(x, y), QUICK).adapter for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


def test_pairs_of_pure_chance_leave_the_identity_all_but_seldom():
    """A gain has to be sure at 1 in 20, so among several draws one may pass by chance; more would mean that nothing guards."""
    kinds = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, y = unit(rng.standard_normal((240, D))), unit(rng.standard_normal((DOCUMENTS, D)))
        trained = train_adapter(data(x, y), dataclasses.replace(QUICK, steps=20))
        kinds.append(trained.adapter.kind)
        if kinds[-1] == "identity":
            assert trained.report.to_pylist()[0]["reason"] == "no candidate is safely better"
    assert kinds.count("identity") >= 5


def test_an_adapter_that_costs_general_queries_is_refused():
    x, y = skewed()
    general = np.arange(3, 480, 4)[::2]  # validation queries: the encoder answers all of them, and by the directions that mislead others
    x[general] = y[general % DOCUMENTS]
    asked = queries(480, general=set(general.tolist()))
    careful, careless = (
        train_adapter(data(x, y, asked), settings).report.to_pylist() for settings in (QUICK, dataclasses.replace(QUICK, general_loss=1.0))
    )
    assert [row["general_change"] for row in careful] == [row["general_change"] for row in careless]
    for row in careful:
        assert not (row["chosen"] and row["general_change"] < -QUICK.general_loss)


def test_a_family_that_cannot_be_folded_has_to_pay_for_its_rebuild():
    x, y = skewed()
    settings = dataclasses.replace(QUICK, families=(Family("linear", 0.5), Family("mlp", 0.5, 32)), not_foldable_penalty=1.0)
    trained = train_adapter(data(x, y), settings)
    assert trained.adapter.kind == "linear"
    rivals = [row["reason"] for row in trained.report.to_pylist() if row["kind"] == "mlp"]
    assert all("too little to pay for a rebuild" in reason or "too little over the identity" in reason for reason in rivals)


@pytest.mark.parametrize(("kind", "width"), [("low_rank", 8), ("mlp", 48)])
def test_every_family_learns(kind, width):
    x, y = skewed()
    settings = dataclasses.replace(QUICK, families=(Family(kind, 0.1, width),), steps=120)
    assert train_adapter(data(x, y), settings).adapter.kind == kind


def test_without_pairs_or_validation_it_is_the_identity_and_says_why_and_bad_vectors_are_named():
    x, y = skewed()
    good = data(x, y)
    only_training = of_split(good.queries, "train")
    rows = np.flatnonzero(np.array(good.queries["split"].to_pylist()) == "train")
    without_pairs = dataclasses.replace(good, pairs=PAIRS.empty_table())
    without_validation = dataclasses.replace(good, queries=only_training, query_vectors=x[rows], pairs=of_split(good.pairs, "train"))
    for poor in (without_pairs, without_validation):
        trained = train_adapter(poor, QUICK)
        assert trained.adapter.kind == "identity"
        assert "no judged queries" in trained.report["reason"].to_pylist()[0]
    broken = y.copy()
    broken[5] = np.nan
    with pytest.raises(BadInput, match="vector 5 of chunks"):
        train_adapter(dataclasses.replace(good, chunk_vectors=broken), QUICK)
    with pytest.raises(BadInput, match="'d000#0'"):
        train_adapter(dataclasses.replace(good, chunks=good.chunks.slice(1), chunk_vectors=y[1:]), QUICK)


# ── the catalogue's own queries, separation ─────────────────────────────────────────────────────────────────────────


def test_the_catalogue_asks_by_names_sentences_listings_and_likeness():
    lines = "A boy sails the sea with his friends.\nGenres: action, adventure, comedy."
    documents = [
        Document("d1", "series", "One", lines, ("Ichi", "壱"), ("d2", "gone"), (), None, (), ()),
        Document("d2", "series", "Two", "Nothing much happens here.", (), (), (), None, (), ()),
    ]
    table = chunk_documents(documents, None, Chunking()).table
    found = catalogue_queries(table, CatalogueQueries(names=3))
    assert found.schema == QUERIES and set(found["split"].to_pylist()) == {"train"}
    asked = {}
    for row in found.to_pylist():
        asked.setdefault((row["source"], row["relevant"][0]), set()).add(row["query"])
    assert asked["catalogue:name", "d1"] == {"One", "Ichi", "壱"}
    assert asked["catalogue:sentence", "d1"] == {"A boy sails the sea with his friends."}
    assert all(set(query.split()) <= {"action", "adventure", "comedy"} for query in asked["catalogue:listing", "d1"])
    (like,) = [row for row in found.to_pylist() if row["source"] == "catalogue:similar"]
    assert (like["relevant"], like["not_relevant"]) == (["d2"], ["d1"])
    assert found.equals(catalogue_queries(table, CatalogueQueries(names=3)))
    assert catalogue_queries(table, CatalogueQueries(most=2)).num_rows == 2
    assert catalogue_queries(CHUNKS.empty_table(), CatalogueQueries()).num_rows == 0


def test_answers_lie_further_from_wrong_answers_in_the_adapted_space():
    x, y = skewed()
    own = data(x, y)
    ids = {"query_ids": own.queries["query_id"].to_pylist(), "chunk_ids": own.chunks["chunk_id"].to_pylist()}
    adapter = train_adapter(own, QUICK).adapter
    table = separation(own.pairs, query_vectors=x, chunk_vectors=y, adapter=adapter, **ids)
    mean = {(row["space"], row["side"]): row["mean"] for row in table.to_pylist()}
    assert table.num_rows == 4 * BINS
    assert mean["adapted", "positive"] - mean["adapted", "negative"] > mean["base", "positive"] - mean["base", "negative"]
    assert sum(row["n"] for row in table.to_pylist() if (row["space"], row["side"]) == ("base", "positive")) == own.pairs.num_rows
