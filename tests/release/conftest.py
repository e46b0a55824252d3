"""Days of interactions with a champion, a canary and a shadow, drawn session by session."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets.lib.drift.interactions import INTERACTIONS
from mangaassist_assets.lib.release.assignment import in_canary

CHAMPION, RELEASE = "c" * 64, "d" * 64
BEGAN = dt.datetime(2026, 11, 24, 9, tzinfo=dt.UTC)


@pytest.fixture(scope="session")
def draw_day():
    """Draws interactions of one day: `sessions` of two messages each."""
    return _draw_day


def _draw_day(
    sessions=2000,
    *,
    at=BEGAN,
    share=0.2,
    escalation=(0.08, 0.08),
    thumbs_up=(0.7, 0.7),
    errors=(0.001, 0.001),
    latency_ms=(8.0, 8.0),
    agree=0.95,
    shadow=True,
    seed=0,
    flags=(),
    prefix="s",
):
    """Pairs are of champion and canary; a third of messages is rated; sessions are `prefix` and a number."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(sessions):
        session = f"{prefix}{number}"
        arm = int(in_canary(session, RELEASE, share))
        escalated = rng.random() < escalation[arm]
        for turn in range(2):
            rated = rng.random() < 1 / 3
            intent = ("faq", "promotion", "chitchat")[int(rng.integers(3))]
            rows.append(
                {
                    "request_id": f"{at:%Y%m%d}-{seed}-{prefix}{number:08x}{turn}",
                    "occurred_at": at + dt.timedelta(seconds=86_000 * number / sessions * 0.6 + turn),
                    "session": session,
                    "text": "hello",
                    "language": "en",
                    "intent": intent,
                    "confidence": 0.9,
                    "route": "classifier",
                    "model_digest": (CHAMPION, RELEASE)[arm],
                    "arm": ("champion", "canary")[arm],
                    "latency_ms": float(rng.lognormal(np.log(latency_ms[arm]), 0.3)),
                    "flags": list(flags),
                    "shadow_digest": RELEASE if shadow and not arm else None,
                    "shadow_intent": (intent if rng.random() < agree else "other") if shadow and not arm else None,
                    "shadow_confidence": 0.9,
                    "shadow_latency_ms": float(rng.lognormal(np.log(9.0), 0.3)),
                    "error": "timeout" if rng.random() < errors[arm] else None,
                    "thumbs_up": bool(rng.random() < thumbs_up[arm]) if rated else None,
                    "escalated": bool(escalated and turn) if rated or (escalated and turn) else None,
                }
            )
    return pa.Table.from_pylist(rows, INTERACTIONS)
