"""Filters over word pieces find in numpy what torch's convolutions find, text by text."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mangaassist_assets.lib.intents.encoder import tokenize
from mangaassist_assets.lib.intents.windows import PAD, WIDTHS, WordWindows, feature_count, first_pieces

TEXTS = ["where is my order", "", "おすすめの漫画は?", "is vol. 3 in stock", "a " * 200]


@pytest.fixture(scope="module")
def reader():
    tokenizer, pieces = first_pieces(8)
    rng = np.random.default_rng(0)
    return WordWindows(tokenizer, pieces.numpy(), [rng.normal(size=(5, 8, width)).astype(np.float32) for width in WIDTHS])


def test_features_are_the_maxima_of_torchs_convolutions(reader):
    found = reader.features(TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        ids = tokenize(reader.tokenizer, [text], 64)[0]
        read = torch.from_numpy(reader.embedding[[*ids, PAD, PAD]].astype(np.float32)).T[None]
        expected = [functional.conv1d(read, torch.from_numpy(weights)).amax(2).relu()[0] for weights in reader.filters]
        np.testing.assert_allclose(row[:-1], torch.cat(expected).numpy(), atol=1e-5)
        assert row[-1] == pytest.approx(np.log(len(ids) / 20), abs=1e-5)


def test_a_text_does_not_see_its_neighbours(reader):
    alone = np.vstack([reader.features([text]) for text in TEXTS])
    np.testing.assert_allclose(reader.features(TEXTS), alone, atol=1e-5)
    np.testing.assert_allclose(reader.features(TEXTS[::-1]), alone[::-1], atol=1e-5)


def test_the_order_of_words_matters(reader):
    one, other = reader.features(["order is late", "late is order"])
    assert np.abs(one[:5] - other[:5]).max() < 1e-5  # width 1 does not see it
    assert np.abs(one[5:] - other[5:]).max() > 0.1


def test_the_last_feature_is_the_length(reader):
    assert (np.diff(reader.features(["a", "a b", "a b c d"])[:, -1]) > 0).all()
    assert reader.features(["a", "b"]).shape == (2, feature_count(5))


def test_embeddings_start_as_principal_components_of_the_encoders():
    _, pieces = first_pieces(8)
    tokenizer, wider = first_pieces(384)
    row = tokenizer.get_vocab()
    assert (pieces[PAD] == 0).all()
    assert pieces.std() == pytest.approx(0.5, abs=0.01)
    covariance = np.cov(wider[1:].numpy().T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.05 * covariance.max()
    near, far = (functional.cosine_similarity(wider[row["book"]], wider[row[word]], dim=0) for word in ("books", "purple"))
    assert near > far + 0.2
