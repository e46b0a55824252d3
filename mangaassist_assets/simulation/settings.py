"""How much is simulated."""

from dataclasses import dataclass

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.simulation.scenarios import scenario_named


@dataclass(frozen=True)
class SimulationSettings:
    """The traffic that `mangaassist run` rehearses the loop on where there is no other; the section `[simulation]`.

    Attributes:
        scenario: what changes in it; see docs/simulation.md.
        days: of traffic; 0 leaves the rehearsal out. Where the labelled messages are your own it is 0 unless you say otherwise.
        per_day: mean number of messages a day.
        seed: of everything that is drawn.
    """

    scenario: str = "new_intent"
    days: int = 90
    per_day: int = 1_000
    seed: int = 20

    def __post_init__(self) -> None:
        scenario_named(self.scenario)
        for name, least in (("days", 0), ("per_day", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{getattr(self, name)} is below {least}", where=f"simulation.{name}", remedy=f"Give {least} or more.")
