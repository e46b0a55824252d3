"""Rules answer whole messages only, are used only where measured precise, and never take long."""

import time
from pathlib import Path

import numpy as np
import pytest

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.intents.rules import LONGEST, Rules, fold, measure_rules, read_rules, records_to_json

BUNDLED = Path(__file__).parents[2] / "data/rules/intents.toml"
SOURCE = """
[fragments]
hello = "(?:{greeting}[ ,]+)*"
greeting = "(?:hi|hey)"

[[rule]]
name = "greeting"
intent = "chitchat"
pattern = "{greeting}|hello"

[[rule]]
name = "order"
intent = "order_tracking"
pattern = "{hello}where is my order"

[[rule]]
name = "late"
intent = "order_tracking"
pattern = "late"

[[rule]]
name = "weather"
intent = "weather_report"
pattern = "is it raining"
"""
LABELS = ("chitchat", "faq", "order_tracking")


@pytest.fixture
def rules():
    return read_rules(SOURCE, where="rules.toml")


def measured(rules, rows):
    texts, intents, second = zip(*rows, strict=True)
    return measure_rules(rules, texts, intents, second, LABELS)


PRECISE = (
    [("hi", "chitchat", None)] * 12 + [("hey, where is my order?", "order_tracking", None)] * 12 + [("is it raining", "faq", None)] * 12
)


def test_fragments_stand_for_their_patterns_even_inside_each_other(rules):
    order = rules[1].pattern
    assert order.fullmatch("hi, hey where is my order")
    assert not order.fullmatch("hello where is my order")
    assert order.pattern == "(?:(?:hi|hey)[ ,]+)*where is my order"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ('name = "odd"\nintent = "faq"\npattern = "(open"', "'odd'.*unterminated"),
        ('name = "odd"\nintent = "faq"', "'odd'.*pattern"),
        ('name = "odd"\npattern = "a"', "'odd'.*intent"),
        ('intent = "faq"\npattern = "a"', "2.*name"),
        ('name = "odd"\nintent = "faq"\npattern = "{nothing} a"', r"'odd'.*no fragment \{nothing\}"),
        ('name = "odd"\nintent = "faq"\npattern = 3', "'odd'"),
        ('name = "first"\nintent = "faq"\npattern = "b"', "'first'.*second rule of that name"),
    ],
)
def test_a_bad_rule_is_named_with_its_file(entry, why):
    good = '[[rule]]\nname = "first"\nintent = "faq"\npattern = "a"\n'
    with pytest.raises(BadInput, match=f"(?s){why}") as error:
        read_rules(f"{good}[[rule]]\n{entry}\n", where="my_rules.toml")
    assert "my_rules.toml" in str(error.value)


@pytest.mark.parametrize("source", ["[[rule]\nname", "[rule]\nname = 'a'\nintent = 'faq'\npattern = 'a'", "rule = ['a']"])
def test_a_file_that_is_no_list_of_rules_is_bad_input(source):
    with pytest.raises(BadInput, match="my_rules.toml"):
        read_rules(source, where="my_rules.toml")


def test_only_a_whole_message_matches(rules):
    found = Rules(rules, measured(rules, PRECISE), LABELS)
    assert found.match("Hey, WHERE is my  order?!") == ("order_tracking", 13 / 14)
    assert found.match("hi") == ("chitchat", 13 / 14)
    assert found.match("HI!!!") == found.match("ｈｉ。") == found.match("hi")
    for text in ("hi, where is my order and how do i return it", "please: where is my order", "hi there", "", "?!"):
        assert found.match(text) is None


def test_a_message_too_long_to_be_plain_never_matches(rules):
    found = Rules(rules, measured(rules, PRECISE), LABELS)
    assert found.match("hi" + "!" * (LONGEST - 2)) is not None
    assert found.match("hi" + "!" * (LONGEST - 1)) is None


def test_precision_is_counted_and_an_imprecise_rule_is_not_used(rules):
    rows = [*PRECISE, *[("late", "order_tracking", None)] * 9, ("late", "faq", None)]
    late = measured(rules, rows)[2]
    assert (late.matched, late.right, late.used) == (10, 9, False)
    assert late.precision == pytest.approx(10 / 12)  # (right + 1) / (matched + 2)
    assert Rules(rules, measured(rules, rows), LABELS).match("late") is None


def test_a_second_intent_in_a_matched_message_counts_against_the_rule(rules):
    late = measured(rules, [("late", "order_tracking", None)] * 10 + [("late", "order_tracking", "faq")])[2]
    assert (late.matched, late.right, late.used) == (11, 10, False)


@pytest.mark.parametrize(("n", "used"), [(1, False), (2, False), (3, True), (40, True)])
def test_few_matches_are_not_enough_however_right(n, used, rules):
    assert measured(rules, [("late", "order_tracking", None)] * n)[2].used is used


def test_a_rule_that_never_matched_has_no_precision_and_is_not_used(rules):
    late = measured(rules, PRECISE)[2]
    assert (late.matched, late.precision, late.ci_low, late.used) == (0, None, None, False)


def test_a_rule_of_an_intent_outside_the_label_set_is_never_used(rules):
    records = measured(rules, PRECISE)
    assert [record.name for record in records] == ["greeting", "order", "late", "weather"]
    assert not records[3].used
    assert Rules(rules, records, LABELS).match("is it raining") is None


def test_scores_are_the_precision_where_a_rule_matches_and_uniform_elsewhere(rules):
    scores = Rules(rules, measured(rules, PRECISE), LABELS).scores(["hi", "something else"])
    np.testing.assert_allclose(scores.primary, [[13 / 14, 1 / 28, 1 / 28], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(scores.primary.sum(1), 1, rtol=1e-6)


def test_records_are_plain_values(rules):
    assert records_to_json(measured(rules, PRECISE))[0]["name"] == "greeting"


def test_the_bundled_rules_parse_and_have_names_of_their_own():
    bundled = read_rules(BUNDLED.read_text("utf-8"), where=str(BUNDLED))
    assert len(bundled) > 20
    assert len({rule.name for rule in bundled}) == len(bundled)


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("hello!", "chitchat"),
        ("ありがとうございます", "chitchat"),
        ("Where is my order?", "order_tracking"),
        ("what's your return policy", "faq"),
        ("返品したい", "return_request"),
    ],
)
def test_bundled_rules_match_plain_messages_of_their_intent(text, intent):
    bundled = read_rules(BUNDLED.read_text("utf-8"), where=str(BUNDLED))
    folded = fold(text).rstrip("!?")
    assert {rule.intent for rule in bundled if rule.pattern.fullmatch(folded)} == {intent}


HOSTILE = [
    "hi ", "a ", "a", "hello, ", "ok so um well ", "please ", "please, now ", "thanks", "y", "hii", "heyyyy ", " ,.!", "hi, . ! ", "my ",
    "the ", "is my order ", "do you have any ", "sale ", "right now ", "discounts right now today ", "where is my order ", "what is ",
    "what's ", "how do i ", "recommend me something ", "recommend a good great ", "manga for me ", "manga series ", "something like ",
    "is it in stock ", "refund ", "can i speak to a real human ", "how much is shipping to japan ", "how long does shipping take usually ",
    "の", "おすすめの", "なおすすめ", "在庫", "セール", "ありがとう", "注文はどこ", "は置いてますか", "次は何",
]  # fmt: skip


def test_no_bundled_rule_backtracks_for_long_on_hostile_messages():
    bundled = read_rules(BUNDLED.read_text("utf-8"), where=str(BUNDLED))
    texts = [(start + piece * 120)[: LONGEST - 1] + end for piece in HOSTILE for start in ("", "hi, ") for end in ("", "\x00")]
    slowest = {}
    for rule in bundled:
        for text in texts:
            best = 1.0
            for _ in range(3):  # the least of three, as the machine may be busy
                began = time.perf_counter()
                rule.pattern.fullmatch(text)
                best = min(best, time.perf_counter() - began)
                if best < 0.01:
                    break
            slowest[rule.name] = max(slowest.get(rule.name, (0, "")), (best, text))
    assert {name: found for name, found in slowest.items() if found[0] >= 0.01} == {}
