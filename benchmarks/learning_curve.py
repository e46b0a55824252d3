"""Accuracy on the golden messages against the number of training messages, source by source.

    python benchmarks/learning_curve.py [--home .mangaassist] [--encoder] [--out docs]

Messages are added in this order: the pool, the composed ones (a quarter at a time, by their hash, so that a larger part holds the
smaller), Bitext, CLINC150, and the augmented ones. Each time the linear candidate is trained anew with the settings of the graph; with
--encoder the fine-tuned embedded encoder as well, which takes minutes a point. Calibration sees the same validation messages
every time. Writes OUT/img/learning-curve-CANDIDATE.png and OUT/learning-curve.md.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.artifacts import House, write_atomic
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.intents.candidates import load, predictions, train
from mangaassist_assets.lib.intents.evaluation import slice_masks
from mangaassist_assets.lib.intents.plots import learning_curve_plot
from mangaassist_assets.lib.messages.training import assemble
from mangaassist_assets.lib.metrics.report import as_markdown
from mangaassist_assets.lib.statistics import Estimate, proportion
from mangaassist_assets.settings import Settings, current

POOL, COMPOSED, OTHERS = "manga_pool", "composed", ("bitext", "clinc150")
SLICES = ("all", "japanese_mixed", "multi_intent")


def steps(labelled: pa.Table, augmented: pa.Table, settings: Settings) -> Iterator[tuple[str, str, pa.Table]]:
    """Source that was added, name of the step, training messages; each step holds all that the one before it holds."""
    how = settings.messages.training

    def of(sources: list[str], share: float, more: pa.Table | None = None) -> pa.Table:
        train_rows = pc.equal(labelled["split"], "train")
        wanted = pc.is_in(labelled["source"], pa.array(sources))
        # message_id is a hash of the text: its first 8 digits draw the same messages every time
        drawn = pa.array([int(name[:8], 16) < share * 16**8 for name in labelled["message_id"].to_pylist()])
        wanted = pc.or_(wanted, pc.and_(pc.equal(labelled["source"], COMPOSED), drawn))
        kept = labelled.filter(pc.or_(pc.invert(train_rows), wanted))
        return assemble(kept, more, how.weights, augmented_weight=how.augmented_weight, require_review=how.require_review)

    yield POOL, "pool", of([POOL], 0.0)
    for share in (0.25, 0.5, 0.75, 1.0):
        yield COMPOSED, f"+ composed, {share:.0%}", of([POOL], share)
    sources = [POOL]
    for source in OTHERS:
        sources.append(source)
        yield source, f"+ {source}", of(sources, 1.0)
    yield "augmented", "+ augmented", of(sources, 1.0, augmented)


def golden_accuracy(candidate: str, rows: pa.Table, settings: Settings) -> dict[str, Estimate]:
    """Share of golden messages answered right by `candidate` trained on `rows`, for each of SLICES."""
    trained = train(candidate, rows, settings.intents.training, rules_toml="")
    with tempfile.TemporaryDirectory() as scratch:
        bundle = House(Path(scratch)).write_bundle("intent_candidate", trained.files, trained.facts)
        answers = predictions(load(bundle, threads=0), rows.filter(pc.equal(rows["split"], "golden")))
    labels = trained.facts["labels"]
    best = [labels[max(range(len(labels)), key=p.__getitem__)] for p in answers["probabilities"].to_pylist()]
    right = pc.equal(answers["intent"], pa.array(best)).to_numpy()
    masks = slice_masks(answers)
    return {name: proportion(int(right[masks[name]].sum()), int(masks[name].sum())) for name in SLICES if name in masks}


def curve(points: list[tuple[str, int, Estimate]]) -> pa.Table:
    """What the picture draws: each source's line starts where the one before it ends."""
    rows: list[dict[str, object]] = []
    last: tuple[int, Estimate] | None = None
    for i, (source, messages, found) in enumerate(points):
        new = i == 0 or points[i - 1][0] != source
        for n, estimate in ([last] if new and last is not None else []) + [(messages, found)]:
            rows.append(
                {"series": source, "messages": n, "accuracy": estimate.value, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high}
            )
        last = messages, found
    return pa.Table.from_pylist(rows)


def main() -> None:
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".mangaassist"))
    parser.add_argument("--encoder", action="store_true", help="also the fine-tuned embedded encoder")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    logging.disable_progress_bar()
    house, settings = House(args.home), current()
    labelled, augmented = house.read_table("messages/labeled_messages"), house.read_table("messages/augmented_messages")

    cells: dict[str, list[str]] = {}
    candidates = ("linear", "minilm") if args.encoder else ("linear",)
    headers = ["training messages", "rows", *(f"{candidate}: {name}" for candidate in candidates for name in SLICES)]
    for candidate in candidates:
        points = []
        for source, name, rows in steps(labelled, augmented, settings):
            n = pc.sum(pc.equal(rows["split"], "train")).as_py()
            found = golden_accuracy(candidate, rows, settings)
            points.append((source, n, found["all"]))
            row = cells.setdefault(name, [f"{n:,}"])
            row += [f"{e.value:.3f} [{e.ci_low:.3f}, {e.ci_high:.3f}]" if (e := found.get(part)) else "–" for part in SLICES]
            print(f"{candidate} {name}: {n:,} rows, accuracy {found['all'].value:.3f}", flush=True)
        title = f"Accuracy on golden messages, candidate {candidate}"
        write_atomic(args.out / "img" / f"learning-curve-{candidate}.png", learning_curve_plot(curve(points), title=title))
    table = as_markdown(headers, [(name, *row) for name, row in cells.items()])
    command = f"python benchmarks/learning_curve.py{' --encoder' if args.encoder else ''}"
    page = [
        "# Learning curve",
        "Accuracy on the golden messages (95% interval) against the messages trained on, each line adding to the one above it; for all",
        "messages, those with Japanese in them, and those with two intents (the first one counts).",
        table,
        *(f"![{candidate}](img/learning-curve-{candidate}.png)" for candidate in candidates),
        f"`{command}`, {hardware('torch')}.",
    ]
    write_atomic(args.out / "learning-curve.md", ("\n\n".join([page[0], "\n".join(page[1:3]), *page[3:]]) + "\n").encode())
    print(f"\n{table}")


if __name__ == "__main__":
    main()
