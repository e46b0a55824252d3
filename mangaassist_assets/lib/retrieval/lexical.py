"""Search by characters: what words, names and Japanese terms find that an English encoder does not.

- words: BM25 (Robertson and Zaragoza 2009) over title, other names and text of each chunk. A word that no chunk has counts as the
  words that are spelt most like it.
- names: titles and other names of each document, compared by character n-grams, which forgive slips and join what is spelt
  with or without spaces.
- neighbours: which documents the catalogue says are similar.
"""

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import DamagedArtifact
from mangaassist_assets.lib.retrieval.postings import (
    Floats,
    Numbers,
    Postings,
    bm25,
    cosine_weights,
    plain_weights,
    share_weights,
    unit_query,
)
from mangaassist_assets.lib.retrieval.words import fold, grams, is_japanese, pieces, stems

NEAREST_WORDS = 3
LEAST_ALIKE = 0.5
LONGEST_SHORT_FORM = 6
_POSTINGS = ("words", "spellings", "names")
_STRINGS = ("chunk_ids", "documents", "vocabulary", "japanese_names")
ARRAYS, STRINGS = "lexical.safetensors", "lexical.json"


@dataclass(frozen=True)
class Names:
    """How well a text fits the names of each document; the best name counts. All are (documents,).

    Attributes:
        alike: cosine of text and name: both say little else.
        within: share of the name that is in the text, by rarity of its n-grams.
    """

    alike: Floats
    within: Floats


@dataclass(frozen=True)
class LexicalIndex:
    """The three sparse matrices and what their rows are.

    Attributes:
        chunk_ids: of the rows of `words`, in the order of the table it was built from.
        documents: ids, sorted.
        document_of: (chunks,) the row in `documents` of each chunk.
        words: chunks x stems, BM25.
        vocabulary: words of all chunks.
        spellings: vocabulary x character n-grams, cosine: what a word that no chunk has may be a slip of.
        names: names x character n-grams, cosine.
        name_shares: the same entries as shares of the name.
        name_of: (names,) the document of each name, ascending.
        japanese_names: the folded Japanese of each name, empty where it has none.
        edges: (2, n) pairs of documents: the catalogue says of the first that the second is similar.
    """

    chunk_ids: tuple[str, ...]
    documents: tuple[str, ...]
    document_of: Numbers
    words: Postings
    vocabulary: tuple[str, ...]
    spellings: Postings
    names: Postings
    name_shares: Floats
    name_of: Numbers
    japanese_names: tuple[str, ...]
    edges: Numbers

    @classmethod
    def build(cls, chunks: pa.Table) -> "LexicalIndex":
        """Reads chunk_id, document_id, title, aliases, text and similar of a table of CHUNKS."""
        rows = chunks.select(["chunk_id", "document_id", "title", "aliases", "text", "similar"]).to_pylist()
        first = {row["document_id"]: row for row in reversed(rows)}
        documents = tuple(sorted(first))
        number = {document: i for i, document in enumerate(documents)}
        texts = [fold(" \n".join([row["title"], *row["aliases"], row["text"]])) for row in rows]
        words = bm25([stems(text) for text in texts])
        vocabulary = tuple(sorted({word for text in texts for word in pieces(text) if not is_japanese(word)}))
        spellings = Postings.of([grams([word]) for word in vocabulary], plain_weights)
        named = [(number[d], pieces(fold(name))) for d in documents for name in names_of(first[d]["title"], first[d]["aliases"])]
        contents = [grams(name) for _, name in named]
        names = Postings.of(contents, cosine_weights)
        return cls(
            tuple(row["chunk_id"] for row in rows),
            documents,
            np.array([number[row["document_id"]] for row in rows], np.int32),
            words,
            vocabulary,
            spellings,
            names,
            Postings.of(contents, share_weights).weights,
            np.array([d for d, _ in named], np.int32),
            tuple("".join(piece for piece in name if is_japanese(piece)) for _, name in named),
            np.array([(number[d], number[o]) for d in documents for o in sorted(set(first[d]["similar"]) & number.keys())], np.int32)
            .reshape(-1, 2)
            .T.copy(),
        )

    def match_words(self, text: str, ignored: frozenset[str] = frozenset()) -> Floats:
        """BM25 of each chunk (chunks,) for the words of a folded text, those in `ignored` left out."""
        wanted: Counter[str] = Counter()
        for piece in pieces(text):
            if piece in ignored:
                continue
            known = [stem for stem in stems(piece) if stem in self.words.terms]
            if known or is_japanese(piece):
                wanted.update(dict.fromkeys(known, 1.0))
            else:
                for word, alike in self.spelt_like(piece):
                    wanted.update(dict.fromkeys(stems(word), alike))
        return self.words.sums(wanted)

    def spelt_like(self, word: str) -> list[tuple[str, float]]:
        """Words of the catalogue that a word may be a slip of, each with its cosine."""
        found = grams([word])
        alike = self.spellings.sums(dict.fromkeys(found, 1 / math.sqrt(len(found))))
        nearest = np.argsort(-alike, kind="stable")[:NEAREST_WORDS]
        return [(self.vocabulary[i], float(alike[i])) for i in nearest if alike[i] >= LEAST_ALIKE]

    @functools.cached_property
    def _shares(self) -> Postings:
        return dataclasses.replace(self.names, weights=self.name_shares)

    def match_names(self, text: str) -> Names:
        """How well a text fits each document's names."""
        split = pieces(fold(text))
        found = grams(split)
        alike = self._best_name(self.names.sums(unit_query(self.names, found)))
        within = self._best_name(self._shares.sums(dict.fromkeys(found, 1.0)))
        for piece in split:
            if is_japanese(piece) and 2 <= len(piece) <= LONGEST_SHORT_FORM:
                documents = self._shortened_to(piece)
                sure = 1 / max(len(documents), 1)
                within[documents] = np.maximum(within[documents], sure)
                alike[documents] = np.maximum(alike[documents], 0.7 * sure)
        return Names(alike, within)

    def _shortened_to(self, piece: str) -> list[int]:
        """Documents that readers may call `piece`: their name starts with its first character and has the others in order."""
        spans = [(self.names.starts[c], self.names.starts[c + 1]) for ch in set(piece) if (c := self.names.terms.get(ch)) is not None]
        if len(spans) < len(set(piece)):
            return []
        holding = functools.reduce(np.intersect1d, [self.names.rows[a:b] for a, b in spans])
        found: dict[int, None] = {}
        for row in holding.tolist():
            rest = iter(self.japanese_names[row])
            if self.japanese_names[row][0] == piece[0] and all(character in rest for character in piece):
                found[int(self.name_of[row])] = None
        return list(found)

    def _best_name(self, scores: Floats) -> Floats:
        best = np.zeros(len(self.documents), np.float32)
        np.maximum.at(best, self.name_of, scores)
        return best

    def sum_over_neighbours(self, weights: Floats) -> tuple[Floats, Floats]:
        """For each document the weights of those that name it as similar, and of those that it names."""
        n, (source, target) = len(self.documents), self.edges
        named_by = np.bincount(target, weights[source], minlength=n).astype(np.float32)
        names = np.bincount(source, weights[target], minlength=n).astype(np.float32)
        return named_by, names

    def mean_of_neighbours(self, scores: Floats) -> Floats:
        """The mean score of the documents that are similar to each, in either direction; 0 without any."""
        source, target = self._both_ways
        n = len(self.documents)
        degree = np.bincount(source, minlength=n)
        return (np.bincount(source, scores[target], minlength=n) / np.maximum(degree, 1)).astype(np.float32)

    @functools.cached_property
    def _both_ways(self) -> Numbers:
        both = np.concatenate([self.edges, self.edges[::-1]], axis=1)
        unique: Numbers = np.unique(both, axis=1)
        return unique

    def best_chunk(self, scores: Floats) -> Floats:
        """The largest score among each document's chunks: (chunks,) -> (documents,)."""
        best = np.full(len(self.documents), -np.inf, np.float32)
        np.maximum.at(best, self.document_of, scores)
        return best

    def to_files(self) -> dict[str, bytes]:
        """The index as two files; equal indexes give equal bytes."""
        from safetensors.numpy import save

        arrays: dict[str, NDArray[Any]] = {
            "document_of": self.document_of,
            "name_shares": self.name_shares,
            "name_of": self.name_of,
            "edges": self.edges,
        }
        strings: dict[str, Any] = {field: list(getattr(self, field)) for field in _STRINGS}
        for part in _POSTINGS:
            postings: Postings = getattr(self, part)
            arrays |= {f"{part}.starts": postings.starts, f"{part}.rows": postings.rows, f"{part}.weights": postings.weights}
            strings[part] = {"terms": list(postings.terms), "height": postings.height}
        content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return {ARRAYS: save(content), STRINGS: json.dumps(strings, ensure_ascii=False).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "LexicalIndex":
        """Reads what `to_files` wrote.

        Raises:
            DamagedArtifact: the files are something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays, strings = load(files[ARRAYS]), json.loads(files[STRINGS])
            postings = [
                Postings(
                    {term: i for i, term in enumerate(strings[part]["terms"])},
                    arrays[f"{part}.starts"],
                    arrays[f"{part}.rows"],
                    arrays[f"{part}.weights"],
                    int(strings[part]["height"]),
                )
                for part in _POSTINGS
            ]
            words, spellings, names = postings
            chunk_ids, documents, vocabulary, japanese_names = (tuple(strings[field]) for field in _STRINGS)
            of, shares, name_of, edges = (arrays[field] for field in ("document_of", "name_shares", "name_of", "edges"))
            return cls(chunk_ids, documents, of, words, vocabulary, spellings, names, shares, name_of, japanese_names, edges)
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise DamagedArtifact(f"lexical index: not what was written ({error!r}). Materialise it again.") from error


def names_of(title: str, aliases: Iterable[str]) -> list[str]:
    """A document's names; of "Name: subtitle" also the name alone, and of three words or more their initials."""
    names = [name for name in (title, *aliases) if name.strip()]
    names += [head for name in names for head in [name.split(": ")[0]] if head != name]
    split = [pieces(fold(name)) for name in names]
    names += ["".join(word[0] for word in words) for words in split if len(words) >= 3 and all(w.isascii() for w in words)]
    return list(dict.fromkeys(names))
