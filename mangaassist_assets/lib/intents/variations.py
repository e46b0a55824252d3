"""Messages like those there are: what a teacher answers beside the training messages, for a student to learn from.

Words are replaced by their neighbours in the embedded encoder's vocabulary (as Jiao et al. 2020 do for TinyBERT) or left out, parts are
cut out, and two messages are joined. Labels would not survive that; a teacher's answers need none (Tang et al. 2019). A student so
sees words that no message had, and far more messages with two intents.
"""

import re
from collections.abc import Sequence

import numpy as np

from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, from_pretrained

NEIGHBOURS, LEAST_COSINE = 12, 0.35
JOINED, CUT = 0.3, 0.05  # shares of messages
REPLACED, LEFT_OUT = 0.3, 0.08  # shares of the words of the others
_WORD = re.compile("[a-z]+")


def varied(texts: Sequence[str], seed: int) -> list[str]:
    """One variation of each text, in order.

    Raises:
        Unavailable: the embedded encoder cannot be had.
    """
    rng = np.random.default_rng(seed)
    near = neighbours({word for text in texts for word in _WORD.findall(text.lower())})
    return [_variation(text, texts, near, rng) for text in texts]


def _variation(text: str, texts: Sequence[str], near: dict[str, list[str]], rng: np.random.Generator) -> str:
    kind, words = rng.random(), text.split()
    if kind < JOINED:
        return f"{text.rstrip()} {texts[int(rng.integers(len(texts)))]}"
    if kind < JOINED + CUT and len(words) > 4:
        size = int(rng.integers(3, len(words)))
        first = int(rng.integers(len(words) - size + 1))
        words = words[first : first + size]
    kept = []
    for word in words:
        fate = rng.random()
        if fate < LEFT_OUT and len(words) > 2:
            continue
        if LEFT_OUT <= fate < LEFT_OUT + REPLACED and (found := _WORD.search(word.lower())) and (choice := near.get(found[0])):
            word = word.lower().replace(found[0], choice[int(rng.integers(len(choice)))], 1)
        kept.append(word)
    return " ".join(kept) or text


def neighbours(words: set[str]) -> dict[str, list[str]]:
    """For each of `words` that the embedded encoder's vocabulary has whole, the words nearest to it there.

    Near is the cosine of centred embeddings; none below LEAST_COSINE.
    """
    pretrained = from_pretrained(EMBEDDED_ENCODER)
    vocabulary = sorted((word, row) for word, row in pretrained.tokenizer.get_vocab().items() if len(word) > 1 and _WORD.fullmatch(word))
    names = [word for word, _ in vocabulary]
    vectors = pretrained.weights["words.weight"][[row for _, row in vocabulary]].numpy()
    vectors = vectors - vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = [at for at, word in enumerate(names) if word in words]
    found = {}
    for part in (asked[i : i + 512] for i in range(0, len(asked), 512)):
        cosine = vectors[part] @ vectors.T
        cosine[np.arange(len(part)), part] = -1  # a word is no neighbour of itself
        nearest = np.argpartition(-cosine, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        for at, row, columns in zip(part, cosine, nearest, strict=True):
            found[names[at]] = [names[c] for c in sorted(columns.tolist()) if row[c] > LEAST_COSINE]
    return found
