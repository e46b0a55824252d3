"""Accuracy on the golden messages of the manga store: the served cascade, its classifier alone, and a naive baseline.

    python benchmarks/manga.py [--home .mangaassist]

Golden messages were written by the annotator of the pool and are in no training data, nor is a near-duplicate of one. The baseline is
what a first try gives: embeddings of all-MiniLM-L6-v2 (mean-pooled, not fine-tuned) beside character n-grams, logistic regression,
trained on the pool alone; it is made anew in this run. Intervals are Wilson's; the last lines compare with the baseline on the same
messages.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.intents.cascade import KIND, Cascade
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, build, from_pretrained, length_batches, mean_pool, tokenize
from mangaassist_assets.lib.intents.evaluation import slice_masks
from mangaassist_assets.lib.intents.prediction import Prediction
from mangaassist_assets.lib.metrics.report import as_markdown
from mangaassist_assets.lib.statistics import mcnemar_p_value, paired_difference, proportion

POOL = "manga_pool"


def embedded(texts: Sequence[str]) -> NDArray[np.float32]:
    """(n, H) mean-pooled states of the embedded encoder as it comes."""
    import torch

    pretrained = from_pretrained(EMBEDDED_ENCODER)
    encoder = build(pretrained.shape, pretrained.weights).eval()
    ids = tokenize(pretrained.tokenizer, texts, 128)
    found = np.zeros((len(texts), pretrained.shape.hidden), np.float32)
    with torch.inference_mode():
        for rows in length_batches(np.array([len(i) for i in ids]), 64):
            width = max(len(ids[i]) for i in rows)
            padded = torch.tensor([ids[i] + [pretrained.shape.pad_id] * (width - len(ids[i])) for i in rows])
            mask = torch.arange(width)[None] < torch.tensor([len(ids[i]) for i in rows])[:, None]
            found[rows] = mean_pool(encoder(padded, mask), mask).numpy()
    return found


def baseline(pool: pa.Table, texts: Sequence[str]) -> list[str]:
    """The naive try's answers to `texts`."""
    from scipy.sparse import csr_matrix, hstack, vstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    train = pool["text"].to_pylist()
    ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True)
    terms = vstack([ngrams.fit_transform(train), ngrams.transform(texts)])
    rows = hstack([csr_matrix(normalize(embedded([*train, *texts]))), terms]).tocsr()
    model = LogisticRegression(C=10, max_iter=1000)
    model.fit(rows[: len(train)], pool["intent"].to_pylist())
    return [str(label) for label in model.predict(rows[len(train) :])]


def both_right(intent: Sequence[str], second: Sequence[str | None], answers: Sequence[Prediction]) -> NDArray[np.bool_]:
    """Whether an answer names the two intents of a message, in whichever order."""
    pairs = zip(intent, second, answers, strict=True)
    return np.array([{first, other} == {a.intent, a.secondary_intent} for first, other, a in pairs])


def main() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".mangaassist"))
    args = parser.parse_args()
    house = House(args.home)
    chosen = house.read_table("intents/intent_classifier").to_pylist()[0]
    cascade = Cascade.load(house.bundle(chosen["bundle_digest"], KIND), threads=0)
    labelled = house.read_table("messages/labeled_messages")
    golden = labelled.filter(pc.equal(labelled["split"], "golden"))
    texts, intent, second = (golden[name].to_pylist() for name in ("text", "intent", "secondary_intent"))
    pool = labelled.filter(pc.and_(pc.equal(labelled["source"], POOL), pc.equal(labelled["split"], "train")))

    served, alone, naive = cascade.classify(texts), cascade.classify_slow(texts), baseline(pool, texts)
    truth = np.array(intent, object)
    right = {
        "cascade": np.array([p.intent for p in served], object) == truth,
        f"classifier alone ({chosen['candidate']})": np.array([p.intent for p in alone], object) == truth,
        "naive baseline": np.array(naive, object) == truth,
    }
    rows: list[tuple[str, ...]] = []

    def add(name: str, mask: NDArray[np.bool_], hits: Callable[[str], NDArray[np.bool_] | None]) -> None:
        cells = []
        for model in right:
            of_model = hits(model)
            share = proportion(int(of_model[mask].sum()), int(mask.sum())) if of_model is not None else None
            cells.append("–" if share is None else f"{share.value:.3f} [{share.ci_low:.3f}, {share.ci_high:.3f}]")
        rows.append((name, f"{int(mask.sum())}", *cells))

    masks = slice_masks(golden)
    for name, mask in masks.items():
        if not name.startswith("split:"):
            add(f"{name}, first intent" if name == "multi_intent" else name, mask, right.__getitem__)
    answers = dict(zip(right, (served, alone, None), strict=True))
    with_two = np.array([other is not None for other in second])
    add("two intents, both found", with_two, lambda model: both_right(intent, second, a) if (a := answers[model]) is not None else None)
    print(as_markdown(("golden messages", "n", *right), rows))

    naive_right = right.pop("naive baseline")
    print()
    for name, hits in right.items():
        change = paired_difference(naive_right, hits, seed=0)
        p_value = mcnemar_p_value(naive_right, hits)
        print(f"{name} against the baseline: {change.value:+.3f} [{change.ci_low:+.3f}, {change.ci_high:+.3f}], McNemar p {p_value:.1g}")
    routes = [sum(p.route == route for p in served) / max(1, len(served)) for route in ("rules", "student", "classifier")]
    print("routes: rules {:.0%}, student {:.0%}, classifier {:.0%}".format(*routes))
    print(f"baseline trained on {len(pool)} messages; bundle {chosen['bundle_digest'][:12]}; {hardware('CPUExecutionProvider')}")


if __name__ == "__main__":
    main()
