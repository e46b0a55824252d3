from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.messages.duplicates import jaccard
from mangaassist_assets.lib.messages.reading import Split
from mangaassist_assets.lib.messages.splitting import Placement, bucket, place, split_of

SHARES = {"validation_share": 0.1, "test_share": 0.1}
BASE = "could you tell me where the parcel with my books is"


def a_text_hashed_to(split: str, start: str = BASE) -> str:
    """A variation of `start` that a hash sends to `split`."""
    return next(text for i in range(1000) if split_of(text := f"{start} {'.' * i}x", **SHARES) == split)


def placed(texts: list[str], named: list[Split | None], **options: object) -> list[Placement]:
    return place(texts, named, [i if name is None else None for i, name in enumerate(named)], **options)  # type: ignore[arg-type]


def reasons(placements: list[Placement]) -> list[str | None]:
    return [placement.refusal.reason if placement.refusal else None for placement in placements]


def test_hashes_give_about_the_shares_that_are_asked_for() -> None:
    counts = Counter(split_of(f"text {i}", **SHARES) for i in range(10_000))
    assert 7_800 < counts["train"] < 8_200 and 900 < counts["validation"] < 1_100 and 900 < counts["test"] < 1_100


def test_buckets_of_two_purposes_are_independent() -> None:
    low = [f"text {i}" for i in range(10_000) if bucket(f"text {i}", "limit") < 0.1]
    assert 0.05 < sum(split_of(text, **SHARES) == "test" for text in low) / len(low) < 0.15


def test_a_split_that_the_source_names_is_kept() -> None:
    assert [p.split for p in placed(["one text here", "another text there"], ["golden", "validation"])] == ["golden", "validation"]


def test_the_more_protected_of_two_near_duplicates_stays() -> None:
    texts = ["the first volume of berserk is torn", "the first volume of berserk is torn!", "the first volume of berserk is torn!!"]
    assert reasons(placed(texts, ["train", "golden", "test"])) == ["near_duplicate_of_golden", None, "near_duplicate_of_golden"]
    unnamed = a_text_hashed_to("train")
    assert reasons(placed([unnamed, unnamed + "!"], [None, "test"])) == ["near_duplicate_of_test", None]


def test_a_near_duplicate_follows_the_older_text() -> None:
    first, second = a_text_hashed_to("train"), a_text_hashed_to("test")
    assert [p.split for p in placed([first, second], [None, None], train_near_duplicate=None)] == ["train", "train"]
    assert [p.split for p in placed([second, first], [None, None], train_near_duplicate=None)] == ["test", "test"]
    groups = [p.group for p in placed([first, second], [None, None], train_near_duplicate=None)]
    assert groups == [0, 0]


def test_a_text_between_two_splits_is_refused_rather_than_tying_them() -> None:
    words = [f"word{i}" for i in range(40)]
    left = a_text_hashed_to("train", " ".join(words[:30]))
    right = a_text_hashed_to("test", " ".join(words[4:34]))
    middle = " ".join(words[2:32])
    threshold = min(jaccard(middle, left), jaccard(middle, right))
    assert jaccard(left, right) < threshold
    placements = placed([left, right, middle], [None, None, None], near_duplicate=threshold)
    assert [p.split for p in placements[:2]] == ["train", "test"]
    assert reasons(placements) == [None, None, "near_duplicate_of_test"]


def test_near_duplicates_within_train_collapse_where_the_setting_says_so() -> None:
    texts = ["how do i return a torn copy of nana", "How do I return a torn copy of Nana?"]
    assert reasons(placed(texts, ["train", "train"])) == [None, "near_duplicate"]
    assert reasons(placed(texts, ["train", "train"], train_near_duplicate=None)) == [None, None]
    assert reasons(placed(texts, ["test", "test"])) == [None, None]


def test_an_absent_text_keeps_nobody_out_but_is_still_followed() -> None:
    first, second = a_text_hashed_to("test"), a_text_hashed_to("train")
    placements = place([first, second], [None, None], [0, 1], absent={0})
    assert placements[1].split == "test" and placements[1].refusal is None


WORDS = ["order", "refund", "berserk", "volume", "late", "注文", "届かない", "please"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
NAMED = st.sampled_from([None, None, None, "train", "validation", "test", "golden"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SENTENCES, NAMED), min_size=2, max_size=40, unique_by=lambda item: item[0]), st.data())
def test_appending_messages_moves_no_older_one_to_another_split(rows: list[tuple[str, Split | None]], data: st.DataObject) -> None:
    old = data.draw(st.integers(1, len(rows) - 1))
    before = placed([text for text, _ in rows[:old]], [name for _, name in rows[:old]])
    after = placed([text for text, _ in rows], [name for _, name in rows])
    assert [p.split for p in before] == [p.split for p in after[:old]]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SENTENCES, NAMED), max_size=40, unique_by=lambda item: item[0]))
def test_no_two_kept_near_duplicates_lie_in_different_splits(rows: list[tuple[str, Split | None]]) -> None:
    placements = placed([text for text, _ in rows], [name for _, name in rows])
    kept = [(text, p) for (text, _), p in zip(rows, placements, strict=True) if p.refusal is None]
    for i, (text, placement) in enumerate(kept):
        for other, theirs in kept[:i]:
            if jaccard(text, other) >= 0.8:
                assert placement.split == theirs.split and placement.group == theirs.group


def test_the_split_of_a_text_is_the_same_in_every_process() -> None:
    assert [split_of(f"text {i}", **SHARES) for i in range(20)].count("train") == 17
    assert split_of("where is my order", **SHARES) == "test"
