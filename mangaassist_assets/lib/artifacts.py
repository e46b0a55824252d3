"""Tables and bundles that appear whole or not at all.

The house is one folder (or `s3://bucket/prefix`):

    lake/<group>/<asset>/[partition/]<part>.parquet      tables
    bundles/sha256-<digest>/                             files of a model, and manifest.json, written last

A table is written beside its place, flushed, and renamed; so is a bundle's folder, its manifest written last. A folder without a
manifest is debris that the next writer removes. Bundles hold safetensors, ONNX, JSON, TOML, text and nothing that runs code when it
is loaded; every digest is checked before a byte is used.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence

MANIFEST = "manifest.json"
SAFE_SUFFIXES = {".safetensors", ".onnx", ".json", ".jsonl", ".toml", ".txt", ".md", ".parquet"}


def digest_of(value: bytes | str | Mapping[str, Any] | list[Any]) -> str:
    """SHA-256 in hex of bytes, of UTF-8 text, or of canonical JSON."""
    if isinstance(value, str):
        value = value.encode()
    elif not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.sha256(value).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 in hex of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Writes beside, flushes to disk, renames: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = beside_of(path)
    try:
        write_flushed(beside, content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_flushed(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk; its name may still be lost with the power."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def beside_of(path: Path) -> Path:
    """A hidden name beside `path` for what is not finished yet; it names the writing process, so that a sweep spares the living."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}.tmp")


def _is_abandoned(beside: Path) -> bool:
    """True unless the process that a `beside_of` name names still runs on this machine."""
    try:
        os.kill(int(beside.name.rsplit(".", 2)[-2].partition("-")[0]), 0)
    except PermissionError:  # it runs, as somebody else
        return False
    except (ValueError, IndexError, OSError, OverflowError):
        return True
    return False


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Bundle:
    """A verified, read-only folder of model files.

    Attributes:
        path: local folder.
        digest: hex SHA-256 of the canonical manifest; the folder is named `sha256-<digest>`.
        kind: what the bundle is, such as `intent_classifier`.
        facts: what it was made from and for: labels, encoder, training data digest.
    """

    path: Path
    digest: str
    kind: str
    facts: dict[str, Any]

    def file(self, name: str) -> Path:
        """The path of a listed file; raises DamagedArtifact for any other name."""
        listed = json.loads((self.path / MANIFEST).read_text("utf-8"))["files"]
        if name not in listed:
            raise DamagedArtifact(f"bundle {self.digest[:12]} has no file {name!r}; it lists {', '.join(sorted(listed))}")
        return self.path / name

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files together."""
        return sum(entry["bytes"] for entry in json.loads((self.path / MANIFEST).read_text("utf-8"))["files"].values())


def open_bundle(path: Path, kind: str | None = None) -> Bundle:
    """Opens a bundle after checking the manifest, each name, each size and each digest.

    Raises:
        DamagedArtifact: anything is missing, added, altered, outside the folder, or of a kind that is never loaded.
    """
    remedy = "Remove the folder and materialise its asset again."
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        facts, found_kind = dict(manifest["facts"]), str(manifest["kind"])
        digest = _bundle_digest(found_kind, manifest["files"], facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedArtifact(f"{path}: no readable {MANIFEST} ({type(error).__name__}). {remedy}") from error
    if kind is not None and found_kind != kind:
        raise DamagedArtifact(f"{path}: a bundle of kind {found_kind!r}, wanted {kind!r}. {remedy}")
    for name in files:
        _check_name(name, where=path)
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() or p.is_symlink()} - {MANIFEST}
    if present != set(files):
        odd = sorted(present ^ set(files))
        raise DamagedArtifact(f"{path}: manifest and folder differ in {', '.join(odd[:5])}. {remedy}")
    for name, (size, sha256) in files.items():
        target = path / name
        if target.is_symlink() or target.stat().st_size != size or digest_of_file(target) != sha256:
            raise DamagedArtifact(f"{path}: {name} is not the file that was written (size or SHA-256 differs). {remedy}")
    if path.name != f"sha256-{digest}":
        raise DamagedArtifact(f"{path}: the manifest's digest is {digest[:12]}, the folder says otherwise. {remedy}")
    return Bundle(path, digest, found_kind, facts)


def _check_name(name: str, *, where: Path) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or name != pure.as_posix() or name in ("", "."):
        raise DamagedArtifact(f"{where}: the manifest names {name!r}, which lies outside the bundle; it is refused.")
    if name == MANIFEST:
        raise DamagedArtifact(f"{where}: {MANIFEST} lists itself; it is the list, never a listed file.")
    if pure.suffix not in SAFE_SUFFIXES:
        raise DamagedArtifact(f"{where}: {name!r} is not safetensors, ONNX, JSON or text; such files are never loaded.")


def _bundle_digest(kind: str, files: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    return digest_of({"kind": kind, "files": dict(files), "facts": dict(facts)})


class House:
    """Where an installation's bytes live: tables and bundles, local or on S3.

    Args:
        home: the local home folder; also the cache of bundles where `store` is remote.
        store: `s3://bucket/prefix` for lake and bundles; None keeps them under `home`.
    """

    def __init__(self, home: Path, store: str | None = None) -> None:
        self.home = home
        self.remote = store is not None
        if store is None:
            self._fs, self._root = pafs.LocalFileSystem(), str(home)
        else:
            self._fs, self._root = pafs.FileSystem.from_uri(store)

    # ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────

    def table_path(self, name: str, *, partition: str | None = None, part: str = "data") -> str:
        """Path in the store's file system of table `name` = "<group>/<asset>"."""
        return "/".join(filter(None, (self._root, "lake", name, partition, f"{part}.parquet")))

    def write_table(self, name: str, table: pa.Table, *, partition: str | None = None, part: str = "data") -> str:
        """Publishes a table and returns the SHA-256 of its content (schema and rows, not Parquet's encoding)."""
        path = self.table_path(name, partition=partition, part=part)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        if self.remote:  # an object store shows an object only when its upload is complete
            with self._fs.open_output_stream(path) as stream:
                stream.write(sink.getvalue())
        else:
            write_atomic(Path(path), sink.getvalue().to_pybytes())
        return digest_of_table(table)

    def has_table(self, name: str, *, partition: str | None = None, part: str = "data") -> bool:
        return bool(self._fs.get_file_info(self.table_path(name, partition=partition, part=part)).type == pafs.FileType.File)

    def read_table(self, name: str, *, partition: str | None = None, part: str = "data") -> pa.Table:
        """Reads a table.

        Raises:
            MissingEvidence: it was never materialised.
            DamagedArtifact: its bytes are not Parquet.
        """
        path = self.table_path(name, partition=partition, part=part)
        asset = name.rsplit("/", 1)[-1]
        remedy = f"Run `mangaassist run`, or materialise `{asset}`" + (f" for {partition}." if partition else ".")
        try:
            with self._fs.open_input_file(path) as stream:
                return pq.read_table(stream, page_checksum_verification=True)
        except FileNotFoundError as error:
            raise MissingEvidence(f"{path}: {asset} has not been materialised. {remedy}") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedArtifact(f"{path}: cannot be read as a whole Parquet file ({str(error).splitlines()[0]}). {remedy}") from error

    def partitions(self, name: str) -> list[str]:
        """Names of the partitions of a table that exist, sorted."""
        folder = f"{self._root}/lake/{name}"
        found = self._fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def read_partitions(self, name: str, *, part: str = "data") -> pa.Table:
        """All partitions of a table that hold `part`, concatenated in order of partition name."""
        tables = [
            self.read_table(name, partition=p, part=part) for p in self.partitions(name) if self.has_table(name, partition=p, part=part)
        ]
        if not tables:
            raise MissingEvidence(f"{name}: no partition holds {part}. Run `mangaassist run`.")
        return pa.concat_tables(tables, promote_options="permissive")

    # ── bundles ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def bundles(self) -> Path:
        return self.home / "bundles"

    def write_bundle(self, kind: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Bundle:
        """Publishes a bundle; writing the same content again returns the one that is there.

        Args:
            kind: such as `intent_classifier`.
            files: content by relative POSIX name; suffixes in SAFE_SUFFIXES only.
            facts: JSON values that describe the content; no time stamps, so that equal content has an equal digest.
        """
        listed = {name: {"bytes": len(content), "sha256": digest_of(content)} for name, content in sorted(files.items())}
        facts = json.loads(json.dumps(facts))
        digest = _bundle_digest(kind, listed, facts)
        path = self.bundles / f"sha256-{digest}"
        for name in listed:
            _check_name(name, where=path)
        try:
            bundle = open_bundle(path)
        except DamagedArtifact:
            manifest = {"kind": kind, "files": listed, "facts": facts}
            listing = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode()
            _publish_folder(path, [*files.items(), (MANIFEST, listing)])
            bundle = open_bundle(path)
        if self.remote:
            for name in [*sorted(files), MANIFEST]:
                with self._fs.open_output_stream(f"{self._root}/bundles/{path.name}/{name}") as stream:
                    stream.write((path / name).read_bytes())
        return bundle

    def bundle(self, digest: str, kind: str | None = None) -> Bundle:
        """Opens the bundle `digest`, fetched into the local cache first where the store is remote.

        Raises:
            MissingEvidence: there is no such bundle.
            DamagedArtifact: it is not what its manifest says.
        """
        if not digest or not all(c in "0123456789abcdef" for c in digest):
            raise BadInput("not a hex digest", where=f"bundle {digest!r}", remedy="Copy it from `mangaassist status`.")
        path = self.bundles / f"sha256-{digest}"
        if self.remote:
            try:
                return open_bundle(path, kind)
            except DamagedArtifact:  # not in the cache yet, or rotten there
                self._fetch_bundle(path)
        if not path.exists():
            raise MissingEvidence(f"{path}: no such bundle. Run `mangaassist run`.")
        return open_bundle(path, kind)

    def _fetch_bundle(self, path: Path) -> None:
        source = f"{self._root}/bundles/{path.name}"
        found = self._fs.get_file_info(pafs.FileSelector(source, allow_not_found=True, recursive=True))
        names = [i.path.removeprefix(f"{source}/") for i in found if i.type == pafs.FileType.File]
        if MANIFEST not in names:
            return
        for name in names:
            if name != MANIFEST:
                _check_name(name, where=path)
        _publish_folder(path, ((name, self._read(f"{source}/{name}")) for name in sorted(names, key=lambda name: name == MANIFEST)))

    def _read(self, path: str) -> bytes:
        with self._fs.open_input_stream(path) as stream:
            return bytes(stream.read())

    def sweep(self) -> int:
        """Removes what a killed writer left: temporary files and bundles without a manifest. Returns how many."""
        places = [self.home / name for name in ("lake", "bundles", "releases", "warehouse", "indexes", "vectors", "queue", "inbox")]
        debris = [p for base in places for p in base.rglob(".*.tmp") if _is_abandoned(p)]
        debris += [p for p in self.bundles.glob("sha256-*") if not (p / MANIFEST).exists()]
        for path in debris:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return len(debris)


def _publish_folder(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Makes a folder of files appear whole, the manifest given last; whatever damaged folder lay there goes.

    Of two writers of the same bundle one rename wins and the other finds the same content in place.
    """
    beside, aside = beside_of(path), beside_of(path)
    try:
        for name, content in files:
            write_atomic(beside / name, content)
        try:
            open_bundle(path)
        except DamagedArtifact:
            with contextlib.suppress(FileNotFoundError):  # nothing lay there, or another writer moved it away already
                path.rename(aside)
            with contextlib.suppress(OSError):  # the place is taken: another writer of the same content was first
                beside.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def digest_of_table(table: pa.Table) -> str:
    """SHA-256 of a table's schema and rows, independent of chunking, of slicing, of Parquet's encoding and of what lies beneath nulls."""
    content = hashlib.sha256(f"{table.num_rows}".encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        whole = column.combine_chunks()
        for chunk in whole.chunks if isinstance(whole, pa.ChunkedArray) else [whole]:
            content.update(f"\0{name}\0{_shape_of(chunk.type)}\0".encode())
            _feed(content.update, chunk)
    return content.hexdigest()


def _shape_of(kind: pa.DataType) -> str:
    """A type's name without the names Parquet gives to list items, and without nullability."""
    if pa.types.is_dictionary(kind):
        return _shape_of(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list<{_shape_of(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{field.name}:{_shape_of(field.type)}' for field in kind)}>"
    return str(kind)


def _feed(update: Callable[[Any], None], array: pa.Array) -> None:
    """Hashes which items are null, then the others' values, packed; nested items in turn."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _feed(update, array.dictionary_decode())
    update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    dense = array.drop_null()
    if pa.types.is_null(kind):
        return None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        update(np.asarray(pc.list_value_length(dense), np.int64).tobytes())
        _feed(update, dense.flatten())
    elif pa.types.is_struct(kind):
        for field in dense.flatten():
            _feed(update, field)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        update(np.asarray(pc.binary_length(dense), np.int64).tobytes())
        packed = dense.cast(pa.large_binary())
        bounds = np.frombuffer(packed.buffers()[1], np.int64)[packed.offset : packed.offset + len(packed) + 1]
        if len(packed) and bounds[-1] > bounds[0]:
            update(packed.buffers()[2][int(bounds[0]) : int(bounds[-1])])
    elif pa.types.is_boolean(kind):
        update(np.packbits(dense.to_numpy(zero_copy_only=False)).tobytes())
    elif len(dense):
        width = kind.bit_width // 8
        update(dense.buffers()[1][dense.offset * width : (dense.offset + len(dense)) * width])
    return None
