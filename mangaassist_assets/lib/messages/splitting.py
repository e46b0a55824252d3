"""Which split a message belongs to, so that no two splits hold nearly the same text and no message changes sides later.

A message whose source names its split keeps it or is refused. For the others a hash of the text decides, and a
near-duplicate of an older message goes where that one went. The order of sources and rows is their age: whatever is
appended, an older message keeps its split, though a new and more protected near-duplicate (golden, test, validation) may
have it refused.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mangaassist_assets.lib.messages.duplicates import Pairs, connect, near_duplicate_pairs
from mangaassist_assets.lib.messages.reading import Split

PROTECTION: dict[Split, int] = {"golden": 3, "test": 2, "validation": 1, "train": 0}

Neighbours = list[list[tuple[int, float]]]


@dataclass(frozen=True)
class Refusal:
    """Why a text is not kept: `reason` is a machine word, `because_of` the index of the text it is too similar to."""

    reason: str
    because_of: int
    similarity: float


@dataclass(frozen=True)
class Placement:
    """The split of a text, the index of the first kept text of its near-duplicate group, and why it is refused, if it is."""

    split: Split
    group: int
    refusal: Refusal | None


def bucket(text: str, purpose: str) -> float:
    """A stable number in [0, 1) for a text; different purposes give independent numbers."""
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{text}".encode()).digest()[:8]) / 2**64


def split_of(text: str, *, validation_share: float, test_share: float) -> Split:
    """The split that a text's hash alone decides."""
    share = bucket(text, "split")
    return "test" if share < test_share else "validation" if share < test_share + validation_share else "train"


def place(
    texts: Sequence[str],
    named: Sequence[Split | None],
    ages: Sequence[int | None],
    *,
    absent: Collection[int] = (),
    near_duplicate: float = 0.8,
    train_near_duplicate: float | None = 0.9,
    validation_share: float = 0.1,
    test_share: float = 0.1,
) -> list[Placement]:
    """Places distinct, normalised texts.

    Args:
        texts: in the order of their sources and rows, shape (n,).
        named: the split that the source of the kept row names, None where a hash decides, shape (n,).
        ages: rank of the first row with this text that names no split, None where every row names one, shape (n,).
        absent: indices of texts refused for other reasons; they are not kept, but younger texts still follow them, so that
            a refusal moves nobody.
        near_duplicate: Jaccard similarity from which two texts may not lie in different splits.
        train_near_duplicate: similarity from which only the first of two training texts is kept; None keeps both.
        validation_share: of the texts without a named split, in expectation.
        test_share: likewise.
    """
    n = len(texts)
    pairs = near_duplicate_pairs(texts, min(near_duplicate, train_near_duplicate or 1.0))
    neighbours: Neighbours = [[] for _ in range(n)]
    for left, right, similarity in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.jaccard.tolist(), strict=True):
        neighbours[left].append((right, similarity))
        neighbours[right].append((left, similarity))

    own = [split_of(text, validation_share=validation_share, test_share=test_share) for text in texts]
    hashed, between = _follow_older(own, ages, neighbours, near_duplicate)
    splits = [name or split for name, split in zip(named, hashed, strict=True)]
    refused = {i: refusal for i, refusal in between.items() if named[i] is None}
    out = set(absent) | refused.keys()
    for level in sorted(PROTECTION.values(), reverse=True):
        for i in range(n):
            if i not in out and PROTECTION[splits[i]] == level:
                stronger = [(j, s) for j, s in neighbours[i] if s >= near_duplicate and j not in out and PROTECTION[splits[j]] > level]
                if stronger:
                    j, similarity = max(stronger, key=lambda item: (PROTECTION[splits[item[0]]], item[1], -item[0]))
                    refused[i] = Refusal(f"near_duplicate_of_{splits[j]}", j, similarity)
        out |= refused.keys()
    if train_near_duplicate is not None:
        for i in range(n):
            if i not in out and splits[i] == "train":
                like = [(j, s) for j, s in neighbours[i] if j < i and s >= train_near_duplicate and j not in out and splits[j] == "train"]
                if like:
                    refused[i] = Refusal("near_duplicate", *min(like))
                    out.add(i)
    groups = _groups(n, pairs, out, near_duplicate)
    return [Placement(splits[i], groups[i], refused.get(i)) for i in range(n)]


def _follow_older(
    own: list[Split], ages: Sequence[int | None], neighbours: Neighbours, threshold: float
) -> tuple[list[Split], dict[int, Refusal]]:
    """The split of each text that a hash may decide, oldest first, and those that would tie two splits together.

    Depends on older texts of this kind alone, which is what keeps them in place when others are added.
    """
    splits = list(own)
    between: dict[int, Refusal] = {}
    for i in sorted((i for i, age in enumerate(ages) if age is not None), key=lambda i: ages[i] or 0):
        older = [(j, s) for j, s in neighbours[i] if s >= threshold and _is_older(ages[j], ages[i]) and j not in between]
        if older:
            j, similarity = max(older, key=lambda item: (PROTECTION[splits[item[0]]], item[1], -item[0]))
            splits[i] = splits[j]
            if len({splits[other] for other, _ in older}) > 1:
                between[i] = Refusal(f"near_duplicate_of_{splits[j]}", j, similarity)
    return splits, between


def _is_older(age: int | None, than: int | None) -> bool:
    return age is not None and than is not None and age < than


def _groups(n: int, pairs: Pairs, out: Collection[int], threshold: float) -> list[int]:
    kept = np.array([i not in out for i in range(n)], bool)
    joined = kept[pairs.left] & kept[pairs.right] & (pairs.jaccard >= threshold)
    return list(map(int, connect(n, pairs.left[joined], pairs.right[joined])))
