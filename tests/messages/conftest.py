"""Messages for the tests of augmentation, the table they stand in, and the lexica that come with the project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon
from mangaassist_assets.lib.messages.labelling import LABELLED_SCHEMA, message_id
from mangaassist_assets.lib.messages.normalising import language_of

LEXICA = Path(__file__).parents[2] / "data" / "lexica"
MESSAGES: list[tuple[str, str | None, str, str]] = [
    ("product_discovery", None, "manga_term", "Do you have Berserk volume 3 in stock?"),
    ("product_discovery", None, "plain", "Do you carry large print books for my grandmother?"),
    ("product_discovery", None, "slang", "u got any new horror drops"),
    ("product_discovery", None, "japanese_mixed", "英語版の漫画はありますか?"),
    ("product_discovery", None, "manga_term,japanese_mixed", "『ベルセルク』の全巻セットを探しています。"),
    ("product_question", None, "manga_term", "How many volumes does Vinland Saga have in total?"),
    ("product_question", None, "plain", "How many pages is this book, and is the paper thick?"),
    ("product_question", None, "japanese_mixed", "この本は何ページですか?"),
    ("recommendation", None, "manga_term", "Something like Dorohedoro but finished, please."),
    ("recommendation", None, "plain", "Could you recommend a gift for a ten year old?"),
    ("recommendation", None, "japanese_mixed", "おすすめの漫画を教えてください。"),
    ("faq", None, "plain", "Do you ship to Norway, and how long does it take?"),
    ("faq", None, "typo", "do yuo take paypal or credit crad"),
    ("faq", None, "japanese_mixed", "送料はいくらですか?"),
    ("order_tracking", None, "plain", "Where is my package? Order <ORDER> has not moved since Monday."),
    ("order_tracking", None, "emoji", "still no parcel, five days late 📦"),
    ("order_tracking", None, "japanese_mixed", "注文した荷物がまだ届きません。"),
    ("return_request", None, "plain", "I want to return this book because the cover arrived torn."),
    ("return_request", None, "manga_term", "My Frieren box set came broken, I'd like a refund."),
    ("return_request", None, "japanese_mixed", "返品したいです"),
    ("promotion", None, "plain", "Is there a discount for students on box sets?"),
    ("promotion", None, "slang", "yo any codes rn, im broke lol"),
    ("promotion", None, "japanese_mixed", "クーポンは使えますか?"),
    ("checkout_help", None, "plain", "My card is declined at checkout, but the bank says it's fine."),
    ("checkout_help", None, "japanese_mixed", "カートに入れた商品が消えてしまいました。"),
    ("escalation", None, "plain", "I want to speak to a manager about the way I was treated."),
    ("escalation", None, "japanese_mixed", "責任者と話したいです。"),
    ("chitchat", None, "plain", "Good morning! What is the weather like in your warehouse today?"),
    ("chitchat", None, "manga_term", "I still think about the ending of Vagabond every single day."),
    ("chitchat", None, "japanese_mixed", "今日は寒いですね。ラーメンが食べたい。"),
    ("order_tracking", "return_request", "multi_intent", "Where is the second parcel, and can I send the first one back?"),
]

LabelledWith = Callable[..., pa.Table]


def a_row(
    text: str, intent: str, secondary: str | None = None, slices: str = "plain", *, split: str = "train", **other: Any
) -> dict[str, Any]:
    row = {
        "message_id": message_id(text),
        "text": text,
        "intent": intent,
        "secondary_intent": secondary,
        "slices": slices.split(","),
        "split": split,
        "source": "sample",
        "source_file": "sample.jsonl",
        "source_row": 1,
        "licence": "CC0-1.0",
        "synthetic": True,
        "group_id": message_id(text),
        "language": language_of(text),
    }
    return row | other


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    return Lexicon(LEXICA)


@pytest.fixture(scope="session")
def labelled_with() -> LabelledWith:
    """Makes labeled_messages of the sample and more rows: text, intent and what a_row takes."""

    def labelled_with(*more: dict[str, Any], only: str | None = None) -> pa.Table:
        rows = [a_row(text, intent, secondary, slices) for intent, secondary, slices, text in MESSAGES if only in (None, intent)]
        return pa.Table.from_pylist([*rows, *(a_row(**row) for row in more)], schema=LABELLED_SCHEMA)

    return labelled_with
