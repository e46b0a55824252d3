"""The ONNX graph answers as torch does, alone or in company, and only on the provider that was asked for."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from mangaassist_assets.lib.errors import Unavailable
from mangaassist_assets.lib.intents.encoder import FineTuned, build, from_pretrained
from mangaassist_assets.lib.intents.export import CPU, OnnxEncoder, to_int8, to_onnx

FAMILIES = ("bert", "distilbert", "roberta")
TEXTS = [
    "where is my order?",
    "hi",
    "",
    "refund the book, money back now",
    "any good manga like naruto to read",
    "hello " * 40,
    "\ud83d ok",
]
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def tuned(saved_model):
    made = {}
    for family in FAMILIES:
        pretrained = from_pretrained(str(saved_model(family)))
        torch.manual_seed(2)
        head = torch.randn(6, 64), torch.randn(6)
        made[family] = FineTuned(
            build(pretrained.shape, pretrained.weights).eval(), pretrained.shape, *head, pretrained.tokenizer, MAX_TOKENS
        )
    return made


@pytest.fixture(scope="module")
def graphs(tuned):
    return {family: to_onnx(model) for family, model in tuned.items()}


def session(model, graph, **options):
    return OnnxEncoder(graph, model.tokenizer, max_tokens=MAX_TOKENS, pad_id=model.shape.pad_id, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_float32_graph_equals_torch(family, tuned, graphs):
    found, expected = session(tuned[family], graphs[family]).logits(TEXTS), tuned[family].logits(TEXTS)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.shape == (len(TEXTS), 3)
        assert theirs.std() > 0.5
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_of_the_graph_equals_torch(family, tuned, graphs):
    model = tuned[family]
    ids = [encoding.ids for encoding in model.tokenizer.encode_batch(TEXTS[:5])]
    lengths = np.array([len(row) for row in ids], np.int32)
    padded = np.array([row + [model.shape.pad_id] * (lengths.max() + 3 - len(row)) for row in ids], np.int64)
    found = onnxruntime.InferenceSession(graphs[family], providers=[CPU]).run(None, {"input_ids": padded, "lengths": lengths})[0]
    np.testing.assert_allclose(found, np.hstack(model.logits(TEXTS[:5])), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_export_has_the_same_bytes(family, tuned, graphs):
    assert to_onnx(tuned[family]) == graphs[family]


def test_int8_has_the_same_bytes_again_is_smaller_and_mostly_agrees(tuned):
    rng = np.random.default_rng(0)
    words = ["order", "refund", "hello", "manga", "money", "late", "read", "naruto", "book", "thanks"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 8))) for _ in range(200)]
    usual = torch.from_numpy(np.hstack(tuned["bert"].logits(texts)).mean(0))
    balanced = replace(tuned["bert"], head_bias=tuned["bert"].head_bias - usual)  # so that all three classes occur
    graph = to_onnx(balanced)
    small = to_int8(graph)
    assert small == to_int8(graph)
    assert len(small) < 0.7 * len(graph)
    first, _ = session(balanced, small).logits(texts)
    expected, _ = balanced.logits(texts)
    assert np.bincount(expected.argmax(1), minlength=3).min() > 20
    assert (first.argmax(1) == expected.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_answer_does_not_depend_on_its_neighbours(precision, tuned, graphs):
    graph = graphs["bert"] if precision == "float32" else to_int8(graphs["bert"])
    encoder = session(tuned["bert"], graph)
    together = np.hstack(encoder.logits(TEXTS))
    alone = np.vstack([np.hstack(encoder.logits([text])) for text in TEXTS])
    backwards = np.hstack(session(tuned["bert"], graph, threads=3).logits(TEXTS[::-1]))[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, backwards)


def test_no_texts_give_no_rows(tuned, graphs):
    first, presence = session(tuned["bert"], graphs["bert"]).logits([])
    assert first.shape == presence.shape == (0, 3)


def test_the_session_says_which_provider_it_runs_on(tuned, graphs):
    assert session(tuned["bert"], graphs["bert"]).provider == "CPUExecutionProvider"


@pytest.mark.parametrize("provider", ["ROCMExecutionProvider", "CoreMLExecutionProvider", "NoSuchExecutionProvider"])
def test_a_provider_that_is_not_built_in_is_unavailable(provider, tuned, graphs):
    with pytest.raises(Unavailable, match=provider):
        session(tuned["bert"], graphs["bert"], provider=provider)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_unavailable_and_never_the_cpu(tuned, graphs):
    with pytest.raises(Unavailable, match="CUDAExecutionProvider"):
        session(tuned["bert"], graphs["bert"], provider="CUDAExecutionProvider")
