"""Our encoder is transformers' encoder, trains reproducibly, and refuses what it cannot compute rightly."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import Unavailable
from mangaassist_assets.lib.intents import encoder
from mangaassist_assets.lib.intents.encoder import FineTuning, build, fine_tune, from_pretrained, length_batches, tokenize

FAMILIES = ("bert", "distilbert", "roberta")
TEXTS = ["where is my order?", "hi", "refund the book, money back now", "any good manga like naruto to read", ""]


def padded(ids, pad_id, extra=0):
    width = max(map(len, ids)) + extra
    return (
        torch.tensor([row + [pad_id] * (width - len(row)) for row in ids]),
        torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in ids]),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_those_of_transformers(family, saved_model, make_tiny_model):
    pretrained = from_pretrained(str(saved_model(family)))
    ids, mask = padded(tokenize(pretrained.tokenizer, TEXTS, 32), pretrained.shape.pad_id)
    with torch.inference_mode():
        theirs = make_tiny_model(family)(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        ours = build(pretrained.shape, pretrained.weights).eval()(ids, mask)
    assert theirs[mask].std() > 0.1
    torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-5, rtol=1e-5)


def test_roberta_positions_begin_after_the_padding_id_whatever_it_is(saved_model, make_tiny_model):
    pretrained = from_pretrained(str(saved_model("roberta", pad_token_id=3)))
    ids, mask = padded(tokenize(pretrained.tokenizer, TEXTS[:3], 32), pretrained.shape.pad_id)
    with torch.inference_mode():
        theirs = make_tiny_model("roberta", pad_token_id=3)(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        ours = build(pretrained.shape, pretrained.weights).eval()(ids, mask)
    torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_an_answer(family, saved_model):
    pretrained = from_pretrained(str(saved_model(family)))
    module = build(pretrained.shape, pretrained.weights).eval()
    ids = tokenize(pretrained.tokenizer, TEXTS, 32)
    with torch.inference_mode():
        alone = [encoder.mean_pool(module(*padded([row], 0)), padded([row], 0)[1]) for row in ids]
        inputs = padded(ids, pretrained.shape.pad_id, extra=9)
        together = encoder.mean_pool(module(*inputs), inputs[1])
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "electra"])
def test_another_family_is_unavailable_by_its_name(family, saved_model):
    with pytest.raises(Unavailable, match=family):
        from_pretrained(str(saved_model(family)))


@pytest.mark.parametrize(("family", "change"), [("bert", {"hidden_act": "relu"}), ("distilbert", {"activation": "relu"})])
def test_another_activation_is_unavailable_rather_than_computed_as_gelu(family, change, saved_model):
    with pytest.raises(Unavailable, match="relu"):
        from_pretrained(str(saved_model(family, **change)))


def test_a_folder_without_weights_is_unavailable_and_named(tmp_path):
    with pytest.raises(Unavailable, match=str(tmp_path)):
        from_pretrained(str(tmp_path))


def test_the_embedded_encoder_with_another_digest_is_unavailable(monkeypatch):
    monkeypatch.setattr(encoder, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(Unavailable, match="published is 000000000000"):
        from_pretrained(encoder.EMBEDDED_ENCODER)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=300),
    batch=st.integers(1, 40),
    seed=st.none() | st.integers(0, 5),
)
def test_length_batches_hold_every_row_once(lengths, batch, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    batches = list(length_batches(np.array(lengths), batch, rng))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch


@pytest.mark.parametrize("rng", [None, np.random.default_rng(1)])
def test_length_batches_pad_little(rng):
    lengths = np.random.default_rng(0).geometric(0.08, 4000).clip(1, 64)
    computed = sum(len(rows) * lengths[rows].max() for rows in length_batches(lengths, 32, rng))
    assert computed < 1.1 * lengths.sum()
    at_random = sum(32 * rows.max() for rows in np.random.default_rng(0).permutation(lengths).reshape(-1, 32))
    assert at_random > 2 * lengths.sum()


def test_unshuffled_batches_begin_with_the_longest():
    batches = list(length_batches(np.array([3, 9, 1, 7, 7]), 2))
    assert [rows.tolist() for rows in batches] == [[1, 3], [4, 0], [2]]


def toy(classes=2, copies=6):
    texts = ["where is my order", "my parcel is late", "is the order late", "refund my money", "return the book", "money back"] * copies
    primary = np.array([0, 0, 0, 1, 1, 1] * copies)
    return texts, primary, np.eye(classes, dtype=np.float32)[primary], np.ones(len(texts), np.float32)


SHORT = FineTuning(epochs=6, learning_rate=1e-3, batch_rows=8, frozen_layers=1, max_tokens=16, block_dropout=0.1)


@pytest.fixture(scope="module")
def tuned(saved_model):
    pretrained = from_pretrained(str(saved_model("bert")))
    before = {name: tensor.clone() for name, tensor in pretrained.weights.items()}
    return SimpleNamespace(pretrained=pretrained, before=before, model=fine_tune(pretrained, *toy(), SHORT))


def test_fine_tuning_twice_gives_identical_weights(tuned):
    torch.rand(7)  # whatever ran before must not matter
    again = fine_tune(tuned.pretrained, *toy(), SHORT)
    for name, tensor in tuned.model.encoder.state_dict().items():
        assert torch.equal(tensor, again.encoder.state_dict()[name]), name
    assert torch.equal(tuned.model.head_weight, again.head_weight)
    assert torch.equal(tuned.model.head_bias, again.head_bias)


def test_another_seed_gives_other_weights(tuned):
    other = fine_tune(tuned.pretrained, *toy(), FineTuning(**{**SHORT.__dict__, "seed": 21}))
    assert not torch.equal(tuned.model.head_weight, other.head_weight)


def test_fine_tuning_learns_a_separable_problem(tuned):
    texts, primary, *_ = toy(copies=1)
    first, presence = tuned.model.logits(texts)
    expected = primary.tolist()
    assert first.argmax(1).tolist() == expected
    assert presence.argmax(1).tolist() == expected


def test_the_lowest_blocks_and_the_embeddings_stay_as_pretrained_and_the_rest_moves(tuned):
    for name, tensor in tuned.model.encoder.state_dict().items():
        frozen = not name.startswith("blocks.1.")
        assert torch.equal(tensor.cpu(), tuned.before[name]) == frozen, name


def test_fine_tuning_leaves_what_it_was_given_unchanged(tuned):
    assert all(torch.equal(tensor, tuned.before[name]) for name, tensor in tuned.pretrained.weights.items())


def test_progress_counts_every_step_with_a_loss(saved_model):
    seen = []
    fine_tune(from_pretrained(str(saved_model("bert"))), *toy(), SHORT, progress=lambda *step: seen.append(step))
    assert [step for step, _, _ in seen] == list(range(1, len(seen) + 1))
    assert {steps for _, steps, _ in seen} == {len(seen)} == {6 * 5}
    assert all(0 < loss < 3 for _, _, loss in seen)


def test_the_closed_form_start_answers_already_and_both_losses_begin_small(saved_model):
    losses = []
    still = FineTuning(**{**SHORT.__dict__, "epochs": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9})
    texts, primary, presence, weights = toy()
    model = fine_tune(
        from_pretrained(str(saved_model("bert"))), texts, primary, presence, weights, still, progress=lambda *step: losses.append(step[2])
    )
    first, _ = model.logits(texts)
    assert (first.argmax(1) == primary).mean() > 0.9
    chance = np.log(presence.shape[1]) + 0.5 * np.log(2) * np.sqrt(presence.shape[1])
    assert max(losses) < chance


def test_answers_do_not_depend_on_order_or_batch(tuned):
    texts = [*toy(copies=1)[0], "a", "hello " * 20]
    whole, _ = tuned.model.logits(texts)
    backwards, _ = tuned.model.logits(texts[::-1], batch_rows=3)
    np.testing.assert_allclose(whole, backwards[::-1], rtol=1e-4, atol=1e-4)


def test_longer_texts_than_the_encoder_has_positions_are_cut_to_them(saved_model):
    pretrained = from_pretrained(str(saved_model("roberta")))
    texts, *labels = toy(copies=1)
    tuned = fine_tune(pretrained, [*texts[:-1], "hello " * 200], *labels, FineTuning(epochs=1, max_tokens=512))
    assert tuned.max_tokens == pretrained.shape.positions - pretrained.shape.position_offset == 64
    assert np.isfinite(tuned.logits(["late " * 300])[0]).all()


def test_half_a_surrogate_pair_is_read_as_an_unknown_character(tuned):
    assert tokenize(tuned.pretrained.tokenizer, ["hi \ud83d"], 8) == tokenize(tuned.pretrained.tokenizer, ["hi ?"], 8)
    assert tokenize(tuned.pretrained.tokenizer, [], 8) == []


def test_tokenizing_in_several_threads_is_safe(tuned):
    expected = tokenize(tuned.pretrained.tokenizer, TEXTS * 10, 16)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tokenize(tuned.pretrained.tokenizer, TEXTS * 10, 16), range(40)))
    assert all(ids == expected for ids in found)
