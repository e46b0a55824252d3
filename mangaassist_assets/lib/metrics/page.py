"""Decision tables as one HTML page: no script, nothing loaded, light and dark, for a phone, a printer and a screen reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

MARKS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?"}
TRACK = 116  # length of a bar in SVG units, between margins of 2


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval on an axis, and the limit that it is held against; None is not drawn."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    axis_low: float = 0.0
    axis_high: float = 1.0
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its title and how to read it.

    Attributes:
        rows: text of each cell, in the order of `headers`.
        words: headers of columns that hold words; the others hold figures, set to the right.
        bars: one per row, or none at all.
    """

    title: str
    note: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: frozenset[str] = frozenset()
    bars: Sequence[Bar] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer at the top of the page, with a verdict beside it where there is one."""

    term: str
    answer: str
    verdict: str | None = None


def render(title: str, facts: Sequence[Fact], sections: Sequence[Section]) -> str:
    """The whole page; equal arguments give an equal page."""
    links = "\n".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in sections)
    cards = "\n".join(f"<div><dt>{escape(f.term)}</dt><dd>{escape(f.answer)} {_badge(f.verdict)}</dd></div>" for f in facts)
    body = "\n".join(_section(section) for section in sections)
    return PAGE.substitute(title=escape(title), style=STYLE, cards=cards, links=links, body=body)


def _section(section: Section) -> str:
    """Roles are spelt out because a phone's layout takes a table's display, and with it what a screen reader knows of it."""
    anchor = _anchor(section.title)
    heading = f'<h2 id="{anchor}">{escape(section.title)}</h2>'
    if not section.rows:
        return f'<section aria-labelledby="{anchor}">{heading}<p class="note">Nothing measured yet.</p></section>'
    head = "".join(f'<th role="columnheader" scope="col" class="{_kind(section, h)}">{escape(h)}</th>' for h in section.headers)
    if section.bars:
        head += '<th role="columnheader" scope="col"><span class="unseen">drawn</span></th>'
    rows = "\n".join(_row(section, number) for number in range(len(section.rows)))
    return f"""<section aria-labelledby="{anchor}">{heading}
<p class="note">{escape(section.note)}</p>
<div class="wide" role="region" aria-labelledby="{anchor}" tabindex="0"><table role="table">
<thead role="rowgroup"><tr role="row">{head}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table></div></section>"""


def _row(section: Section, number: int) -> str:
    first, *others = section.rows[number]
    cells = [f'<th role="rowheader" scope="row">{escape(first)}</th>']
    for header, text in zip(section.headers[1:], others, strict=True):
        inner = _badge(text) if text in MARKS else f"<span>{escape(text)}</span>"
        cells.append(f'<td role="cell" class="{_kind(section, header)}" data-label="{escape(header)}">{inner}</td>')
    if section.bars:
        cells.append(f'<td role="cell" class="drawn">{_svg(section.bars[number])}</td>')
    return f'<tr role="row">{"".join(cells)}</tr>'


def _kind(section: Section, header: str) -> str:
    return "words" if header in section.words or header == section.headers[0] else "figure"


def _badge(verdict: str | None) -> str:
    """The verdict by sign, word and colour, so that none of them is needed alone."""
    return f'<span class="badge {verdict.lower()}"><span aria-hidden="true">{MARKS[verdict]} </span>{verdict}</span>' if verdict else ""


def _svg(bar: Bar) -> str:
    """The bar, hidden from screen readers: the cells beside it hold the same figures."""

    def at(value: float) -> str:
        share = (value - bar.axis_low) / (bar.axis_high - bar.axis_low)
        return f"{2 + TRACK * min(max(share, 0.0), 1.0):.1f}"

    marks = [f'<line class="track" x1="2" y1="9" x2="{2 + TRACK}" y2="9"/>']
    if bar.limit is not None:
        marks.append(f'<line class="limit" x1="{at(bar.limit)}" y1="1" x2="{at(bar.limit)}" y2="17"/>')
    if bar.value is not None:
        if bar.ci_low is not None and bar.ci_high is not None:
            marks.append(f'<line class="interval" x1="{at(bar.ci_low)}" y1="9" x2="{at(bar.ci_high)}" y2="9"/>')
        elif bar.limit is None:
            marks.append(f'<line class="interval" x1="{at(bar.axis_low)}" y1="9" x2="{at(bar.value)}" y2="9"/>')
        marks.append(f'<circle class="dot" cx="{at(bar.value)}" cy="9" r="3.5"/>')
    return f'<svg viewBox="0 0 {TRACK + 4} 18" width="{TRACK + 4}" height="18" aria-hidden="true">{"".join(marks)}</svg>'


def _anchor(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c1b22; --soft: #5b5966; --paper: #ffffff; --line: #dcdae3; --band: #f5f4f8; --mark: #3d5afe;
  --pass: #0b6b3a; --pass-band: #e2f4e9; --fail: #a3152a; --fail-band: #fce6e9; --hold: #7a4b00; --hold-band: #fdf0d5;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #eceaf2; --soft: #a9a6b6; --paper: #17161c; --line: #38363f; --band: #201f27; --mark: #8c9eff;
    --pass: #7ddba3; --pass-band: #12351f; --fail: #ff9aa8; --fail-band: #46141c; --hold: #f5c56b; --hold-band: #3d2c08;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK JP", sans-serif;
}
h1 { font-size: 1.6rem; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .25rem; scroll-margin-top: 1rem; }
a { color: var(--mark); }
nav { margin: 1rem 0; font-size: .9rem; line-height: 2; }
nav a { margin-right: .9rem; white-space: nowrap; }
.note { color: var(--soft); margin: 0 0 .6rem; font-size: .92rem; max-width: 46rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .6rem; margin: 0; }
dl div { background: var(--band); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
dt { color: var(--soft); font-size: .82rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
.wide:focus-visible { outline: 2px solid var(--mark); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .4rem .65rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--band); color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; }
td.words { min-width: 6rem; }
th.figure, td.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.drawn { width: 8.5rem; }
svg { display: block; margin-top: .15rem; }
.track { stroke: var(--line); stroke-width: 2; }
.interval { stroke: var(--mark); stroke-width: 4; opacity: .55; }
.dot { fill: var(--mark); }
.limit { stroke: var(--ink); stroke-width: 1.5; }
.badge { display: inline-block; padding: 0 .5rem; border-radius: 1rem; font-size: .82rem; font-weight: 700; white-space: nowrap; }
.pass { color: var(--pass); background: var(--pass-band); }
.fail { color: var(--fail); background: var(--fail-band); }
.inconclusive { color: var(--hold); background: var(--hold-band); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media screen and (max-width: 44rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, th, td { display: block; }
  tr { border-top: 1px solid var(--line); padding: .5rem .75rem; }
  tr:first-child { border-top: 0; }
  th, td { border: 0; padding: .1rem 0; overflow-wrap: anywhere; }
  tbody td, tbody td.figure { display: flex; justify-content: space-between; gap: 1rem; text-align: right; white-space: normal; }
  td::before { content: attr(data-label); color: var(--soft); flex: none; }
  td.words:has(> span:empty) { display: none; }
  td.drawn { width: auto; }
  td.drawn::before { content: none; }
  td.drawn svg { width: 100%; height: 22px; }
}
@media print {
  :root { color-scheme: light; --mark: #223a8f; }
  body { font-size: 11px; max-width: none; padding: 0; }
  nav { display: none; }
  .wide { overflow: visible; border: 0; }
  tr { break-inside: avoid; }
  h2, .note { break-after: avoid; }
  .badge { border: 1px solid currentColor; }
}
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<dl>
$cards
</dl>
</header>
<nav aria-label="Sections">
$links
</nav>
<main>
$body
</main>
<footer>
<p class="note">Every figure is a row of <code>warehouse/metrics.duckdb</code>.
<code>mangaassist sql "SHOW TABLES"</code> lists its tables.</p>
</footer>
</body>
</html>
""")
