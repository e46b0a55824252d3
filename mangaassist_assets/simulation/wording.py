"""Texts that no pool holds: what people ask about events in the store, an intent that nobody labelled, and slang that nobody has seen.

Both are written for the simulation and consistent within themselves, so that some hundred labels teach a model what they mean.
"""

import re
from collections.abc import Mapping
from itertools import product
from random import Random
from string import Formatter
from typing import Final

from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon
from mangaassist_assets.lib.messages.augmentation.recipes import RECIPES

EVENT_INTENT: Final = "store_events"
EVENTS: Final = (
    "is there an author signing {when}?",
    "When is {who} signing at the store?",
    "is {who} coming to the {place} shop for a signing",
    "Do I need a ticket for the signing with {who}?",
    "can i bring my own copy to the {who} signing",
    "Is the {who} signing sold out already?",
    "how early should I queue for the {who} signing",
    "What time does the {what} start {when}?",
    "do i have to register for the {what}",
    "How do I sign up for the {what} {when}?",
    "Is the {what} free or do I have to buy a ticket?",
    "any seats left for the {what}?",
    "is the {what} in {place} still on {when}?",
    "Who is the guest at the {what} {when}?",
    "where exactly is the {what} held, the {place} store?",
    "can my kid come along to the {what}",
    "Is there an age limit for the {what}?",
    "what events are on at the {place} store {when}?",
    "Any events at your shops {when}?",
    "do you have an event calendar for {place}",
    "Can I still RSVP for the {what}?",
    "my friend has no ticket for the {what}, can she come in with me?",
    "can I come to the {what} in costume",
    "Will the {what} {when} be streamed?",
    "is the {place} store hosting a {what} again",
    "how long does the {what} usually go on for",
    "Please put me on the guest list for the {what} {when}.",
    "I can't make it to the {what} any more, can somebody else take my seat?",
    "is there a waiting list for the {what}?",
    "Do members get into the {what} first?",
    "will {who} draw sketches at the event {when}?",
    "Is the meet and greet with {who} in {place} or online?",
    "what does a seat at the {what} include",
    "Are photos allowed at the meet and greet with {who}?",
    "サイン会はいつですか?",
    "{place}店のイベントに参加したいです。",
)
SLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "who": ("Naoki Urasawa", "Junji Ito", "Rumiko Takahashi", "Makoto Yukimura", "Kaoru Mori", "Inio Asano", "Hiromu Arakawa"),
    "what": (
        "cosplay night",
        "manga drawing workshop",
        "release party",
        "reading circle",
        "midnight launch",
        "panel talk",
        "inking class",
        "trading card evening",
    ),
    "when": ("this weekend", "on Saturday", "next month", "tonight", "in August", "on Friday evening"),
    "place": ("Shibuya", "Montreal", "Lyon", "Seattle", "Berlin", "Osaka"),
}

# Words of the store as one community came to say them; longer phrases first.
NEW_SLANG: Final[Mapping[str, str]] = {
    "out of stock": "ghosted off the shelf",
    "in stock": "on the rack rn",
    "customer service": "the npc desk",
    "gift card": "plastic aura",
    "money back": "bag back",
    "recommendations": "glazes",
    "recommendation": "glaze",
    "recommend": "glaze",
    "suggest": "glaze",
    "tracking": "stalkin",
    "delivered": "spawned in",
    "delivery": "spawn",
    "shipping": "yeetage",
    "shipped": "yeeted",
    "ship": "yeet",
    "package": "lootbox",
    "parcel": "lootbox",
    "orders": "hauls",
    "order": "haul",
    "refund": "rewind",
    "returns": "boomerangs",
    "return": "boomerang",
    "exchange": "skin swap",
    "discount": "nerf",
    "coupon": "cheat code",
    "promo": "cheat code",
    "sale": "nerf szn",
    "checkout": "boss door",
    "payment": "tithe",
    "pay": "tithe",
    "card": "plastic",
    "cart": "inventory",
    "manager": "final boss",
    "human": "non npc",
    "agent": "npc",
    "complaint": "salt",
    "volumes": "bricks",
    "volume": "brick",
    "vol": "brick",
    "series": "saga arc",
    "manga": "mangos",
    "books": "bricks",
    "book": "brick",
    "edition": "skin",
    "account": "save file",
    "price": "toll",
    "cost": "toll",
    "available": "on the rack",
    "looking for": "hunting",
    "find": "hunt",
    "read": "devour",
    "reading": "devouring",
    "similar": "same flavor",
    "like": "giving",
    "thanks": "w",
    "thank you": "big w",
    "hello": "sup chat",
    "please": "fr fr",
}
_NEW_SLANG = re.compile(r"(?<!<)\b(?:" + "|".join(sorted(map(re.escape, NEW_SLANG), key=len, reverse=True)) + r")\b", re.IGNORECASE)


def event_messages(count: int, *, seed: int) -> list[str]:
    """Up to `count` different questions about events, the patterns in turn."""
    rng = Random(f"events {seed}")
    filled: list[list[str]] = []
    for pattern in EVENTS:
        slots = sorted({name for _, name, _, _ in Formatter().parse(pattern) if name})
        texts = [pattern.format(**dict(zip(slots, values, strict=True))) for values in product(*(SLOTS[slot] for slot in slots))]
        rng.shuffle(texts)
        filled.append(texts)
    rounds = max(len(texts) for texts in filled)
    return [texts[turn] for turn in range(rounds) for texts in filled if turn < len(texts)][:count]


def in_new_slang(text: str, lexicon: Lexicon, rng: Random) -> str | None:
    """The text in words of NEW_SLANG, then as the lexicon's recipe `slang` would write it; None where NEW_SLANG has no word for it."""
    new = _NEW_SLANG.sub(lambda match: NEW_SLANG[match.group().lower()], text)
    if new == text:
        return None
    draft = RECIPES["slang"].apply(new, lexicon, rng)
    return draft.text if draft else new
