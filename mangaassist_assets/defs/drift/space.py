"""The frame in which the messages of all days are compared."""

import functools
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import House, digest_of, open_bundle
from mangaassist_assets.lib.drift.ingestion import chosen
from mangaassist_assets.lib.drift.moments import DriftSpace, fit_space
from mangaassist_assets.lib.errors import DamagedArtifact, MissingEvidence
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER
from mangaassist_assets.lib.retrieval.encoders import RememberingEncoder, TextEncoder, open_encoder, write_encoder
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS, ENCODING = current().ingestion, current().retrieval.encoding
TABLE, KIND, FILE = "drift/drift_space", "drift_space", "space.safetensors"
SCHEMA = pa.schema(
    [
        ("bundle_digest", pa.string()),
        ("space_digest", pa.string()),
        ("encoder_bundle", pa.string()),
        ("made_from", pa.string()),
        ("n", pa.int64()),
        ("dimension", pa.int64()),
    ]
)
REMEMBERED = 20_000  # texts: 30 MB of vectors
PROBES = pa.schema([("text", pa.string()), ("intent", pa.string())])


@dg.asset(
    deps=["labeled_messages"],
    group_name="drift",
    owners=["team:data-science"],
    kinds={"python", "onnx"},
    code_version=version("1", SETTINGS.known_messages, SETTINGS.seed, EMBEDDED_ENCODER),
    pool="training",
    automation_condition=when_inputs_change(),
)
def drift_space(house: HouseResource) -> dg.MaterializeResult:
    """One row per space of comparison, the current one: its bundle, and the encoder whose vectors it takes.

    It stays while encoder and settings do, whatever is labelled since: days are only comparable in one space. The golden labels that
    probes are judged by are kept beside it, as they are now; days that were read before are not judged again.
    """
    store = house.open()
    messages = store.read_table("messages/labeled_messages").select(["text", "intent", "split"])
    golden = messages.filter(pc.equal(messages["split"], "golden")).select(PROBES.names).cast(PROBES)
    encoder = write_encoder(store, EMBEDDED_ENCODER, ENCODING)
    made_from = digest_of([encoder.digest, SETTINGS.known_messages, SETTINGS.seed])
    row = _kept(store, made_from)
    if row is None:
        known = messages.filter(pc.equal(messages["split"], "train"))["text"].to_pylist()
        texts = chosen(known, SETTINGS.known_messages, salt=str(SETTINGS.seed))
        space = fit_space(open_encoder(encoder, ENCODING).encode(texts), SETTINGS.seed)
        bundle = store.write_bundle(KIND, {FILE: space.to_bytes()}, {"encoder": encoder.digest, "messages": len(texts)})
        row = {"bundle_digest": bundle.digest, "space_digest": space.digest, "encoder_bundle": encoder.digest}
        row |= {"made_from": made_from, "n": len(texts), "dimension": space.dimensions}
    table = pa.Table.from_pylist([row], SCHEMA)
    store.write_table(TABLE, golden, part="probes")
    store.write_table(TABLE, table)
    return materialised(row["bundle_digest"], table, figures={"messages": row["n"], "golden_probes": len(golden)})


def _kept(store: House, made_from: str) -> dict[str, Any] | None:
    """The row of the space that is there, where it was made the same way and its bundle is whole."""
    if not store.has_table(TABLE):
        return None
    row: dict[str, Any] = store.read_table(TABLE).to_pylist()[0]
    try:
        store.bundle(row["bundle_digest"], KIND)
    except (MissingEvidence, DamagedArtifact):
        return None
    return row if row["made_from"] == made_from else None


def space_of(store: House) -> tuple[DriftSpace, TextEncoder]:
    """The current space and the encoder whose vectors it takes, which remembers some from run to run of one process."""
    row = store.read_table(TABLE).to_pylist()[0]
    space = DriftSpace.from_bytes(store.bundle(row["bundle_digest"], KIND).file(FILE).read_bytes())
    return space, _encoder(store.bundle(row["encoder_bundle"]).path)


@functools.lru_cache(maxsize=1)
def _encoder(path: Path) -> TextEncoder:
    return RememberingEncoder(open_encoder(open_bundle(path), ENCODING), REMEMBERED)


def probe_labels(store: House) -> dict[str, str]:
    """Right intent of each golden probe, by its text."""
    probes = store.read_table(TABLE, part="probes")
    return dict(zip(probes["text"].to_pylist(), probes["intent"].to_pylist(), strict=True))
