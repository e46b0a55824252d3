"""The linear candidate is scikit-learn's logistic regression, without scikit-learn where it is served."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mangaassist_assets.lib.intents.classifier import tensors_to_bytes
from mangaassist_assets.lib.intents.linear import LinearModel, train_linear
from mangaassist_assets.lib.intents.prediction import softmax


def data(toy_rows, classes):
    train = [row for row in toy_rows.to_pylist() if row["split"] == "train"]
    labels = sorted({row["intent"] for row in train})[:classes]
    train = [row for row in train if row["intent"] in labels]
    return [row["text"] for row in train], np.array([labels.index(row["intent"]) for row in train])


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_scikit_learn(classes, toy_rows):
    texts, primary = data(toy_rows, classes)
    weights = np.linspace(0.2, 1.5, len(texts)).astype(np.float32)
    model = train_linear(texts, primary, weights, classes=classes)
    reference = LogisticRegression(C=10.0, max_iter=60, tol=1e-5)
    reference.fit(model.ngrams.matrix(texts), primary, sample_weight=weights)
    reference.coef_ = reference.coef_.astype(np.float16).astype(np.float64)  # as weights are stored
    unseen = [*texts, "where is the refund", "おはよう", ""]
    assert model.logits(unseen).shape == (len(unseen), classes)
    np.testing.assert_allclose(softmax(model.logits(unseen)), reference.predict_proba(model.ngrams.matrix(unseen)), atol=1e-5)


def test_row_weights_count(toy_rows):
    texts, primary = ["same words here", "same words here", "other"], np.array([0, 1, 1])
    for weights, expected in (([9, 1, 1], 0), ([1, 9, 1], 1)):
        model = train_linear(texts, primary, np.array(weights, np.float32), classes=2)
        assert model.logits(["same words here"]).argmax() == expected


def test_it_learns_and_is_the_same_each_time(toy_rows):
    texts, primary = data(toy_rows, 3)
    weights = np.ones(len(texts), np.float32)
    model, again = (train_linear(texts, primary, weights, classes=3) for _ in range(2))
    assert (model.logits(texts).argmax(1) == primary).all()
    assert tensors_to_bytes(model.tensors()) == tensors_to_bytes(again.tensors())


def test_what_is_loaded_answers_as_what_was_trained(toy_rows):
    texts, primary = data(toy_rows, 3)
    model = train_linear(texts, primary, np.ones(len(texts), np.float32), classes=3)
    again = LinearModel.from_tensors(model.tensors())
    np.testing.assert_allclose(again.logits(texts), model.logits(texts), atol=1e-5)
    assert tensors_to_bytes(again.tensors()) == tensors_to_bytes(model.tensors())


def test_serving_it_imports_neither_scikit_learn_nor_torch():
    code = (
        "import sys, numpy as np\n"
        "from mangaassist_assets.lib.intents.features import Ngrams\n"
        "from mangaassist_assets.lib.intents.linear import LinearModel\n"
        "n = Ngrams.fit(['a b', 'a b'])\n"
        "LinearModel(n, np.ones((len(n), 2)), np.zeros(2)).logits(['a'])\n"
        "assert not {'sklearn', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
