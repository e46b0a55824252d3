"""Which retriever serves: the one around the index that the pointer names, or around the one before it.

An index begins to serve in two steps: the pointer flips, then `announce` says which bundle belongs to it. Between the two the previous
index still has its bundle.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from mangaassist_assets.lib.artifacts import House, write_atomic
from mangaassist_assets.lib.errors import MissingEvidence
from mangaassist_assets.lib.retrieval.adapter import FILE, Adapter
from mangaassist_assets.lib.retrieval.encoders import EncoderSettings, open_encoder
from mangaassist_assets.lib.retrieval.index import open_index
from mangaassist_assets.lib.retrieval.opensearch import OpenSearchIndex, open_serving
from mangaassist_assets.lib.retrieval.opensearch_cluster import Cluster, OpenSearchSettings
from mangaassist_assets.lib.retrieval.pointer import Pointer
from mangaassist_assets.lib.retrieval.retriever import KIND, Retriever, open_retriever
from mangaassist_assets.lib.retrieval.searching import AdaptedEncoder
from mangaassist_assets.lib.retrieval.segments import ChangeLog, LiveIndex

INDEXES = "indexes"


@dataclass(frozen=True)
class ServedRetriever:
    """Digests of an index and of the retriever bundle around it."""

    index: str
    bundle: str


def announce(home: Path, index: str, bundle: str) -> None:
    """Says that retriever `bundle` belongs to `index`."""
    write_atomic(_note(home, index), json.dumps({"bundle": bundle}).encode())


def served_retriever(home: Path) -> ServedRetriever:
    """What serves now.

    Raises:
        MissingEvidence: no index was announced yet.
    """
    pointed = Pointer(home / INDEXES).read()
    for index in (pointed.current, pointed.previous):
        if index and _note(home, index).is_file():
            return ServedRetriever(index, json.loads(_note(home, index).read_text("utf-8"))["bundle"])
    raise MissingEvidence(f"{home / INDEXES}: no index serves yet. Run `mangaassist run`, or materialise `chunk_index`.")


def load_retriever(
    house: House, served: ServedRetriever, settings: EncoderSettings, opensearch: OpenSearchSettings, *, verify: bool = True
) -> Retriever:
    """The retriever with its encoder, adapter and index, every file checked; the index is OpenSearch's where that has a `url`.

    The local index is served with the changes that the bundle names: its table of chunks and its words are those of the same moment.

    Raises:
        DamagedArtifact: something is not what was written.
        SpaceMismatch: the parts do not belong together.
        Unavailable: the encoder cannot be had here, or the cluster is away.
    """
    bundle = house.bundle(served.bundle, KIND)
    adapter = Adapter.from_bytes(house.bundle(bundle.facts["adapter_bundle"]).file(FILE).read_bytes())
    wanted = None if adapter.kind == "identity" else adapter
    encoder = open_encoder(house.bundle(bundle.facts["encoder_bundle"]), settings)
    index: LiveIndex | OpenSearchIndex
    if opensearch.url:
        index = open_serving(Cluster(opensearch))
    else:
        base = open_index(house.home / INDEXES / f"sha256-{served.index}", verify=verify)
        before = base.facts.get("changes_upto", 0)  # a bundle of older versions says nothing: none served any change
        index = LiveIndex(base, ChangeLog.of(house.home / INDEXES, encoder.space), wanted, upto=bundle.facts.get("changes_upto", before))
    return open_retriever(bundle, encoder if wanted is None else AdaptedEncoder(encoder, wanted), index)


def _note(home: Path, index: str) -> Path:
    return home / INDEXES / f"retriever-{index}.json"
