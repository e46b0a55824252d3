"""Queries whose answers shoppers judged without being asked: by what they opened, passed over, and gave a thumb up."""

from collections.abc import Container
from dataclasses import dataclass

import pyarrow as pa

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.retrieval.pairs import QUERIES

SOURCE = "feedback"


@dataclass(frozen=True)
class QueryFeedback:
    """What counts as a judgement, the section `[retrieval.feedback]`.

    Attributes:
        days: the latest days of traffic that are read.
        least: requests that must agree on a document before it counts: one click is chance.
    """

    days: int = 90
    least: int = 2

    def __post_init__(self) -> None:
        for name in ("days", "least"):
            if getattr(self, name) < 1:
                raise BadInput(f"{getattr(self, name)} is below 1", where=f"retrieval.feedback.{name}", remedy="Give 1 or more.")


def feedback_queries(retrievals: pa.Table, documents: Container[str], *, least: int = 2) -> pa.Table:
    """Queries out of what shoppers did with answers, columns QUERIES, all for training.

    Args:
        retrievals: columns query, shown (list of document ids, best first), clicked (list of those opened), thumbs_up (bool or null).
        documents: ids that the catalogue still has; others count nowhere.
        least: as in `QueryFeedback`.

    A clicked document is relevant, and so is the first one shown where the answer got a thumb up. A document shown above a clicked one
    and passed over is not relevant (Joachims 2002).
    """
    good: dict[str, dict[str, int]] = {}
    passed: dict[str, dict[str, int]] = {}
    for row in retrievals.select(["query", "shown", "clicked", "thumbs_up"]).to_pylist():
        text, shown, clicked = " ".join((row["query"] or "").split()), row["shown"] or [], set(row["clicked"] or [])
        liked = clicked | set(shown[:1] if row["thumbs_up"] else [])
        lowest = max((place for place, document in enumerate(shown) if document in clicked), default=0)
        for counts, liked_or_passed in ((good, liked), (passed, set(shown[:lowest]) - liked)):
            for document in liked_or_passed:
                own = counts.setdefault(text, {})
                own[document] = own.get(document, 0) + 1
    found = []
    for text in sorted(good):
        if not text:
            continue
        relevant = sorted((d for d, n in good[text].items() if n >= least and d in documents), key=lambda d: (-good[text][d], d))
        if relevant:
            wrong = sorted(d for d, n in passed.get(text, {}).items() if n >= least and d not in good[text] and d in documents)
            found.append({
                "query_id": f"feedback-{digest_of(text)[:16]}", "query": text, "relevant": relevant, "grades": [1.0] * len(relevant),
                "not_relevant": wrong, "kind": "", "slices": [], "split": "train", "source": SOURCE,
            })  # fmt: skip
    return pa.Table.from_pylist(found, schema=QUERIES)
