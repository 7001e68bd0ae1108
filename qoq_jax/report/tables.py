"""Tables and wide charts of the report's sections, which scroll sideways where the page is narrow.
Cells are HTML, made of escaped text or of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    words: Sequence[int] = (0,),
    sums: int = 0,
) -> str:
    """A table.

    Args:
      headings, rows: HTML of the cells.
      words: the columns of words; the others have numbers, which stand to the right.
      sums: how many of the last rows are means or sums of those above.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if place in words else ' class=n'}>{cell}</{tag}>"
            for place, cell in enumerate(row)
        )

    lines = (
        f"<tr{' class=sum' if place >= len(rows) - sums else ''}>{cells('td', row)}</tr>"
        for place, row in enumerate(rows)
    )
    head = f"<tr>{cells('th', headings)}</tr>"
    return scrolling("table", f"<table>{head}{''.join(lines)}</table>")


def figure(chart: str, caption: str = "") -> str:
    """A chart (charts.py) over the whole page; `caption` is HTML."""
    words = caption and f"<figcaption>{caption}</figcaption>"
    return f"<figure>{scrolling('chart', chart)}{words}</figure>"


def scrolling(name: str, content: str) -> str:
    """HTML that may be wider than the page, to scroll with keys too; `name` is read out."""
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{name}">{content}</div>'


def change(then: float | None, now: float | None, form: str = ".2f") -> str:
    """The later value, behind the earlier one in grey where both are there; "–" without any."""
    was = f'<span class="was">{then:{form}}</span> ' if None not in (then, now) else ""
    value = then if now is None else now
    return "–" if value is None else was + f"{value:{form}}"
