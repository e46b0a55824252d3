"""A pool of the bundled messages and a classifier trained on them in a minute, for studies that have no installation at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.intents.candidates import CandidateSettings, train
from mangaassist_assets.lib.intents.classifier import LearntClassifier, load_classifier
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.messages.labelling import label_messages
from mangaassist_assets.lib.messages.reading import load_sources
from mangaassist_assets.lib.messages.training import assemble
from mangaassist_assets.simulation.pool import Pool, embed, pool_of


@dataclass(frozen=True)
class Plain:
    """A classifier alone, without rules and student before it."""

    digest: str
    classifier: LearntClassifier

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        scores = self.classifier.scores(texts).primary
        first, labels = scores.argmax(1), self.classifier.labels
        return [Prediction(labels[f], float(c), None, "classifier") for f, c in zip(first, scores.max(1), strict=True)]


def bundled_pool(data: Path, folder: Path) -> tuple[Pool, Plain]:
    """Labels the bundled messages, trains the n-gram classifier on their training rows, and makes a pool of the others.

    Args:
        data: the project's folder `data/`.
        folder: where the classifier's bundle is written.
    """
    sources = load_sources(data / "sources.toml")
    labelled = label_messages(sources)
    rows = assemble(labelled.table, None, {})
    settings = replace(CandidateSettings(), out_of_scope_label=labelled.out_of_scope_label)
    made = train("linear", rows, settings, rules_toml=(data / "rules" / "intents.toml").read_text("utf-8"))
    bundle = House(folder).write_bundle("intent_candidate", made.files, made.facts)
    return pool_of(labelled.table, data / "lexica", embed=embed), Plain(bundle.digest, load_classifier(bundle))
