"""The candidates of model selection: how each is trained, stored and loaded.

`rules` and `linear` need no pretrained weights, nor does `student`, which as a candidate is taught by the labels alone (inside the
cascade the chosen classifier teaches it). The others are BERT-family encoders by name, fine-tuned with an n-gram expert beside
them. A candidate whose weights cannot be had raises Unavailable, and its asset records it as skipped with that reason.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import Bundle, digest_of_table
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.intents import encoder as encoders
from mangaassist_assets.lib.intents.calibration import Presence, fit_out_of_scope_shift, fit_presence, fit_scales, fused
from mangaassist_assets.lib.intents.classifier import LearntClassifier, TwoHeaded, load_classifier, student_files, tensors_to_bytes
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, FineTuning
from mangaassist_assets.lib.intents.export import OnnxEncoder, to_int8, to_onnx
from mangaassist_assets.lib.intents.linear import LinearModel, train_linear
from mangaassist_assets.lib.intents.order import fit_order
from mangaassist_assets.lib.intents.prediction import Classifier
from mangaassist_assets.lib.intents.rules import Rules, measure_rules, read_rules, records_to_json
from mangaassist_assets.lib.intents.student import Distillation, distil

Floats = NDArray[np.float32]
Progress = Callable[[int, int, float], None]
ENCODERS = {
    "minilm": EMBEDDED_ENCODER,
    "distilbert": "distilbert/distilbert-base-uncased",
    "tinybert": "huawei-noah/TinyBERT_General_4L_312D",
    "bert_base": "google-bert/bert-base-uncased",
    "roberta_base": "FacebookAI/roberta-base",
}
CANDIDATES = ("rules", "linear", "student", *ENCODERS)


@dataclass(frozen=True)
class CandidateSettings:
    """What training depends on besides the data.

    Attributes:
        encoders: model name or path of each encoder candidate.
        fine_tuning, distillation: see their classes.
        out_of_scope_label: the label that means none of the others, where the data has one.
        out_of_scope_false_alarms: share of in-scope validation messages that may be turned away.
        int8_accuracy_loss: validation accuracy that int8 may cost before float32 is kept.
        rule_precision, rule_lower_bound: what a rule must reach to be used.
    """

    encoders: Mapping[str, str] = field(default_factory=lambda: dict(ENCODERS))
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    distillation: Distillation = field(default_factory=Distillation)
    out_of_scope_label: str | None = None
    out_of_scope_false_alarms: float = 0.005
    int8_accuracy_loss: float = 0.005
    rule_precision: float = 0.97
    rule_lower_bound: float = 0.4


@dataclass(frozen=True)
class LabelledTexts:
    """Messages with labels as arrays.

    Attributes:
        texts: n messages.
        primary, second: (n,) columns of the labels; second is -1 for none.
        weights: (n,) row weights.
    """

    texts: list[str]
    primary: NDArray[np.int64]
    second: NDArray[np.int64]
    weights: Floats

    def presence(self, classes: int) -> Floats:
        """(n, K) 1 where an intent is present."""
        present = np.zeros((len(self.texts), classes), np.float32)
        present[np.arange(len(self.texts)), self.primary] = 1
        rows = np.flatnonzero(self.second >= 0)
        present[rows, self.second[rows]] = 1
        return present


@dataclass(frozen=True)
class TrainedCandidate:
    """Files and facts of a bundle of kind `intent_candidate`, and the seconds that training took."""

    files: dict[str, bytes]
    facts: dict[str, Any]
    training_s: float


def label_set(rows: pa.Table) -> tuple[str, ...]:
    """All intents of the training rows, sorted."""
    train = rows.filter(pa.compute.equal(rows["split"], "train"))
    return tuple(sorted(set(train["intent"].to_pylist())))


def labelled(rows: pa.Table, split: str, labels: Sequence[str]) -> LabelledTexts:
    """The rows of one split as arrays; a second intent outside the label set is none.

    Raises:
        BadInput: the split is empty, or holds none of the labels.
    """
    part = rows.filter(pa.compute.equal(rows["split"], split))
    column = {label: i for i, label in enumerate(labels)}
    known = [i for i, intent in enumerate(part["intent"].to_pylist()) if intent in column]
    if not known:
        raise BadInput(
            f"no row in split {split!r} with an intent of the training rows",
            where="training_messages",
            remedy="Add labelled messages, or name a split column.",
        )
    part = part.take(known)
    primary = np.array([column[i] for i in part["intent"].to_pylist()], np.int64)
    second = np.array([column.get(i, -1) for i in part["secondary_intent"].to_pylist()], np.int64)
    return LabelledTexts(part["text"].to_pylist(), primary, second, np.asarray(part["weight"], np.float32))


def train(
    name: str, rows: pa.Table, settings: CandidateSettings, *, rules_toml: str, progress: Progress = lambda step, steps, loss: None
) -> TrainedCandidate:
    """Trains candidate `name` on the training split and calibrates it on the validation split.

    Args:
        name: one of CANDIDATES.
        rows: the table `training_messages`.
        settings: what training depends on besides the data.
        rules_toml: content of the rule file.
        progress: called with step, steps and the running loss of fine-tuning.

    Raises:
        Unavailable: the candidate's encoder cannot be had here.
        BadInput: the name is unknown, a split is empty, or all messages have one intent.
    """
    started = time.perf_counter()
    labels = label_set(rows)
    train_rows, validation = labelled(rows, "train", labels), labelled(rows, "validation", labels)
    if len(labels) < 2:
        raise BadInput(f"all rows have the intent {labels[0]!r}", where="training_messages", remedy="Add messages of a second intent.")
    facts: dict[str, Any] = {
        "candidate": name,
        "labels": list(labels),
        "out_of_scope_label": settings.out_of_scope_label if settings.out_of_scope_label in labels else None,
        "training_data": digest_of_table(rows),
        "encoder": settings.encoders.get(name),
    }
    if name == "rules":
        files = _train_rules(labels, train_rows, validation, settings, rules_toml)
    elif name == "linear":
        files = _train_linear(labels, train_rows, validation, settings)
    elif name == "student":
        onehot = np.eye(len(labels), dtype=np.float32)[train_rows.primary]
        student = distil(train_rows.texts, onehot, train_rows.presence(len(labels)), train_rows.weights, settings.distillation)
        classifier = calibrate(labels, validation, settings, main=student, linear=None)
        files = student_files(student, classifier)
    elif name in settings.encoders:
        files, precision = _train_encoder(settings.encoders[name], labels, train_rows, validation, settings, progress)
        facts["precision"] = precision
    else:
        raise BadInput("no such candidate", where=f"candidate {name!r}", remedy=f"Choose of {', '.join(CANDIDATES)}.")
    return TrainedCandidate(files, facts, time.perf_counter() - started)


def load(bundle: Bundle, *, provider: str = "CPUExecutionProvider", threads: int = 1) -> Classifier:
    """The classifier stored in a bundle of kind `intent_candidate`."""
    if bundle.facts["candidate"] == "rules":
        return load_rules(bundle)
    return load_classifier(bundle, provider=provider, threads=threads)


def load_rules(bundle: Bundle, prefix: str = "") -> Rules:
    """The rules of a bundle with the measurement they were admitted by."""
    from mangaassist_assets.lib.intents.rules import RuleRecord

    records = json.loads(bundle.file(f"{prefix}rule_records.json").read_text("utf-8"))
    rules = read_rules(bundle.file(f"{prefix}rules.toml").read_text("utf-8"), where="rules.toml")
    return Rules(rules, [RuleRecord(**record) for record in records], bundle.facts["labels"])


def calibrate(
    labels: Sequence[str], validation: LabelledTexts, settings: CandidateSettings, *, main: TwoHeaded | None, linear: LinearModel | None
) -> LearntClassifier:
    """Fits scales, presence, the out-of-scope shift and the order of two intents of given experts on validation."""
    out = settings.out_of_scope_label if settings.out_of_scope_label in labels else None
    draft = LearntClassifier(tuple(labels), out, main, linear, (1.0, 1.0), Presence(1.0, 0.0, (0.5,) * len(labels)), 0.0)
    logits, presence = draft.experts(validation.texts)
    scales = fit_scales(logits, validation.primary)
    shift = 0.0
    if out is not None:
        weighted = np.sum([np.float32(s) * e for s, e in zip(scales, logits, strict=True)], axis=0)
        shift = fit_out_of_scope_shift(weighted, validation.primary, labels.index(out), settings.out_of_scope_false_alarms)
    probabilities = fused(logits, scales, labels.index(out) if out is not None else None, shift)
    fitted = dataclasses.replace(
        draft, scales=tuple(scales), presence=fit_presence(presence, probabilities, validation.second), shift=shift
    )
    rows, first, second, ahead = fitted.leads(validation.texts, fitted.scores(validation.texts))
    truth = validation.primary[rows]
    told = (truth == first) | (truth == second)
    return dataclasses.replace(fitted, order=fit_order(ahead[told], (truth == second)[told]))


def _train_rules(
    labels: Sequence[str], train_rows: LabelledTexts, validation: LabelledTexts, settings: CandidateSettings, rules_toml: str
) -> dict[str, bytes]:
    """Measures every rule on training and validation messages: rules learn nothing from them but whether to be used."""
    rules = read_rules(rules_toml, where="rules.toml")
    texts = train_rows.texts + validation.texts
    intents = [labels[i] for part in (train_rows, validation) for i in part.primary]
    second = [labels[i] if i >= 0 else None for part in (train_rows, validation) for i in part.second]
    records = measure_rules(
        rules, texts, intents, second, labels, least_precision=settings.rule_precision, least_lower_bound=settings.rule_lower_bound
    )
    return {"rules.toml": rules_toml.encode(), "rule_records.json": json.dumps(records_to_json(records), indent=1).encode()}


def _train_linear(
    labels: Sequence[str], train_rows: LabelledTexts, validation: LabelledTexts, settings: CandidateSettings
) -> dict[str, bytes]:
    model = train_linear(train_rows.texts, train_rows.primary, train_rows.weights, classes=len(labels))
    classifier = calibrate(labels, validation, settings, main=None, linear=model)
    return {"linear.safetensors": tensors_to_bytes(model.tensors()), "classifier.json": classifier.settings_json(linear=True)}


def _train_encoder(
    source: str,
    labels: Sequence[str],
    train_rows: LabelledTexts,
    validation: LabelledTexts,
    settings: CandidateSettings,
    progress: Progress,
) -> tuple[dict[str, bytes], str]:
    """Fine-tunes, exports, and keeps int8 only if its validation accuracy holds. Returns the files and the precision kept."""
    pretrained = encoders.from_pretrained(source)
    tuned = encoders.fine_tune(
        pretrained,
        train_rows.texts,
        train_rows.primary,
        train_rows.presence(len(labels)),
        train_rows.weights,
        settings.fine_tuning,
        progress=progress,
    )
    linear = train_linear(train_rows.texts, train_rows.primary, train_rows.weights, classes=len(labels))
    graph = to_onnx(tuned)
    max_tokens, pad_id = tuned.max_tokens, tuned.shape.pad_id
    measured: dict[str, tuple[float, LearntClassifier, bytes]] = {}
    for precision, content in (("float32", graph), ("int8", to_int8(graph))):
        main = OnnxEncoder(content, tuned.tokenizer, threads=0, max_tokens=max_tokens, pad_id=pad_id)
        classifier = calibrate(labels, validation, settings, main=main, linear=linear)
        right = classifier.scores(validation.texts).primary.argmax(1) == validation.primary
        measured[precision] = (float(np.average(right, weights=validation.weights)), classifier, content)
    precision = "int8" if measured["int8"][0] >= measured["float32"][0] - settings.int8_accuracy_loss else "float32"
    _, classifier, content = measured[precision]
    return {
        "encoder.onnx": content,
        "tokenizer.json": tuned.tokenizer.to_str().encode(),
        "linear.safetensors": tensors_to_bytes(linear.tensors()),
        "classifier.json": classifier.settings_json(linear=True, precision=precision, max_tokens=max_tokens, pad_id=pad_id),
    }, precision


def predictions(classifier: Classifier, rows: pa.Table) -> pa.Table:
    """One row per validation, test and golden message with the classifier's probabilities, in the order of its labels."""
    held_out = rows.filter(pa.compute.invert(pa.compute.equal(rows["split"], "train")))
    scores = classifier.scores(held_out["text"].to_pylist())
    table = held_out.select(["message_id", "split", "intent", "secondary_intent", "slices"])
    return table.append_column("probabilities", pa.array(list(scores.primary), pa.list_(pa.float32())))


def answered(given: pa.Table, labels: Sequence[str]) -> pa.Table:
    """A table of `predictions` with the label and the confidence that the candidate answers; candidates claim no second intent."""
    probabilities = np.array(given["probabilities"].to_pylist(), np.float64).reshape(len(given), -1)
    table = given.append_column("predicted", pa.array([labels[i] for i in probabilities.argmax(1)], pa.string()))
    table = table.append_column("confidence", pa.array(probabilities.max(1)))
    return table.append_column("predicted_secondary", pa.nulls(len(given), pa.string()))
