"""What of Modal's protocol the server has: one table, made from the handlers themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from modal_proto.task_command_router_grpc import TaskCommandRouterBase

from skyrl_magic.loopback.control.missing import why_missing
from skyrl_magic.loopback.router import RouterCalls
from skyrl_magic.loopback.server import covered_methods, implementation

COVERED, PARTLY, MISSING = "covered", "partly", "not"
#: Where a page holds the table.
BEGIN = "<!-- the table: written by python -m skyrl_magic.loopback --coverage docs/loopback.md -->"
END = "<!-- the table ends here -->"
_HEAD = "| method of Modal | here | what it does; what is missing |\n| --- | --- | --- |\n"


class Row(NamedTuple):
    """One method."""

    name: str
    """As in Modal's protocol; those of the command router begin with ``router.``, as some have the same name."""
    state: str
    """``covered``, ``partly`` or ``not``."""
    note: str


def rows() -> Iterator[Row]:
    """Every method of the control API, then every method of the command router."""
    for name, covered in covered_methods().items():
        yield _row(name, implementation(name) if covered else None)
    for name in sorted(TaskCommandRouterBase.__abstractmethods__):
        yield _row(f"router.{name}", getattr(RouterCalls, name, None))


def _row(name: str, method: Callable[..., Any] | None) -> Row:
    if method is None:
        return Row(name, MISSING, why_missing(name.removeprefix("router.")))
    summary = (method.__doc__ or "").strip().partition("\n")[0].replace("``", "`")
    missing = getattr(method, "partly", "")
    return Row(name, PARTLY, f"{summary} **Not:** {missing}") if missing else Row(name, COVERED, summary)


def table() -> str:
    """The table in Markdown: what is there a line a method, what is missing a line a reason."""
    everything = list(rows())
    lines = [f"| `{row.name}` | {row.state} | {row.note} |" for row in everything if row.state != MISSING]
    missing: dict[str, list[str]] = {}
    for row in everything:
        if row.state == MISSING:
            missing.setdefault(row.note, []).append(f"`{row.name}`")
    lines += [f"| {', '.join(names)} | {MISSING} | {note} |" for note, names in missing.items()]
    count = {state: sum(row.state == state for row in everything) for state in (COVERED, PARTLY, MISSING)}
    total = f"{count[COVERED]} methods are covered, {count[PARTLY]} partly, {count[MISSING]} not.\n\n"
    return total + _HEAD + "\n".join(lines) + "\n"


def write_page(page: Path) -> None:
    """Replace the table in a page.

    Raises:
        ValueError: The page has no place for it.
        OSError: It cannot be read or written.
    """
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines between which the table stands")
    page.write_text(f"{before}{BEGIN}\n\n{table()}\n{END}{after}", encoding="utf-8")
