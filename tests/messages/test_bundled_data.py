import csv
import gzip
import importlib.util
import json
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from mangaassist_assets.lib.messages.labelling import LabelledMessages, check_trainable, label_messages
from mangaassist_assets.lib.messages.reading import load_sources

DATA = Path(__file__).parents[2] / "data"
INTENTS = {
    *("product_discovery", "product_question", "recommendation", "faq", "order_tracking"),
    *("return_request", "promotion", "checkout_help", "escalation", "chitchat"),
}


@pytest.fixture(scope="module")
def bundled() -> LabelledMessages:
    return label_messages(load_sources(DATA / "sources.toml"))


def test_the_bundled_sources_give_the_ten_intents_and_can_be_learnt_from(bundled: LabelledMessages) -> None:
    assert set(bundled.counts["by_intent"]) == INTENTS
    assert set(bundled.counts["by_split"]) == {"train", "validation", "test", "golden"}
    assert min(bundled.counts["by_split"].values()) >= 200
    check_trainable(bundled.table)


def test_every_golden_message_is_kept_and_no_other_source_is_golden(bundled: LabelledMessages) -> None:
    golden = [row["source"] for row in bundled.table.select(["source", "split"]).to_pylist() if row["split"] == "golden"]
    assert Counter(golden) == {"manga_golden": 400}


def test_rows_are_refused_for_known_reasons_only(bundled: LabelledMessages) -> None:
    expected = {"over_limit", "left_out", "duplicate", "near_duplicate"} | {
        f"near_duplicate_of_{split}" for split in ("golden", "test", "validation")
    }
    assert set(bundled.counts["rejected_by_reason"]) <= expected


def test_every_bundled_source_states_its_licence_and_its_text_lies_beside_it() -> None:
    assert all(source.licence != "not stated" for source in load_sources(DATA / "sources.toml"))
    assert "Community Data License Agreement" in (DATA / "messages" / "bitext.LICENSE.txt").read_text("utf-8")
    assert "Attribution 3.0 Unported" in (DATA / "messages" / "clinc150.LICENSE.txt").read_text("utf-8")


@pytest.mark.parametrize(("name", "column", "file"), [("bitext", "intent", "bitext.csv.gz"), ("clinc150", "intent", "clinc150.csv.gz")])
def test_each_label_map_covers_its_file_and_leads_to_known_intents(name: str, column: str, file: str) -> None:
    labels = tomllib.loads((DATA / "label_maps" / f"{name}.toml").read_text("utf-8"))
    with gzip.open(DATA / "messages" / file, "rt", encoding="utf-8", newline="") as stream:
        assert {row[column] for row in csv.DictReader(stream)} == labels.keys()
    assert set(labels.values()) <= INTENTS | {""}


@pytest.fixture
def build_samples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_samples", DATA / "build_samples.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_built_from_upstream_copies_byte_for_byte_alike(build_samples: ModuleType, tmp_path: Path) -> None:
    upstream = tmp_path / "upstream"
    (upstream / "bitext" / "v8k_splits").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        content = f"utterance,intent,entity_type,category,tags\n{split} me,cancel_order,,ORDER,B\n"
        (upstream / "bitext" / "v8k_splits" / f"{split}.csv").write_text(content, "utf-8")
    (upstream / "clinc150").mkdir()
    (upstream / "clinc150" / "domains.json").write_text(json.dumps({"small_talk": ["greeting"], "work": ["taxes"]}))
    parts = {
        "train": [[f"hi {i}", "greeting"] for i in range(30)] + [[f"tax {i}", "taxes"] for i in range(30)],
        "oos_test": [["odd", "oos"]],
    }
    (upstream / "clinc150" / "data_full.json").write_text(json.dumps(parts))
    (upstream / "manga_messages").mkdir()
    (upstream / "manga_messages" / "messages.jsonl").write_text('{"text": "注文"}\n', "utf-8")
    for target in ("one", "two"):
        build_samples.main(upstream, tmp_path / target)
    names = ["bitext.csv.gz", "clinc150.csv.gz", "manga.jsonl.gz"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert all((tmp_path / "one" / name).read_bytes()[4:8] == b"\0\0\0\0" for name in names)  # no time stamp
    rows = list(csv.DictReader(gzip.open(tmp_path / "one" / "clinc150.csv.gz", "rt", encoding="utf-8")))
    assert Counter((row["intent"], row["split"]) for row in rows) == {("greeting", "train"): 12, ("taxes", "train"): 2, ("oos", "test"): 1}
    assert gzip.open(tmp_path / "one" / "bitext.csv.gz", "rt").read().splitlines()[1] == "train me,cancel_order,ORDER,B,train"
