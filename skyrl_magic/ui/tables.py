"""Small tables that read well as text and as HTML; everything in them is escaped."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

#: What lies in an element of these classes is no mathematics for Jupyter's front ends, whatever dollar signs it has.
NO_MATH = "tex2jax_ignore mathjax_ignore"
_KILO = 1000


@dataclass(frozen=True)
class Table:
    """A table with a heading for each column, displayed by IPython.

    Args:
        columns: the headings.
        rows: one text for each column.
        empty: what is shown when there are no rows.
        caption: lines below the table.
        wide: the column that gives way where a page is narrow: its texts break anywhere.
        below: a column and the one that it stands below in a page, which is narrower than a terminal.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str = "(none)"
    caption: Sequence[str] = ()
    wide: str = ""
    below: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Columns padded with spaces."""
        return "\n".join((self._text(), *self.caption))

    def _text(self) -> str:
        if not self.rows:
            return self.empty
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)

    def _repr_html_(self) -> str:
        caption = "".join(f"<div><small>{html.escape(line)}</small></div>" for line in self.caption)
        return f"<div class='{NO_MATH}'>{self._html()}{caption}</div>"

    def _html(self) -> str:
        if not self.rows:
            return f"<em>{html.escape(self.empty)}</em>"
        head = self._html_row("th", self.columns)
        body = "".join(self._html_row("td", row) for row in self.rows)
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"

    def _html_row(self, tag: str, row: Sequence[str]) -> str:
        texts = dict(zip(self.columns, map(html.escape, row), strict=True))
        under = {upper: lower for lower, upper in self.below.items()}
        cells = []
        for name in (name for name in self.columns if name not in self.below):
            # A word that does not break (a path) would push the columns behind it out of the page.
            breaks = ";overflow-wrap:anywhere;min-width:9em" if name == self.wide else ""
            small = texts.get(under.get(name, ""), "")
            text = f"{texts[name]}<br><small>{small}</small>" if small else texts[name]
            cells.append(f"<{tag} style='text-align:left{breaks}'>{text}</{tag}>")
        return f"<tr>{''.join(cells)}</tr>"


def checkout_text(path: str, *others: str) -> str:
    """A checkout as a notebook shows it: by the end of its path alone, as saved notebooks travel to other machines.

    Args:
        path: of the checkout; empty for none.
        others: paths that it must not be mistaken for.
    """
    parts = PurePath(path).parts
    for count in range(1, len(parts)):
        text = "/".join(parts[-count:])
        if not any(other != path and f"/{other}".endswith(f"/{text}") for other in others):
            return text
    return path or "none"


def shortened(text: str, chars: int) -> str:
    """A text of so many characters at most; ``…`` stands for what is left out."""
    return text if len(text) <= chars else text[: chars - 1] + "…"


def clock_text(at: float) -> str:
    """A Unix time by this machine's clock: ``14:05:33`` today, else ``2025-11-25 14:05``."""
    then, now = time.localtime(at), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


def size_text(size_bytes: float) -> str:
    """``812 B``, ``4.2 kB``, ``48.3 MB`` (decimal units)."""
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 1)):
        if round(size_bytes, digits) < _KILO:
            return f"{size_bytes:.{digits}f} {unit}"
        size_bytes /= _KILO
    return f"{size_bytes:.1f} TB"
