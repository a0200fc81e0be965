"""What a main process printed, read back line by line: see ``mainlog``, which writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from skyrl_magic.loopback.runtime.spec import Folder

#: A longer line comes in parts of about this size, in bytes.
LINE_BYTES = 64 * 1024


class LogLine(NamedTuple):
    """A line of the main process, or a part of a very long one."""

    time_s: float
    """When its first byte came, in seconds of Unix time."""
    stream: str
    """``stdout`` or ``stderr``."""
    data: bytes


def read_lines(folder: Folder) -> Iterator[LogLine]:
    """The lines of both streams in the order in which they were complete. Reads as it goes.

    Raises:
        OSError: The files cannot be read. That nothing was printed yet is no error.
    """
    with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
        text = folder.log_index.read_text("ascii")
        rows = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        files = {name: stack.enter_context(folder.log(name).open("rb")) for name in ("stdout", "stderr")}
        begun: dict[str, LogLine] = {}
        for (stream, start, time_s), end in zip(rows, _ends(rows), strict=True):
            data = files[stream].read(-1 if end is None else end - int(start))
            for part in _split(data):
                line = begun.pop(stream, LogLine(float(time_s), stream, b""))
                line = line._replace(data=line.data + part)
                if line.data.endswith(b"\n") or len(line.data) >= LINE_BYTES:
                    yield line
                else:
                    begun[stream] = line
        yield from sorted(begun.values())


def _ends(rows: list[list[str]]) -> list[int | None]:
    """Where the bytes of each entry end: where the next one of its stream begins."""
    following: dict[str, int] = {}
    ends: list[int | None] = []
    for stream, start, _ in reversed(rows):
        ends.append(following.get(stream))
        following[stream] = int(start)
    return ends[::-1]


def _split(data: bytes) -> Iterator[bytes]:
    *whole, rest = data.split(b"\n")
    for line in (*(line + b"\n" for line in whole), rest):
        for start in range(0, len(line), LINE_BYTES):
            yield line[start : start + LINE_BYTES]
