-- asset.description = One row per change of a release's state in the release log.
-- asset.column = step | count | Place of the change in the log.
-- asset.column = release | text | Digest of the release.
-- asset.column = from_state | text | State it left; empty for its first event.
-- asset.column = to_state | text | State it entered.
-- asset.column = at | time | When.
-- asset.column = by | text | Person or asset that decided.
-- asset.column = verdict | text | PASS, FAIL or INCONCLUSIVE; empty where no gate was asked.
-- asset.column = reason | text | Why.
-- asset.unique = step
-- asset.not_null = step, release, to_state, at
SELECT
    step::BIGINT AS step,
    release::VARCHAR AS release,
    from_state::VARCHAR AS from_state,
    to_state::VARCHAR AS to_state,
    "at"::TIMESTAMPTZ AS "at",
    "by"::VARCHAR AS "by",
    verdict::VARCHAR AS verdict,
    reason::VARCHAR AS reason
FROM lake.release.rollout
