-- asset.description = One row per change in the release log, in its order: how a release became champion, was held or rolled back.
-- asset.column = release | text | Digest of the release.
-- asset.column = from_state | text | State it left; empty for its first event.
-- asset.column = to_state | text | State it entered.
-- asset.column = at | time | When.
-- asset.column = by | text | Person or asset that decided.
-- asset.column = verdict | text | PASS, FAIL or INCONCLUSIVE; empty where no gate was asked.
-- asset.column = reason | text | Why.
-- asset.not_null = release, to_state, at, by
-- asset.accepted = verdict | PASS, FAIL, INCONCLUSIVE
SELECT
    events.release,
    events.from_state,
    events.to_state,
    events."at",
    events."by",
    events.verdict,
    events.reason
FROM raw.rollout AS events
ORDER BY events.step
