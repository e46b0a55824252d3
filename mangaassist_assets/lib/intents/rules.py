"""Rules for the messages that need no model, each worth what it was measured to be worth."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.intents.features import fold
from mangaassist_assets.lib.intents.prediction import Scores
from mangaassist_assets.lib.statistics import proportion

_ENDS = " .!?…。!?、,~〜♪"
LONGEST = 120  # characters; a longer message is never plain


@dataclass(frozen=True)
class Rule:
    """One pattern over the whole folded message, and the intent it stands for."""

    name: str
    intent: str
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class RuleRecord:
    """How a rule did on labelled messages.

    Attributes:
        matched, right: counts; a message with a second intent counts as wrong, as the rule would hide it.
        precision, ci_low: share right and its lower 95% bound; None where nothing matched.
        used: whether the bounds asked for are met.
    """

    name: str
    intent: str
    matched: int
    right: int
    precision: float | None
    ci_low: float | None
    used: bool


def read_rules(source: str, *, where: str) -> list[Rule]:
    """Parses a rule file.

    Raises:
        BadInput: TOML, a fragment or a pattern is wrong; the message names the rule.
    """
    try:
        content = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"not TOML ({error})", where=where, remedy="Mend the line it names.") from error
    fragments = content.get("fragments", {})
    rules: list[Rule] = []
    for number, entry in enumerate(content.get("rule", []), 1):
        name = entry.get("name", number) if isinstance(entry, dict) else number
        try:
            written = entry["pattern"]
            for _ in range(2):  # a fragment may use fragments
                for fragment, pattern in fragments.items():
                    written = written.replace("{" + fragment + "}", pattern)
            if left := re.search(r"\{[a-z_]+\}", written):
                raise KeyError(f"no fragment {left[0]}")
            if any(rule.name == entry["name"] for rule in rules):
                raise KeyError("a second rule of that name")
            rules.append(Rule(entry["name"], entry["intent"], re.compile(written)))
        except (KeyError, TypeError, AttributeError, re.error) as error:
            raise BadInput(
                f"rule {name!r} is unusable ({error})", where=where, remedy="A rule needs name, intent and a valid pattern."
            ) from error
    return rules


class Rules:
    """The rules in use and their measured precision.

    Args:
        rules: in order; the first that matches answers.
        records: the measurement of every rule of the file, used or not.
        labels: the label set; rules of other intents are never used.
    """

    def __init__(self, rules: Sequence[Rule], records: Sequence[RuleRecord], labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.records = list(records)
        used = {record.name: record for record in records if record.used}
        self._active = [(rule.pattern.fullmatch, rule.intent, used[rule.name].precision or 0.0) for rule in rules if rule.name in used]

    def match(self, text: str) -> tuple[str, float] | None:
        """Intent and measured precision of the first rule that matches the whole message, or None."""
        if len(text) > LONGEST:
            return None
        folded = fold(text).strip(_ENDS)
        for matches, intent, precision in self._active:
            if matches(folded):
                return intent, precision
        return None

    def scores(self, texts: Sequence[str]) -> Scores:
        """As a classifier on its own: measured precision where a rule matches, uniform where none does."""
        k = len(self.labels)
        primary = np.full((len(texts), k), 1 / k, np.float32)
        for row, text in enumerate(texts):
            if found := self.match(text):
                intent, precision = found
                primary[row] = (1 - precision) / max(1, k - 1)
                primary[row, self.labels.index(intent)] = precision
        return Scores(primary, primary)


def measure_rules(
    rules: Sequence[Rule],
    texts: Sequence[str],
    intents: Sequence[str],
    secondary: Sequence[str | None],
    labels: Sequence[str],
    *,
    least_precision: float = 0.97,
    least_lower_bound: float = 0.4,
) -> list[RuleRecord]:
    """Counts how often each rule is right on labelled messages and decides which are used.

    The bounds together ask for three matches without an error, or one error in thirty-three: a person wrote the rule, and what is
    looked for is a mistake.
    """
    folded = [fold(text).strip(_ENDS) if len(text) <= LONGEST else "" for text in texts]
    records = []
    for rule in rules:
        if rule.intent not in labels:
            records.append(RuleRecord(rule.name, rule.intent, 0, 0, None, None, used=False))
            continue
        hits = [i for i, text in enumerate(folded) if rule.pattern.fullmatch(text)]
        right = sum(intents[i] == rule.intent and secondary[i] is None for i in hits)
        if not hits:
            records.append(RuleRecord(rule.name, rule.intent, 0, 0, None, None, used=False))
            continue
        share = proportion(right, len(hits))
        used = share.value >= least_precision and share.ci_low >= least_lower_bound
        # the shrunk share (right + 1) / (n + 2) is what is reported as confidence: nine of nine is not certainty
        records.append(RuleRecord(rule.name, rule.intent, len(hits), right, (right + 1) / (len(hits) + 2), share.ci_low, used))
    return records


def records_to_json(records: Sequence[RuleRecord]) -> list[dict[str, Any]]:
    """As a bundle stores them."""
    return [record.__dict__ for record in records]
