"""Messages a second of the cascade against a DistilBERT-size int8 encoder answering one message at a time.

    python benchmarks/cascade.py [--home .mangaassist] [--rounds 7]

Peer: a DistilBERT-size encoder (6 layers, 768 wide) with random weights, dynamic int8, ONNX Runtime, batch 1, all cores: what
a service does that hands each message to the model as it comes. Random weights serve for timing: the work is the same.
Project: the served bundle, on batches of 256, all cores. Both read the test and golden messages of the house, tokenising
included, in turn (A B B A), in one process; the figure is the median of the paired ratios. Quality is the macro F1 of the
cascade beside the classifier alone on the same messages.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.intents.cascade import Cascade
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER, FineTuned, Shape, build, from_pretrained
from mangaassist_assets.lib.intents.export import OnnxEncoder, to_int8, to_onnx


def distilbert_size(classes: int) -> OnnxEncoder:
    """The peer: random weights in DistilBERT's shape behind the embedded tokenizer, whose vocabulary is the same."""
    import torch

    torch.manual_seed(0)
    pretrained = from_pretrained(EMBEDDED_ENCODER)
    shape = Shape(6, 768, 12, 3072, pretrained.shape.vocabulary, 512, 0, 1e-12, 0)
    model = FineTuned(
        build(shape).eval(), shape, torch.randn(2 * classes, 2 * 768) * 0.02, torch.zeros(2 * classes), pretrained.tokenizer, 128
    )
    return OnnxEncoder(to_int8(to_onnx(model)), pretrained.tokenizer, max_tokens=128, pad_id=0, intra_op=0)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    from sklearn.metrics import f1_score

    from mangaassist_assets.lib.intents.benchmark import hardware

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".mangaassist"))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    house = House(args.home)
    chosen = house.read_table("intents/intent_classifier").to_pylist()[0]
    cascade = Cascade.load(house.bundle(chosen["bundle_digest"]), threads=0)
    rows = house.read_table("messages/training_messages")
    rows = rows.filter(pc.is_in(rows["split"], pa.array(["test", "golden"])))
    texts, truth = rows["text"].to_pylist(), rows["intent"].to_pylist()
    peer = distilbert_size(len(cascade.labels))
    sample = texts[:: max(1, len(texts) // 150)]

    def project() -> None:
        for i in range(0, len(texts), 256):
            cascade.classify(texts[i : i + 256])

    def one_by_one() -> None:
        for text in sample:
            peer.logits([text])

    project()
    one_by_one()
    ratios, ours, theirs = [], [], []
    for round_ in range(args.rounds):
        first = seconds(project) if round_ % 2 == 0 else None
        other = seconds(one_by_one)
        mine = first if first is not None else seconds(project)
        ours.append(len(texts) / mine)
        theirs.append(len(sample) / other)
        ratios.append(ours[-1] / theirs[-1])
    answers = cascade.classify(texts)
    alone = cascade.classify_slow(texts)
    routes = {route: sum(a.route == route for a in answers) / len(answers) for route in ("rules", "student", "classifier")}
    f1 = [100 * f1_score(truth, [a.intent for a in predicted], average="macro") for predicted in (answers, alone)]
    print(f"hardware            {hardware('CPUExecutionProvider')}")
    print(f"cascade             {np.median(ours):8.0f} messages/s   routes " + ", ".join(f"{k} {v:.0%}" for k, v in routes.items()))
    print(f"int8 DistilBERT b1  {np.median(theirs):8.0f} messages/s")
    print(f"ratio               {np.median(ratios):8.1f}   (rounds: {', '.join(f'{r:.1f}' for r in ratios)})")
    print(f"macro F1            cascade {f1[0]:.2f}, classifier alone {f1[1]:.2f}, n = {len(texts)}")


if __name__ == "__main__":
    main()
