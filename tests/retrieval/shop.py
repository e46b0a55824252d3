"""A shop of eight documents, an encoder that knows words alone, and a small glossary."""

import hashlib

import numpy as np
import pyarrow as pa

from mangaassist_assets.lib.retrieval.chunking import CHUNKS, embedded_text
from mangaassist_assets.lib.retrieval.glossary import Glossary
from mangaassist_assets.lib.retrieval.searching import ExactSearch
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

SPACE = EmbeddingSpace("words", "0" * 64, "mean", True, 512)

GLOSSARY = Glossary(
    japanese={"返品": "return", "送料": "shipping cost", "魔女": "witches", "野球": "baseball"},
    english={"hoops": "basketball", "slice of life": "everyday"},
    after=("like", "similar to"),
    before=("vibes", "みたいな", "っぽい"),
    ignored=frozenset({"manga", "a", "the", "is", "can", "i", "漫画"}),
)

DOCUMENTS = [
    # id, kind, title, aliases, texts, similar, in_stock, languages, formats
    (
        "s1",
        "series",
        "Iron Sword",
        ["鋼の剣", "IS"],
        ["A mercenary walks a dark war.", "box set, en"],
        ["s2", "s3"],
        True,
        ["en"],
        ["box_set"],
    ),
    ("s2", "series", "Night Hounds", ["夜の犬"], ["Hunters follow beasts through ruins."], ["s1"], False, ["en", "ja"], ["paperback"]),
    ("s3", "series", "Grave Lily", ["墓場のユリ"], ["A girl bargains with demons in 1974."], [], True, ["ja"], ["digital"]),
    ("s4", "series", "Court Kings", ["コートの王様"], ["A short boy learns basketball."], ["s5"], True, ["en"], ["paperback"]),
    ("s5", "series", "Ninth Inning", ["九回裏"], ["A baseball pitcher gambles."], ["s4"], True, ["en"], ["paperback"]),
    ("s6", "series", "Witch Bakery", ["魔女のパン屋"], ["Two witches bake bread, a gentle everyday story."], [], True, ["en"], ["digital"]),
    ("p1", "policy", "Return window", [], ["You can return a volume within 30 days."], [], None, [], []),
    ("p2", "policy", "What shipping costs", [], ["Standard shipping costs five dollars."], [], None, [], []),
]


def chunks(documents=DOCUMENTS):
    rows = []
    for document_id, kind, title, aliases, texts, similar, in_stock, languages, formats in documents:
        rows += [
            {
                "chunk_id": f"{document_id}#{position}",
                "document_id": document_id,
                "kind": kind,
                "position": position,
                "start": 0,
                "end": len(text),
                "digest": "",
                "document_digest": "",
                "title": title,
                "text": text,
                "aliases": aliases,
                "similar": similar,
                "in_stock": in_stock,
                "languages": languages,
                "formats": formats,
            }
            for position, text in enumerate(texts)
        ]
    return pa.Table.from_pylist(rows, schema=CHUNKS)


class WordEncoder:
    """A unit vector for each text: the sum of a pseudo-random vector for each of its words."""

    space = SPACE

    def encode(self, texts, *, queries=False):
        return np.array([self._one(text) for text in texts], np.float32).reshape(-1, SPACE.dimension)

    def _one(self, text):
        total = np.full(SPACE.dimension, 1e-3)
        for word in text.lower().replace(".", " ").replace(",", " ").split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
            total += np.random.default_rng(seed).standard_normal(SPACE.dimension)
        return (total / np.linalg.norm(total)).astype(np.float32)


def exact_search(table):
    texts = [embedded_text(title, text) for title, text in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)]
    return ExactSearch(SPACE, table["chunk_id"].to_pylist(), WordEncoder().encode(texts))
