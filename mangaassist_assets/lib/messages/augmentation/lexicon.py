"""The generator that needs no model: recipes over lexica that people can read and edit."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import pyarrow as pa

from mangaassist_assets.lib.messages.augmentation.generator import GeneratedMessage
from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon
from mangaassist_assets.lib.messages.augmentation.recipes import (
    CHANNELS,
    COMPOSITION,
    RECIPES,
    Draft,
    Manner,
    has_emoji,
    has_japanese,
    joined,
    leads,
    manner_of,
    may_be_part,
)

PLAIN: Final = "plain"
FINAL: Final = ("dictation", "shouting")  # nobody mistypes while dictating
PARTNERS_TRIED = 12
ACROSS_MANNERS = 0.12  # share of two-intent messages whose halves differ in manner, such as English and Japanese


@dataclass(frozen=True)
class Parent:
    """A train row, as recipes see it."""

    message_id: str
    text: str
    intent: str
    secondary_intent: str | None
    slices: tuple[str, ...]
    source: str
    japanese: bool
    manner: Manner


class LexiconGenerator:
    """Recipes applied to parents, balanced over intents; the same parents, lexicon and seed give the same messages.

    Args:
        lexicon: words, patterns, shares.
        out_of_scope_label: its rows are never half of a message with two intents.

    Raises:
        BadInput: recipes.toml names a recipe that there is not.
    """

    name = "lexicon"

    def __init__(self, lexicon: Lexicon, *, out_of_scope_label: str | None = None) -> None:
        self.lexicon = lexicon
        self.out_of_scope_label = out_of_scope_label
        self.shares = lexicon.shares([*RECIPES, COMPOSITION])
        self.second_share, self.second_shares = lexicon.second_channel(CHANNELS)

    def generate(self, parents: pa.Table, *, count: int, seed: int) -> list[GeneratedMessage]:
        """Up to `count` messages, equally many of each intent; fewer where the recipes find nothing more to do.

        Parents are drawn without replacement until all had their turn, those of a small source more often than their
        number alone would give: a source weighs the square root of its size.
        """
        run = _Run(self, _parents(parents), Random(f"lexicon {seed}"))
        slots = run.slots(count)
        return [message for intent, recipe in slots if (message := run.message(intent, recipe))]


class _Run:
    """One call of generate: who is still to be drawn, and what was written already."""

    def __init__(self, generator: LexiconGenerator, parents: Sequence[Parent], rng: Random) -> None:
        self.generator, self.lexicon, self.rng = generator, generator.lexicon, rng
        self.intents = sorted({parent.intent for parent in parents})
        self.parents = _weighted_order(parents, rng)
        self.written = {parent.text for parent in parents}
        self.queues: dict[tuple[str, str], deque[Parent]] = {}
        self.parts: dict[Manner, list[Parent]] = {"plain": [], "casual": [], "japanese": []}
        for parent in self.parents:
            if self._is_part(parent):
                self.parts[parent.manner].append(parent)

    def slots(self, count: int) -> list[tuple[str, str]]:
        """Intent and recipe of each message: intents in turn, recipes by their shares within each intent, in mixed order."""
        slots: list[tuple[str, str]] = []
        for n, intent in enumerate(self.intents):
            wanted = count // len(self.intents) + (n < count % len(self.intents))
            slots += [(intent, recipe) for recipe in _apportioned(self.generator.shares, wanted, self.rng)]
        self.rng.shuffle(slots)
        return slots

    def message(self, intent: str, recipe: str) -> GeneratedMessage | None:
        """A message of the recipe, or of another one where its parents are used up; None where all are."""
        others = [name for name in self.generator.shares if name != recipe]
        while True:
            message = self._composed(intent) if recipe == COMPOSITION else self._rewritten(intent, recipe)
            if message or not others:
                return message
            recipe = self.rng.choices(others, [self.generator.shares[name] for name in others])[0]
            others.remove(recipe)

    # ── one parent ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _rewritten(self, intent: str, name: str) -> GeneratedMessage | None:
        queue = self._queue(intent, name)
        for _ in range(len(queue)):
            parent = queue.popleft()
            draft = RECIPES[name].apply(parent.text, self.lexicon, self.rng)
            if draft is None:
                continue  # there is nothing to do in this text, now or later
            queue.append(parent)
            draft, channel = self._channelled(draft, name)
            if self._is_new(draft.text):
                return self._message(draft, parent, None, name + channel)
        return None

    def _queue(self, intent: str, name: str) -> deque[Parent]:
        """Parents of an intent that a recipe may be applied to."""
        if (intent, name) not in self.queues:
            recipe = RECIPES[name]
            self.queues[intent, name] = deque(
                parent
                for parent in self.parents
                if parent.intent == intent
                and (recipe.script == "any" or parent.japanese == (recipe.script == "japanese"))
                and (not recipe.japanese_only or "japanese_mixed" in parent.slices or parent.japanese)
                and (not recipe.one_intent or parent.secondary_intent is None)
            )
        return self.queues[intent, name]

    # ── two parents ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _composed(self, intent: str) -> GeneratedMessage | None:
        if (intent, COMPOSITION) not in self.queues:
            self.queues[intent, COMPOSITION] = deque(p for p in self.parents if p.intent == intent and self._is_part(p))
        queue = self.queues[intent, COMPOSITION]
        for _ in range(len(queue)):
            parent = queue.popleft()
            queue.append(parent)
            partner = self._partner(parent)
            if partner is None:
                continue
            draft = joined(parent.text, partner.text, (parent.manner, partner.manner), self.lexicon, self.rng)
            draft, channel = self._channelled(draft, COMPOSITION)
            if self._is_new(draft.text):
                return self._message(draft, parent, partner, COMPOSITION + channel)
        return None

    def _partner(self, parent: Parent) -> Parent | None:
        """A message of another intent that may come second, mostly of the same manner; intents are equally likely."""
        manner = parent.manner if self.rng.random() >= ACROSS_MANNERS else self.rng.choice([m for m in self.parts if self.parts[m]])
        wanted = self.rng.choice([intent for intent in self.intents if intent != parent.intent] or [None])
        for tried in range(PARTNERS_TRIED if self.parts[manner] else 0):
            partner = self.rng.choice(self.parts[manner])
            suits = partner.intent != parent.intent and not leads(partner.intent, parent.intent, self.lexicon)
            if suits and (partner.intent == wanted or tried >= PARTNERS_TRIED // 2):
                return partner
        return None

    def _is_part(self, parent: Parent) -> bool:
        in_scope = parent.intent != self.generator.out_of_scope_label
        return in_scope and parent.secondary_intent is None and may_be_part(parent.text, parent.intent, self.lexicon)

    # ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _channelled(self, draft: Draft, recipe: str) -> tuple[Draft, str]:
        """The draft, through one more channel where that is drawn and can be; and what to add to the recipe's name."""
        if recipe in FINAL or self.rng.random() >= self.generator.second_share:
            return draft, ""
        names = [name for name in self.generator.second_shares if name != recipe]
        if not names:
            return draft, ""
        name = self.rng.choices(names, [self.generator.second_shares[n] for n in names])[0]
        channel = RECIPES[name]
        if channel.script != "any" and has_japanese(draft.text) != (channel.script == "japanese"):
            return draft, ""
        second = channel.apply(draft.text, self.lexicon, self.rng)
        if second is None:
            return draft, ""
        return Draft(second.text, draft.adds | second.adds, (draft.drops - second.adds) | second.drops), f"+{name}"

    def _is_new(self, text: str) -> bool:
        if not text or text in self.written:
            return False
        self.written.add(text)
        return True

    def _message(self, draft: Draft, parent: Parent, partner: Parent | None, recipe: str) -> GeneratedMessage:
        slices = [*parent.slices, *(partner.slices if partner else ()), *sorted(draft.adds), *(["emoji"] if has_emoji(draft.text) else [])]
        gone = draft.drops | {PLAIN} | (set() if has_emoji(draft.text) else {"emoji"})
        kept = tuple(dict.fromkeys(name for name in slices if name not in gone)) or ((PLAIN,) if PLAIN in slices else ())
        second_intent = partner.intent if partner else parent.secondary_intent
        second_id = partner.message_id if partner else None
        return GeneratedMessage(draft.text, parent.intent, second_intent, kept, parent.message_id, second_id, recipe, 0.0)


def _parents(table: pa.Table) -> list[Parent]:
    """Rows by message_id, so that their order in the table decides nothing."""
    rows = table.select(["message_id", "text", "intent", "secondary_intent", "slices", "source"]).sort_by("message_id").to_pylist()
    return [
        Parent(
            message_id=row["message_id"],
            text=row["text"],
            intent=row["intent"],
            secondary_intent=row["secondary_intent"],
            slices=tuple(row["slices"] or ()),
            source=row["source"],
            japanese=has_japanese(row["text"]),
            manner=manner_of(row["text"], row["slices"] or ()),
        )
        for row in rows
    ]


def _weighted_order(parents: Sequence[Parent], rng: Random) -> list[Parent]:
    """A random order in which a row of a source with n rows weighs 1 / sqrt(n) (Efraimidis and Spirakis 2006)."""
    sizes: dict[str, int] = {}
    for parent in parents:
        sizes[parent.source] = sizes.get(parent.source, 0) + 1
    keyed = [(rng.random() ** (sizes[parent.source] ** 0.5), n) for n, parent in enumerate(parents)]
    return [parents[n] for _, n in sorted(keyed, reverse=True)]


def _apportioned(shares: Mapping[str, float], wanted: int, rng: Random) -> list[str]:
    """`wanted` names in proportion to their shares; what rounding leaves is drawn."""
    total = sum(shares.values())
    exact = {name: wanted * share / total for name, share in shares.items()}
    names = [name for name, n in exact.items() for _ in range(int(n))]
    left = wanted - len(names)
    rests = {name: n - int(n) for name, n in exact.items()}
    for _ in range(left):
        name = rng.choices(list(rests), [rest + 1e-9 for rest in rests.values()])[0]
        rests[name] = 0.0
        names.append(name)
    return names
