"""Character and word n-grams of short multilingual messages, found for a whole batch at once.

The embedded encoder's vocabulary is English: kanji and kana mostly become unknown tokens, and slang and typos are cut into
odd pieces. Character n-grams read all of these alike, without segmentation.

A batch becomes one array of code points. With prefix sums P[i] = sum over j < i of c[j] B^j (mod 2^64, B odd), the span
s..e has the hash (P[e] - P[s]) B^-s: the polynomial hash of Karp and Rabin (1987), for every character n-gram, word and
word pair of every message in a few array operations. A hash found in the vocabulary is compared in all 64 bits, so that
unknown n-grams are dropped, not confused with known ones.
"""

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_CHARACTERS = 400  # longer messages are read up to here
CHARACTER_LENGTHS = (1, 2, 3, 4, 5)
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64 (the golden ratio's bits, as in Fibonacci hashing)
_INVERSE = pow(_BASE, -1, 2**64)
_WORD, _PAIR = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA5A3564E27F88634)  # keep the word "in" apart from the characters "in"
_TABLE_BITS = 21
Hashes = NDArray[np.uint64]


def fold(text: str) -> str:
    """Case-folded text without Latin accents and macrons, spaces collapsed: "Shōnen", "shonen" and "ＳＨＯＮＥＮ" agree.

    Kana keep their voicing marks: か and が are different letters, not accents.
    """
    text = text[:MAX_CHARACTERS]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
        text = "".join(unicodedata.normalize("NFD", c)[0] if "\u00c0" <= c <= "\u024f" else c for c in text)
    return " ".join(text.lower().split())


def _powers(n: int, base: int) -> Hashes:
    powers = np.full(n, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


_POWERS = _powers(4096, _BASE), _powers(4096, _INVERSE)  # of the base and of its inverse; one name, so that threads see both or neither


def ngram_hashes(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Hashes of all n-grams of all texts, and for each the index of its text.

    Per text, with a space before and after: character n-grams of 1 to 5, words, and pairs of neighbouring words.
    """
    global _POWERS
    joined = "\n".join(f" {fold(text)} " for text in texts) + "\n"
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    n = len(codes)
    powers, inverses = _POWERS
    if n + 1 > len(powers):
        powers, inverses = _POWERS = _powers(2 * n, _BASE), _powers(2 * n, _INVERSE)
    prefix = np.zeros(n + 1, np.uint64)
    np.cumsum((codes + np.uint64(1)) * powers[:n], dtype=np.uint64, out=prefix[1:])
    line_end = codes == 10
    text_of = np.cumsum(line_end) - line_end  # index of the text each code point belongs to
    last = np.flatnonzero(line_end)[text_of]  # where that text ends

    # a message is short: what it costs is the number of array operations, not their size
    lengths = np.repeat(np.array(CHARACTER_LENGTHS), n)
    starts = np.tile(np.arange(n), len(CHARACTER_LENGTHS))
    inside = np.flatnonzero(starts + lengths <= np.tile(last, len(CHARACTER_LENGTHS)))
    starts, lengths = starts[inside], lengths[inside]
    characters = (prefix[starts + lengths] - prefix[starts]) * inverses[starts] + lengths.astype(np.uint64)
    space = (codes == 32) | line_end
    begins = np.flatnonzero(space[:-1] & ~space[1:]) + 1
    ends = np.flatnonzero(~space[:-1] & space[1:]) + 1
    words = ((prefix[ends] - prefix[begins]) * inverses[begins]) ^ _WORD
    first = begins[:-1]
    together = text_of[first] == text_of[begins[1:]]
    pairs = ((prefix[ends[1:]] - prefix[first]) * inverses[first])[together] ^ _PAIR
    owners = text_of[np.concatenate([starts, begins, first[together]])]
    return _mix(np.concatenate([characters, words, pairs])), owners


def _mix(value: Hashes) -> Hashes:
    """Spreads the bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), so that any bits make a table index."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class Ngrams:
    """A fixed vocabulary of n-gram hashes with inverse document frequencies.

    Args:
        hashes: (V,) uint64, distinct in their lowest 21 bits.
        idf: (V,) float32.
    """

    def __init__(self, hashes: Hashes, idf: NDArray[np.float32]) -> None:
        self.hashes, self.idf = hashes.astype(np.uint64), idf.astype(np.float32)
        self._column = np.full(1 << _TABLE_BITS, -1, np.int32)
        self._column[(self.hashes & np.uint64((1 << _TABLE_BITS) - 1)).astype(np.int64)] = np.arange(len(hashes), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def fit(cls, texts: Sequence[str], *, least_documents: int = 2, most_terms: int = 150_000) -> "Ngrams":
        """Keeps n-grams in at least `least_documents` texts, the most frequent first; of two that share a table slot, the commoner."""
        hashes, owners = ngram_hashes(texts)
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        once = np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])])
        distinct, documents = np.unique(hashes[once], return_counts=True)
        frequent = documents >= least_documents
        distinct, documents = distinct[frequent], documents[frequent]
        order = np.lexsort((distinct, -documents))
        _, first = np.unique(distinct[order] & np.uint64((1 << _TABLE_BITS) - 1), return_index=True)
        kept = order[np.sort(first)[:most_terms]]
        idf = np.log((1 + len(texts)) / (1 + documents[kept])) + 1
        return cls(distinct[kept], idf.astype(np.float32))

    def lookup(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Columns of all known n-grams, text by text, and starts (n + 1,) of each text's part."""
        hashes, owners = ngram_hashes(texts)
        columns = self._column[(hashes & np.uint64((1 << _TABLE_BITS) - 1)).astype(np.int64)]
        known = (columns >= 0) & (self.hashes[columns] == hashes)
        columns, owners = columns[known], owners[known]
        order = np.argsort(owners, kind="stable")
        return columns[order], np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(texts)))])

    def matrix(self, texts: Sequence[str]) -> "csr_matrix":
        """(n, V) sparse float32: idf of each occurrence, each text scaled by the root of the sum of squares."""
        from scipy.sparse import csr_matrix

        columns, starts = self.lookup(texts)
        values = self.idf[columns]
        owner = np.repeat(np.arange(len(texts)), np.diff(starts))
        norm = np.sqrt(np.bincount(owner, values.astype(np.float64) ** 2, len(texts)))
        values = (values / np.maximum(norm, 1e-9)[owner]).astype(np.float32)
        return csr_matrix((values, columns, starts), shape=(len(texts), len(self)))

    def times(self, texts: Sequence[str], table: NDArray[np.float32]) -> NDArray[np.float32]:
        """`matrix(texts) @ table`, (n, D); for a single text, as a service has it, without a sparse matrix, in half the time."""
        if len(texts) != 1:
            return np.asarray(self.matrix(texts) @ table, np.float32)
        columns, _ = self.lookup(texts)
        values = self.idf[columns]
        norm = max(math.sqrt(float(values @ values)), 1e-9)
        return np.asarray((values / np.float32(norm)) @ table[columns], np.float32)[None]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores: hashes as int64 bits (safetensors of every reader knows it) and idf."""
        return {"ngram_hashes": self.hashes.view(np.int64), "ngram_idf": self.idf}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]]) -> "Ngrams":
        return cls(tensors["ngram_hashes"].view(np.uint64), tensors["ngram_idf"])
