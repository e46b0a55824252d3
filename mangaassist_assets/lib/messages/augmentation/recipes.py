"""What may be done to a message so that its label stays: one function per recipe, each says why.

A recipe takes a text and gives another one, or None where it has nothing to do there. All words come from the lexicon; all
choices come from the generator that is passed in.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from mangaassist_assets.lib.messages.augmentation.lexica import Community, Lexicon, Pattern, Readings, Synonyms, Title, Typos, Word
from mangaassist_assets.lib.messages.augmentation.phrases import (
    JAPANESE,
    PLACEHOLDER,
    Match,
    SignBook,
    Span,
    Token,
    key_of,
    overlaps,
    replaced,
    tokens,
)
from mangaassist_assets.lib.messages.augmentation.transliteration import RomajiStyle, romaji
from mangaassist_assets.lib.messages.normalising import language_of

Manner = Literal["plain", "casual", "japanese"]

_PICTURE: Final = "[\u2300-\u23ff\u2600-\u2604\u2607-\u265f\u2668\u2670-\u27bf\u2b00-\u2bff\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]"
_EMOJI: Final = re.compile(
    # Stars, suits and notes are signs of a text (キャッツ♥アイ), unless a variation selector makes them pictures.
    f"(?:{_PICTURE}|[\u2605\u2606\u2660-\u2667]\ufe0f)(?:[\ufe0f\u200d\U0001f3fb-\U0001f3ff]|(?<=\u200d)[\u2640\u2642]|(?<=\u200d){_PICTURE})*"
)
_SENTENCE: Final = re.compile(r"[^.!?\u3002\uff01\uff1f]+[.!?\u3002\uff01\uff1f]*\s*")
_CLAUSE_END: Final = re.compile(r"(?<=[.!?,\u3002\u3001])\s")
_JAPANESE_CLAUSE: Final = re.compile(r"[^\u3002?!\u2026\n\s]+")
_NUMBER_AFTER: Final = re.compile(r"\.?\s?#?(\d{1,3})(?![\d.-])")
_TAIL: Final = re.compile(rf"(?:[\s.!?~\u3002\u2026)]|{_EMOJI.pattern})*$")
_JAPANESE_PUNCTUATION: Final = str.maketrans("", "", "\u3002\u3001\u300c\u300d\u300e\u300f\u30fb\u2026\u301c")
_TAIL_SIGN: Final = re.compile(rf"(?:[.!?\u2026\u3002\uff01\uff1f)]|{_EMOJI.pattern})\s*$")
_BEFORE_SUFFIX: Final = re.compile("[0-9\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u9fff]")
_HIRAGANA: Final = re.compile("[\u3041-\u3096]")
_KATAKANA_WORD: Final = re.compile("[\u30a1-\u30fa\u30fc]{2,}")
_LATIN_WORD: Final = re.compile(r"[A-Za-z0-9<#$\u00c0-\u024f][\x21-\x7e\u00c0-\u024f]*")
_LATIN_SIGNS: Final = {ord(sign): latin for sign, latin in zip("。、「」『』〜・", [".", ",", " “", "”", " “", "”", "~", " "], strict=True)}
_AFTER_OPENING: Final = re.compile(r"(?<=[(“]) ")
_LONE_KANJI_BEFORE: Final = re.compile("(?:^|[^\u3400-\u4dbf\u4e00-\u9fff])[\u3400-\u4dbf\u4e00-\u9fff]$")
_OKURIGANA: Final = "うくぐすつぬぶむるいえきしちにみりけせてめれ"
_PUNCTUATION: Final = re.compile(r"[,;:()\u2014/]")
_I: Final = re.compile(r"I(?:['\u2019](?:m|d|ll|ve))?(?![A-Za-z])")


@dataclass(frozen=True)
class Draft:
    """A new text, and the slices that it certainly has, and those that it no longer has."""

    text: str
    adds: frozenset[str] = frozenset()
    drops: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Recipe:
    """How to make a text from one parent.

    Attributes:
        name: as in recipes.toml.
        apply: gives a draft, or None where there is nothing to do.
        script: the parents that it can do something with: with Japanese script (`japanese`), without (`english`), or `any`.
        japanese_only: only parents of the slice japanese_mixed.
        one_intent: only parents with a single intent.
    """

    name: str
    apply: Callable[[str, Lexicon, Random], Draft | None]
    script: Literal["any", "english", "japanese"]
    japanese_only: bool
    one_intent: bool


RECIPES: Final[dict[str, Recipe]] = {}
CHANNELS: Final = ("typos", "slang", "emoji", "dictation", "shouting")
COMPOSITION: Final = "two_intents"


def recipe(
    *, script: Literal["any", "english", "japanese"], japanese_only: bool = False, one_intent: bool = False
) -> Callable[[Callable[[str, Lexicon, Random], Draft | None]], Callable[[str, Lexicon, Random], Draft | None]]:
    """Lists a function under its name."""

    def listed(apply: Callable[[str, Lexicon, Random], Draft | None]) -> Callable[[str, Lexicon, Random], Draft | None]:
        RECIPES[apply.__name__] = Recipe(apply.__name__, apply, script, japanese_only, one_intent)
        return apply

    return listed


def has_japanese(text: str) -> bool:
    """Whether any sign is kana or kanji."""
    return not text.isascii() and bool(JAPANESE.search(text))


def has_emoji(text: str) -> bool:
    """Whether there is an emoji; kaomoji are none."""
    return not text.isascii() and bool(_EMOJI.search(text))


# ── Japanese ────────────────────────────────────────────────────────────────────────────────────────────────────────


@recipe(script="english")
def japanese_words(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """Some English words of the store said in Japanese, perhaps with a polite opening or closing.

    Keeps the label: each word is replaced by its translation, and what is put around asks for nothing.
    """
    words = tokens(text)
    style = _romaji_style(rng)
    in_script = rng.random() < 0.55
    taken: list[Span] = [match.span() for match in PLACEHOLDER.finditer(text)] + [match.span for match in titles_in(text, lexicon)]
    changes = _counters(text, words, lexicon, in_script) if rng.random() < 0.6 else []
    taken += [span for span, _ in changes]
    found = [match for match in lexicon.words_by_english.find(text, words) if not overlaps(match.span, taken)]
    rng.shuffle(found)
    for match in found[: 1 + (rng.random() < 0.6) + (rng.random() < 0.35)]:
        changes.append((match.span, _said(match.value, in_script, style, rng)))
    new = replaced(text, changes)
    if not changes or rng.random() < 0.35:
        new = _framed(new, lexicon, rng, in_script)
    return Draft(new, frozenset({"japanese_mixed"}))


@recipe(script="english", one_intent=True)
def japanese_sentence(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """A whole English sentence said in Japanese, by the sentence patterns of grammar.toml.

    Keeps the label: a pattern lists Japanese sentences that ask for the same kind of thing, and its open place is filled
    with the same words.
    """
    for sentence in _SENTENCE.finditer(text):
        found = _pattern_of(sentence.group(), lexicon)
        if found is None:
            continue
        pattern, slot = found
        style, in_script = _romaji_style(rng), rng.random() < 0.55
        thing = _slot_in_japanese(slot, lexicon, rng, in_script, style)
        template = rng.choice(pattern.japanese if in_script else pattern.romaji)
        new = template.replace("{x}", thing)
        if not in_script and rng.random() < 0.5:
            new = new[0].upper() + new[1:]
        whole = sentence.end() - sentence.start() >= len(text.strip()) - 2
        emoji = "".join(_EMOJI.findall(sentence.group()))
        tail = text[sentence.end() :]
        joined = text[: sentence.start()] + new + (" " + emoji if emoji else "") + (" " + tail if tail.strip() else "")
        titles = {"manga_term"} if titles_in(joined, lexicon) else set()
        return Draft(joined, frozenset({"japanese_mixed", *titles}), frozenset({"slang", "typo"} if whole else ()))
    return None


@recipe(script="japanese")
def japanese_register(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """The ends of Japanese sentences at another politeness or in another dialect.

    Keeps the label: politeness and dialect say who speaks, not what is wanted.
    """
    found = []
    for clause in _JAPANESE_CLAUSE.finditer(text):
        end = clause.end() - len(clause.group()) + len(_EMOJI.sub("", clause.group()))
        ending = lexicon.endings.ending(text[clause.start() : end]) if has_japanese(clause.group()) else None
        if ending:
            at = clause.start() + ending.start
            found.append(((at, at + ending.end - ending.start), ending.value))
    if not found:
        return None
    changes = []
    for span, group in rng.sample(found, k=min(len(found), 1 + (rng.random() < 0.4))):
        changes.append((span, rng.choice([member for member in group if member != text[slice(*span)]])))
    return Draft(replaced(text, changes))


@recipe(script="any", japanese_only=True)
def japanese_spelling(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """Japanese words in another spelling: kanji, hiragana, katakana, romaji with macrons, doubled vowels or neither.

    Keeps the label: it is the same word.
    """
    changes = []
    if has_japanese(text):
        titles = [match.span for match in titles_in(text, lexicon)]
        for match in lexicon.japanese_spellings.find(text):
            if not overlaps(match.span, titles):
                changes.append((match.span, rng.choice([form for form in match.value if form != text[slice(*match.span)]])))
    for word in lexicon.words_by_romaji.find(text):
        now = text[slice(*word.span)]
        forms = [*dict.fromkeys(word.value.romaji.values()), word.value.japanese[0]]
        others = [form for form in forms if form.lower() != now.lower()]
        if others:
            changes.append((word.span, rng.choice(others)))
    if not changes:
        return None
    return Draft(replaced(text, rng.sample(changes, k=rng.randint(1, min(3, len(changes))))), frozenset({"japanese_mixed"}))


@recipe(script="japanese")
def romanised(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """A Japanese message typed in Latin letters, as people do on a foreign keyboard.

    Keeps the label: it is the same sentence. It is left alone where the lexicon does not give every reading.
    """
    read = _read_aloud(text, lexicon)
    if read is None:
        return None
    if rng.random() < 0.4:
        read = read[0].upper() + read[1:]
    if rng.random() < 0.3:
        read = re.sub(r"\bo (?=\w)", "wo ", read)
    return Draft(read, frozenset({"japanese_mixed"}))


@recipe(script="japanese")
def english_in_japanese(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """Some nouns of a Japanese message said in English, as people who live between the languages do.

    Keeps the label: each word is replaced by its translation.
    """
    titles = [match.span for match in titles_in(text, lexicon)]
    found = [
        match
        for match in lexicon.words_by_sign.find(text)
        if match.end - match.start > 1
        and text[match.end - 1] not in "いたくにうもす"
        and not match.value.english[0].startswith("how ")
        and not overlaps(match.span, titles)
    ]
    if not found:
        return None
    spaced = rng.random() < 0.6
    changes = []
    for match in rng.sample(found, k=rng.randint(1, min(2, len(found)))):
        word = match.value.english[0]
        if spaced:
            word = (" " if text[: match.start][-1:].isalnum() else "") + word + (" " if text[match.end :][:1].isalnum() else "")
        changes.append((match.span, word))
    new = replaced(text, changes).replace("  ", " ")
    return Draft(new, frozenset({"japanese_mixed"})) if has_japanese(new) else None


@recipe(script="any")
def title_translated(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """A series under the name it has in the other language, in romaji, or as its readers shorten it.

    Keeps the label: it is the same series.
    """
    found = titles_in(text, lexicon)
    if not found:
        return None
    match = rng.choice(found)
    now, title = text[slice(*match.span)], match.value
    if has_japanese(now):
        forms = [*title.spoken, title.romaji]
    else:
        forms = [*([title.japanese] * 2 if JAPANESE.search(title.japanese) else []), title.romaji, *title.also]
    forms = [form for form in forms if key_of(form) != key_of(now)]
    if not forms:
        return None
    new = rng.choice(forms)
    if has_japanese(new) and rng.random() < 0.3 and not _quoted(text, match.span):
        new = f"『{new}』"
    elif now.islower():
        new = new.lower()
    whole = replaced(text, [(match.span, new)])
    if has_japanese(text) and not has_japanese(whole):
        return None
    return Draft(whole, frozenset({"manga_term", "japanese_mixed"} if has_japanese(whole) else {"manga_term"}))


@recipe(script="any")
def title_swapped(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """Another series in the place of one that is named.

    Keeps the label: what is wanted of a series does not depend on which one it is.
    """
    found = titles_in(text, lexicon)
    if not found:
        return None
    changes = []
    for match in found:
        now = text[slice(*match.span)]
        if has_japanese(now):
            new = rng.choice([title for title in lexicon.titles if JAPANESE.search(title.japanese)]).japanese
        else:
            new = rng.choice(rng.choice([title for title in lexicon.titles if not title.common]).spoken)
            new = new.lower() if now.islower() else new
        changes.append((match.span, new))
    return Draft(replaced(text, changes), frozenset({"manga_term"}))


@recipe(script="any")
def manga_words(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """The words of readers for the things of the shop, and other spellings of such words (tankōbon, tankobon, tankoubon).

    Keeps the label: the thing that is talked about stays the same.
    """
    words = tokens(text)
    titles = [match.span for match in titles_in(text, lexicon)]
    respelt = [match for match in lexicon.manga_spellings.find(text, words) if not overlaps(match.span, titles)]
    taken = titles + [match.span for match in respelt]
    renamed = [match for match in lexicon.manga_synonyms.find(text, words) if not overlaps(match.span, taken)]
    changes = [(match.span, _synonym(text, match, rng)) for match in (*respelt, *rng.sample(renamed, k=min(len(renamed), 2)))]
    return Draft(replaced(text, changes), frozenset({"manga_term"})) if changes else None


# ── channels: how it is typed ───────────────────────────────────────────────────────────────────────────────────────


@recipe(script="english")
def slang(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """Casual talk of one community: its words, lower case, few signs, an opening, a closing.

    Keeps the label: the words mean the same, and openings and closings ask for nothing.
    """
    community = rng.choice(lexicon.communities)
    words = tokens(text)
    if not words:
        return None
    titles = [match.span for match in titles_in(text, lexicon)]
    found = [match for match in community.words.find(text, words) if not overlaps(match.span, titles)]
    rng.shuffle(found)
    changes = []
    for match in found[: max(2, len(words) // 3)]:
        new = rng.choice(match.value)
        if new.lower() != text[slice(*match.span)].lower():
            changes.append((match.span, new))
    new = replaced(text, changes)
    new = _without_final_stop(new) if rng.random() < 0.9 else new
    if rng.random() < 0.85:
        new = _lowered(new)
    if rng.random() < 0.7:
        new = new.replace("'", "").replace("\u2019", "")
    if rng.random() < 0.4:
        new = new.replace(",", "")
    opened, closed = rng.random() < 0.35, rng.random() < 0.3
    if not changes and not opened and not closed:
        opened = True
    return Draft(_spoken_by(community, new, rng, opened=opened, closed=closed), frozenset({"slang"}))


@recipe(script="english")
def typos(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """Slips of fast thumbs and of unsure spelling, at a realistic rate.

    Keeps the label: short words and words that a slip would turn into another word of the shop stay as they are.
    """
    habits = lexicon.typos
    words = [token for token in tokens(text) if text[token.start] not in "<{" and token.end - token.start >= 2]
    wanted = 1 + sum(rng.random() < 1 / habits.words_per_typo for _ in words)
    kinds, weights = list(habits.kinds), list(habits.kinds.values())
    changes: dict[Span, str] = {}
    for _ in range(4 * wanted):
        if len(changes) >= min(wanted, habits.most):
            break
        change = _typo(text, words, rng.choices(kinds, weights)[0], habits, rng)
        if change and not overlaps(change[0], changes):
            changes[change[0]] = change[1]
    if not changes:
        return None
    new = replaced(text, changes.items())
    if rng.random() < 0.5:
        new = new.replace("'", "").replace("\u2019", "")
    if rng.random() < 0.35:
        new = _lowered(new)
    return Draft(new, frozenset({"typo"}))


@recipe(script="any")
def emoji(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """One emoji or a few that go with a word of the message, or with anything.

    Keeps the label: they are chosen by the words that are there, or from a list without anger.
    """
    if has_emoji(text):
        return None
    keys = {token.key for token in tokens(text)}
    fitting = [topic for topic in lexicon.topics if keys & topic.keys or any(sign in text for sign in topic.signs)]
    chosen = rng.choice(rng.choice(fitting).emoji if fitting and rng.random() < 0.7 else lexicon.neutral_emoji)
    if rng.random() < lexicon.emoji_habit["second_share"]:
        chosen += rng.choice(rng.choice(fitting).emoji if fitting else lexicon.neutral_emoji)
    elif rng.random() < lexicon.emoji_habit["repeat_share"]:
        chosen *= rng.randint(2, 3)
    inside = [match.start() for match in _CLAUSE_END.finditer(text)]
    if inside and rng.random() < lexicon.emoji_habit["inside_share"]:
        at = inside[0]
        return Draft(f"{text[:at]} {chosen}{text[at:]}", frozenset({"emoji"}))
    body = _without_final_stop(text) if rng.random() < 0.6 else text
    gap = "" if has_japanese(text) and rng.random() < 0.7 else " "
    return Draft(f"{body}{gap}{chosen}", frozenset({"emoji"}))


@recipe(script="any")
def dictation(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """What voice dictation makes of it: lower case, no signs, no emoji, small numbers as words.

    Keeps the label: every word is still there.
    """
    parts, at = [], 0
    for token in tokens(text):
        parts.append(re.sub(r"[^\s#&%\u3040-\u30ff\u3400-\u9fff]+", " ", text[at : token.start].translate(_JAPANESE_PUNCTUATION)))
        word = text[token.start : token.end]
        if word.isdigit() and int(word) < len(lexicon.spoken_numbers) and len(word) < 3:
            word = lexicon.spoken_numbers[int(word)]
        elif word[0] not in "<{":
            word = lexicon.said.get(word.lower(), word.lower())
        parts.append(word)
        at = token.end
    parts.append(re.sub(r"[^\s#&%\u3040-\u30ff\u3400-\u9fff]+", " ", text[at:].translate(_JAPANESE_PUNCTUATION)))
    new = re.sub("[#&%]", lambda sign: f" {lexicon.said.get(sign.group(), '')} ", "".join(parts))
    new = " ".join(new.split())
    return Draft(new) if new and new != text else None


@recipe(script="english")
def shouting(text: str, lexicon: Lexicon, rng: Random) -> Draft | None:
    """Capitals throughout, for people whose caps lock is on.

    Keeps the label: no word and no sign is added, so a calm question stays one.
    """
    new = "".join(part if PLACEHOLDER.fullmatch(part) else part.upper() for part in re.split(f"({PLACEHOLDER.pattern})", text) if part)
    return Draft(new) if len(tokens(text)) > 1 and new != text else None


# ── two intents ─────────────────────────────────────────────────────────────────────────────────────────────────────


def manner_of(text: str, slices: Sequence[str]) -> Manner:
    """How a text is written, so that two halves of one message sound like one person."""
    if language_of(text) == "ja":
        return "japanese"
    casual = "slang" in slices or "typo" in slices or not text[:1].isupper()
    return "casual" if casual else "plain"


def may_be_part(text: str, intent: str, lexicon: Lexicon) -> bool:
    """Whether a message is of a size to be half of another, and more than a greeting."""
    rules = lexicon.composition
    words = len(tokens(text))
    if language_of(text) == "ja":
        return 6 <= len(text) <= rules.most_signs
    least = rules.small_talk_least_words if intent in rules.small_talk else rules.least_words
    return least <= words <= rules.most_words


def leads(first: str, second: str, lexicon: Lexicon) -> bool:
    """Whether `first` is more urgent than `second`, so that it is written and served first."""
    over = lexicon.composition.leads.get(first, ())
    return second in over or "*" in over


def joined(first: str, second: str, manners: tuple[Manner, Manner], lexicon: Lexicon, rng: Random) -> Draft:
    """One message with two intents; the one that `first` has is served first.

    Keeps both labels: both messages are there in full, and order of mention and urgency agree on the first.
    """
    kind = manners[0] if manners[0] == manners[1] else "mixed" if "japanese" in manners else "casual"
    connector = rng.choice(lexicon.composition.connectors[kind])
    second = _without_greeting(second, lexicon)
    if kind in ("plain", "mixed"):
        first = first if _TAIL_SIGN.search(first) else first + "."
    elif kind == "japanese":
        first = first if _TAIL_SIGN.search(first) else first + "。"
    else:
        runs_on = connector.partition("{a}")[2][:1] in (",", ".")
        first = _without_final_stop(first, also="?!" if runs_on or rng.random() < 0.8 else "")
    out = connector
    for name, part in (("a", first), ("b", second)):
        small, capital = "{" + name + "}", "{" + name.upper() + "}"
        out = out.replace(small, part if out.startswith(small) else _decapitalised(part, lexicon)).replace(capital, _capitalised(part))
    adds = {"multi_intent"} | ({"japanese_mixed"} if "japanese" in manners else set())
    return Draft(" ".join(out.split()), frozenset(adds))


# ── slices of a text that nobody has labelled ───────────────────────────────────────────────────────────────────────


def slices_of(text: str, lexicon: Lexicon) -> list[str]:
    """The slices that can be told from the words alone; `plain` where there is none. Typos cannot be told."""
    words = tokens(text)
    found = []
    if titles_in(text, lexicon) or lexicon.manga_terms.find(text, words) or lexicon.manga_terms_by_sign.find(text):
        found.append("manga_term")
    if not has_japanese(text) and any(token.key in lexicon.slang_words for token in words):
        found.append("slang")
    if has_japanese(text) or len(lexicon.words_by_romaji.find(text, words)) > 1:
        found.append("japanese_mixed")
    if has_emoji(text):
        found.append("emoji")
    return found or ["plain"]


# ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def titles_in(text: str, lexicon: Lexicon) -> list[Match[Title]]:
    """Series that are named; one that is also a common word only with a capital inside a sentence."""
    found = []
    for match in lexicon.titles_by_word.find(text):
        if match.value.common:
            inside = match.start > 1 and text[match.start - 1] == " " and text[match.start - 2] not in ".!?"
            now = text[slice(*match.span)]
            if not (inside and now[0].isupper() and not text.isupper() or _quoted(text, match.span)):
                continue
        found.append(match)
    if has_japanese(text):
        taken = [match.span for match in found]
        found += [match for match in lexicon.titles_by_sign.find(text) if not overlaps(match.span, taken)]
    return sorted(found, key=lambda match: match.start)


def _quoted(text: str, span: Span) -> bool:
    return text[span[0] - 1 : span[0]] in tuple("\"'「『\u201c\u2018") and text[span[1] : span[1] + 1] in tuple("\"'」』\u201d\u2019")


def _romaji_style(rng: Random) -> RomajiStyle:
    styles: tuple[RomajiStyle, ...] = ("doubled", "macron", "plain")
    return rng.choices(styles, (5, 2, 3))[0]


def _said(word: Word, in_script: bool, style: RomajiStyle, rng: Random) -> str:
    return (rng.choice(word.japanese) if rng.random() < 0.3 else word.japanese[0]) if in_script else word.romaji[style]


def _counters(text: str, words: Sequence[Token], lexicon: Lexicon, in_script: bool) -> list[tuple[Span, str]]:
    """Volumes and copies with their number: 3巻 or 3-kan for vol. 3."""
    changes = []
    for token in words:
        forms = lexicon.counter_of.get(token.key)
        number = _NUMBER_AFTER.match(text, token.end) if forms else None
        if forms and number:
            changes.append(((token.start, number.end()), forms[0 if in_script else 1].replace("{n}", number[1])))
    return changes


def _framed(text: str, lexicon: Lexicon, rng: Random, in_script: bool) -> str:
    form = 0 if in_script else 1
    if rng.random() < 0.55:
        opening = rng.choice(lexicon.japanese_openings)[form]
        runs_on = opening.endswith((",", "、"))
        return f"{opening}{'' if opening.endswith('、') else ' '}{_decapitalised(text, lexicon) if runs_on else text}"
    closing = rng.choice(lexicon.japanese_closings)[form]
    return f"{text if _TAIL_SIGN.search(text) else text + ','} {closing}"


def _pattern_of(sentence: str, lexicon: Lexicon) -> tuple[Pattern, str] | None:
    """The pattern that covers a sentence, and the words in its open place."""
    words = tokens(sentence)
    keys = [token.key for token in words]
    stripped = True
    while stripped:
        stripped = False
        for opening in lexicon.sentence_openings:
            if len(keys) > len(opening) and tuple(keys[: len(opening)]) == opening:
                words, keys, stripped = words[len(opening) :], keys[len(opening) :], True
        for ending in lexicon.sentence_endings:
            if len(keys) > len(ending) and tuple(keys[-len(ending) :]) == ending:
                words, keys, stripped = words[: -len(ending)], keys[: -len(ending)], True
    if not keys:
        return None
    line = " ".join(keys) + " "
    for pattern in lexicon.patterns.get(keys[0], ()):
        match = pattern.regex.fullmatch(line)
        if not match:
            continue
        if "x" not in pattern.regex.groupindex:
            return pattern, ""
        begin, end = line.count(" ", 0, match.start("x")), line.count(" ", 0, match.end("x")) + 1
        while begin < end - 1 and keys[begin] in lexicon.dropped_before_slot:
            begin += 1
        alone = " ".join(keys[begin:end])
        slot = sentence[words[begin].start : words[end - 1].end]
        if alone in lexicon.pronouns or not (_PUNCTUATION.search(slot) or any(key in lexicon.not_in_slot for key in keys[begin:end])):
            return pattern, slot
    return None


def _slot_in_japanese(slot: str, lexicon: Lexicon, rng: Random, in_script: bool, style: RomajiStyle) -> str:
    pronoun = lexicon.pronouns.get(key_of(slot))
    if pronoun:
        return pronoun.japanese[0] if in_script else pronoun.romaji[style]
    words = tokens(slot)
    changes: list[tuple[Span, str]] = _counters(slot, words, lexicon, in_script)
    taken = [span for span, _ in changes]
    for match in titles_in(slot, lexicon):
        if not overlaps(match.span, taken):
            taken.append(match.span)
            if in_script and rng.random() < 0.6:
                changes.append((match.span, match.value.japanese))
    for word in lexicon.words_by_english.find(slot, words):
        if not overlaps(word.span, taken) and rng.random() < 0.75:
            changes.append((word.span, _said(word.value, in_script, style, rng)))
    new = replaced(slot, changes)
    return re.sub(rf"(?<={JAPANESE.pattern}) (?={JAPANESE.pattern})", "の" if rng.random() < 0.5 else "", new) if in_script else new


def _synonym(text: str, match: Match[Synonyms], rng: Random) -> str:
    now = text[slice(*match.span)]
    new = rng.choice([term for term in match.value.terms if term.lower() != now.lower()] or [now])
    return _capitalised(new) if now[0].isupper() and match.start == 0 else new


def _spoken_by(community: Community, text: str, rng: Random, *, opened: bool, closed: bool) -> str:
    if opened:
        comma = "," if rng.random() < 0.4 else ""
        text = f"{rng.choice(community.openings)}{comma} {text}"
    if closed:
        emoji_at = _EMOJI.search(text)
        body = _without_final_stop(text, also="" if rng.random() < 0.5 else "?")
        closing = rng.choice(community.closings)
        text = f"{closing} {text}" if emoji_at and closing[0].isalpha() and rng.random() < 0.5 else f"{body} {closing}"
    return text


def _typo(text: str, words: Sequence[Token], kind: str, habits: Typos, rng: Random) -> tuple[Span, str] | None:
    """One slip of a kind: the characters it replaces and what stands there then."""
    if not words:
        return None
    if kind == "misspelt":
        known = [token for token in words if token.key in habits.misspellings]
        if not known:
            return None
        token = rng.choice(known)
        new = rng.choice(habits.misspellings[token.key])
        return (token.start, token.end), _capitalised(new) if text[token.start].isupper() else new
    if kind == "merged":
        n = rng.randrange(len(words))
        if n + 1 >= len(words) or text[words[n].end : words[n + 1].start] != " " or text[words[n + 1].start].isdigit():
            return None
        return (words[n].end, words[n + 1].start), ""
    token = rng.choice(words)
    word = text[token.start : token.end]
    if len(word) < habits.shortest_word or token.key in habits.keep or not (word.isalpha() and word.isascii()):
        return None
    slipped = _slip(word, kind, habits, rng)
    return ((token.start, token.end), slipped) if slipped and slipped != word else None


def _slip(word: str, kind: str, habits: Typos, rng: Random) -> str | None:
    """`word` with one slip; the first letter stays, as it mostly does."""
    if kind == "phonetic":
        lower = word.lower()
        heard = [(sound, at) for sound in habits.phonetic if (at := lower.find(sound, 1)) > 0]
        if not heard:
            return None
        sound, at = rng.choice(heard)
        return word[:at] + rng.choice(habits.phonetic[sound]) + word[at + len(sound) :]
    at = rng.randrange(1, len(word))
    if kind == "dropped":
        return word[:at] + word[at + 1 :]
    if kind == "doubled":
        return word[:at] + word[at] + word[at:]
    if kind == "transposed":
        at = min(at, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    beside = habits.neighbours.get(word[at].lower())
    return word[:at] + rng.choice(beside) + word[at + 1 :] if beside else None


def _read_aloud(text: str, lexicon: Lexicon) -> str | None:
    """A Japanese text in romaji with spaces between words, or None where a reading is not known.

    From the end to the start, for each place and whether a stem ends there, the first choice from which the rest can be read.
    """
    readable: dict[tuple[int, bool], tuple[str, int, bool]] = {}
    for i in range(len(text) - 1, -1, -1):
        for after_stem in (False, True):
            for choice in _choices(text, i, after_stem, lexicon.readings):
                if choice[1] == len(text) or choice[1:] in readable:
                    readable[i, after_stem] = choice
                    break
    pieces: list[str] = []
    i, after_stem = 0, False
    while i < len(text):
        if (i, after_stem) not in readable:
            return None
        piece, i, after_stem = readable[i, after_stem]
        pieces.append(piece)
    read = " ".join("".join(pieces).split())
    return _AFTER_OPENING.sub("", read).replace("“", '"').replace("”", '"') or None


def _choices(text: str, i: int, after_stem: bool, readings: Readings) -> Iterator[tuple[str, int, bool]]:
    """What may stand at text[i:], best first: its romaji, where it ends, and whether a stem ends there."""
    if after_stem and (ending := _after_stem(text, i, readings.endings)):
        yield *ending, False
    words = [word for word in readings.words.all_at(text, i) if not _runs_on(text, word) or text[i] in readings.suffixes]
    for stem in readings.stems.all_at(text, i):
        covered = words and stem.end < words[0].end
        if _HIRAGANA.match(text, stem.end) and not covered and not _LONE_KANJI_BEFORE.search(text, max(0, i - 2), i):
            yield f" {romaji(stem.value)}", stem.end, True
    for word in words:
        yield f" {word.value}", word.end, False
    for kana in readings.hiragana.all_at(text, i):
        yield kana.value if kana.value.startswith("-") else f" {kana.value}", kana.end, False
    if katakana := _KATAKANA_WORD.match(text, i):
        yield f" {romaji(katakana.group())}", katakana.end(), False
    if not JAPANESE.match(text, i):
        latin = _LATIN_WORD.match(text, i)
        gap = " " if i and JAPANESE.match(text, i - 1) else ""
        yield (gap + latin.group(), latin.end(), False) if latin else (text[i].translate(_LATIN_SIGNS), i + 1, False)


def _runs_on(text: str, word: Match[str]) -> bool:
    """Whether a single kanji stands behind another, behind katakana or a number: there most are read otherwise."""
    return word.end - word.start == 1 and bool(_BEFORE_SUFFIX.match(text[: word.start][-1:]))


def _after_stem(text: str, i: int, endings: SignBook[str]) -> tuple[str, int] | None:
    """Romaji of what follows a verb's stem, and where it ends: up to two hiragana of its own, then a known ending."""
    best: tuple[str, int] | None = None
    for own in range(min(3, len(text) - i)):
        if own and not _HIRAGANA.match(text, i + own - 1):
            break
        for match in endings.all_at(text, i + own)[:1]:
            if best is None or match.end > best[1]:
                best = romaji(text[i : i + own]) + match.value, match.end
    if best is None and text[i] in _OKURIGANA:
        return romaji(text[i]), i + 1
    return best


def _lowered(text: str) -> str:
    """Lower case, except for placeholders."""
    return "".join(part if PLACEHOLDER.fullmatch(part) else part.lower() for part in re.split(f"({PLACEHOLDER.pattern})", text) if part)


def _without_final_stop(text: str, also: str = "") -> str:
    """Without the full stop that a text ends with, and without the signs in `also`; emoji behind it stay."""
    tail = _TAIL.search(text)
    at = tail.start() if tail else len(text)
    return text[:at] + "".join(sign for sign in text[at:] if sign not in ".。" + also).rstrip()


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _decapitalised(text: str, lexicon: Lexicon) -> str:
    """Starts in lower case, unless with I, a name, or a word in capitals."""
    first = re.match(r"[A-Z][a-z'\u2019]*(?![A-Za-z])", text)
    if not first or _I.match(text) or any(match.start == 0 for match in titles_in(text, lexicon)):
        return text
    return text[0].lower() + text[1:]


def _without_greeting(text: str, lexicon: Lexicon) -> str:
    """Without the hello that would stand in the middle of a message."""
    words = tokens(text)
    keys = tuple(token.key for token in words)
    for opening in lexicon.sentence_openings:
        if len(keys) > len(opening) + 2 and keys[: len(opening)] == opening and not text[words[len(opening) - 1].end :].startswith(" "):
            return text[words[len(opening)].start :]
    return text
