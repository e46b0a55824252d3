"""What a release must show on live traffic, for how long, and on how much of it."""

import math
from dataclasses import dataclass

from mangaassist_assets.lib.errors import BadInput


@dataclass(frozen=True)
class ReleaseRules:
    """The way from the offline gates to champion; the defaults are those that data science, engineering and product agreed on.

    Attributes:
        shadow_days: days in shadow, beside the champion on live traffic.
        shadow_sessions: least sessions that shadow compares.
        agreement: least share of messages that champion and shadow answer alike. Agreement is no merit, so this is only a floor: two
            models that disagree more often than this are not of the same task.
        shadow_errors: most of the messages that shadow may leave without an answer.
        accuracy_drop: most that accuracy may fall against the champion, on the messages that people have labelled meanwhile.
        canary_share: of sessions that the canary answers.
        canary_hours: least hours in canary.
        canary_sessions: least sessions that the canary answers.
        escalation: most that the share of sessions handed to a person may rise.
        thumbs_up: most that the share of ratings that are thumbs up may fall.
        errors: most that the share of messages answered with an error may rise.
        latency_ms: most milliseconds that the 99th percentile of latency may rise.
        approval: whether a passed canary waits for a person; False makes it champion at once.
        approval_hours: for which an approval is good.
        power: probability with which an unchanged release is to pass, when the sessions needed are computed.
    """

    shadow_days: float = 7.0
    shadow_sessions: int = 1000
    agreement: float = 0.70
    shadow_errors: float = 0.005
    accuracy_drop: float = 0.02
    canary_share: float = 0.01
    canary_hours: float = 24.0
    canary_sessions: int = 1000
    escalation: float = 0.01
    thumbs_up: float = 0.02
    errors: float = 0.005
    latency_ms: float = 10.0
    approval: bool = True
    approval_hours: float = 72.0
    power: float = 0.9

    def __post_init__(self) -> None:
        shares = ("agreement", "shadow_errors", "accuracy_drop", "canary_share", "escalation", "thumbs_up", "errors", "power")
        for name in shares:
            if not 0 < getattr(self, name) < 1:
                raise BadInput(
                    f"{getattr(self, name)} is no share", where=f"release.{name}", remedy="Give a number above 0 and below 1, such as 0.01."
                )
        for name in ("shadow_days", "shadow_sessions", "canary_hours", "canary_sessions", "latency_ms", "approval_hours"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"{getattr(self, name)} is no amount", where=f"release.{name}", remedy="Give a number above 0.")
