"""A real bundle of kind intent_classifier, made in a second: a two-layer encoder with random weights, a student, two rules."""

import json

import numpy as np

from mangaassist_assets.lib.intents.calibration import Presence
from mangaassist_assets.lib.intents.classifier import LearntClassifier, student_files
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, FineTuned, Shape, build, from_pretrained
from mangaassist_assets.lib.intents.export import to_onnx
from mangaassist_assets.lib.intents.features import Ngrams
from mangaassist_assets.lib.intents.rules import RuleRecord, records_to_json
from mangaassist_assets.lib.intents.student import Student
from mangaassist_assets.lib.intents.windows import WIDTHS, WordWindows, feature_count

LABELS = ("chitchat", "faq", "order_tracking")
RULES = """
[[rule]]
name = "greeting"
intent = "chitchat"
pattern = "hello|hi there"

[[rule]]
name = "where_is_order"
intent = "order_tracking"
pattern = "where is my order"
"""
SURE = "gift cards gift cards"  # the student knows this and nothing else
PARTS = {
    "hello": "rules",
    "where is my order?": "rules",
    SURE: "student",
    "おすすめの漫画は?": "classifier",
    "is vol. 3 in stock": "classifier",
}


def write_real_bundle(house, seed=1):
    """Writes it and returns the bundle; another seed is another bundle with other answers."""
    import torch

    torch.manual_seed(seed)
    k, width = len(LABELS), 32
    pretrained = from_pretrained(EMBEDDED_ENCODER)
    shape = Shape(2, width, 2, 64, pretrained.shape.vocabulary, 64, 0, 1e-12, pretrained.shape.pad_id)
    tuned = FineTuned(build(shape).eval(), shape, torch.randn(2 * k, 2 * width) * 0.1, torch.zeros(2 * k), pretrained.tokenizer, 32)
    presence = Presence(1.0, -3.0, (0.9,) * k)
    classifier = LearntClassifier(LABELS, None, None, None, (1.0,), presence, 0.0)
    ngrams = Ngrams.fit([SURE, SURE])
    output = np.zeros((4, 2 * k), np.float32)
    output[:, LABELS.index("faq")] = 10
    least = -3.6 * float(ngrams.matrix([SURE]).sum())  # a tenth fewer known n-grams leave the hidden layer silent, all answers even
    words = WordWindows(pretrained.tokenizer, np.zeros((shape.vocabulary, 1)), [np.zeros((1, 1, width)) for width in WIDTHS])
    hidden = np.vstack([np.ones((4, 4)), np.zeros((feature_count(1), 4))])  # n-grams alone decide
    student = Student(ngrams, words, np.ones((len(ngrams), 4)), hidden, np.full(4, least), output, np.zeros(2 * k))
    records = [
        RuleRecord(name, intent, 40, 40, 0.97, 0.91, True)
        for name, intent in (("greeting", "chitchat"), ("where_is_order", "order_tracking"))
    ]
    files = {
        "rules/rules.toml": RULES.encode(),
        "rules/rule_records.json": json.dumps(records_to_json(records)).encode(),
        **{f"student/{name}": content for name, content in student_files(student, classifier).items()},
        "classifier/encoder.onnx": to_onnx(tuned),
        "classifier/tokenizer.json": pretrained.tokenizer.to_str().encode(),
        "classifier/classifier.json": classifier.settings_json(precision="float32", max_tokens=32, pad_id=shape.pad_id),
        "cascade.json": json.dumps({"student_confidence": 0.99, "student_second": 0.9}).encode(),
    }
    return house.write_bundle("intent_classifier", files, {"candidate": "tiny", "labels": list(LABELS), "out_of_scope_label": None})
