"""An SVG of boxes with cells in them, for GPUs and their shares.

Text outside of cells takes the colour of the page, so that it can be read on light and dark ones. No scripts,
style sheets, ids or links, and everything that is said is escaped: names of processes come from anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

LEFT = 1.0
SLOT = 84.0
WIDTH = 8 * SLOT
HEAD = 42.0
CELL = 24.0

COLOURS = {
    "free": ("#dbe7f3", "#10202f"),
    "leased": ("#1f5fa8", "#ffffff"),
    "stays": ("#dbe7f3", "#10202f"),
    "goes": ("#8c2f1b", "#ffffff"),
    "new": ("#1d6b3a", "#ffffff"),
}
"""A box and the text in it, by the word that is written into it."""

# How wide letters are, in ems: DejaVu Sans has them, the widest of the fonts that systems show.
_EMS = {
    letter: ems
    for ems, letters in (
        (0.34, " ',./:;I\\ijl|·"),
        (0.42, "!()-[]`frt"),
        (0.79, "&DGHNOQU"),
        (0.87, "#+<=>M^w~≤→"),
        (1.0, "%@Wm…"),
    )
    for letter in letters
}
_BOLD = 1.2
"""Bold letters are wider by this at most."""

# XML has no place for these. The last two lines let a name reorder the text around it, or are not seen.
_UNSAID = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff"
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    r"\u200b-\u200d\ufeff]"
)


class Cell(NamedTuple):
    """A part of a box: a share, or what a plan does."""

    state: str
    """One of COLOURS."""
    label: str
    told: str
    """All of it in words."""
    start: float
    """Where it begins, of the box's width."""
    part: float
    """Its part of that width."""
    share: str | None = None


class Box(NamedTuple):
    """A GPU, an instance or a MIG device, with what is in it."""

    x: float
    width: float
    lines: Sequence[str]
    told: str
    cells: Sequence[Cell]
    device: str | None = None


def said(text: object) -> str:
    """Text as markup that says it."""
    return escape(_UNSAID.sub("\N{REPLACEMENT CHARACTER}", str(text)))


def element(tag: str, *content: str, **attributes: object) -> str:
    """An element. Its content is markup, its attributes are said."""
    named = ((name.replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    given = "".join(
        f' {name}="{f"{value:g}" if isinstance(value, float) else said(value)}"' for name, value in named
    )
    return f"<{tag}{given}>{''.join(content)}</{tag}>"


def _wide(line: str) -> float:
    """How wide a line is at most, in ems. A few letters of rare scripts are wider."""
    ems = 0.0
    for letter in line:
        other = (
            (0.7 if letter.isupper() else 0.64) if letter.isascii() else 1.3 if letter > "\uffff" else 1.05
        )
        ems += _EMS.get(letter, other)
    return ems


def _parts(line: str, ems: float) -> str:
    """As many whole parts of a line as have room."""
    parts = line.split(" · ")
    while parts and _wide(" · ".join(parts)) > ems:
        parts.pop()
    return " · ".join(parts)


def _letters(line: str, ems: float) -> str:
    """As many letters of a line as have room."""
    if _wide(line) <= ems:
        return line
    kept = line[: int(ems / 0.34)]
    while kept and _wide(kept) > ems - _EMS["…"]:
        kept = kept[:-1]
    return f"{kept}…" if len(kept) > 2 else ""


def _text(x: float, y: float, line: str, size: int = 11, **attributes: object) -> str:
    if not line:
        return ""
    attributes.setdefault("fill", "currentColor")
    return element("text", said(line), x=x, y=y, font_size=size, **attributes)


def _line(y: float, line: str, size: int = 11, **attributes: object) -> str:
    """A line over the whole width. Where it is cut, pointing at it tells the rest."""
    shown = _letters(line, WIDTH / size / (_BOLD if "font_weight" in attributes else 1))
    text = _text(LEFT, y, shown, size, **attributes)
    return text if shown == line else element("g", _title(line), text)


def _title(told: str) -> str:
    return element("title", said(told))


def _cell(cell: Cell, box: Box, y: float) -> str:
    fill, ink = COLOURS[cell.state]
    x, width = box.x + cell.start * box.width, cell.part * box.width
    return element(
        "g",
        _title(cell.told),
        element(
            "rect",
            x=x,
            y=y,
            width=width,
            height=CELL,
            fill=fill,
            # The page's colour may be that of the box. Between the narrowest ones there would be nothing but
            # lines; theirs only keep the page from shining through.
            stroke=ink if width >= 4 else fill,
            stroke_width=0.5 if width >= 4 else 1.0,
            data_share=cell.share,
            data_state=cell.state,
        ),
        _text(x + 5, y + 16, _parts(cell.label, (width - 8) / 11), fill=ink),
    )


def _box(box: Box, y: float) -> str:
    frame = element(
        "rect",
        x=box.x,
        y=y,
        width=box.width,
        height=HEAD + CELL,
        fill="none",
        stroke="currentColor",
        # Pointing at its inside tells what it is, too.
        pointer_events="all",
        data_device=box.device,
    )
    room = box.width - 8
    lines = []
    for row, line in enumerate(line for line in box.lines if line):
        size = 12 if row == 0 and _wide(line) <= room / 12 else 10
        shown = _parts(line, room / size) or _letters(line, room / size)
        lines.append(_text(box.x + 5, y + 14 + 12 * row, shown, size))
    cells = (_cell(cell, box, y + HEAD) for cell in box.cells)
    return element("g", _title(box.told), frame, *lines, *cells)


def _covers(box: Box, slot: int) -> bool:
    start = LEFT + SLOT * slot
    return box.x < start + SLOT - 0.5 and start + 0.5 < box.x + box.width


def picture(
    title: str, lines: Sequence[str], rows: Sequence[tuple[str, int, Sequence[Box]]], below: Sequence[str]
) -> str:
    """An SVG: lines of text, rows of boxes (with what is over them, and MIG's slots), lines of text."""
    drawn = [_line(15.0, title, 14, font_weight="bold")]
    told = list(lines)
    y = 18.0
    for line in lines:
        y += 15
        drawn.append(_line(y, line))
    for over, slots, boxes in rows:
        y += 8
        if over:
            y += 12
            drawn.append(_line(y, over))
            told.append(over)
            y += 5
        # What no box covers is free, or cannot be used. Lines behind words would only make them hard to read.
        drawn += (
            element(
                "rect",
                x=LEFT + SLOT * slot,
                y=y,
                width=SLOT,
                height=HEAD + CELL,
                fill="none",
                stroke="none" if any(_covers(box, slot) for box in boxes) else "currentColor",
                stroke_opacity=0.35,
                stroke_dasharray="2 3",
                data_slot=slot,
            )
            for slot in range(slots)
        )
        drawn += (_box(box, y) for box in boxes)
        told += (cell.told for box in boxes for cell in box.cells)
        y += HEAD + CELL
        if slots:
            y += 12
            drawn += (_text(LEFT + SLOT * slot + 5, y, f"{slot}", size=9) for slot in range(slots))
    y += 4 if below else 0
    for line in below:
        y += 15
        drawn.append(_line(y, line))
    told += below
    return element(
        "svg",
        _title(title),
        element("desc", said("; ".join(told))),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        aria_label=title,
        viewBox=f"0 0 {WIDTH + 2 * LEFT:g} {y + 8:g}",
        width=WIDTH + 2 * LEFT,
        style="max-width:100%;height:auto;display:block;margin:8px 0",
        font_family="system-ui, sans-serif",
    )
