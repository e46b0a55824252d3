"""Which queries train, which choose, which measure; what is held out stays out of training, near-duplicates included."""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from mangaassist_assets.lib.messages.duplicates import near_duplicate_groups, near_duplicates_of


def of_split(queries: pa.Table, *splits: str) -> pa.Table:
    """The queries of the given splits."""
    return queries.filter(pc.is_in(queries["split"], pa.array(splits, pa.string())))


def with_held_out(queries: pa.Table, *, seed: int, test_share: float = 0.3, validation_share: float = 0.2) -> pa.Table:
    """Gives a table the splits that it lacks, taken from its training queries; near-duplicates stay together.

    Args:
        queries: columns QUERIES; a split that it has already is kept as it is.
        seed: of the assignment, which is a stable hash of the query's id.
        test_share: of training queries that become test queries where there is none.
        validation_share: of training queries that become validation queries where there is none.
    """
    there = set(queries["split"].to_pylist())
    texts, ids, splits = (queries[name].to_pylist() for name in ("query", "query_id", "split"))
    group = near_duplicate_groups(texts)
    shares = [("test", 0.0 if "test" in there else test_share), ("validation", 0.0 if "validation" in there else validation_share)]
    for row, split in enumerate(splits):
        if split != "train":
            continue
        place = _unit_hash(f"{seed}:{ids[group[row]]}")
        for name, share in shares:
            if 0 <= place < share:
                splits[row] = name
            place -= share
    at = queries.schema.get_field_index("split")
    return queries.set_column(at, queries.schema.field("split"), pa.array(splits, pa.string()))


def _unit_hash(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def without_leaks(training: pa.Table, held_out: pa.Table, *, threshold: float = 0.8) -> pa.Table:
    """The training queries that are no near-duplicate (see `lib/messages/duplicates.py`) of a held-out query."""
    found = near_duplicates_of(training["query"].to_pylist(), held_out["query"].to_pylist(), threshold)
    return training.filter(pa.array([other is None for other in found], pa.bool_()))
