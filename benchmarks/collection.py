"""A collection that nobody has tuned on, through the whole graph with nothing but a `mangaassist.toml`: does training lift it?

    python benchmarks/collection.py data_full.json [--folder DIR]

CLINC150 as a search collection in BEIR's shape: a document is two requests of one intent, four documents an intent, without the intent's
name; a query is another request, and the four documents of its intent answer it. 20 queries an intent have their judgements in the train
part, 10 of the dataset's test split in the test part. Shown is the adapter's paired change on the test queries, and what each channel and
all of them fused find. Exit status 1 unless the adapter lifts nDCG@10 beyond chance.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.metrics.report import as_markdown

DOCUMENTS, REQUESTS, TRAIN, TEST = 4, 2, 20, 10
CONFIG = """
[intents]
candidates = ["rules", "linear"]
benchmark = { seconds = 0.5, max_seconds = 0.5, repeats = 2 }
[simulation]
days = 0
[sources.catalog]
paths = ["documents.jsonl"]
[sources.retrieval_pairs]
paths = ["queries.jsonl"]
id = "_id"
query = "text"
judgements = ["qrels/*.tsv"]
judged_query = "query-id"
judged_document = "corpus-id"
relevance = "score"
"""


def write_collection(dataset: Path, folder: Path) -> None:
    """Documents, queries with their split, and judgements."""
    content, rng = json.loads(dataset.read_text("utf-8")), random.Random(3)
    requests: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for split, by_intent in requests.items():
        for text, intent in content[split]:
            by_intent.setdefault(intent, []).append(text)
    documents, queries, judgements = [], [], {"train": [], "test": []}
    for intent, texts in sorted(requests["train"].items()):
        rng.shuffle(texts)
        own = []
        for start in range(0, DOCUMENTS * REQUESTS, REQUESTS):
            own.append(f"d{len(documents)}")
            documents.append({"id": own[-1], "title": f"case {len(documents)}", "text": ". ".join(texts[start : start + REQUESTS])})
        asked = {"train": texts[DOCUMENTS * REQUESTS :][:TRAIN], "test": requests["test"][intent][:TEST]}
        for split, found in asked.items():
            for text in found:
                judgements[split] += [f"q{len(queries)}\t{document}\t1" for document in own]
                queries.append({"_id": f"q{len(queries)}", "text": text, "split": split})
    for name, rows in (("documents", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "qrels").mkdir()
    for split, lines in judgements.items():
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines, ""]), "utf-8")
    (folder / "mangaassist.toml").write_text(CONFIG, "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--folder", type=Path, help="where everything is written; a temporary folder without it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        write_collection(args.dataset, folder)
        environment = os.environ | {"MANGAASSIST_HOME": str(folder / "home")}
        done = subprocess.run([sys.executable, "-m", "mangaassist_assets.cli", "run", "--json"], cwd=folder, env=environment)
        if done.returncode:
            return done.returncode
        house = House(folder / "home")
        found = [row for row in house.read_table("retrieval/retrieval_evaluation").to_pylist() if row["slice"] == "all"]
        changes = [row for row in house.read_table("retrieval/retrieval_evaluation", part="changes").to_pylist() if row["slice"] == "all"]
    spaces = dict.fromkeys(row["embedding_space"] for row in found)
    metrics = ("recall_at_3", "mrr", "ndcg_at_10")
    value = {(row["embedding_space"], row["metric"]): f"{row['value']:.3f}" for row in found}
    print(as_markdown((f"{found[0]['n']:,} test queries", *metrics), [(space, *(value[space, m] for m in metrics)) for space in spaces]))
    print()
    for row in changes:
        print(
            f"adapted against base, {row['metric']}: {row['change']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}], n = {row['n']:,}"
        )
    return 0 if any(row["metric"] == "ndcg_at_10" and row["ci_low"] > 0 for row in changes) else 1


if __name__ == "__main__":
    sys.exit(main())
