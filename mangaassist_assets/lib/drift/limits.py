"""When a change of traffic is worth a person's attention."""

import math
from dataclasses import dataclass

from mangaassist_assets.lib.errors import BadInput

RATIOS = (
    "share_shift",
    "mean_confidence",
    "confidence_fall",
    "calibration_error",
    "accuracy_fall",
    "probe_fall",
    "novelty_growth",
    "novelty_doubt",
    "novelty_far",
    "language_shift",
    "escalation_rise",
    "thumbs_down_rise",
)


@dataclass(frozen=True)
class DriftLimits:
    """How large a change must be, and how sure, before it alarms; docs/drift.md has the source of each default.

    Attributes:
        share_shift: share of an intent, week against week, beyond which it has shifted.
        mean_confidence: floor of the calibrated mean confidence of a day.
        confidence_fall: fall of that mean below the days before it that counts, wherever the floor lies.
        calibration_error: most that the expected calibration error of the labelled control slice may be.
        kl_nats: least KL divergence, month against month, that counts however sure it is.
        accuracy_fall: fall of the accuracy of labelled messages that counts.
        probe_fall: fall of the accuracy of golden probes that counts; the same ones are asked every day, so that chance is small.
        novelty_growth: share of messages that cells of the drift space must gain, with more doubt than before, for it to count.
        novelty_doubt: confidence that a gained message lacks, against earlier ones of its cell, where it is a new intent that fills
            `novelty_cells`; in fewer cells less is enough, in more it takes more. A third of it, wherever, is a new way of speaking.
        novelty_cells: cells that a new intent typically fills.
        novelty_far: rise of the share of messages far from all known ones that counts.
        language_shift: change of the share of a language that counts.
        escalation_rise: rise of the escalation rate that counts, and of the error rate.
        thumbs_down_rise: rise of the share of thumbs that point down that counts.
        significance: most chance of a false alarm that one judgement of a week or a month may take.
        daily_significance: the same for one judgement of a day, of which there are more.
        baseline_days: days before, that a day is held against.
        reference_weeks: quiet weeks before, that a week is held against.
        least_messages: messages below which a day, a week or a month is not judged.
        least_days: days below which a month is not judged.
        permutations: random divisions of the days behind a p-value, and resamples behind a threshold.
        cooldown_days: days after a retrain within which no other is asked for.
    """

    share_shift: float = 0.05
    mean_confidence: float = 0.85
    confidence_fall: float = 0.02
    calibration_error: float = 0.10
    kl_nats: float = 0.02
    accuracy_fall: float = 0.03
    probe_fall: float = 0.015
    novelty_growth: float = 0.03
    novelty_doubt: float = 0.07
    novelty_cells: float = 10.0
    novelty_far: float = 0.02
    language_shift: float = 0.05
    escalation_rise: float = 0.01
    thumbs_down_rise: float = 0.02
    significance: float = 0.01
    daily_significance: float = 0.001
    baseline_days: int = 28
    reference_weeks: int = 4
    least_messages: int = 200
    least_days: int = 14
    permutations: int = 999
    cooldown_days: int = 28

    def __post_init__(self) -> None:
        for name in RATIOS:
            self._require(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        for name in ("significance", "daily_significance"):
            self._require(name, 0 < getattr(self, name) < 1, "a number between 0 and 1, such as 0.01")
        for name in ("kl_nats", "novelty_cells"):
            self._require(name, math.isfinite(getattr(self, name)) and getattr(self, name) > 0, "a number above 0")
        for name, least in (("baseline_days", 7), ("reference_weeks", 2), ("least_messages", 1), ("least_days", 4), ("cooldown_days", 0)):
            self._require(name, getattr(self, name) >= least, f"a whole number, {least} or more")
        self._require("permutations", self.permutations + 1 >= 1 / self.significance, f"{math.ceil(1 / self.significance)} or more")

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise BadInput(f"{getattr(self, name)} cannot be used", where=f"drift.{name}", remedy=f"Give {wanted}.")
