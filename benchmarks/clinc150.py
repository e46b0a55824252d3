"""CLINC150 through the graph, with nothing but a `mangaassist.toml`.

    python benchmarks/clinc150.py data_full.json [--work FOLDER]

data_full.json is the file of github.com/clinc/oos-eval (CC BY 3.0). Its rows become one JSON-lines file with the columns text, intent and
split, `mangaassist run` builds the graph in a folder that holds this file and a `mangaassist.toml`, and the bundle it made answers all
5,500 test messages. Figures are those of the dataset's paper (Larson et al. 2019): in-scope accuracy counts an in-scope message that is
turned away as wrong; out-of-scope recall is the share of out-of-scope messages that are turned away. The paper trains on every row; the
graph refuses training rows that nearly equal a test row.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.intents.benchmark import hardware
from mangaassist_assets.lib.intents.cascade import KIND, Cascade
from mangaassist_assets.lib.metrics.report import as_markdown
from mangaassist_assets.lib.statistics import Estimate, proportion

OUT_OF_SCOPE = "oos"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
SETTINGS = f"""home = ".mangaassist"

[sources.labeled_messages]
name = "clinc150_full"
paths = ["clinc150.jsonl"]
text = "text"
intent = "intent"
split = "split"
out_of_scope = "{OUT_OF_SCOPE}"
licence = "CC-BY-3.0"

[messages.augmentation]
count = 0  # the lexica are a manga store's
"""
PAPER = (  # table 2, data set Full, out-of-scope as one more class: in-scope accuracy, out-of-scope recall
    ("paper: BERT", 0.969, 0.403),
    ("paper: BERT, OOS+", 0.967, 0.592),
    ("paper: MLP", 0.935, 0.474),
)


def read_rows(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Text and label of every row by split: train, validation, test; out-of-scope rows last."""
    rows: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS.values()}
    content = json.loads(path.read_text("utf-8"))
    for name in sorted(content, key=lambda name: name.startswith("oos_")):
        rows[SPLITS[name.removeprefix("oos_")]] += [(text, label) for text, label in content[name]]
    return rows


def prepare(path: Path, work: Path) -> None:
    """Writes the messages and the settings that the graph is built from."""
    work.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"text": text, "intent": intent, "split": split}, ensure_ascii=False) + "\n"
        for split, rows in read_rows(path).items()
        for text, intent in rows
    ]
    (work / "clinc150.jsonl").write_text("".join(lines), "utf-8")
    (work / "mangaassist.toml").write_text(SETTINGS, "utf-8")


def build(work: Path) -> tuple[float, int]:
    """Runs `mangaassist run` in `work`; seconds, and how many assets were built."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MANGAASSIST_")}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "mangaassist_assets.cli", "run", "--json"], cwd=work, env=environment, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"mangaassist run failed with status {done.returncode}: {done.stdout.strip()[-2000:]}")
    return seconds, len(json.loads(done.stdout)["built"])


def figures(truth: Sequence[str], answers: Sequence[str]) -> tuple[Estimate, Estimate]:
    """In-scope accuracy and out-of-scope recall."""
    inside = [t == a for t, a in zip(truth, answers, strict=True) if t != OUT_OF_SCOPE]
    outside = [a == OUT_OF_SCOPE for t, a in zip(truth, answers, strict=True) if t == OUT_OF_SCOPE]
    return proportion(sum(inside), len(inside)), proportion(sum(outside), len(outside))


def percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} [{estimate.ci_low:.1%}, {estimate.ci_high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data_full.json, or another file of the same form")
    parser.add_argument("--work", type=Path, help="where to build; kept. A temporary folder by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        prepare(args.data, work)
        seconds, built = build(work)
        house = House(work / ".mangaassist")
        chosen = house.read_table("intents/intent_classifier").to_pylist()[0]
        cascade = Cascade.load(house.bundle(chosen["bundle_digest"], KIND), threads=0)
        rejected = house.read_table("messages/rejected_messages")["reason"].value_counts().to_pylist()
    test = read_rows(args.data)["test"]
    texts, truth = [text for text, _ in test], [intent for _, intent in test]
    answers, alone = cascade.classify(texts), cascade.classify_slow(texts)

    rows = []
    for name, predictions in (("cascade", answers), (f"classifier alone ({chosen['candidate']})", alone)):
        inside, outside = figures(truth, [p.intent for p in predictions])
        rows.append((name, percent(inside), percent(outside)))
    rows += [(name, f"{accuracy:.1%}", f"{recall:.1%}") for name, accuracy, recall in PAPER]
    routes = [sum(p.route == route for p in answers) / len(answers) for route in ("rules", "student", "classifier")]
    n_outside = truth.count(OUT_OF_SCOPE)
    print(as_markdown(("model", f"in-scope accuracy, n = {len(truth) - n_outside:,}", f"out-of-scope recall, n = {n_outside:,}"), rows))
    print(f"\n`mangaassist run`: {seconds:.0f} s, {built} built; {hardware('torch')}")
    print("routes: rules {:.0%}, student {:.0%}, classifier {:.0%}".format(*routes))
    refused = ", ".join(f"{r['counts']:,} {r['values']}" for r in sorted(rejected, key=lambda r: -r["counts"]))
    print(f"rows refused by the graph: {refused or 'none'}")


if __name__ == "__main__":
    main()
