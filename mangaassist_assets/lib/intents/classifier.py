"""The learnt classifiers as files: written by `candidates.py`, read here, equal in what they answer.

A classifier has one or two experts whose logits are weighted and summed (`calibration.fused`): an ONNX encoder, a linear
model of n-grams, or a student. Files, all below one prefix of a bundle:

    classifier.json          labels, scales, presence, order, out-of-scope label and shift, token limit
    encoder.onnx             with tokenizer.json beside it
    linear.safetensors       n-gram hashes, idf, weights
    student.safetensors      n-gram hashes, idf, two tables of embeddings, filters, two layers; with tokenizer.json beside it
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import Bundle
from mangaassist_assets.lib.intents.calibration import Presence, fused
from mangaassist_assets.lib.intents.export import OnnxEncoder
from mangaassist_assets.lib.intents.linear import LinearModel
from mangaassist_assets.lib.intents.order import Order, leads
from mangaassist_assets.lib.intents.prediction import Scores
from mangaassist_assets.lib.intents.student import Student

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]


class TwoHeaded(Protocol):
    """An expert with primary and presence logits: an encoder or a student."""

    def logits(self, texts: Sequence[str]) -> tuple[Floats, Floats]: ...


@dataclass
class LearntClassifier:
    """Experts and what turns their logits into calibrated probabilities.

    Attributes:
        labels: (K,) in order of the columns.
        out_of_scope_label: the label that means none of the others, or None.
        main: the expert with both heads, or None.
        linear: the n-gram expert, or None.
        scales: one factor an expert, `main` first.
        presence: calibration of the presence logits; of the linear logits where there is no `main`.
        shift: added to the out-of-scope logit.
        order: which of two intents is served first; needs `linear`. None leaves that to the experts.
    """

    labels: tuple[str, ...]
    out_of_scope_label: str | None
    main: TwoHeaded | None
    linear: LinearModel | None
    scales: tuple[float, ...]
    presence: Presence
    shift: float
    provider: str = "CPUExecutionProvider"
    order: Order | None = None

    def experts(self, texts: Sequence[str]) -> tuple[list[Floats], Floats]:
        """Primary logits of each expert, and the presence logits."""
        logits, presence = [], None
        if self.main is not None:
            first, presence = self.main.logits(texts)
            logits.append(first)
        if self.linear is not None:
            logits.append(self.linear.logits(texts))
        return logits, presence if presence is not None else logits[0]

    def scores(self, texts: Sequence[str]) -> Scores:
        """Calibrated probabilities; the empty list gives (0, K) arrays."""
        if not texts:
            return Scores(np.empty((0, len(self.labels)), np.float32), np.empty((0, len(self.labels)), np.float32))
        logits, presence = self.experts(texts)
        column = self.labels.index(self.out_of_scope_label) if self.out_of_scope_label is not None else None
        found = Scores(fused(logits, self.scales, column, self.shift), self.presence.probabilities(presence))
        return found if self.order is None else self._in_order(texts, found, self.order)

    def leads(self, texts: Sequence[str], scores: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Floats]:
        """The messages that hold two intents: their rows, both intents, and how far the first leads, as `order.leads`."""
        first = scores.primary.argmax(1)
        second = self.presence.second(scores.presence, first)
        rows = np.flatnonzero(second >= 0)
        if self.linear is None or not len(rows):
            return rows[:0], first[:0], second[:0], np.empty((0, 4), np.float32)
        first, second, some = first[rows], second[rows], Scores(scores.primary[rows], scores.presence[rows])
        return rows, first, second, leads([texts[row] for row in rows.tolist()], some, first, second, self.linear.logits)

    def _in_order(self, texts: Sequence[str], scores: Scores, order: Order) -> Scores:
        rows, first, second, ahead = self.leads(texts, scores)
        primary = scores.primary.copy()
        primary[rows] = order.divide(primary[rows], first, second, ahead)
        return Scores(primary, scores.presence)

    def settings_json(self, **more: Any) -> bytes:
        """The content of classifier.json."""
        content = {
            "labels": list(self.labels),
            "out_of_scope_label": self.out_of_scope_label,
            "scales": [round(s, 6) for s in self.scales],
            "presence": self.presence.to_json(),
            "out_of_scope_shift": self.shift,
            "order": self.order.to_json() if self.order else None,
        } | more
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode()


def tensors_to_bytes(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Safetensors bytes, keys sorted."""
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}))


def student_files(student: Student, classifier: LearntClassifier) -> dict[str, bytes]:
    """The files of a classifier whose only expert is that student."""
    return {
        "student.safetensors": tensors_to_bytes(student.tensors()),
        "tokenizer.json": student.words.tokenizer.to_str().encode(),
        "classifier.json": classifier.settings_json(student=True),
    }


def load_classifier(bundle: Bundle, prefix: str = "", *, provider: str = "CPUExecutionProvider", threads: int = 1) -> LearntClassifier:
    """Reads the files below `prefix` of a verified bundle.

    Raises:
        Unavailable: an encoder's session does not run on `provider`.
        DamagedArtifact: a file is missing.
    """
    from safetensors.numpy import load_file

    settings = json.loads(bundle.file(f"{prefix}classifier.json").read_text("utf-8"))
    main: TwoHeaded | None = None
    linear = None
    if "max_tokens" in settings:
        graph = str(bundle.file(f"{prefix}encoder.onnx"))
        main = OnnxEncoder(
            graph,
            _tokenizer(bundle, prefix),
            max_tokens=settings["max_tokens"],
            pad_id=settings["pad_id"],
            provider=provider,
            threads=threads,
        )
    elif settings.get("student"):
        main = Student.from_tensors(load_file(bundle.file(f"{prefix}student.safetensors")), _tokenizer(bundle, prefix))
    if settings.get("linear"):
        linear = LinearModel.from_tensors(load_file(bundle.file(f"{prefix}linear.safetensors")))
    return LearntClassifier(
        tuple(settings["labels"]),
        settings["out_of_scope_label"],
        main,
        linear,
        tuple(settings["scales"]),
        Presence.from_json(settings["presence"]),
        settings["out_of_scope_shift"],
        provider,
        Order.from_json(settings["order"]) if settings.get("order") else None,
    )


def _tokenizer(bundle: Bundle, prefix: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(bundle.file(f"{prefix}tokenizer.json")))
