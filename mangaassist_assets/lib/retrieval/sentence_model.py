"""A sentence-transformers folder, read: how it pools, how much it reads, what it puts before a query; and its graph.

Models of the BERT family whose pooling is the mean or the first token become an ONNX graph of `intents/export.py`, which needs neither
torch nor transformers afterwards.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mangaassist_assets.lib.artifacts import digest_of, digest_of_file
from mangaassist_assets.lib.errors import Unavailable
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, embedded_folder, from_pretrained
from mangaassist_assets.lib.intents.export import Graph
from mangaassist_assets.lib.intents.hub import HubUse, require_weights
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

if TYPE_CHECKING:
    from mangaassist_assets.lib.intents.encoder import Pretrained

GRAPH_POOLINGS = ("mean", "cls")
GRAPH_FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


@dataclass(frozen=True)
class SentenceModel:
    """What the files of a folder say about a model.

    Attributes:
        folder: where they lie.
        pooling: `mean`, `cls`, or the names of other poolings and further modules, joined by "+".
        max_tokens: longer texts are cut; None where only the model's positions limit it.
        query_prompt, document_prompt: put before a text, often empty.
        graph: whether the model can become a graph of `export_sentence_model`.
    """

    folder: Path
    pooling: str
    max_tokens: int | None
    query_prompt: str
    document_prompt: str
    graph: bool


@dataclass(frozen=True)
class ExportedEncoder:
    """A text encoder that needs ONNX Runtime and nothing else.

    Attributes:
        graph: ONNX bytes; output `vectors` (B, D), not normalised.
        tokenizer: JSON of the `tokenizers` library.
    """

    space: EmbeddingSpace
    graph: bytes = field(repr=False)
    tokenizer: str = field(repr=False)
    max_tokens: int
    pad_id: int
    query_prompt: str
    document_prompt: str


def model_folder(name_or_path: str, hub: HubUse) -> Path:
    """The folder of a model: the embedded one, one on disk, or a copy fetched from the hub.

    Raises:
        Unavailable: it cannot be had here.
    """
    if name_or_path == EMBEDDED_ENCODER:
        return embedded_folder()
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    from huggingface_hub import snapshot_download

    require_weights(name_or_path, hub)
    try:
        found = snapshot_download(name_or_path, allow_patterns=list(MODEL_FILES), ignore_patterns=["onnx/*", "openvino/*"])
    except Exception as error:  # the hub client raises requests, httpx, OSError and ValueError alike
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise Unavailable(f"encoder {name_or_path}: it cannot be fetched ({reason})") from error
    return Path(found)


def read_sentence_model(folder: Path) -> SentenceModel:
    """Reads `modules.json` and what it names; a plain transformers model is pooled by its mean, as sentence-transformers does.

    Raises:
        Unavailable: the folder holds no model.
    """
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    listed = _json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    if not config and not listed:
        raise Unavailable(f"encoder {folder}: it holds neither config.json nor modules.json, so it is no sentence-transformers model")
    modules = [(str(m["type"]).rpartition(".")[2], folder / m["path"]) for m in listed] or [("Transformer", folder)]
    poolings = [_pooling(_json(path / "config.json")) for kind, path in modules if kind == "Pooling"] or ["mean"]
    others = [kind.lower() for kind, _ in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    sentence = _json(folder / "sentence_bert_config.json") if (folder / "sentence_bert_config.json").is_file() else {}
    limits = [sentence.get("max_seq_length")]
    if (folder / "tokenizer_config.json").is_file():
        limits.append(_json(folder / "tokenizer_config.json").get("model_max_length"))
    known = [int(limit) for limit in limits if limit and limit < 1 << 20]  # transformers writes 1e30 for "no limit"
    extra = _json(folder / "config_sentence_transformers.json") if (folder / "config_sentence_transformers.json").is_file() else {}
    prompts: dict[str, str] = extra.get("prompts") or {}
    usual = prompts.get(extra.get("default_prompt_name") or "", "")
    pooling = "+".join(poolings + others)
    return SentenceModel(
        folder,
        pooling,
        min(known, default=None),
        prompts.get("query", usual),
        prompts.get("document", prompts.get("passage", usual)),
        config.get("model_type") in GRAPH_FAMILIES
        and (config.get("hidden_act") or config.get("activation", "gelu")) == "gelu"
        and pooling in GRAPH_POOLINGS
        and modules[0][1] == folder
        and not sentence.get("do_lower_case"),
    )


def digest_of_model(folder: Path) -> str:
    """SHA-256 over the files that a model is made of."""
    files = sorted(p for pattern in MODEL_FILES for p in folder.rglob(pattern) if p.is_file())
    return digest_of([[p.relative_to(folder).as_posix(), digest_of_file(p)] for p in files])


def _pooling(config: Mapping[str, Any]) -> str:
    """Name of a pooling as `pooling_mode`, or as the flags that came before it."""
    mode = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, chosen in sorted(config.items())
        if key.startswith("pooling_mode_") and chosen
    ]
    name = mode if isinstance(mode, str) else "+".join(mode) or "mean"
    return name if config.get("include_prompt", True) else f"{name}+without_prompt"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Unavailable(f"encoder: {path} cannot be read as JSON ({error})") from error


def export_sentence_model(name: str, model: SentenceModel) -> ExportedEncoder:
    """The model as a float32 graph.

    Args:
        name: as in `EmbeddingSpace.encoder`; the embedded encoder's weights are checked against their published digest.
        model: with `graph` set.

    Raises:
        Unavailable: its weights cannot be had here.
    """
    pretrained = from_pretrained(name if name == EMBEDDED_ENCODER else str(model.folder))
    tokenizer = pretrained.tokenizer
    tokenizer.no_truncation()
    room = pretrained.shape.positions - pretrained.shape.position_offset
    max_tokens = min(model.max_tokens or room, room)
    weights = {key: tensor.numpy() for key, tensor in pretrained.weights.items()}
    graph = Graph(pretrained.shape, weights)
    if model.pooling == "mean":
        vectors = graph.mean()
    else:
        first = graph.node("Gather", [graph.states, graph.constant("first", np.array([0], np.int64))], "first_row", axis=1)  # (B, 1, H)
        vectors = graph.node("Squeeze", [first, graph.constant("axis1", np.array([1], np.int64))], "first_state")
    graph.node("Identity", [vectors], "vectors")
    width = pretrained.shape.hidden
    told = [tokenizer.to_str(), max_tokens, model.query_prompt, model.document_prompt]
    space = EmbeddingSpace(name, _digest(pretrained, told), model.pooling, True, width)
    return ExportedEncoder(
        space,
        graph.finish("text_encoder", "vectors", width),
        tokenizer.to_str(),
        max_tokens,
        pretrained.shape.pad_id,
        model.query_prompt,
        model.document_prompt,
    )


def _digest(pretrained: "Pretrained", told: list[Any]) -> str:
    """SHA-256 over weights, shape, and all else that decides on a vector."""
    found = hashlib.sha256(json.dumps([vars(pretrained.shape), told], sort_keys=True).encode())
    for key, tensor in sorted(pretrained.weights.items()):
        found.update(f"{key} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()
