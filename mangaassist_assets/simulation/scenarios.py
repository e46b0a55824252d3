"""What changes, how much and from which day: the scenarios that the loop is tried on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from mangaassist_assets.lib.errors import BadInput

Cause = Literal["none", "model", "data", "new_intent", "provider", "seasonal"]


@dataclass(frozen=True)
class Scenario:
    """One story; every share is of all messages and reached `ramp_days` after `from_day`, straight up.

    Attributes:
        name: as people type it.
        cause: what triage ought to find.
        from_day: first day of the change, the first day of all being 0.
        ramp_days: days until it is there in full; 0 for at once.
        casual, new_slang, japanese, events: what these styles gain, at the expense of all others.
        seasonal: factor on an intent's share while a season of the calendar lasts.
        fault: texts reach the release that serves on `from_day` cut, as after a damaged file of it; its digest stays the same.
        provider: another generator writes the replies, and people like them less.
        bad_release: a release that serves from `from_day` on, or its canary in the loop, fails more and is liked less.
    """

    name: str
    cause: Cause
    from_day: int = 45
    ramp_days: int = 0
    casual: float = 0.0
    new_slang: float = 0.0
    japanese: float = 0.0
    events: float = 0.0
    seasonal: Mapping[str, float] = field(default_factory=dict)
    fault: bool = False
    provider: bool = False
    bad_release: bool = False

    def reached(self, day: int) -> float:
        """How much of the change is there on a day, 0..1."""
        if day < self.from_day:
            return 0.0
        return min(1.0, (day - self.from_day + 1) / self.ramp_days) if self.ramp_days else 1.0


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        scenario.name: scenario
        for scenario in (
            Scenario("steady", "none"),
            Scenario("holiday", "seasonal", seasonal={"promotion": 3.0, "recommendation": 1.8}),
            Scenario("slang_shift", "data", ramp_days=14, casual=0.15, new_slang=0.40),
            Scenario("new_intent", "new_intent", ramp_days=10, events=0.10),
            Scenario("model_degraded", "model", fault=True),
            Scenario("provider_change", "provider", provider=True),
            Scenario("japanese_wave", "data", ramp_days=14, japanese=0.30),
            Scenario("bad_release", "model", bad_release=True),
        )
    }
)


def scenario_named(name: str) -> Scenario:
    """The scenario of that name; raises BadInput for any other."""
    if name not in SCENARIOS:
        raise BadInput(f"no scenario {name!r}", where="simulation", remedy=f"There are {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]
