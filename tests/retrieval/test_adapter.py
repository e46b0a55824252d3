"""An adapter changes vectors as its family says, folds into the query where it is a matrix, and survives a file."""

import numpy as np
import pytest

from mangaassist_assets.lib.errors import BadInput, DamagedArtifact
from mangaassist_assets.lib.retrieval.adapter import Adapter


def unit(n, d=8, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def adapter(kind, d=8, r=3):
    rng = np.random.default_rng(5)
    shapes = {
        "identity": {},
        "linear": {"weight": (d, d)},
        "low_rank": {"up": (d, r), "down": (r, d)},
        "mlp": {"out": (d, r), "into": (r, d), "bias": (r,)},
    }[kind]
    return Adapter(kind, d, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


@pytest.mark.parametrize("kind", ["identity", "linear", "low_rank", "mlp"])
def test_adapted_vectors_have_length_one_and_a_file_gives_them_back(kind):
    one, x = adapter(kind), unit(5)
    assert np.allclose(np.linalg.norm(one.apply(x), axis=1), 1, atol=1e-6)
    again = Adapter.from_bytes(one.to_bytes())
    assert again.kind == kind and again.digest == one.digest
    assert (again.apply(x) == one.apply(x)).all()


@pytest.mark.parametrize("kind", ["identity", "linear", "low_rank"])
def test_a_matrix_folds_into_the_query_cosines_included(kind):
    one, queries, documents = adapter(kind), unit(4), unit(6, seed=1)
    folded = one.query_side(queries) @ documents.T / one.document_norms(documents)
    folded /= np.linalg.norm(one.raw(queries), axis=1, keepdims=True)
    assert np.allclose(folded, one.apply(queries) @ one.apply(documents).T, atol=1e-5)


def test_an_mlp_is_not_foldable_and_says_what_to_do():
    assert not adapter("mlp").foldable
    with pytest.raises(BadInput, match="Rebuild the index"):
        adapter("mlp").query_side(unit(1))


def test_the_identity_changes_nothing():
    assert np.allclose(Adapter.identity(8).apply(unit(3)), unit(3), atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_a_share_of_nothing_is_the_identity_and_the_whole_share_is_the_adapter(kind):
    one, x = adapter(kind), unit(5)
    assert np.allclose(one.blended(0.0).apply(x), x, atol=1e-5)
    assert np.allclose(one.blended(1.0).apply(x), one.apply(x), atol=1e-5)


def test_another_dimension_a_zero_vector_and_nan_are_refused():
    with pytest.raises(BadInput, match="wanted"):
        adapter("linear").apply(unit(2, d=4))
    x = unit(3)
    x[1] = 0
    with pytest.raises(BadInput, match="vector 1 is zero"):
        adapter("linear").apply(x)
    x[1] = np.nan
    with pytest.raises(BadInput, match="vector 1"):
        adapter("linear").apply(x)


def test_a_damaged_file_or_ill_fitting_tensors_are_never_loaded():
    content = adapter("linear").to_bytes()
    for damaged in (b"", content[:40], content[:-4], b"x" * 100):
        with pytest.raises(DamagedArtifact):
            Adapter.from_bytes(damaged)
    with pytest.raises(DamagedArtifact):
        Adapter("linear", 8, {"weight": np.zeros((8, 4), np.float32)})
    with pytest.raises(DamagedArtifact):
        Adapter("linear", 2, {"weight": np.full((2, 2), np.nan, np.float32)})
