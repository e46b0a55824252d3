"""The student learns, learns the same each time, and computes in numpy what it computed in torch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mangaassist_assets.lib.intents.classifier import tensors_to_bytes
from mangaassist_assets.lib.intents.encoder import tokenize
from mangaassist_assets.lib.intents.prediction import softmax
from mangaassist_assets.lib.intents.student import Distillation, Student, distil
from mangaassist_assets.lib.intents.windows import MAX_PIECES, first_pieces

SMALL = Distillation(width=16, most_terms=2000, piece_width=8, filters=8, hidden=16, epochs=12, batch_rows=16, learning_rate=0.02)


@pytest.fixture(scope="module")
def lesson(toy_rows):
    train = [row for row in toy_rows.to_pylist() if row["split"] == "train"]
    labels = sorted({row["intent"] for row in train})
    primary = np.array([labels.index(row["intent"]) for row in train])
    onehot = np.eye(3, dtype=np.float32)[primary]
    return [row["text"] for row in train], onehot, onehot, np.ones(len(train), np.float32)


@pytest.fixture(scope="module")
def student(lesson):
    return distil(*lesson, SMALL)


def test_it_learns_both_heads(student, lesson):
    texts, onehot, *_ = lesson
    first, presence = student.logits(texts)
    assert first.shape == presence.shape == onehot.shape
    assert (first.argmax(1) == onehot.argmax(1)).all()
    assert ((presence > 0) == (onehot > 0)).mean() > 0.95


def test_it_matches_soft_answers_rather_than_their_maximum(lesson):
    texts, onehot, presence, weights = lesson
    soft = (0.6 * onehot + 0.4 / 3).astype(np.float32)
    found = softmax(distil(texts, soft, presence, weights, SMALL).logits(texts)[0])
    assert np.abs(found - soft).mean() < 0.08
    assert found.max() < 0.95


def test_rows_of_no_weight_teach_nothing(lesson):
    texts, onehot, presence, weights = lesson
    wrong = np.roll(onehot, 1, axis=1)
    doubled = [*texts, *texts], np.vstack([onehot, wrong]), np.vstack([presence, wrong]), np.concatenate([weights, 0 * weights + 1e-6])
    first, _ = distil(*doubled, SMALL).logits(texts)
    assert (first.argmax(1) == onehot.argmax(1)).all()


def test_teaching_twice_gives_identical_bytes_and_another_seed_others(student, lesson):
    torch.rand(3)  # whatever ran before must not matter
    again = distil(*lesson, SMALL)
    other = distil(*lesson, Distillation(**{**SMALL.__dict__, "seed": 1}))
    assert tensors_to_bytes(again.tensors()) == tensors_to_bytes(student.tensors())
    assert tensors_to_bytes(other.tensors()) != tensors_to_bytes(student.tensors())


def test_logits_are_those_of_the_torch_layers(student, lesson):
    texts = [*lesson[0], "an unseen parcel", "", "おはよう"]
    rows = torch.from_numpy(student.ngrams.matrix(texts).toarray())
    embedding, hidden, bias, output, output_bias = map(
        torch.from_numpy, (student.embedding, student.hidden, student.hidden_bias, student.output, student.output_bias)
    )
    seen = torch.cat([rows @ embedding, torch.from_numpy(student.words.features(texts))], 1)
    expected = functional.linear(functional.relu(functional.linear(seen, hidden.T, bias)), output.T, output_bias)
    np.testing.assert_allclose(np.hstack(student.logits(texts)), expected.numpy(), atol=1e-4)


def test_answers_do_not_depend_on_order_or_batch(student, lesson):
    texts = lesson[0][:10]
    together = np.hstack(student.logits(texts))
    np.testing.assert_allclose(np.hstack(student.logits(texts[::-1]))[::-1], together, atol=1e-5)
    np.testing.assert_allclose(np.vstack([np.hstack(student.logits([text])) for text in texts]), together, atol=1e-5)


def test_what_is_loaded_answers_as_what_was_taught(student, lesson):
    again = Student.from_tensors(student.tensors(), student.words.tokenizer)
    assert student.tensors()["embedding"].dtype == student.tensors()["pieces"].dtype == np.float16
    np.testing.assert_allclose(np.hstack(again.logits(lesson[0])), np.hstack(student.logits(lesson[0])), atol=1e-5)
    assert tensors_to_bytes(again.tensors()) == tensors_to_bytes(student.tensors())


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 11])
def test_any_number_of_steps_can_be_taught(steps):
    lesson = ["a b", "c d"], np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), np.ones(2, np.float32)
    student = distil(*lesson, Distillation(width=4, epochs=steps, batch_rows=2))
    assert np.isfinite(np.hstack(student.logits(["a b"]))).all()


def test_the_vocabulary_is_limited(lesson):
    assert len(distil(*lesson, Distillation(width=4, most_terms=50, epochs=1)).ngrams) == 50


def test_what_is_learnt_does_not_hang_on_the_number_of_threads(student, lesson):
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert tensors_to_bytes(distil(*lesson, SMALL).tensors()) == tensors_to_bytes(student.tensors())
    finally:
        torch.set_num_threads(threads)


def test_pieces_that_no_message_had_keep_the_encoders_embeddings(student, lesson):
    tokenizer, pieces = first_pieces(SMALL.piece_width)
    row = tokenizer.get_vocab()
    np.testing.assert_array_equal(student.words.embedding[row["philosophy"]], pieces[row["philosophy"]].half().numpy())
    learnt = tokenize(tokenizer, lesson[0][:1], MAX_PIECES)[0]
    assert (student.words.embedding[learnt] != pieces[learnt].half().numpy()).any(axis=1).all()
