import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.labelling import (
    LABELLED_SCHEMA,
    REJECTED_SCHEMA,
    LabelledMessages,
    Limits,
    check_trainable,
    label_messages,
    message_id,
)
from mangaassist_assets.lib.messages.reading import Source
from mangaassist_assets.lib.messages.splitting import split_of


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Source]:
    """Writes a tab-separated file of rows (text, intent, split) and gives a source over it."""

    def make(name: str, *rows: tuple[str, str, str], **options: Any) -> Source:
        lines = ["text\tintent\tsplit", *("\t".join(row) for row in rows)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        return Source(name, (f"{name}.tsv",), split="split", folder=tmp_path, **options)

    return make


def kept(result: LabelledMessages, *columns: str) -> list[Any]:
    rows = [tuple(row[column] for column in columns) for row in result.table.to_pylist()]
    return [row[0] for row in rows] if len(columns) == 1 else rows


def refused(result: LabelledMessages) -> list[tuple[int, str]]:
    return [(row["source_row"], row["reason"]) for row in result.rejected.to_pylist()]


def test_a_message_is_normalised_and_redacted_and_keeps_its_provenance(source: Callable[..., Source]) -> None:
    result = label_messages(
        [source("a", ("\uff37here  is 114-5550399-0651?", "order_tracking", "train"), licence="CC0-1.0", synthetic=True)]
    )
    (row,) = result.table.to_pylist()
    assert row == {
        "message_id": message_id("Where is <ORDER>?"),
        "text": "Where is <ORDER>?",
        "intent": "order_tracking",
        "secondary_intent": None,
        "slices": [],
        "split": "train",
        "source": "a",
        "source_file": "a.tsv",
        "source_row": 2,
        "licence": "CC0-1.0",
        "synthetic": True,
        "group_id": message_id("Where is <ORDER>?"),
        "language": "en",
    }
    assert result.table.schema == LABELLED_SCHEMA and result.rejected.schema == REJECTED_SCHEMA


def test_every_row_ends_in_exactly_one_table(source: Callable[..., Source]) -> None:
    rng = random.Random(0)
    words = "order refund berserk volume late please".split()
    rows = [
        (" ".join(rng.choices(words, k=rng.randint(0, 7))), rng.choice(["a", "b"]), rng.choice(["", "train", "test", "golden"]))
        for _ in range(300)
    ]
    result = label_messages([source("a", *rows)])
    numbers = [row["source_row"] for row in [*result.table.to_pylist(), *result.rejected.to_pylist()]]
    assert sorted(numbers) == list(range(2, 302))
    assert result.counts["read"] == 300 == result.counts["kept"] + result.counts["rejected"]
    assert sum(result.counts["rejected_by_reason"].values()) == result.counts["rejected"]


def test_the_first_of_equal_texts_is_kept(source: Callable[..., Source]) -> None:
    result = label_messages(
        [source("a", ("hello there", "chitchat", ""), ("hello  there", "chitchat", "")), source("b", ("hello there", "chitchat", ""))]
    )
    assert kept(result, "source", "source_row") == [("a", 2)]
    assert [(r["source"], r["reason"], r["detail"]) for r in result.rejected.to_pylist()] == [
        ("a", "duplicate", "the same text as a.tsv row 2"),
        ("b", "duplicate", "the same text as a.tsv row 2"),
    ]


def test_texts_that_differ_only_in_personal_data_are_one(source: Callable[..., Source]) -> None:
    result = label_messages([source("a", ("where is 114-5550399-0651", "x", ""), ("where is 114-5550000-0000", "x", ""))])
    assert len(result.table) == 1 and refused(result) == [(3, "duplicate")]


def test_conflicting_labels_refuse_all_rows_of_the_text_but_never_a_golden_one(source: Callable[..., Source]) -> None:
    result = label_messages([source("a", ("hello there", "chitchat", ""), ("hello there", "faq", ""), ("something else", "faq", ""))])
    assert refused(result) == [(2, "conflicting_label"), (3, "conflicting_label")]
    result = label_messages([source("a", ("hello there", "chitchat", "train"), ("hello there", "faq", "golden"))])
    assert kept(result, "intent") == ["faq"] and refused(result) == [(2, "near_duplicate_of_golden")]


def test_a_near_duplicate_of_a_golden_message_is_refused_wherever_it_stands(source: Callable[..., Source]) -> None:
    result = label_messages(
        [
            source("pool", ("the first volume of berserk came torn", "return_request", "train")),
            source("golden", ("The first volume of Berserk came torn!", "return_request", "golden")),
        ]
    )
    assert kept(result, "source", "split") == [("golden", "golden")]
    (row,) = result.rejected.to_pylist()
    assert (row["reason"], row["detail"]) == ("near_duplicate_of_golden", "similarity 1.00 with golden.tsv row 2")


def test_a_limit_keeps_the_same_part_when_the_rows_change_order(source: Callable[..., Source]) -> None:
    rows = [(f"question number {word} of many", "faq", "train") for word in "one two three four five six seven eight".split()]
    limits = Limits(train_near_duplicate=None)
    first = kept(label_messages([source("a", *rows, limit_per_intent=3)], limits), "text")
    again = label_messages([source("a", *reversed(rows), limit_per_intent=3)], limits)
    assert len(first) == 3 and sorted(kept(again, "text")) == sorted(first)
    assert {reason for _, reason in refused(again)} == {"over_limit"}


def test_a_limit_counts_labels_of_the_source_and_not_intents(source: Callable[..., Source], tmp_path: Path) -> None:
    (tmp_path / "labels.toml").write_text('edit_account = "faq"\ndelivery = "faq"\n')
    rows = [("how to edit it", "edit_account", ""), ("my other profile", "edit_account", ""), ("to France?", "delivery", "")]
    assert len(label_messages([source("a", *rows, limit_per_intent=1, label_map="labels.toml")]).table) == 2


def test_shares_and_thresholds_are_settings(source: Callable[..., Source]) -> None:
    rows = [(f"a message about thing {i} and nothing else", "x", "") for i in range(40)]
    limits = Limits(near_duplicate=1.0, train_near_duplicate=None, validation_share=0.5, test_share=0.5)
    assert "train" not in label_messages([source("a", *rows)], limits).counts["by_split"]


def test_a_text_that_normalising_empties_or_blows_up_is_refused(source: Callable[..., Source]) -> None:
    result = label_messages([source("a", ("\u200b\ufeff", "x", ""), ("\ufdfa" * 300, "x", ""), ("fine", "x", ""))])
    assert refused(result) == [(2, "empty_text"), (3, "too_long")]


def test_rejected_messages_hold_no_personal_data(source: Callable[..., Source]) -> None:
    text = "mail foo@bar.com or call (555) 210-4477 " + "x" * 5000
    result = label_messages([source("a", (text, "x", ""), ("fine", "x", ""))])
    (row,) = result.rejected.to_pylist()
    assert row["text_preview"].startswith("mail <EMAIL> or call <PHONE> xxx") and len(row["text_preview"]) == 80
    assert len(row["text_sha256"]) == 64


def test_a_lone_surrogate_is_previewed_without_harm(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d", "intent": "x"}\n{"text": "whole", "intent": "x"}\n')
    result = label_messages([Source("a", ("a.jsonl",), folder=tmp_path)])
    assert result.rejected["text_preview"].to_pylist() == ["half ?"]


def test_adding_a_source_moves_no_message_to_another_split(source: Callable[..., Source]) -> None:
    rng = random.Random(2)
    words = "order refund berserk volume late please manga 注文".split()

    def rows(n: int) -> list[tuple[str, str, str]]:
        return [(" ".join(rng.choices(words, k=7)), rng.choice("ab"), rng.choice(["", "", "train", "test"])) for _ in range(n)]

    old = [source("a", *rows(150)), source("b", *rows(150), limit_per_intent=60)]
    before = dict(kept(label_messages(old), "message_id", "split"))
    after = dict(kept(label_messages([*old, source("c", *rows(300))]), "message_id", "split"))
    named = {
        row["message_id"]
        for row in label_messages(old).table.to_pylist()
        if row["split"] != split_of(row["text"], validation_share=0.1, test_share=0.1)
    }
    assert before.keys() & after.keys() and named
    assert all(after[key] == split for key, split in before.items() if key in after)


def test_two_labels_for_out_of_scope_are_refused(source: Callable[..., Source]) -> None:
    one, other = source("a", ("x", "oos", ""), out_of_scope="oos"), source("b", ("y", "none", ""), out_of_scope="none")
    assert label_messages([one]).out_of_scope_label == "oos"
    with pytest.raises(BadInput, match="none, oos"):
        label_messages([one, other])


# ── what can be learnt from ─────────────────────────────────────────────────────────────────────────────────────────


def test_one_class_alone_is_refused_with_its_count(source: Callable[..., Source]) -> None:
    table = label_messages([source("a", ("one thing", "faq", "train"), ("another matter", "faq", "train"))]).table
    with pytest.raises(BadInput, match=r"needs two intents, found: faq \(2 rows\)\. Add messages"):
        check_trainable(table)


def test_a_class_with_one_training_row_is_refused_by_name(source: Callable[..., Source]) -> None:
    rows = [
        ("one thing", "faq", "train"),
        ("another matter", "faq", "train"),
        ("hello", "chitchat", "train"),
        ("bye now", "chitchat", "test"),
    ]
    table = label_messages([source("a", *rows)]).table
    with pytest.raises(BadInput, match=r"needs 2 rows in train, these have fewer: chitchat \(1 of 2\)"):
        check_trainable(table)
    check_trainable(table, min_train_rows=1)


def test_the_out_of_scope_label_may_be_without_training_rows(source: Callable[..., Source]) -> None:
    rows = [(f"thing {word}", intent, "train") for intent in ("faq", "chitchat") for word in ("apple " + intent, "storm " + intent)]
    table = label_messages([source("a", *rows, ("what is the weather", "oos", "test"), out_of_scope="oos")]).table
    check_trainable(table, out_of_scope="oos")
    with pytest.raises(BadInput, match="oos"):
        check_trainable(table)


def test_ten_thousand_rows_take_seconds(source: Callable[..., Source]) -> None:
    rng = random.Random(7)
    words = [f"{a}{b}" for a in "where my order late manga volume refund please berserk nana".split() for b in ("", "s", "ed", "ing")]
    rows = [
        (" ".join(rng.choices(words, k=rng.randint(3, 14))) + rng.choice(["", " 12", "?"]), rng.choice("abcdefghij"), "")
        for _ in range(10_000)
    ]
    made = source("a", *rows)
    started = time.process_time()
    label_messages([made])
    assert time.process_time() - started < 10
