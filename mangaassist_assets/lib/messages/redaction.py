"""Personal data out of a text before anything is stored: a placeholder of its type takes its place.

    <EMAIL>    name@host
    <CARD>     14 to 19 digits, together or in groups of four and more, that pass Luhn's check (ISO/IEC 7812-1)
    <ORDER>    order, invoice and tracking numbers by their shape (114-5550399-0651, MA-48213, #20931), by a cue
               ("order number", 注文番号), and any other number of 14 digits or more
    <PHONE>    international, North American, Japanese and British forms; other forms after a cue ("call me on", 電話)
    <ADDRESS>  a street, P.O. box or Japanese address after a cue ("ship to", "my address is", 住所は)

What customers of a bookshop write all day stays: volume numbers, years, dates, prices, page counts, JLPT levels, ISBN and
JAN codes (told from other numbers by their check digits). Repeats are bounded, so that the cost grows with the text's
length only.
"""

import re
from typing import Final

PLACEHOLDERS: Final = ("<EMAIL>", "<PHONE>", "<CARD>", "<ORDER>", "<ADDRESS>")

_VERBOSE: Final = re.VERBOSE | re.IGNORECASE
_DASH: Final = r"[-\u2010-\u2015\u2212\uff0d]"
_GAP: Final = rf"(?:[ .]|{_DASH})"
_ID: Final = "[A-Za-z0-9_]"  # not \w: Japanese follows a number without a space

# ── cheap looks: most messages end at the first one, and each later pattern runs only where it could match ──────────────
_ANY = re.compile(r"[\d@\uff20]|住所|届け?先|[送付配達宛]先|番地")
_DIGIT = re.compile(r"\d")
_FOUR_DIGITS = re.compile(r"\d[\dA-Za-z-]{3}")
_SEVEN_DIGITS = re.compile(r"(?:\d\D{0,5}){6}\d")
_FOURTEEN_DIGITS = re.compile(r"(?:\d\D?){13}\d")
_ORDER_CUES = tuple(
    "rder ordr oder odrer purchase invoice bill tracking parcel shipment return ref confirmation rma ticket case number".split()
)
_ORDER_CUES_JA = re.compile(r"[注予受問追伝送荷会]")
_ADDRESS_CUES = tuple("ship deliver send sent mail forward redirect post address live living moved moving staying usho ūsho".split())
_ADDRESS_CUES_JA = re.compile(r"住所|先|\d{3}-\d{4}")

# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
_EMAIL = re.compile(
    r"[A-Za-z0-9\u00c0-\u024f._%+'-]{1,64}[@\uff20]"
    r"(?=[A-Za-z0-9.-]{0,60}[A-Za-z]{2})[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}"
)
_LONG_NUMBER = re.compile(rf"\d (?<!\d\d) (?<!\d(?:[ ]|{_DASH})\d) (?:(?:[ ]|{_DASH})?\d){{13,29}} (?!\d|{_DASH}\d)", re.VERBOSE)
_ORDER_SHAPES: Final = tuple(
    (sign, re.compile(pattern, re.VERBOSE))
    for sign, pattern in (
        ("", rf"\d (?<!{_ID}\d) (?<!-\d) \d\d {_DASH} \d{{7}} {_DASH} \d{{4,7}} (?!{_ID}|-)"),  # 114-5550399-0651
        ("#", rf"\# (?<!{_ID}\#) [ ]? (?! (?:19|20)\d\d (?!\d) ) \d{{4,13}} (?!{_ID}|-)"),  # #20931, but not the year #2024
        ("-", rf"[A-Za-z] (?<!{_ID}[A-Za-z]) (?<!-[A-Za-z]) (?! [Ss][Bb][Nn] ) [A-Za-z]{{1,3}} - \d{{5,10}} (?!{_ID}|-)"),  # MA-48213
        (
            "",
            rf"[A-Za-z] (?<!{_ID}[A-Za-z]) [A-Za-z]{{1,2}} \d{{6,12}} (?:[A-Z]{{2}})? (?!{_ID}|-)",
        ),  # LC40881273, postal parcels (UPU S10)
        ("", rf"[A-Z] (?<!{_ID}[A-Z]) [A-Z]{{1,2}} [ ] \d{{4}} [ ]? \d{{4}} (?!{_ID}|-)"),  # LC 4088 1273
        ("1Z", rf"1Z (?<!{_ID}1Z) [0-9A-Z]{{16}} (?!{_ID})"),  # UPS
    )
)
_ORDER_AFTER_CUE = re.compile(
    r"""
    (?P<cue>
        \b (?: (?:pre-?)? o(?:rder|rdr|der|drer) | purchase | invoice | bill | parcel | shipment | return | confirmation | ticket
             | case | number | (?P<only> tracking | ref(?:erence)? | rma ) )
        (?P<english> [ ]? (?: number | num | no | nr | id | code | \# ) \b \.? )?
        (?: [ ] (?: is | was | for ) )? [\s:.\#\uff1a(]{0,3}
      |
        (?: 注文 | 予約 | 受注 | 受付 | 問い?合わ?せ | 追跡 | 伝票 | 送り状 | 荷物 | 会員 )
        (?P<japanese> の? (?: 番号 | ナンバー | no\.? | id ) )?
        (?: は | が | の | を | で )? [\s:\#\uff1a\uff03「『(\uff08、]{0,3}
    )
    (?P<number> [A-Z]{0,4} [ -]? \d [\dA-Z-]{3,24} ) (?![A-Z0-9])
    (?! [.,]\d | \s? (?: yen | jpy | usd | eur | dollars? | bucks | points? | pts | pages? | copies | %
                       | 円 | ポイント | 点 | 冊 | 巻 | 年 | ページ ) )
    """,
    _VERBOSE | re.ASCII,
)
_PHONE_SHAPE = re.compile(
    rf"""
      (?<![\w+]) \+ \d{{1,3}} (?: {_GAP}{{0,2}} \(? \d{{1,4}} \)? ){{2,6}} (?!\d)                               # +44 20 7946 0958
    | (?<![\w.,$€£¥+/-]) (?:1{_GAP})? (?: \([2-9]\d\d\) [ ]? | [2-9]\d\d{_GAP} ) \d{{3}} {_GAP} \d{{4}} (?![\w-]) # (555) 010-4477
    | (?<![\w.,$€£¥+/-]) \(? 0\d{{1,4}} (?:\)[ ]?|[ ]|{_DASH}) \d{{1,4}} (?:[ ]|{_DASH}) \d{{3,4}} (?![\w-])      # 03-1234-5678
    | (?<![\w.,$€£¥+/-]) 0[1-9]\d{{3}} [ ]? \d{{5,6}} (?![\w-])                                                 # 09012345678, 07700 900123
    """,
    _VERBOSE,
)
_PHONE_AFTER_CUE = re.compile(
    rf"""
    (?P<cue>
        (?: \b (?: phone | tel | telephone | mobile | cell | whatsapp | call | text | ring | reach | denwa ) \b | 電話 | 携帯 | ℡ )
        (?: 番号 )? (?: [ ] (?: me | us | number | no\.? | on | at | is | back | wa ) ){{0,4}} は? [\s:.\uff1a(]{{0,3}}
    )
    (?P<number> \d (?: {_GAP}{{0,2}} [()]? \d ){{6,13}} ) (?!\d)
    """,
    _VERBOSE,
)

# ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────
_POSTCODE: Final = r"(?-i: \d{5}(?:-\d{4})? | [A-Z]{1,2}\d[A-Z\d]?[ ]?\d[A-Z]{2} | [A-Z]\d[A-Z][ ]?\d[A-Z]\d )"
_NAME: Final = r"(?-i: [A-Z\u00c0-\u00dd] ) [\w.'\u2019-]{0,20}"
_WESTERN_ADDRESS = re.compile(
    rf"""
    (?P<cue>
      (?: \b (?: ship(?:ped|ping)? | deliver(?:ed|y)? | sen[dt] | mail(?:ed)? | forward | redirect | post )
          (?: [ ] [\w'#<>-]{{1,15}} ){{0,4}}? [ ] (?: to | at )
        | \b address (?: [ ] (?: is | was | to | should[ ]be | will[ ]be ) )? (?: [ ] now )?
        | \b (?: i | we ) (?: ['\u2019]m | [ ]am | [ ]are )? [ ] (?: live | living | moved | moving | staying )
          (?: [ ] (?: at | on | in | to ) )?
        | \b j[uū]{{1,2}}sho [ ] wa
      )
      (?: [ ] my (?: [ ] (?: new | home | work | office ) )? [ ] (?: place | house | home | address | flat | office )
          (?: [ ] (?: at | is ) )? )?
      [\s:,\uff1a]{{1,3}}
    )
    (?: \d{{1,6}}[A-Z]?(?:-\d{{1,5}})? [ ] (?: [\w.'\u2019-]{{1,20}} [ ] ){{0,4}}?                                # 12 Elm St
        (?: st|street|ave|avenue|rd|road|blvd|boulevard|lane|ln|drive|dr|court|ct|way|place|pl|terrace|square|sq|parkway|pkwy|highway|hwy
          |close|crescent|grove|gardens|mews|circle|trail|walk|row|quay ) \b \.?
      | \d{{1,6}}[A-Z]?,? [ ] (?: rue|avenue|boulevard|via|calle ) (?: [ ] [\w'\u2019-]{{1,20}} ){{1,4}}          # 8 rue de la Paix
      | \d{{1,6}}[A-Z]? (?: [ ] {_NAME} ){{1,4}} (?= , | [ ]{_POSTCODE}(?!\w) )                                   # 221B Baker, London
      | [\w-]{{2,25}} (?: stra(?:ss|ß)e | str\. | gasse | weg | platz | laan | straat ) [ ] \d{{1,5}}[a-z]?   # Hauptstraße 12
        (?: ,?[ ]\d{{4,5}}[ ][\w-]{{2,25}} )?
      | p\.?[ ]?o\.?[ ]?box [ ] \d{{1,8}}
    )
    (?: [\s,]{{1,2}} (?: (?: apt|apartment|unit|suite|ste|flat|floor|room|rm ) \b \.? [ ]? \#?\w{{1,6}} | \#\w{{1,6}} ) )?
    (?: (?: [\s,]{{1,2}} [\w.'\u2019-]{{1,20}} ){{0,6}}? [\s,]{{1,2}} {_POSTCODE} (?!\w)
      | (?: , [ ]? {_NAME} (?: [ ] {_NAME} ){{0,2}} ){{0,4}}
    )
    """,
    _VERBOSE,
)
_JAPANESE_ADDRESS = re.compile(
    rf"""
    (?P<cue>
        (?: 住所 | お?届け?先 | (?:送り|送付|配送|発送|配達|引っ?越し|転居|宛)先 )
        (?: は | を | が | の | : | \uff1a | 、 | \s | 新しい | 「 | 『 ){{1,5}}
      | \b (?: ship | deliver | send ) (?: [ ] \w{{1,12}} ){{0,3}}? [ ] to [ ] | \b address (?: [ ] is )? [ :]{{1,2}}
    )
    (?: 〒? [ ]? \d{{3}} {_DASH} \d{{4}} (?![\d-])
        (?: [ 、,]{{0,2}} [^\s。、!?！？\d]{{1,12}} [都道府県市区郡町村] [^。!?！？\n「」]{{0,30}} (?: \d | 番地 | 号室? ) )?
      | [^\s。、!?！？\d]{{1,12}}? [都道府県市区郡町村] [^。、!?！？\n「」]{{0,20}}?
        (?: [\d一二三四五六七八九十]{{1,3}} (?: 丁目 | 番地? | の\d | {_DASH}\d ) )
        (?: [\d一二三四五六七八九十番地号丁目室の] | {_DASH} ){{0,20}}
    )
    (?: [ 、]{{0,2}} [ァ-ヶーA-Z一-鿿]{{2,15}} [ ]? \d{{2,4}} (?: 号室? )? )?
    """,
    _VERBOSE,
)


def redact(text: str) -> str:
    """Replaces personal data by PLACEHOLDERS; finds most in a text that `normalise` has been over."""
    if not _ANY.search(text):
        return text
    if "@" in text or "\uff20" in text:
        text = _EMAIL.sub("<EMAIL>", text)
    if _FOUR_DIGITS.search(text):
        text = _redact_orders_and_cards(text)
    if _SEVEN_DIGITS.search(text):
        text = _PHONE_SHAPE.sub(_phone, text)
        text = _PHONE_AFTER_CUE.sub(_phone_after_cue, text)
    return _redact_addresses(text)


def _redact_orders_and_cards(text: str) -> str:
    if _FOURTEEN_DIGITS.search(text):
        text = _LONG_NUMBER.sub(_long_number, text)
    for sign, shape in _ORDER_SHAPES:
        if sign in text:
            text = shape.sub(_order_shape, text)
    if _FOUR_DIGITS.search(text) and (_holds_any(_ORDER_CUES, text) or not text.isascii() and _ORDER_CUES_JA.search(text)):
        text = _ORDER_AFTER_CUE.sub(_order_after_cue, text)
    return text


def _redact_addresses(text: str) -> str:
    if _DIGIT.search(text) and _holds_any(_ADDRESS_CUES, text):
        text = _WESTERN_ADDRESS.sub(r"\g<cue><ADDRESS>", text)
    if _ADDRESS_CUES_JA.search(text):
        text = _JAPANESE_ADDRESS.sub(r"\g<cue><ADDRESS>", text)
    return text


def _holds_any(cues: tuple[str, ...], text: str) -> bool:
    lowered = text.lower()
    return any(cue in lowered for cue in cues)


def passes_luhn(digits: str) -> bool:
    """Luhn's check of a string of digits (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * int(d) for d in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdecimal())


def _is_book_code(digits: str) -> bool:
    """ISBN-13 and JAN of books, goods of Japan, and ISBN-10, all by prefix and check digit (ISO 2108)."""
    if len(digits) == 13 and digits.startswith(("978", "979", "45", "49")):
        return (sum(map(int, digits[::2])) + 3 * sum(map(int, digits[1::2]))) % 10 == 0
    return len(digits) == 10 and sum((10 - i) * int(d) for i, d in enumerate(digits)) % 11 == 0


def _long_number(match: re.Match[str]) -> str:
    groups = re.split(rf"[ ]|{_DASH}", match[0])
    if any(len(group) < 4 for group in groups[:-1]):  # "1 2 3 4 5 ..." is a list of volumes
        return match[0]
    digits = "".join(groups)
    return "<CARD>" if len(digits) <= 19 and digits[0] in "23456" and passes_luhn(digits) else "<ORDER>"


def _order_shape(match: re.Match[str]) -> str:
    return match[0] if _is_book_code(_digits(match[0])) else "<ORDER>"


def _order_after_cue(match: re.Match[str]) -> str:
    digits, named = _digits(match["number"]), match["only"] or match["english"] or match["japanese"]
    if len(digits) < (4 if named else 5) or not named and _is_book_code(digits):
        return match[0]
    return f"{match['cue']}<ORDER>"


def _phone(match: re.Match[str]) -> str:
    digits = _digits(match[0])
    fits = 8 <= len(digits) <= 15 if match[0].startswith("+") else 10 <= len(digits) <= 11
    return "<PHONE>" if fits and not _is_book_code(digits) else match[0]


def _phone_after_cue(match: re.Match[str]) -> str:
    return match[0] if _is_book_code(_digits(match["number"])) else f"{match['cue']}<PHONE>"
