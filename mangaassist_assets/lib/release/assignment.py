"""Which sessions a canary answers: the same ones for as long as it runs, others for the next."""

import hashlib


def in_canary(session: str | None, release: str, share: float) -> bool:
    """Whether `release`, in canary with `share` of sessions (0 to 1), answers this session.

    The first 64 bits of SHA-256 over release and session, as a fraction of all, lie below `share`: stable over processes and restarts,
    and another draw for each release, so that no session is always the one that tries things out. A session that grows into a
    larger share stays in it. A message without a session goes to the champion: its feedback belongs to no unit that could be counted.
    """
    if session is None or share <= 0:
        return False
    drawn = int.from_bytes(hashlib.sha256(f"{release}\0{session}".encode()).digest()[:8], "big")
    return drawn < share * 2**64
