"""How many sessions a canary needs, computed beforehand, and how long it takes to have them."""

import math
from collections.abc import Callable

from mangaassist_assets.lib.release.sequential import Mixing, Tally, change, quantile

MOST = 2**34  # units; what needs more is never decided


def units_needed(base: float, limit: float, *, share: float, mixed: Mixing, power: float) -> int | None:
    """Least units in the canary after which an unchanged release passes with probability `power`; None above MOST.

    Args:
        base: rate of the champion, 0..1.
        limit: on the change of the rate in the bad direction, above 0.
        share: of units that the canary answers.
        mixed: mixing distribution of the confidence sequence.
        power: such as 0.9.

    The canary passes where the bad end of the sequence is within the limit. At n units the sequence's half-width must leave room for the
    canary's own sampling error at that power: half-width + z(power) sqrt(base (1-base) (1/n + 1/n_champion)) <= limit.
    """
    from scipy.stats import norm

    z = float(norm.ppf(power))

    def decides(n: int) -> bool:
        champion = max(int(n * (1 - share) / share), 1)
        found = change(Tally(champion, base * champion), Tally(n, base * n), mixed)
        half = max(found.ci_high - found.value, found.value - found.ci_low)
        return half + z * math.sqrt(base * (1 - base) * (1 / n + 1 / champion)) <= limit

    return _least(decides)


def units_for_quantile(q: float) -> int | None:
    """Least values after which the q-quantile has an upper bound at all; how close it is depends on how they are distributed."""

    def decides(n: int) -> bool:
        return math.isfinite(quantile(range(n), q).ci_high)

    return _least(decides, most=2**20)


def hours_to_decide(needed: int | None, seen: int, hours: float) -> float | None:
    """Hours still to go at the rate at which `seen` units came in `hours`; None where that cannot be said."""
    if needed is None or seen <= 0 or hours <= 0:
        return None
    return max(0.0, (needed - seen) * hours / seen)


def _least(decides: Callable[[int], bool], most: int = MOST) -> int | None:
    """Least n from 1 to `most` from which on `decides` holds, by doubling and halving."""
    high = 1
    while not decides(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
