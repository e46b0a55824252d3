"""Near-duplicates among short texts of any language, exactly, in seconds for a hundred thousand.

Two texts are near-duplicates where the Jaccard similarity |A n B| / |A u B| of their sets of character 4-grams reaches a
threshold. The grams are taken from a folded form: NFKC, case folded, without punctuation, symbols and emoji. Texts whose
folded form is shorter than 12 characters have too few grams to judge by and are near-duplicates only when equal.

No pair is missed and none is guessed. Candidates share a gram among the rarest |A| - ceil(t |A|) + 1 of each set (prefix
filtering: Chaudhuri et al. 2006; Bayardo et al. 2007) and have sizes within a factor t. A bitmap of each set bounds their
symmetric difference from below (Sandes et al. 2020), and two of its machine words discard 999 in 1,000; what is left is
verified on the sets themselves.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]  # indices, counts and ids alike
Words = NDArray[np.uint64]

GRAM = 4
SHORTEST_JUDGED = 12
BITMAP_WORDS = 4
PAIRS_AT_ONCE = 1 << 17

_NOT_WORD = re.compile(r"[\W_]+")
_APOSTROPHE = re.compile("['\u2019\u02bc]")
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hash


@dataclass(frozen=True)
class Pairs:
    """Near-duplicate pairs: `left[k]` and `right[k]` are indices, `jaccard[k]` their similarity; sorted by left, then right."""

    left: Ints
    right: Ints
    jaccard: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.left)


def fold(text: str) -> str:
    """The form that is compared; a text of nothing but symbols stays as it is, so that "!!!" and "🥺" differ."""
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return _NOT_WORD.sub(" ", _APOSTROPHE.sub("", folded.casefold())).strip() or text


def jaccard(left: str, right: str) -> float:
    """The similarity that this module thresholds, computed the plain way: the reference for the fast one."""
    a, b = fold(left), fold(right)
    if a == b:
        return 1.0
    if min(len(a), len(b)) < SHORTEST_JUDGED:
        return 0.0
    grams_a, grams_b = ({text[i : i + GRAM] for i in range(len(text) - GRAM + 1)} for text in (a, b))
    return len(grams_a & grams_b) / len(grams_a | grams_b)


def near_duplicate_pairs(texts: Sequence[str], threshold: float = 0.8) -> Pairs:
    """All pairs i < j of near-duplicates within `texts`."""
    first, forms = _distinct([fold(text) for text in texts])
    sets = _gram_sets(forms)
    left, right, similarity = _join(sets, sets, threshold, within=True)
    form = np.searchsorted(np.unique(first), first)  # of each text, the row of its folded form
    members = np.argsort(form, kind="stable")
    copies = np.bincount(form, minlength=len(forms))
    starts = np.cumsum(copies) - copies

    # A pair of forms stands for every pair of their texts, and so does a form with itself.
    left, right = np.concatenate([left, np.arange(len(forms))]), np.concatenate([right, np.arange(len(forms))])
    similarity = np.concatenate([similarity, np.ones(len(forms))])
    counts = copies[left] * copies[right]
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    left, right, similarity = np.repeat(left, counts), np.repeat(right, counts), np.repeat(similarity, counts)
    one, other = members[starts[left] + nth // copies[right]], members[starts[right] + nth % copies[right]]
    once = (one < other) | (left != right)
    one, other, similarity = np.minimum(one, other)[once], np.maximum(one, other)[once], similarity[once]
    order = np.lexsort((other, one))
    return Pairs(one[order], other[order], similarity[order])


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.8) -> Ints:
    """For each text the index of the first text that it is connected to through near-duplicate pairs, shape (n,)."""
    first, forms = _distinct([fold(text) for text in texts])
    sets = _gram_sets(forms)
    left, right, _ = _join(sets, sets, threshold, within=True)
    originals = np.unique(first)
    return connect(len(texts), originals[left], originals[right])[first]


def near_duplicates_of(texts: Sequence[str], references: Sequence[str], threshold: float = 0.8) -> list[int | None]:
    """For each text the index of the most similar reference at or above `threshold` (the first of equals), else None."""
    if not texts or not references:
        return [None] * len(texts)
    first_text, text_forms = _distinct([fold(text) for text in texts])
    first_reference, reference_forms = _distinct([fold(text) for text in references])
    sets = _gram_sets([*text_forms, *reference_forms])
    left, right, similarity = _join(sets.rows(0, len(text_forms)), sets.rows(len(text_forms), len(sets)), threshold, within=False)
    reference_of = {form: int(index) for form, index in zip(reference_forms, np.unique(first_reference), strict=True)}
    references_in_order = np.unique(first_reference)
    best: list[int | None] = [reference_of.get(form) for form in text_forms]
    equal = [index is not None for index in best]
    for k in np.lexsort((-references_in_order[right], similarity)):  # ascending: the last one written is the best
        if not equal[left[k]]:
            best[left[k]] = int(references_in_order[right[k]])
    row_of = {int(index): row for row, index in enumerate(np.unique(first_text))}
    return [best[row_of[int(index)]] for index in first_text]


def connect(n: int, left: Ints, right: Ints) -> Ints:
    """Connected components of n nodes: for each node the smallest index in its component."""
    root = np.arange(n, dtype=np.int64)
    while len(left):
        low = np.minimum(root[left], root[right])
        np.minimum.at(root, root[left], low)
        np.minimum.at(root, root[right], low)
        while not np.array_equal(shorter := root[root], root):
            root = shorter
        apart = root[left] != root[right]
        left, right = left[apart], right[apart]
    return root


def _distinct(forms: list[str]) -> tuple[Ints, list[str]]:
    """For each form the index of its first occurrence, and the distinct forms in order of occurrence."""
    seen: dict[str, int] = {}
    first = np.fromiter((seen.setdefault(form, index) for index, form in enumerate(forms)), np.int64, len(forms))
    return first, list(seen)


def _each_once(values: Ints) -> Ints:
    """The distinct values, ascending: as np.unique, whose hash table takes ten times as long as a vectorised sort."""
    ordered = np.sort(values)
    distinct: Ints = ordered[np.diff(ordered, prepend=ordered[:1] - 1) != 0]
    return distinct


# ── sets of grams ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Sets:
    """Sets of gram ids, ascending within a set; a smaller id is a rarer gram. Texts too short to judge have no grams.

    Attributes:
        grams: ids of all sets, one after the other, shape (total,).
        starts: where each set starts, and the end, shape (n + 1,).
        bitmaps: one bit per gram by hash, shape (n, BITMAP_WORDS).
    """

    grams: Ints
    starts: Ints
    bitmaps: Words

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> Ints:
        return np.diff(self.starts)

    def rows(self, begin: int, end: int) -> "_Sets":
        low, high = self.starts[begin], self.starts[end]
        return _Sets(self.grams[low:high], self.starts[begin : end + 1] - low, self.bitmaps[begin:end])


def _gram_sets(forms: list[str]) -> _Sets:
    judged = [form if len(form) >= SHORTEST_JUDGED else "" for form in forms]
    points = np.frombuffer("".join(judged).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, judged), np.int64, len(judged))
    counts = np.maximum(lengths - GRAM + 1, 0)
    where = np.repeat(np.cumsum(lengths) - lengths - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    keys = np.zeros(len(where), np.uint64)
    for offset in range(GRAM):  # a polynomial modulo 2^64: two of N grams share a key with a chance near N^2 / 2^65
        keys = keys * _MIX + points[where + offset] + np.uint64(1)
    owner = np.repeat(np.arange(len(judged)), counts)

    _, ids, frequency = np.unique(keys, return_inverse=True, return_counts=True)
    rank = np.empty(len(frequency), np.int64)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    members = _each_once(owner * max(len(frequency), 1) + rank[ids])  # by owner, then from the rarest on; each gram once
    owner, grams = np.divmod(members, max(len(frequency), 1))
    starts = np.searchsorted(owner, np.arange(len(judged) + 1))

    bits = (grams.astype(np.uint64) * _MIX) >> np.uint64(64 - 8)  # 8 bits address BITMAP_WORDS * 64 = 256
    bitmaps = np.zeros((len(judged), BITMAP_WORDS), np.uint64)
    np.bitwise_or.at(bitmaps, (owner, (bits >> np.uint64(6)).astype(np.int64)), np.uint64(1) << (bits & np.uint64(63)))
    return _Sets(grams, starts, bitmaps)


# ── the join ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _join(left: _Sets, right: _Sets, threshold: float, *, within: bool) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Pairs of rows of `left` and `right` at or above the threshold, each once; within one collection, i != j, once."""
    if not 0.5 <= threshold <= 1.0:
        raise ValueError(f"threshold {threshold}: prefix filtering is worth its while from 0.5 to 1")
    posts = _Prefixes.of(right, threshold)
    width = int(right.sizes.max(initial=0)) + 2
    keys = posts.gram * width + posts.size  # ascending
    probe = posts if within else _Prefixes.of(left, threshold)
    begin = np.searchsorted(keys, probe.gram * width + np.minimum(_ceil(threshold * probe.size), width - 1))
    if within:  # only those before it in the posting list: every pair once per shared gram
        end = np.arange(len(keys))
    else:
        end = np.searchsorted(keys, probe.gram * width + np.minimum(_floor(probe.size / threshold), width - 1), side="right")
    per_probe = np.maximum(end - begin, 0)

    may_differ = _floor((1 - threshold) / (1 + threshold) * np.arange(width + int(left.sizes.max(initial=0)) + 1))  # by sum of sizes
    found: list[Ints] = []
    multiples = np.arange(PAIRS_AT_ONCE, per_probe.sum() + PAIRS_AT_ONCE, PAIRS_AT_ONCE)
    low = 0
    for high in (np.searchsorted(np.cumsum(per_probe), multiples) + 1).tolist():
        counts = per_probe[low:high]
        a = np.repeat(np.arange(low, low + len(counts)), counts)
        b = np.repeat(begin[low:high] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        spare = may_differ[probe.size[a] + posts.size[b]]
        for word in range(BITMAP_WORDS):
            spare -= np.bitwise_count(probe.bitmaps[word][a] ^ posts.bitmaps[word][b])
            open_ = np.flatnonzero(spare >= 0)
            a, b, spare = a[open_], b[open_], spare[open_]
        found.append(_each_once(probe.row[a] * len(right) + posts.row[b]))
        low = high
    coded = _each_once(np.concatenate(found)) if found else np.zeros(0, np.int64)
    i, j = np.divmod(coded, max(len(right), 1))
    overlap = _overlaps(left, right, i, j)
    similarity = overlap / (left.sizes[i] + right.sizes[j] - overlap)
    enough = similarity >= threshold
    return i[enough], j[enough], similarity[enough]


@dataclass(frozen=True)
class _Prefixes:
    """Posting lists of prefixes: entries sorted by gram, then by the size of the set."""

    row: Ints
    gram: Ints
    size: Ints
    bitmaps: Words  # shape (BITMAP_WORDS, entries)

    @classmethod
    def of(cls, sets: _Sets, threshold: float) -> "_Prefixes":
        sizes = sets.sizes
        lengths = np.where(sizes > 0, sizes - _ceil(threshold * sizes) + 1, 0)
        row = np.repeat(np.arange(len(sets)), lengths)
        position = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        gram = sets.grams[sets.starts[row] + position]
        order = np.lexsort((row, sizes[row], gram))
        row = row[order]
        return cls(row, gram[order], sizes[row], np.ascontiguousarray(sets.bitmaps[row].T))


def _overlaps(left: _Sets, right: _Sets, i: Ints, j: Ints) -> Ints:
    """Sizes of the intersections of rows i[k] of left and j[k] of right, shape (len(i),)."""
    overlaps = np.zeros(len(i), np.int64)
    step = max(1, PAIRS_AT_ONCE // 32)
    for low in range(0, len(i), step):
        rows_i, rows_j = i[low : low + step], j[low : low + step]
        sides = []
        for sets, rows in ((left, rows_i), (right, rows_j)):
            sizes = sets.sizes[rows]
            at = np.repeat(sets.starts[rows] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
            sides.append((np.repeat(np.arange(len(rows)), sizes) << 40) | sets.grams[at])
        merged = np.sort(np.concatenate(sides), kind="stable")
        twice = merged[1:][merged[1:] == merged[:-1]]
        overlaps[low : low + step] = np.bincount(twice >> 40, minlength=len(rows_i))
    return overlaps


def _ceil(values: NDArray[np.floating[Any]]) -> Ints:
    """Ceiling that forgives the last bits of a product such as 0.8 * 35."""
    return np.asarray(np.ceil(values - 1e-9), np.int64)


def _floor(values: NDArray[np.floating[Any]]) -> Ints:
    return np.asarray(np.floor(values + 1e-9), np.int64)
