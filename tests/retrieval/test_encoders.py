"""An encoder gives what sentence-transformers gives, alone or in company, and comes back from its bundle as the same space."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.errors import DamagedArtifact, Unavailable
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER
from mangaassist_assets.lib.retrieval import encoders
from mangaassist_assets.lib.retrieval.encoders import (
    EncoderSettings,
    GraphEncoder,
    RememberingEncoder,
    load_encoder,
    open_encoder,
    unit_rows,
    write_encoder,
)
from mangaassist_assets.lib.retrieval.sentence_model import model_folder, read_sentence_model
from mangaassist_assets.lib.retrieval.space import SpaceMismatch

ONE_THREAD = EncoderSettings(threads=1)
TEXTS = ["where is my order", "", "manga like naruto", "read the book " * 30, "half a pair \ud83d"]


def tiny_folder(folder, pooling="mean", model_type="bert", **sentence):
    """A two-layer sentence-transformers model of random weights, in the files that the hub has."""
    import transformers as hf
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz'?.,:"
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(f"##{c}" for c in letters)]
    built = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    built.normalizer, built.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    built.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    hf.PreTrainedTokenizerFast(tokenizer_object=built, model_max_length=1000, **names).save_pretrained(folder)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = {"bert": hf.BertConfig, "xlm-roberta": hf.XLMRobertaConfig, "electra": hf.ElectraConfig}[model_type]
    torch.manual_seed(3)
    made = hf.AutoModel.from_config(config(**sizes, pad_token_id=1, max_position_embeddings=66, initializer_range=0.3))
    made.eval().save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"embedding_dimension": 16, "pooling_mode": pooling}))
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, **sentence}))
    prompts = {"query": "find: ", "document": ""}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts, "default_prompt_name": None}))
    return folder


def expected(folder, texts, prompt=""):
    """The same by transformers and torch, text by text."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        text = (prompt + text).encode("utf-8", "replace").decode()
        with torch.inference_mode():
            states = model(**tokenizer(text, truncation=True, max_length=24, return_tensors="pt")).last_hidden_state[0].numpy()
        rows.append(states.mean(0) if json.loads((folder / "1_Pooling/config.json").read_text())["pooling_mode"] == "mean" else states[0])
    return unit_rows(np.array(rows))


@pytest.mark.parametrize(("pooling", "model_type"), [("mean", "bert"), ("cls", "bert"), ("mean", "xlm-roberta")])
def test_a_graph_gives_the_vectors_of_transformers_cut_at_the_model_s_length_and_of_length_one(tmp_path, pooling, model_type):
    folder = tiny_folder(tmp_path, pooling, model_type)
    encoder = load_encoder(str(folder), ONE_THREAD)
    assert isinstance(encoder, GraphEncoder)
    found = encoder.encode(TEXTS)
    assert found.dtype == np.float32 and found.shape == (len(TEXTS), 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, expected(folder, TEXTS), atol=1e-5)


def test_a_query_is_encoded_behind_the_model_s_prompt_for_queries(tmp_path):
    folder = tiny_folder(tmp_path)
    encoder = load_encoder(str(folder), ONE_THREAD)
    np.testing.assert_allclose(encoder.encode(TEXTS, queries=True), expected(folder, TEXTS, "find: "), atol=1e-5)


def test_a_vector_does_not_depend_on_the_texts_beside_it_or_on_threads(tmp_path):
    folder = tiny_folder(tmp_path)
    alone, together = load_encoder(str(folder), ONE_THREAD), load_encoder(str(folder), EncoderSettings(threads=2))
    assert b"".join(alone.encode([text]).tobytes() for text in TEXTS) == together.encode(TEXTS).tobytes()
    assert alone.encode([]).shape == (0, 16)


def test_an_encoder_that_remembers_asks_for_new_texts_only_and_gives_the_same_vectors():
    class Counting:
        space, asked = None, []

        def encode(self, texts, *, queries=False):
            self.asked.append(list(texts))
            return np.array([[len(text), text == "b", queries] for text in texts], np.float32).reshape(-1, 3)

    plain, counting = Counting(), Counting()
    plain.asked, remembering = [], RememberingEncoder(counting, most=3)
    steps = [(["a", "b", "a"], True), (["b", "cc"], True), (["a"], False), (["dd", "b"], True), (["a", "b"], True), ([], True)]
    for texts, queries in steps:
        np.testing.assert_array_equal(remembering.encode(texts, queries=queries), plain.encode(texts, queries=queries))
    assert counting.asked == [["a", "b"], ["cc"], ["a"], ["dd"], ["a"], []]


def test_the_space_tells_weights_pooling_prompts_and_length_apart_but_not_the_folder(tmp_path):
    spaces = []
    for name, changes in {
        "a/model": {},
        "b/model": {},
        "c/model": {"pooling": "cls"},
        "d/model": {"max_seq_length": 12},
    }.items():
        (tmp_path / name).mkdir(parents=True)
        spaces.append(load_encoder(str(tiny_folder(tmp_path / name, **changes)), ONE_THREAD).space)
    assert spaces[0] == spaces[1]
    assert len(set(spaces)) == 3
    assert spaces[0].pooling == "mean" and spaces[0].normalised and spaces[0].dimension == 16 and spaces[0].encoder == "model"


def test_old_pooling_flags_are_read_and_what_no_graph_computes_is_told(tmp_path):
    folder = tiny_folder(tmp_path)
    pooling = folder / "1_Pooling/config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert (read_sentence_model(folder).pooling, read_sentence_model(folder).graph) == ("cls", True)
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}))
    assert (read_sentence_model(folder).pooling, read_sentence_model(folder).graph) == ("max+mean", False)
    (folder / "modules.json").unlink()
    assert read_sentence_model(folder).pooling == "mean"


def test_another_family_runs_by_the_library_where_it_is_installed_and_is_refused_by_name_elsewhere(tmp_path, monkeypatch):
    folder = tiny_folder(tmp_path / "electra", model_type="electra")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "sentence_transformers", None)
        with pytest.raises(Unavailable, match="pip install sentence-transformers"):
            load_encoder(str(folder), ONE_THREAD)
    pytest.importorskip("sentence_transformers")
    encoder = load_encoder(str(folder), ONE_THREAD)
    texts = TEXTS[:4]
    np.testing.assert_allclose(encoder.encode(texts), expected(folder, texts), atol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts, queries=True), expected(folder, texts, "find: "), atol=1e-5)
    bundle = write_encoder(House(tmp_path / "home"), str(folder), ONE_THREAD)
    assert open_encoder(bundle, ONE_THREAD).space == encoder.space
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    with pytest.raises(SpaceMismatch):
        open_encoder(bundle, ONE_THREAD)


def test_a_bundle_is_the_same_encoder_again_and_needs_neither_torch_nor_transformers(tmp_path, monkeypatch):
    house, folder = House(tmp_path / "home"), tiny_folder(tmp_path / "model")
    bundle = write_encoder(house, str(folder), ONE_THREAD)
    assert write_encoder(House(tmp_path / "other"), str(folder), ONE_THREAD).digest == bundle.digest
    with monkeypatch.context() as patched:
        patched.setattr(encoders, "export_sentence_model", None)  # the second time nothing is exported
        assert write_encoder(house, str(folder), ONE_THREAD).digest == bundle.digest
    made, opened = load_encoder(str(folder), ONE_THREAD), open_encoder(bundle, ONE_THREAD)
    assert opened.space == made.space
    assert opened.encode(TEXTS, queries=True).tobytes() == made.encode(TEXTS, queries=True).tobytes()
    code = (
        "import sys; from pathlib import Path; from mangaassist_assets.lib.artifacts import open_bundle; "
        "from mangaassist_assets.lib.retrieval.encoders import EncoderSettings, open_encoder; "
        "open_encoder(open_bundle(Path(sys.argv[1])), EncoderSettings(threads=1)).encode(['hi']); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(bundle.path)], check=True, cwd=root)


def test_what_is_no_encoder_is_refused_by_name(tmp_path):
    with pytest.raises(Unavailable, match="no sentence-transformers model"):
        load_encoder(str(tmp_path), ONE_THREAD)
    with pytest.raises(Unavailable, match="some/model"):
        load_encoder("some/model", EncoderSettings(hub="never"))
    house = House(tmp_path)
    with pytest.raises(DamagedArtifact, match="chunk_index"):
        open_encoder(house.write_bundle("chunk_index", {}, {}), ONE_THREAD)


def test_the_embedded_encoder_is_read_as_it_was_published():
    found = read_sentence_model(model_folder(EMBEDDED_ENCODER, "never"))
    assert (found.pooling, found.max_tokens, found.query_prompt, found.document_prompt, found.graph) == ("mean", 256, "", "", True)
