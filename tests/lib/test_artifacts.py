"""Tables and bundles appear whole or not at all, and nothing is read that its manifest does not vouch for."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.artifacts import MANIFEST, House, digest_of_table, open_bundle, write_atomic
from mangaassist_assets.lib.errors import BadInput, DamagedArtifact, MissingEvidence

FILES = {"model.onnx": b"weights", "tokenizer.json": b"{}", "nested/words.txt": "少年\n".encode()}
ROWS = {"message_id": ["a", None, "c"], "slices": [["slang"], [], None], "right": [True, None, False], "score": [0.5, None, 1.5]}


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@pytest.fixture
def bundle(house):
    return house.write_bundle("intent_classifier", FILES, {"labels": ["faq", "chitchat"]})


def rewrite_manifest(bundle, change):
    path = bundle.path / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), "utf-8")


# ── bundles ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bundle_comes_back_as_it_was_written(house, bundle):
    again = house.bundle(bundle.digest, "intent_classifier")
    assert again == bundle
    assert again.file("nested/words.txt").read_text("utf-8") == "少年\n"
    assert again.facts == {"labels": ["faq", "chitchat"]}
    assert again.size_bytes == sum(map(len, FILES.values()))


def test_the_same_content_has_the_same_digest_and_other_facts_another(house, bundle):
    assert house.write_bundle("intent_classifier", dict(reversed(FILES.items())), bundle.facts).digest == bundle.digest
    assert house.write_bundle("intent_classifier", FILES, {"labels": ["faq"]}).digest != bundle.digest


def test_one_flipped_byte_anywhere_is_found(bundle):
    for path in [p for p in bundle.path.rglob("*") if p.is_file()]:
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(DamagedArtifact, match="materialise its asset again|refused|never loaded"):
                open_bundle(bundle.path)
        path.write_bytes(whole)
    open_bundle(bundle.path)


def test_two_files_that_changed_places_are_found(bundle):
    first, second = bundle.path / "model.onnx", bundle.path / "tokenizer.json"
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    with pytest.raises(DamagedArtifact, match="size or SHA-256 differs"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["model.pkl", "model.pickle", "model.pt", "model.bin", "model.joblib", "model.npy", "model.py", "model"])
def test_a_pickle_or_code_is_never_written_into_a_bundle(house, name):
    with pytest.raises(DamagedArtifact, match="never loaded"):
        house.write_bundle("intent_classifier", {name: pickle.dumps([1])}, {})
    assert not house.bundles.exists() or not any(house.bundles.iterdir())


def test_a_manifest_that_lists_a_pickle_is_refused(bundle):
    (bundle.path / "head.pkl").write_bytes(pickle.dumps([1]))
    rewrite_manifest(bundle, lambda m: m["files"].update({"head.pkl": {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(DamagedArtifact, match="never loaded"):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    "name", ["../outside.json", "/etc/passwd.txt", "nested/../../outside.json", "..\\outside.json", "./model.onnx", "a\0.json", ""]
)
def test_a_manifest_that_names_a_path_outside_is_refused(house, bundle, name):
    rewrite_manifest(bundle, lambda m: m["files"].update({name: {"bytes": 2, "sha256": "0"}}))
    with pytest.raises(DamagedArtifact, match="outside the bundle"):
        open_bundle(bundle.path)
    with pytest.raises(DamagedArtifact, match="outside the bundle"):
        house.write_bundle("intent_classifier", {name: b"{}"}, {})


def test_a_manifest_is_never_one_of_the_files(house):
    with pytest.raises(DamagedArtifact, match="lists itself"):
        house.write_bundle("intent_classifier", {MANIFEST: b"{}"}, {})


def test_a_symbolic_link_is_refused_even_where_it_leads_to_the_right_bytes(bundle, tmp_path):
    (tmp_path / "elsewhere.json").write_bytes(FILES["tokenizer.json"])
    (bundle.path / "tokenizer.json").unlink()
    (bundle.path / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DamagedArtifact, match="not the file that was written"):
        open_bundle(bundle.path)


def test_a_linked_folder_is_refused(bundle, tmp_path):
    (bundle.path / "nested").rename(tmp_path / "moved")
    (bundle.path / "nested").symlink_to(tmp_path / "moved")
    with pytest.raises(DamagedArtifact, match="manifest and folder differ"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("extra", ["extra.json", "nested/evil.pkl", ".hidden"])
def test_an_extra_file_is_refused(bundle, extra):
    (bundle.path / extra).write_bytes(b"x")
    with pytest.raises(DamagedArtifact, match="manifest and folder differ"):
        open_bundle(bundle.path)


def test_a_missing_file_is_refused(bundle):
    (bundle.path / "model.onnx").unlink()
    with pytest.raises(DamagedArtifact, match=r"manifest and folder differ in model\.onnx"):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"kind": "k", "facts": {}}',
        b'{"kind": "k", "facts": {}, "files": ["model.onnx"]}',
        b'{"kind": "k", "facts": {}, "files": {"model.onnx": "0"}}',
        b'{"kind": "k", "facts": {}, "files": {"model.onnx": {"bytes": 1}}}',
        b'{"kind": "k", "facts": {"a": "\\ud800"}, "files": {}}',
        b"[" * 100_000,
    ],
)
def test_a_torn_or_malformed_manifest_is_one_clear_error(bundle, content):
    (bundle.path / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedArtifact, match=r"no readable manifest\.json.*Remove the folder"):
        open_bundle(bundle.path)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_manifest_cut_or_altered_anywhere_never_opens_and_never_crashes(tmp_path_factory, data):
    bundle = House(tmp_path_factory.mktemp("house")).write_bundle("k", {"a.json": b"{}"}, {"n": 1})
    whole = (bundle.path / MANIFEST).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.one_of(st.just(b""), st.binary(min_size=1, max_size=3)))
    altered = whole[:place] + other + whole[place + data.draw(st.integers(0, 3)) :]
    (bundle.path / MANIFEST).write_bytes(altered)
    try:
        opened = open_bundle(bundle.path)
    except DamagedArtifact:
        return
    assert json.loads(altered) == json.loads(whole)  # only white space changed
    assert opened == bundle


def test_a_bundle_of_another_kind_is_refused(house, bundle):
    with pytest.raises(DamagedArtifact, match="wanted 'intent_candidate'"):
        house.bundle(bundle.digest, "intent_candidate")


def test_a_folder_under_another_digest_is_refused(bundle):
    wrong = bundle.path.with_name(f"sha256-{'0' * 64}")
    bundle.path.rename(wrong)
    with pytest.raises(DamagedArtifact, match="the folder says otherwise"):
        open_bundle(wrong)


def test_writing_heals_a_damaged_bundle(house, bundle):
    (bundle.path / "model.onnx").write_bytes(b"broken!")
    assert house.write_bundle("intent_classifier", FILES, bundle.facts) == bundle
    assert open_bundle(bundle.path).file("model.onnx").read_bytes() == b"weights"
    assert [p.name for p in house.bundles.iterdir()] == [bundle.path.name]


def test_an_unlisted_file_cannot_be_asked_for(bundle):
    with pytest.raises(DamagedArtifact, match="has no file"):
        bundle.file("../../secret.json")


@pytest.mark.parametrize("digest", ["", "../x", "ABC", "sha256-00"])
def test_a_bundle_is_asked_for_by_a_hex_digest_only(house, digest):
    with pytest.raises(BadInput, match="not a hex digest"):
        house.bundle(digest)


def test_an_unknown_bundle_is_missing_evidence(house):
    with pytest.raises(MissingEvidence, match="no such bundle"):
        house.bundle("0" * 64)


def test_many_writers_of_one_bundle_at_once_all_get_it(house):
    failures = []

    def write():
        try:
            assert house.write_bundle("k", FILES, {"n": 1}).file("model.onnx").read_bytes() == b"weights"
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert len(list(house.bundles.iterdir())) == 1


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_comes_back_with_its_digest(house):
    digest = house.write_table("messages/labeled_messages", pa.table(ROWS))
    assert digest == digest_of_table(house.read_table("messages/labeled_messages"))
    assert house.read_table("messages/labeled_messages").to_pydict() == ROWS


def test_partitions_are_listed_and_read_together(house):
    for name in ("rules", "linear"):
        house.write_table("intents/intent_candidates", pa.table({"candidate": [name]}), partition=name)
    house.write_table("intents/intent_candidates", pa.table({"x": [1]}), partition="linear", part="predictions")
    assert house.partitions("intents/intent_candidates") == ["linear", "rules"]
    assert house.read_partitions("intents/intent_candidates")["candidate"].to_pylist() == ["linear", "rules"]
    with pytest.raises(MissingEvidence, match="no partition holds nothing"):
        house.read_partitions("intents/intent_candidates", part="nothing")


def test_a_table_never_made_names_the_asset_and_the_remedy(house):
    with pytest.raises(MissingEvidence, match="`training_messages`"):
        house.read_table("messages/training_messages")


@pytest.mark.parametrize("cut", [0, 3, 100, -5])
def test_a_truncated_table_is_damaged_and_says_what_to_do(house, cut):
    house.write_table("messages/labeled_messages", pa.table(ROWS))
    path = house.table_path("messages/labeled_messages")
    with open(path, "r+b") as stream:
        stream.truncate(cut if cut >= 0 else os.path.getsize(path) + cut)
    with pytest.raises(DamagedArtifact, match=r"whole Parquet file.*materialise `labeled_messages`"):
        house.read_table("messages/labeled_messages")


def test_a_flipped_byte_in_the_rows_is_found(house):
    table = pa.table({"n": np.random.default_rng(1).integers(0, 10**9, 500)})
    house.write_table("messages/labeled_messages", table)
    path = Path(house.table_path("messages/labeled_messages"))
    whole, found = path.read_bytes(), 0
    for place in range(100, 2000, 100):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert house.read_table("messages/labeled_messages").equals(table)
        except DamagedArtifact:
            found += 1
    assert found > 15


COLUMNS = {
    "text": pa.array(["a", None, "少年", ""] * 5),
    "bytes": pa.array([b"a", None, b"", b"xyz"] * 5),
    "list": pa.array([[1, 2], None, [], [None, 3]] * 5),
    "words": pa.array([["q", "r"], None, ["s"], [None]] * 5),
    "flag": pa.array([True, None, False, True] * 5),
    "int": pa.array([1, None, 3, 4] * 5, pa.int32()),
    "float": pa.array([1.5, None, -2.5, 0.0] * 5, pa.float32()),
    "struct": pa.array([{"x": 1, "y": "p"}, None, {"x": None, "y": "q"}, {"x": 3, "y": None}] * 5),
    "at": pa.array([0, None, 1, 2] * 5, pa.timestamp("us", "UTC")),
    "kind": pa.array(["rules", None, "student", "rules"] * 5).dictionary_encode(),
    "nothing": pa.nulls(20),
}


@pytest.mark.parametrize("name", COLUMNS)
@given(start=st.integers(0, 20), length=st.integers(0, 20), cut=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_a_digest_depends_on_rows_and_not_on_chunks_slices_or_parquet(name, start, length, cut):
    part = pa.table({name: COLUMNS[name]}).slice(start, length)
    fresh = pa.Table.from_pylist(part.to_pylist(), part.schema) if name != "kind" else part.take(pa.array(range(len(part)), pa.int64()))
    sink = pa.BufferOutputStream()
    pq.write_table(part, sink)
    digest = digest_of_table(part)
    assert digest == digest_of_table(fresh)
    assert digest == digest_of_table(pa.concat_tables([part.slice(0, cut), part.slice(cut)]))
    assert digest == digest_of_table(pq.read_table(pa.BufferReader(sink.getvalue())))


def test_a_digest_ignores_what_lies_beneath_nulls_and_sees_every_other_change():
    chosen = pc.if_else(pa.array([True, False, True]), pa.array([1, 2, 3]), None)
    assert digest_of_table(pa.table({"n": chosen})) == digest_of_table(pa.table({"n": [1, None, 3]}))
    tables = [
        {"n": [1, 2]},
        {"n": [2, 1]},
        {"m": [1, 2]},
        {"n": [1, None]},
        {"n": [None, 1]},
        {"n": [1.0, 2.0]},
        {"n": ["1", "2"]},
        {"n": ["", "12"]},
        {"n": ["12", ""]},
        {"n": [["1"], ["2"]]},
        {"n": [[], ["1", "2"]]},
        {"n": [["1", "2"], []]},
        {"n": [["1", "2"], None]},
        {"n": [1]},
        {"n": [1, 2], "m": [1, 2]},
        {"m": [1, 2], "n": [1, 2]},
        {"n": np.zeros(2, bool)},
    ]
    assert len({digest_of_table(pa.table(table)) for table in tables}) == len(tables)


# ── crashes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

WRITER = """
import sys, pathlib, pyarrow as pa
from mangaassist_assets.lib.artifacts import House
house = House(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
n = 0
while True:
    n += 1
    house.write_table("messages/labeled_messages", pa.table({"n": [n] * 50_000}))
    house.write_bundle("k", {"a.json": b"[1]" * 100_000, "b.json": b"[2]" * 100_000}, {"n": n})
"""


def test_a_killed_writer_leaves_no_torn_file_and_a_sweep_takes_the_rest(tmp_path):
    house = House(tmp_path)
    rng = np.random.default_rng(11)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            time.sleep(0.05 + 0.2 * rng.random())
            writer.send_signal(signal.SIGKILL)
        if house.has_table("messages/labeled_messages"):
            rows = house.read_table("messages/labeled_messages")["n"].to_pylist()
            assert len(rows) == 50_000 and len(set(rows)) == 1
        for path in house.bundles.glob("sha256-*"):
            open_bundle(path, "k")
    house.sweep()
    assert not [p for p in tmp_path.rglob("*.tmp")]
    assert house.sweep() == 0


def test_a_sweep_spares_what_a_living_writer_has_not_finished(tmp_path):
    house = House(tmp_path)
    living = tmp_path / "lake" / f".data.parquet.{os.getpid()}-0.tmp"
    dead = tmp_path / "lake" / ".data.parquet.4194304999-0.tmp"
    nameless = tmp_path / "lake" / ".old.tmp"
    unfinished = house.bundles / "sha256-0" / "model.onnx"
    for path in (living, dead, nameless, unfinished):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert house.sweep() == 3
    assert living.exists() and not dead.exists() and not nameless.exists() and not unfinished.parent.exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# ── S3 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def s3():
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="store")
        yield client
    server.stop()


def test_tables_and_bundles_go_to_s3_and_come_back_on_another_machine(s3, tmp_path):
    here = House(tmp_path / "here", "s3://store/team")
    digest = here.write_table("messages/labeled_messages", pa.table(ROWS), partition="p")
    bundle = here.write_bundle("intent_classifier", FILES, {"labels": ["faq"]})
    there = House(tmp_path / "there", "s3://store/team")
    assert digest_of_table(there.read_table("messages/labeled_messages", partition="p")) == digest
    assert there.partitions("messages/labeled_messages") == ["p"]
    assert not there.has_table("messages/labeled_messages")
    assert there.bundle(bundle.digest).file("nested/words.txt").read_bytes() == FILES["nested/words.txt"]
    with pytest.raises(MissingEvidence):
        there.read_table("messages/other")
    with pytest.raises(MissingEvidence):
        there.bundle("0" * 64)


def test_a_bundle_altered_on_s3_is_refused_and_one_without_a_manifest_is_not_there(s3, tmp_path):
    bundle = House(tmp_path / "here", "s3://store/b").write_bundle("k", FILES, {})
    there = House(tmp_path / "there", "s3://store/b")
    s3.put_object(Bucket="store", Key=f"b/bundles/{bundle.path.name}/model.onnx", Body=b"altered")
    with pytest.raises(DamagedArtifact):
        there.bundle(bundle.digest)
    s3.delete_object(Bucket="store", Key=f"b/bundles/{bundle.path.name}/{MANIFEST}")
    with pytest.raises(MissingEvidence):
        House(tmp_path / "third", "s3://store/b").bundle(bundle.digest)


def test_a_damaged_copy_in_the_cache_is_fetched_anew(s3, tmp_path):
    bundle = House(tmp_path / "here", "s3://store/c").write_bundle("k", FILES, {})
    there = House(tmp_path / "there", "s3://store/c")
    (there.bundle(bundle.digest).path / "model.onnx").write_bytes(b"rotten")
    assert there.bundle(bundle.digest).file("model.onnx").read_bytes() == b"weights"
