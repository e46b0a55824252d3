"""A query in words that the encoder knows: it reads little Japanese, no abbreviation, and has not heard of most titles."""

import re
import unicodedata
from dataclasses import replace

import pyarrow as pa

from mangaassist_assets.lib.retrieval.glossary import Glossary
from mangaassist_assets.lib.retrieval.words import JAPANESE, fold, pieces

_JAPANESE = re.compile(f"[{JAPANESE}\u30a1-\u30fc]")
SHORTEST_NAME = 3  # "op" is a name of One Piece, and a word that shoppers use of any strong hero


class Wording:
    """Says queries anew: Japanese in English, other names of a document by its title, with what the glossary adds behind.

    Args:
        glossary: words and phrases.
        chunks: columns title and aliases; where two documents share a name, the first has it.
    """

    def __init__(self, glossary: Glossary, chunks: pa.Table) -> None:
        japanese, english = dict(glossary.japanese), dict(glossary.english)
        for row in chunks.select(["title", "aliases"]).to_pylist():
            for alias in row["aliases"]:
                if _JAPANESE.search(alias):
                    japanese.setdefault(unicodedata.normalize("NFKC", alias).casefold(), row["title"])
                elif len(name := " ".join(pieces(fold(alias)))) >= SHORTEST_NAME:
                    english.setdefault(name, row["title"])
        self._glossary = replace(glossary, japanese=japanese, english=english)

    def __call__(self, query: str) -> str:
        """What to encode; the query itself where nothing in it is known."""
        said = self._glossary.say(query)
        more = [words for words in dict.fromkeys(said.added) if words not in said.english]
        return " ".join([said.english, *more]).strip() or query
