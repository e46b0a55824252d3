"""The cascade: rules, then the student when it is sure, then the classifier.

How sure the student must be is chosen on validation, for a stated loss of accuracy against the classifier alone.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import Bundle
from mangaassist_assets.lib.intents.candidates import CandidateSettings, LabelledTexts, TrainedCandidate, calibrate, load_rules
from mangaassist_assets.lib.intents.classifier import LearntClassifier, load_classifier, student_files
from mangaassist_assets.lib.intents.prediction import Prediction, Route, Scores
from mangaassist_assets.lib.intents.rules import Rules
from mangaassist_assets.lib.intents.student import Student, distil
from mangaassist_assets.lib.intents.variations import varied

KIND = "intent_classifier"
HIDDEN_SECONDS = 0.1
SILENT = 1.01  # a confidence that no student reaches
SECOND_LIMITS = np.geomspace(0.5, 0.01, 30).round(3).tolist()  # of the student's probability that a second intent is present


class Cascade:
    """A loaded bundle of kind `intent_classifier`.

    Attributes:
        student: None where it is silent or there is none.
        labels: of all parts, in one order.
        digest: of the bundle.
        provider: the execution provider that the classifier really runs on.
    """

    def __init__(
        self, rules: Rules, student: LearntClassifier | None, classifier: LearntClassifier, thresholds: dict[str, float], digest: str
    ) -> None:
        self.rules, self.student, self.classifier = rules, student, classifier
        self.labels, self.out_of_scope_label = classifier.labels, classifier.out_of_scope_label
        self.thresholds, self.digest, self.provider = thresholds, digest, classifier.provider

    @classmethod
    def load(cls, bundle: Bundle, *, provider: str = "CPUExecutionProvider", threads: int = 1) -> "Cascade":
        """Loads the parts of a verified bundle.

        Raises:
            Unavailable: the classifier does not run on the provider asked for.
        """
        thresholds = json.loads(bundle.file("cascade.json").read_text("utf-8"))
        return cls(
            load_rules(bundle, "rules/"),
            load_classifier(bundle, "student/") if thresholds["student_confidence"] <= 1 else None,
            load_classifier(bundle, "classifier/", provider=provider, threads=threads),
            thresholds,
            bundle.digest,
        )

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction a text, in order."""
        found = self.classify_fast(texts)
        open_rows = [i for i, prediction in enumerate(found) if prediction is None]
        for row, prediction in zip(open_rows, self.classify_slow([texts[i] for i in open_rows]), strict=True):
            found[row] = prediction
        return [prediction for prediction in found if prediction is not None]

    def classify_fast(self, texts: Sequence[str]) -> list[Prediction | None]:
        """What rules and student answer, in microseconds a text; None where the classifier is needed."""
        found: list[Prediction | None] = []
        for text in texts:
            rule = self.rules.match(text)
            found.append(Prediction(rule[0], rule[1], None, "rules") if rule else None)
        rest = [i for i, prediction in enumerate(found) if prediction is None]
        if rest and self.student:
            scores = self.student.scores([texts[i] for i in rest])
            sure = sure_rows(scores, self.thresholds["student_confidence"], self.thresholds["student_second"])
            if sure.any():
                answers = self._predictions(Scores(scores.primary[sure], scores.presence[sure]), self.student, "student")
                for row, answer in zip(np.asarray(rest)[sure], answers, strict=True):
                    found[row] = answer
        return found

    def classify_slow(self, texts: Sequence[str]) -> list[Prediction]:
        """The classifier's answers; texts of similar length share a batch."""
        return self._predictions(self.classifier.scores(texts), self.classifier, "classifier") if texts else []

    def _predictions(self, scores: Scores, model: LearntClassifier, route: Route) -> list[Prediction]:
        first = scores.primary.argmax(1)
        second = model.presence.second(scores.presence, first)
        confidence = scores.primary[np.arange(len(first)), first]
        labels = self.labels
        return [
            Prediction(labels[f], float(c), labels[s] if s >= 0 else None, route)
            for f, c, s in zip(first.tolist(), confidence.tolist(), second.tolist(), strict=True)
        ]


def sure_rows(scores: Scores, confidence: float, second: float) -> NDArray[np.bool_]:
    """Where the student may answer: confident of the first intent, and nowhere near seeing a second."""
    first = scores.primary.argmax(1)
    others = scores.presence.copy()
    others[np.arange(len(first)), first] = 0
    return np.asarray((scores.primary.max(1, initial=0) >= confidence) & (others.max(1, initial=0) < second), np.bool_)


def assemble(
    candidate: Bundle,
    rules_candidate: Bundle,
    train_rows: LabelledTexts,
    validation: LabelledTexts,
    unlabelled: Sequence[str],
    settings: CandidateSettings,
    *,
    accuracy_loss: float = 0.002,
    with_student: bool = True,
) -> TrainedCandidate:
    """Builds the cascade around the chosen candidate: files and facts of a bundle of kind `intent_classifier`.

    The student is distilled from the candidate's answers to the training messages, to one variation of each, and to `unlabelled` ones.
    Its thresholds are the lowest at which, on validation, the cascade stays within `accuracy_loss` of the candidate; see
    `choose_thresholds`. Without one the classifier answers all that the rules leave open: enough where it is as fast itself.
    """
    started = time.perf_counter()
    rules = load_rules(rules_candidate)
    files = {f"classifier/{name}": candidate.file(name).read_bytes() for name in _file_names(candidate)}
    files |= {f"rules/{name}": rules_candidate.file(name).read_bytes() for name in _file_names(rules_candidate)}
    if with_student:
        teacher = load_classifier(candidate, threads=0)
        student = _taught(teacher, train_rows, unlabelled, settings)
        fast = calibrate(teacher.labels, validation, settings, main=student, linear=None)
        answers = teacher.scores(validation.texts)
        teacher_second = teacher.presence.second(answers.presence, answers.primary.argmax(1))
        thresholds = choose_thresholds(rules, fast, answers, teacher_second, validation, accuracy_loss)
        files |= {f"student/{name}": content for name, content in student_files(student, fast).items()}
    else:
        open_rows = np.array([rules.match(text) is None for text in validation.texts], np.bool_)
        thresholds = _as_thresholds(SILENT, 0.0, open_rows, np.zeros(len(open_rows), np.bool_))
    files["cascade.json"] = json.dumps(thresholds, indent=2, sort_keys=True).encode()
    facts: dict[str, Any] = {k: candidate.facts[k] for k in ("candidate", "labels", "out_of_scope_label", "training_data", "encoder")}
    facts |= {"candidate_bundle": candidate.digest, "accuracy_loss": accuracy_loss}
    return TrainedCandidate(files, facts, time.perf_counter() - started)


def _taught(teacher: LearntClassifier, train_rows: LabelledTexts, unlabelled: Sequence[str], settings: CandidateSettings) -> Student:
    texts = [*train_rows.texts, *varied(train_rows.texts, settings.distillation.seed), *unlabelled]
    taught = teacher.scores(texts)
    onehot = np.eye(len(teacher.labels), dtype=np.float32)[train_rows.primary]
    primary, presence = taught.primary.copy(), taught.presence.copy()
    n = len(train_rows.texts)
    primary[:n] = 0.5 * primary[:n] + 0.5 * onehot  # a label knows what the teacher may have wrong
    presence[:n] = 0.5 * presence[:n] + 0.5 * train_rows.presence(len(teacher.labels))
    of_unlabelled = np.full(len(unlabelled), train_rows.weights.mean(), np.float32)
    weights = np.concatenate([train_rows.weights, train_rows.weights, of_unlabelled])
    return distil(texts, primary, presence, weights, settings.distillation)


def choose_thresholds(
    rules: Rules,
    student: LearntClassifier,
    teacher: Scores,
    teacher_second: NDArray[np.int64],
    validation: LabelledTexts,
    accuracy_loss: float,
) -> dict[str, float]:
    """How sure the student must be of a first intent, and of there being no second; and what share of validation each part then answers.

    Of all pairs of thresholds the one at which the student answers most, while on the messages that rules leave open the cascade's
    weighted accuracy, its macro F1 and its weighted share of messages with both intents right stay within `accuracy_loss` of the
    classifier's, and of the messages with two intents it answers no more than HIDDEN_SECONDS: it rarely sees the second. Without such a
    pair the student is silent (threshold above 1).

    Args:
        rules: which of the messages they answer is left aside.
        student: the fast classifier.
        teacher: the classifier's probabilities of the validation messages.
        teacher_second: (n,) the classifier's second intents, -1 for none.
        validation: messages with true labels.
        accuracy_loss: allowed loss, 0..1.
    """
    open_rows = np.array([rules.match(text) is None for text in validation.texts])
    scores = student.scores(validation.texts)
    fast, slow = scores.primary.argmax(1), teacher.primary.argmax(1)
    fast_second = student.presence.second(scores.presence, fast)
    rows = np.flatnonzero(open_rows)
    truth, second, weights = validation.primary[rows], validation.second[rows], validation.weights[rows]
    classes = teacher.primary.shape[1]

    def quality(sure: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Weighted accuracy, macro F1, and share with both intents right, over open rows."""
        first = np.where(sure, fast, slow)[rows]
        other = np.where(sure, fast_second, teacher_second)[rows]
        confusion = np.zeros((classes, classes))
        np.add.at(confusion, (truth, first), weights)
        hit, total = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
        seen, mass = total > 0, max(float(weights.sum()), 1e-9)
        both = float(weights[(first == truth) & (other == second)].sum())
        return np.array([hit.sum() / mass, (2 * hit[seen] / total[seen]).mean() if seen.any() else 0.0, both / mass])

    least = quality(np.zeros(len(open_rows), np.bool_)) - accuracy_loss
    chosen, answered, chosen_second = SILENT, 0, 0.0
    for limit in SECOND_LIMITS:
        for confidence in np.round(np.arange(0.995, 0.3, -0.005), 3):
            sure = sure_rows(scores, float(confidence), limit) & open_rows
            hidden = (sure & (validation.second >= 0)).sum() > HIDDEN_SECONDS * (validation.second[open_rows] >= 0).sum()
            if hidden or (quality(sure) < least).any():
                break  # a lower one may be admissible again, by chance alone
            if sure.sum() > answered:
                chosen, answered, chosen_second = float(confidence), int(sure.sum()), limit
    return _as_thresholds(chosen, chosen_second, open_rows, sure_rows(scores, chosen, chosen_second) & open_rows)


def _as_thresholds(confidence: float, second: float, open_rows: NDArray[np.bool_], sure: NDArray[np.bool_]) -> dict[str, float]:
    """Thresholds, and the shares of messages that each part answers with them."""
    n = max(1, len(open_rows))
    return {
        "student_confidence": confidence,
        "student_second": second,
        "share_rules": float((~open_rows).sum() / n),
        "share_student": float(sure.sum() / n),
        "share_classifier": float((open_rows & ~sure).sum() / n),
    }


def _file_names(bundle: Bundle) -> list[str]:
    return sorted(json.loads((bundle.path / "manifest.json").read_text("utf-8"))["files"])
