"""Tiny real encoders of each family, and a training table small enough to train on in a blink."""

from functools import cache

import pyarrow as pa
import pytest

WORDS = "where is my order parcel late refund return money back hello hi thanks any good manga like naruto read book the a to".split()
ORDERS = [
    "where is my order",
    "my parcel is late",
    "where is the parcel",
    "is my order late",
    "the order is late",
    "where is my late parcel",
]
REFUNDS = ["refund my money", "return the book", "money back", "refund the order", "return my manga book", "a refund of my money"]
GREETINGS = ["hello", "hi hello", "thanks hi", "hello hello", "hi thanks", "thanks hello hi"]
TOY = {"order_tracking": ORDERS, "return_request": REFUNDS, "chitchat": GREETINGS}


@cache
def tokenizer():
    """A word-piece tokenizer of some words and all ASCII letters, with RoBERTa's order of special tokens (padding is 1)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789?!.,'"
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(f"##{c}" for c in letters), *(w for w in WORDS if len(w) > 1)]
    built = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    built.normalizer = normalizers.BertNormalizer()
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    built.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=built, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>")


def tiny_model(family, **changes):
    """A two-layer, 32-wide transformers model with random weights large enough that a wrong one would show."""
    import torch
    import transformers as hf

    torch.manual_seed(5)
    size, pad = len(tokenizer()), 1
    common = {"vocab_size": size, "pad_token_id": pad, "max_position_embeddings": 66, "initializer_range": 0.3}
    bert = common | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "type_vocab_size": 2}
    made = {
        "bert": lambda: hf.BertModel(hf.BertConfig(**bert | changes)),
        "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**bert | {"type_vocab_size": 1} | changes)),
        "distilbert": lambda: hf.DistilBertModel(
            hf.DistilBertConfig(**common | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48} | changes)
        ),
        "electra": lambda: hf.ElectraModel(hf.ElectraConfig(**bert | {"embedding_size": 32} | changes)),
        "gpt2": lambda: hf.GPT2Model(hf.GPT2Config(vocab_size=size, n_positions=64, n_embd=32, n_layer=2, n_head=4)),
    }[family]().eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias") or "norm" in name.lower():  # transformers starts these at 0 and 1, where mixing them up goes unseen
                parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """Saves `tiny_model(family)` with its tokenizer once; returns the folder."""

    @cache
    def save(family, **changes):
        folder = tmp_path_factory.mktemp(family)
        tiny_model(family, **changes).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder

    return save


def table_of(rows):
    """The table `training_messages` of (text, intent, second intent, split) rows."""
    texts, intents, seconds, splits = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    n = len(rows)
    return pa.table(
        {
            "message_id": pa.array([f"{i:016x}" for i in range(n)], pa.string()),
            "text": pa.array(texts, pa.string()),
            "intent": pa.array(intents, pa.string()),
            "secondary_intent": pa.array(seconds, pa.string()),
            "slices": pa.array([[]] * n, pa.list_(pa.string())),
            "split": pa.array(splits, pa.string()),
            "source": pa.array(["toy"] * n, pa.string()),
            "weight": pa.array([1.0] * n, pa.float32()),
            "augmented": pa.array([False] * n, pa.bool_()),
        }
    )


@pytest.fixture(scope="session")
def toy_rows():
    """18 phrases of three intents, each with four endings, in all splits; no text is in two splits."""
    endings = {"train": ("", " now", " please", " today"), "validation": (" again", " ok"), "test": (" then",)}
    return table_of(
        [
            (text + ending, intent, None, split)
            for split, ends in endings.items()
            for ending in ends
            for intent, texts in TOY.items()
            for text in texts
        ]
    )


@pytest.fixture(scope="session")
def make_table():
    return table_of


@pytest.fixture(scope="session")
def make_tiny_model():
    return tiny_model
