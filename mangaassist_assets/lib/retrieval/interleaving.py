"""Two rankers compared on live traffic: by assigning shoppers to one of them, or by mixing both in one list.

An A/B test needs no more than a stable assignment. Team-draft interleaving (Radlinski, Kurup and Joachims 2008) shows every shopper one
list drawn from both rankers and counts whose documents are opened; it needs far fewer requests to see which one is preferred, and says
nothing about how much a shopper would buy from either.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.statistics import Estimate, proportion

Team = Literal["a", "b"]


@dataclass(frozen=True)
class Interleaved:
    """A mixed list: document ids, best first, and the ranker that each counts for."""

    documents: tuple[str, ...]
    teams: tuple[Team, ...]


@dataclass(frozen=True)
class Preference:
    """How often ranker b won among requests that one of them won.

    Attributes:
        share: of decided requests that b won, with Wilson's interval; above 0.5 is for b.
        ties: requests with as many clicks for either, clicks on neither included.
        p_value: exact two-sided sign test that either wins equally often; 1 for none.
    """

    share: Estimate
    ties: int
    p_value: float


def assigned_arm(unit: str, experiment: str, shares: Mapping[str, float]) -> str:
    """The arm of a unit, such as a session: the same for ever, and independent between experiments.

    Args:
        unit: what is assigned.
        experiment: its name; another name draws anew.
        shares: of each arm, at least 0, with a sum of 1.

    Raises:
        BadInput: the shares are not such.
    """
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise BadInput(f"shares {dict(shares)}", where=f"experiment {experiment!r}", remedy="Give shares of at least 0 that sum to 1.")
    place = _draw(experiment, unit) / 2**64
    given = [arm for arm, share in shares.items() if share > 0]
    for arm in given:
        if place < shares[arm]:
            return arm
        place -= shares[arm]
    return given[-1]  # the shares' sum was rounded down


def interleave(a: Sequence[str], b: Sequence[str], k: int, *, request_id: str) -> Interleaved:
    """Team-draft interleaving of two rankings, at most `k` documents, each once.

    In every round a coin decides which ranker picks first; each picks the best of its documents that is not in the list yet. The coin
    is a hash of the request, so that a repeated request shows the same list.
    """
    rng = np.random.default_rng(_draw("interleave", request_id))
    rankings: dict[Team, Sequence[str]] = {"a": a, "b": b}
    documents: dict[str, Team] = {}
    exhausted = False
    while not exhausted and len(documents) < k:
        exhausted = True
        order: tuple[Team, Team] = ("a", "b") if rng.integers(2) == 0 else ("b", "a")
        for team in order:
            pick = next((document for document in rankings[team] if document not in documents), None)
            if pick is not None and len(documents) < k:
                documents[pick] = team
                exhausted = False
    return Interleaved(tuple(documents), tuple(documents.values()))


def preference(requests: Sequence[tuple[Interleaved, Collection[str]]]) -> Preference:
    """Which ranker is preferred.

    Args:
        requests: lists that were shown, each with the documents that were opened.
    """
    from scipy.stats import binomtest

    margins = []
    for shown, clicked in requests:
        teams = [team for document, team in zip(shown.documents, shown.teams, strict=True) if document in clicked]
        margins.append(teams.count("b") - teams.count("a"))
    wins, losses = sum(margin > 0 for margin in margins), sum(margin < 0 for margin in margins)
    p = float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0
    return Preference(proportion(wins, wins + losses), len(margins) - wins - losses, p)


def _draw(*key: str) -> int:
    """64 bits that depend on the key alone."""
    return int.from_bytes(hashlib.sha256("\0".join(key).encode()).digest()[:8], "big")
