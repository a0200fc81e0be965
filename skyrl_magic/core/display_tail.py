"""The newest lines of a run that printed more than a cell shows, and the line that says what was left out."""

from __future__ import annotations

from collections import deque

from skyrl_magic.core.display_budget import TAIL_BYTES

_KILO = 1000


class Tail:
    """Keeps the last :data:`TAIL_BYTES` of finished text and counts what fell out of it."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._parts: deque[tuple[str, int]] = deque()
        self._held_bytes = 0
        self._left_out_bytes = 0
        self._left_out_lines = 0
        self._lines_known = True

    def add(self, text: str) -> None:
        """Append finished text: lines, or the beginning of one."""
        if not text:
            return
        size = len(text.encode())
        self._parts.append((text, size))
        self._held_bytes += size
        while self._held_bytes > TAIL_BYTES and len(self._parts) > 1:
            text, size = self._parts.popleft()
            self._held_bytes -= size
            self.leave_out(size, text.count("\n"))

    def leave_out(self, size_bytes: int, lines: int | None) -> None:
        """Count bytes that are not shown; ``lines`` is None where nobody counted them."""
        self._left_out_bytes += size_bytes
        self._left_out_lines += lines or 0
        self._lines_known = self._lines_known and lines is not None

    def text(self, unfinished: str, limit_bytes: int) -> str:
        """The display's text: what was left out, then at most about ``limit_bytes`` of the newest lines."""
        parts = [unfinished]
        size, hidden_bytes, hidden_lines = len(unfinished.encode()), 0, 0
        full = False
        for text, text_bytes in reversed(self._parts):
            full = full or (size > 0 and size + text_bytes > limit_bytes)
            if full:
                hidden_bytes += text_bytes
                hidden_lines += text.count("\n")
            else:
                parts.append(text)
                size += text_bytes
        notice = self._notice(hidden_bytes, hidden_lines)
        return notice + "".join(reversed(parts)).removesuffix("\n")

    def _notice(self, hidden_bytes: int, hidden_lines: int) -> str:
        size_bytes = self._left_out_bytes + hidden_bytes
        if not size_bytes:
            return ""
        lines = self._left_out_lines + hidden_lines if self._lines_known else None
        return left_out_line(self._run_id, size_bytes, lines) + "\n"


def left_out_line(run_id: str, size_bytes: int, lines: int | None = None) -> str:
    """What was left out, and how to get it; ``lines`` is None where nobody counted them."""
    counted = "" if lines is None else f" ({lines:,} lines)"
    return f"… {format_size(size_bytes)}{counted} left out here; %skyrl_logs {run_id} --save FILE writes all of it"


def format_size(size_bytes: int) -> str:
    """A size for people, in decimal units: ``48.3 MB``."""
    if size_bytes < _KILO:
        return f"{size_bytes} B"
    size, units = size_bytes / _KILO, ["KB", "MB", "GB"]
    while round(size, 1) >= _KILO and len(units) > 1:
        size /= _KILO
        units.pop(0)
    return f"{size:,.1f} {units[0]}"
