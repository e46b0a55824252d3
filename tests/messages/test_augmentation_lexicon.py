import re
import time
from collections import Counter
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.messages.augmentation.generator import AugmentationSettings, augment
from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon
from mangaassist_assets.lib.messages.augmentation.lexicon import LexiconGenerator
from mangaassist_assets.lib.messages.augmentation.recipes import COMPOSITION, RECIPES, has_emoji, has_japanese, slices_of, titles_in
from mangaassist_assets.lib.messages.duplicates import jaccard
from mangaassist_assets.lib.messages.normalising import normalise


def draft(name, text, lexicon, seed=0):
    return RECIPES[name].apply(text, lexicon, Random(seed))


def many(name, text, lexicon, n=60):
    drafts = [draft(name, text, lexicon, seed) for seed in range(n)]
    return {d.text for d in drafts if d}


# ── the generator ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_intents_are_balanced(labelled_with, lexicon):
    made = LexiconGenerator(lexicon).generate(labelled_with(), count=200, seed=1)
    counts = Counter(message.intent for message in made)
    assert len(made) == 200
    assert set(counts.values()) == {20}


def test_the_same_seed_gives_the_same_messages_whatever_the_order_of_rows(labelled_with, lexicon):
    table = labelled_with()
    backwards = table.take(pa.array(range(len(table) - 1, -1, -1)))
    one = LexiconGenerator(lexicon).generate(table, count=150, seed=3)
    assert one == LexiconGenerator(Lexicon(lexicon.folder)).generate(backwards, count=150, seed=3)
    assert one != LexiconGenerator(lexicon).generate(table, count=150, seed=4)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_message_keeps_the_labels_of_its_parents(labelled_with, lexicon, seed):
    parents = {row["message_id"]: row for row in labelled_with().to_pylist()}
    for message in LexiconGenerator(lexicon).generate(labelled_with(), count=120, seed=seed):
        parent = parents[message.parent_id]
        assert message.intent == parent["intent"]
        second = parents[message.second_parent_id]["intent"] if message.second_parent_id else parent["secondary_intent"]
        assert message.secondary_intent == second
        assert ("multi_intent" in message.slices) == (message.secondary_intent is not None)
        assert ("emoji" in message.slices) == has_emoji(message.text)
        assert "plain" not in message.slices or message.slices == ("plain",)
        assert message.text and message.cost_usd == 0


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_row_that_passes_resembles_a_held_out_row(labelled_with, lexicon, seed):
    held_out = [
        "Where is my parcel? Order <ORDER> has not moved since Monday.",
        "返品をしたいです。",
        "Do you have Naruto volume 3 in stock?",
    ]
    table = labelled_with(*({"text": text, "intent": "faq", "split": "golden"} for text in held_out))
    augmented, refused = augment(table, LexiconGenerator(lexicon), AugmentationSettings(count=150, seed=seed))
    assert all(jaccard(text, other) < 0.8 for text in augmented["text"].to_pylist() for other in held_out)
    assert set(refused["reason"].to_pylist()) <= {"near_duplicate_of_golden", "duplicate", "unchanged"}


def test_messages_are_new_and_differ_from_each_other(labelled_with, lexicon):
    made = [message.text for message in LexiconGenerator(lexicon).generate(labelled_with(), count=300, seed=1)]
    assert len(set(made)) == len(made)
    assert not set(made) & set(labelled_with()["text"].to_pylist())


def test_the_slices_where_the_classifier_is_weak_get_the_most(labelled_with, lexicon):
    made = LexiconGenerator(lexicon).generate(labelled_with(), count=500, seed=1)
    counts = Counter(name for message in made for name in message.slices)
    assert all(counts[name] > counts["plain"] for name in ("japanese_mixed", "multi_intent", "emoji", "slang", "typo", "manga_term"))


def test_a_small_source_is_not_drowned_by_a_large_one(labelled_with, lexicon):
    small = [{"text": f"is the {n} th volume of monster out", "intent": "faq", "source": "small"} for n in range(20)]
    large = [{"text": f"what does it cost to send {n} parcels abroad", "intent": "faq", "source": "large"} for n in range(500)]
    table = labelled_with(*small, *large, only="nothing")
    sources = {row["message_id"]: row["source"] for row in table.to_pylist()}
    drawn = Counter(sources[message.parent_id] for message in LexiconGenerator(lexicon).generate(table, count=100, seed=1))
    assert drawn["small"] > 10  # its share of the rows alone would give 4


def test_labels_of_ones_own_work_the_same(labelled_with, lexicon):
    rows = [{"text": f"please book a flight to {city} for two", "intent": "book_flight"} for city in ("Oslo", "Rome", "Osaka")]
    rows += [{"text": f"how is the weather in {city} today", "intent": "weather"} for city in ("Oslo", "Rome", "Osaka")]
    made = LexiconGenerator(lexicon).generate(labelled_with(*rows, only="nothing"), count=40, seed=1)
    assert Counter(message.intent for message in made) == {"book_flight": 20, "weather": 20}
    assert any(message.recipe.startswith(COMPOSITION) for message in made)


def test_one_message_of_one_intent_is_enough_and_never_composed(labelled_with, lexicon):
    made = LexiconGenerator(lexicon).generate(
        labelled_with({"text": "Where is my order?", "intent": "faq"}, only="nothing"), count=30, seed=1
    )
    assert made
    assert all(message.second_parent_id is None for message in made)


def test_what_is_out_of_scope_is_never_half_of_a_message(labelled_with, lexicon):
    made = LexiconGenerator(lexicon, out_of_scope_label="chitchat").generate(labelled_with(), count=400, seed=1)
    assert any(message.intent == "chitchat" for message in made)
    assert not any("chitchat" in (m.intent, m.secondary_intent) for m in made if m.second_parent_id)


def test_five_thousand_messages_take_less_than_five_seconds(labelled_with, lexicon):
    rows = [row for row in labelled_with().to_pylist() if row["secondary_intent"] is None]
    more = [{"text": f"{row['text']} {n}", "intent": row["intent"], "slices": ",".join(row["slices"])} for row in rows for n in range(100)]
    table = labelled_with(*more)
    began = time.process_time()
    made = LexiconGenerator(lexicon).generate(table, count=5000, seed=1)
    assert len(made) == 5000
    assert time.process_time() - began < 5


# ── two intents ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_urgent_half_comes_first_and_is_served_first(labelled_with, lexicon):
    parents = {row["message_id"]: row for row in labelled_with().to_pylist()}
    made = [m for m in LexiconGenerator(lexicon).generate(labelled_with(), count=1500, seed=1) if m.recipe == COMPOSITION]
    assert len(made) > 150
    for message in made:
        assert message.intent != message.secondary_intent
        if "escalation" in (message.intent, message.secondary_intent):
            assert message.intent == "escalation"
        first, second = (parents[name]["text"].lower() for name in (message.parent_id, message.second_parent_id))
        text = message.text.lower()
        assert first[:12] in text
        assert text.index(first[:12]) < text.rindex(second[-8:-1])


def test_a_greeting_is_politeness_and_not_an_intent(labelled_with, lexicon):
    table = labelled_with({"text": "thanks a lot", "intent": "chitchat"}, {"text": "Hello there!", "intent": "chitchat"})
    short = {row["message_id"] for row in table.to_pylist() if row["text"] in ("thanks a lot", "Hello there!")}
    made = [m for m in LexiconGenerator(lexicon).generate(table, count=800, seed=1) if m.second_parent_id]
    assert made
    assert not any({m.parent_id, m.second_parent_id} & short for m in made)


# ── recipes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_recipe_says_why_the_label_stays(lexicon):
    assert set(lexicon.shares([*RECIPES, COMPOSITION])) <= {*RECIPES, COMPOSITION}
    for recipe in RECIPES.values():
        assert "Keeps the label:" in recipe.apply.__doc__


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(min_size=1, max_size=80)
    | st.lists(
        st.sampled_from("order return <ORDER> 返品 ベルセルク Berserk vol 3 ? , . 📦 I'm the Yotsuba&! です か <EMAIL> don't".split()),
        max_size=14,
    ).map(" ".join),
    seed=st.integers(0, 1000),
    name=st.sampled_from(sorted(RECIPES)),
)
def test_any_recipe_takes_any_text_and_leaves_placeholders_whole(lexicon, text, seed, name):
    text = normalise(text)
    made = draft(name, text, lexicon, seed)
    if made is not None:
        for placeholder in ("<ORDER>", "<EMAIL>"):
            assert made.text.count(placeholder) == text.count(placeholder)
        assert made.adds <= {"manga_term", "slang", "multi_intent", "japanese_mixed", "emoji", "typo"}


def test_store_words_are_said_in_japanese_script_or_romaji(lexicon):
    made = many("japanese_words", "I want to return my order", lexicon)
    assert any("返品" in text for text in made)
    assert any("henpin" in text for text in made)
    assert any("chūmon" in text for text in made) and any("chuumon" in text for text in made) and any("chumon" in text for text in made)


def test_a_whole_sentence_is_said_in_japanese_with_what_it_is_about(lexicon):
    made = many("japanese_sentence", "Do you have any Berserk deluxe editions?", lexicon)
    assert {text for text in made if "ありますか" in text or "arimasu ka" in text}
    assert all("berserk" in text.lower() or "ベルセルク" in text for text in made)
    assert many("japanese_sentence", "where's my package", lexicon) & {
        "荷物が届きません。",
        "私の荷物はどこですか?",
        "nimotsu ga mada todokimasen.",
    }


@pytest.mark.parametrize(
    "text",
    ["Do you have what I ordered and why is it late?", "I like trains.", "日本語で書いています", "Do you have the one that you sold me?"],
)
def test_a_sentence_without_a_fitting_pattern_is_left_alone(lexicon, text):
    assert draft("japanese_sentence", text, lexicon) is None


def test_politeness_and_dialect_change_at_the_end_of_a_japanese_sentence(lexicon):
    made = many("japanese_register", "返品したいです。📦", lexicon)
    assert {"返品したい。📦", "返品したいのですが。📦", "返品したいねんけど。📦"} <= made
    assert draft("japanese_register", "ラーメン", lexicon) is None


def test_a_japanese_message_is_romanised_where_every_reading_is_known(lexicon):
    assert "henpin shitai desu" in {text.lower() for text in many("romanised", "返品したいです", lexicon)}
    assert "chuumon shita nimotsu ga mada todokimasen." in {
        text.lower() for text in many("romanised", "注文した荷物がまだ届きません。", lexicon)
    }
    assert "berserk no zenkan wa ikura desu ka?" in {text.lower() for text in many("romanised", "ベルセルクの全巻はいくらですか?", lexicon)}
    assert draft("romanised", "檸檬の発酵はどうなりますか", lexicon) is None


def test_japanese_words_are_spelt_in_other_ways(lexicon):
    assert {"オススメの漫画を教えて下さい。", "おすすめのマンガを教えてください。"} & many(
        "japanese_spelling", "おすすめの漫画を教えてください。", lexicon
    )
    assert any("返品" in text for text in many("japanese_spelling", "henpin shitai desu", lexicon))
    assert {"chumon mada?", "chūmon mada?"} & many("japanese_spelling", "chuumon mada?", lexicon)


def test_english_nouns_come_into_a_japanese_message_that_stays_japanese(lexicon):
    made = many("english_in_japanese", "返品の送料は誰が払いますか", lexicon)
    assert any("return" in text for text in made)
    assert all(has_japanese(text) for text in made)
    assert draft("english_in_japanese", "返品", lexicon) is None


def test_a_title_goes_by_its_other_names(lexicon):
    made = many("title_translated", "is demon slayer finished", lexicon)
    assert any("鬼滅の刃" in text for text in made)
    assert any("kny" in text for text in made) and any("kimetsu no yaiba" in text for text in made)
    assert draft("title_translated", "is it finished", lexicon) is None


def test_one_title_takes_the_place_of_another(lexicon):
    made = many("title_swapped", "Is Vagabond finished?", lexicon)
    assert len(made) > 20
    assert all(text.startswith("Is ") and text.endswith(" finished?") and "Vagabond" not in text for text in made)


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("got jjk 3 or yotsuba&! vol 2", ["Jujutsu Kaisen", "Yotsuba&!"]),
        ("you have given me the real monster of a bill", []),
        ("is Monster by Urasawa out", ["Monster"]),
        ("Monster of a bill", []),
        ("re:zero and hells paradise", ["Re:ZERO -Starting Life in Another World-", "Hell's Paradise: Jigokuraku"]),
        ("チェンソーマンの新刊", ["Chainsaw Man"]),
    ],
)
def test_titles_are_told_from_common_words(lexicon, text, titles):
    assert [match.value.title for match in titles_in(text, lexicon)] == titles


def test_manga_vocabulary_is_spelt_with_macrons_plainly_or_doubled(lexicon):
    made = many("manga_words", "is the tankobon shonen", lexicon)
    assert {"is the tankōbon shōnen", "is the tankoubon shounen"} <= made


def test_slang_shortens_and_keeps_what_is_asked(lexicon):
    made = many("slang", "Do you have something for my brother?", lexicon)
    assert any("smth" in text for text in made)
    assert any(word in text for text in made for word in ("u got", "yall got", "do u have"))


def test_slips_are_few_and_spare_short_words(lexicon):
    text = "Please tell me where the delivery of yesterday went, because my card was charged"
    made = many("typos", text, lexicon)
    assert len(made) > 50
    for typed in made:
        assert jaccard(typed, text) > 0.3
        assert "mycardwas" in typed.lower().replace(" ", "")


def test_emoji_follow_the_words_and_not_the_label(lexicon):
    made = many("emoji", "the package is here", lexicon)
    assert any(sign in text for text in made for sign in "📦🚚📬")
    assert all(has_emoji(text) for text in made)
    assert draft("emoji", "already 📦", lexicon) is None


def test_dictation_has_no_signs_and_says_numbers(lexicon):
    assert (
        draft("dictation", "Hi! Is vol. 3 of Berserk (the #2 box) 20% off? 📦", lexicon).text
        == "hi is volume three of berserk the number two box twenty percent off"
    )
    assert draft("dictation", "返品したいです。いつ、どこで?", lexicon).text == "返品したいですいつどこで"
    assert draft("dictation", "order <ORDER>, please", lexicon).text == "order <ORDER> please"


def test_shouting_adds_no_word_and_no_sign(lexicon):
    assert draft("shouting", "where is order <ORDER>?", lexicon).text == "WHERE IS ORDER <ORDER>?"
    assert draft("shouting", "WHERE IS IT", lexicon) is None


@pytest.mark.parametrize(
    ("text", "slices"),
    [
        ("Where is my parcel?", ["plain"]),
        ("is berserk peak", ["manga_term", "slang"]),
        ("lemme get smth 📚", ["slang", "emoji"]),
        ("返品したい", ["japanese_mixed"]),
        ("sumimasen, henpin wa dekimasu ka", ["japanese_mixed"]),
        ("新刊ある?", ["manga_term", "japanese_mixed"]),
    ],
)
def test_slices_are_told_from_the_words(lexicon, text, slices):
    assert slices_of(text, lexicon) == slices


# ── the files ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(lexicon, tmp_path):
    for path in lexicon.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def test_an_edited_word_is_used_and_changes_the_digest(folder, labelled_with):
    before = Lexicon(folder).digest
    edit(folder / "japanese.toml", "words = [", 'words = [\n  { english = ["torn"], japanese = "ビリビリ", kana = "びりびり" },')
    edited = Lexicon(folder)
    assert edited.digest != before
    assert any("ビリビリ" in text or "biribiri" in text for text in many("japanese_words", "It arrived torn", edited))


def test_a_share_of_zero_switches_a_recipe_off(folder, labelled_with):
    edit(folder / "recipes.toml", "two_intents = 22", "two_intents = 0")
    made = LexiconGenerator(Lexicon(folder)).generate(labelled_with(), count=300, seed=1)
    assert not any(message.second_parent_id for message in made)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("recipes.toml", "typos = 9", "tipos = 9", "'tipos' is not known"),
        ("recipes.toml", "typos = 9", "typos = -1", "typos = -1 is not a share"),
        ("slang.toml", '"you" = ["u", "ya"]', '"you" = "u"', "you is not a list of texts"),
        ("slang.toml", '"you" = ["u", "ya"]', '"you" = [', "is not TOML"),
        ("grammar.toml", "do i (enter|put|type)", "do i (enter|put|type", "is not a pattern"),
        ("composition.toml", '"{a} Also, {b}"', '"{a} Also"', "does not hold {a} and {b}"),
        ("japanese.toml", 'kana = "にもつ"', 'cana = "にもつ"', "no kana"),
        ("titles.csv", "title,title_ja", "name,title_ja", "other columns"),
        ("titles.csv", "Naruto,NARUTO -ナルト-", "Naruto,", "line 3: a title lacks a language"),
        ("typos.toml", "words_per_typo = 7", "words_per_typo = 0", "words_per_typo is not a number from 1 to 1000"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_key(folder, name, old, new, says):
    edit(folder / name, old, new)
    with pytest.raises(BadInput) as caught:
        LexiconGenerator(Lexicon(folder))
    assert name in str(caught.value) and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(folder):
    (folder / "emoji.toml").unlink()
    with pytest.raises(BadInput, match="emoji.toml: cannot be read"):
        Lexicon(folder)


def test_the_examples_of_the_docs_are_made_by_the_code(lexicon):
    docs = lexicon.folder.parents[1] / "docs" / "augmentation.md"
    examples = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", docs.read_text("utf-8"), re.MULTILINE)
    examples = [example for example in examples if example[0] in RECIPES]
    assert {name for name, _, _ in examples} == set(RECIPES)
    for name, before, after in examples:
        assert after in many(name, before, lexicon, n=400), (name, after)
