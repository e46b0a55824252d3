import dataclasses

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.augmentation.generator import (
    AUGMENTED_SCHEMA,
    REFUSED_SCHEMA,
    AugmentationSettings,
    GeneratedMessage,
    augment,
    counts_of,
)
from mangaassist_assets.lib.messages.duplicates import jaccard
from mangaassist_assets.lib.messages.labelling import message_id
from mangaassist_assets.lib.messages.training import assemble

PARENT = "Do you have Berserk volume 3 in stock?"
OTHER = "I want to return this book because the cover arrived torn."


class Scripted:
    """A generator that gives what it was given, and notes what it was asked."""

    name = "scripted"

    def __init__(self, *texts: str, **fields: object) -> None:
        first = GeneratedMessage("", "product_discovery", None, ("manga_term",), message_id(PARENT), None, "scripted", 0.25)
        self.messages = [dataclasses.replace(first, text=text, **fields) for text in texts]
        self.parents: pa.Table | None = None

    def generate(self, parents: pa.Table, *, count: int, seed: int) -> list[GeneratedMessage]:
        self.parents = parents
        return self.messages[:count]


def reasons(refused: pa.Table) -> list[str]:
    return refused["reason"].to_pylist()


def test_a_generator_is_shown_train_rows_only(labelled_with):
    generator = Scripted("something new")
    augment(labelled_with({"text": "held out", "intent": "faq", "split": "golden"}), generator)
    assert set(generator.parents["split"].to_pylist()) == {"train"}
    assert "held out" not in generator.parents["text"].to_pylist()


@pytest.mark.parametrize("split", ["golden", "test", "validation"])
def test_a_near_duplicate_of_a_row_that_measures_is_refused_and_not_shown(labelled_with, split):
    held_out = "Please tell me when the seventh volume of Frieren comes out again"
    table = labelled_with({"text": held_out, "intent": "product_discovery", "split": split})
    augmented, refused = augment(table, Scripted(f"yo {held_out.lower()}!!", "something else altogether"))
    assert augmented["text"].to_pylist() == ["something else altogether"]
    assert reasons(refused) == [f"near_duplicate_of_{split}"]
    assert refused["text_preview"].to_pylist() == [None]
    assert message_id(held_out) in refused["detail"][0].as_py()


def test_unchanged_texts_copies_of_train_rows_and_repetitions_are_refused(labelled_with):
    augmented, refused = augment(labelled_with(), Scripted(PARENT, OTHER, "brand new", "brand  new", "\u200b ", "x" * 5000))
    assert augmented["text"].to_pylist() == ["brand new"]
    assert reasons(refused) == ["unchanged", "duplicate", "duplicate", "empty_text", "too_long"]


def test_a_lone_surrogate_is_refused_and_not_written(labelled_with):
    augmented, refused = augment(labelled_with(), Scripted("do you have \ud800 this"))
    assert len(augmented) == 0
    assert reasons(refused) == ["empty_text"]


def test_personal_data_that_a_generator_invents_is_redacted_before_it_is_stored(labelled_with):
    augmented, _ = augment(labelled_with(), Scripted("write to kenji.tanaka@example.com about order MA-48213 please"))
    assert augmented["text"].to_pylist() == ["write to <EMAIL> about order <ORDER> please"]


def test_a_row_carries_its_parents_recipe_generator_and_cost(labelled_with):
    mine = labelled_with({"text": "a message from elsewhere", "intent": "faq", "licence": "CDLA-Sharing-1.0", "source": "elsewhere"})
    generator = Scripted("two of them 二つ", second_parent_id=message_id("a message from elsewhere"), secondary_intent="faq")
    augmented, refused = augment(mine, generator)
    assert augmented.schema.equals(AUGMENTED_SCHEMA)
    assert refused.schema.equals(REFUSED_SCHEMA)
    row = augmented.to_pylist()[0]
    assert row == {
        "message_id": message_id("two of them 二つ"),
        "text": "two of them 二つ",
        "intent": "product_discovery",
        "secondary_intent": "faq",
        "slices": ["manga_term"],
        "split": "train",
        "source": "sample",
        "licence": "CC0-1.0 AND CDLA-Sharing-1.0",
        "synthetic": True,
        "group_id": message_id(PARENT),
        "language": "mixed",
        "parent_id": message_id(PARENT),
        "second_parent_id": message_id("a message from elsewhere"),
        "recipe": "scripted",
        "generator": "scripted",
        "review": "unreviewed",
        "cost_usd": 0.25,
    }


def test_a_parent_that_is_not_a_train_row_is_an_error(labelled_with):
    table = labelled_with({"text": "held out", "intent": "faq", "split": "golden"})
    with pytest.raises(BadInput, match="Only train rows may be parents"):
        augment(table, Scripted("new", parent_id=message_id("held out")))


def test_a_table_without_train_rows_is_an_error(labelled_with):
    table = labelled_with({"text": "held out", "intent": "faq", "split": "golden"}, only="nothing")
    with pytest.raises(BadInput, match="no row has split train"):
        augment(table, Scripted("new"))


def test_the_required_sample_takes_its_share_of_each_recipe_and_training_waits_for_it(labelled_with):
    generator = Scripted(*(f"message number {n} of one recipe" for n in range(20)))
    generator.messages += [dataclasses.replace(m, text=f"{m.text} and more", recipe="another") for m in generator.messages[:3]]
    augmented, _ = augment(labelled_with(), generator, AugmentationSettings(required_review_share=0.1))
    required = [row for row in augmented.to_pylist() if row["review"] == "required"]
    assert sorted(row["recipe"] for row in required) == ["another", "scripted", "scripted"]
    trained = assemble(labelled_with(), augmented, {})
    assert sum(trained["augmented"].to_pylist()) == 20


def test_no_review_is_required_unless_asked_for(labelled_with):
    augmented, _ = augment(labelled_with(), Scripted("one", "two"))
    assert augmented["review"].to_pylist() == ["unreviewed", "unreviewed"]


def test_counts_add_up_and_hold_the_whole_cost(labelled_with):
    augmented, refused = augment(labelled_with(), Scripted("one", "two", PARENT))
    counts = counts_of(augmented, refused)
    assert (counts["rows"], counts["refused"], counts["cost_usd"]) == (2, 1, 0.75)
    assert counts["refused_by"] == {"unchanged": 1}
    assert counts["recipe"] == {"scripted": 2}


@pytest.mark.parametrize(
    ("field", "value"), [("count", -1), ("near_duplicate", 0.2), ("required_review_share", 1.5), ("required_review_share", float("nan"))]
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(BadInput, match=f"messages.augmentation.{field}"):
        AugmentationSettings(**{field: value})


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.text(min_size=0, max_size=60) | st.sampled_from(["where is volume seven of frieren please", "WHERE is volume seven of frieren"]),
        max_size=12,
    ),
    held_out=st.lists(
        st.sampled_from(["Where is volume seven of Frieren, please?", "返品の送料は誰が払うのですか教えてください", "short"]), unique=True
    ),
)
def test_whatever_a_generator_gives_no_row_resembles_one_that_measures(labelled_with, texts, held_out):
    table = labelled_with(*({"text": text, "intent": "faq", "split": "golden"} for text in held_out))
    augmented, refused = augment(table, Scripted(*texts))
    assert len(augmented) + len(refused) == len(texts)
    for text in augmented["text"].to_pylist():
        assert all(jaccard(text, other) < 0.8 for other in held_out)
    assert len(set(augmented["message_id"].to_pylist())) == len(augmented)
