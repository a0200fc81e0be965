"""What a main process prints is kept in the order in which it came, whatever its pieces."""

from __future__ import annotations

import os
import selectors
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.loopback.runtime import loglines, mainlog
from skyrl_magic.loopback.runtime.loglines import read_lines
from skyrl_magic.loopback.runtime.spec import Folder

Pieces = list[tuple[str, bytes]]
pieces = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=40)), max_size=20)


def printed(folder: Folder, what: Pieces) -> None:
    """Print this, each piece alone, and end."""
    with selectors.DefaultSelector() as selector:
        log = mainlog.MainLog(selector, folder, lambda: None)
        ends = {name: os.pipe() for name in ("stdout", "stderr")}
        log.drain({name: read_end for name, (read_end, _) in ends.items()})
        for stream, data in what:
            os.write(ends[stream][1], data)
            for key, _ in selector.select(10):
                key.data()
        for _, write_end in ends.values():
            os.close(write_end)
        log.finish()


@given(pieces)
def test_nothing_is_lost(what: Pieces) -> None:
    with tempfile.TemporaryDirectory() as path:
        printed(Folder(Path(path)), what)
        lines = list(read_lines(Folder(Path(path))))
    for stream in ("stdout", "stderr"):
        expected = b"".join(data for name, data in what if name == stream)
        assert b"".join(line.data for line in lines if line.stream == stream) == expected
    assert all(line.data.count(b"\n") <= 1 for line in lines)


def test_the_streams_order_is_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    what = [("stdout", b"1\n2 "), ("stderr", b"3\n"), ("stdout", b"4\n5\n"), ("stderr", b"6")]
    printed(folder, what)
    lines = list(read_lines(folder))
    assert [line.data for line in lines] == [b"1\n", b"3\n", b"2 4\n", b"5\n", b"6"]
    assert lines[2].time_s <= lines[1].time_s <= lines[3].time_s  # a line's time is that of its first byte


def test_a_long_line_comes_in_parts(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    size = 3 * loglines.LINE_BYTES
    printed(folder, [("stdout", b"x" * 1000) for _ in range(size // 1000)])
    lines = list(read_lines(folder))
    assert len(lines) > 2
    assert max(len(line.data) for line in lines) < 2 * loglines.LINE_BYTES + 1
    assert sum(len(line.data) for line in lines) == size // 1000 * 1000


def test_a_sandbox_that_has_printed_nothing(tmp_path: Path) -> None:
    assert list(read_lines(Folder(tmp_path))) == []
