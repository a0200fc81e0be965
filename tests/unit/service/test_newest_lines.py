"""The newest lines of a run, as its bytes come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core.protocol import STDERR, STDOUT, Gap, Output
from skyrl_magic.service.newest_lines import KEPT_LINES, NewestLines


class Printed:
    """A run that prints."""

    def __init__(self) -> None:
        self.lines = NewestLines()
        self._sizes = {STDOUT: 0, STDERR: 0}

    def write(self, data: bytes, stream: str = STDOUT) -> None:
        self.lines.feed(Output("run", stream, self._sizes[stream], len(data), payload=data))
        self._sizes[stream] += len(data)

    def skip(self, size_bytes: int) -> None:
        self.lines.feed(Gap("run", STDOUT, self._sizes[STDOUT], self._sizes[STDOUT] + size_bytes))
        self._sizes[STDOUT] += size_bytes


def test_streams_and_displays_come_in_their_order_without_colours() -> None:
    run = Printed()
    run.write(b"one\n\x1b[31mtwo\x1b[0m\n")
    run.write(b"trouble\n", STDERR)
    run.lines.add("a table\nof two lines")
    run.write(b" 5%\r 50%")
    assert run.lines.last(9) == ["one", "two", "trouble", "a table", "of two lines", " 50%"]
    assert run.lines.last(2) == ["of two lines", " 50%"]
    assert run.lines.last(0) == []


def test_what_comes_again_is_not_there_twice() -> None:
    run = Printed()
    run.write(b"one\ntwo\n")
    run.lines.feed(Output("run", STDOUT, 4, 8, payload=b"two\nred\n"))
    assert run.lines.last(9) == ["one", "two", "red"]


def test_a_line_that_was_cut_off_is_not_joined_with_another() -> None:
    run = Printed()
    run.write(b"begin")
    run.skip(1000)
    run.write(b"end\n")
    assert run.lines.last(9) == ["begin", "end"]


def test_a_flood_needs_no_memory() -> None:
    run = Printed()
    for number in range(10_000):
        run.write(b"%d\n" % number)
    assert run.lines.last(100_000) == [str(number) for number in range(10_000 - KEPT_LINES, 10_000)]


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9), max_size=9), st.data())
def test_any_chunking_gives_the_same_lines(lines: list[str], data: st.DataObject) -> None:
    whole, run = "\n".join(lines).encode(), Printed()
    at = 0
    while at < len(whole):
        size = data.draw(st.integers(1, len(whole) - at))
        run.write(whole[at : at + size])
        at += size
    assert run.lines.last(99) == (lines[:-1] + [line for line in lines[-1:] if line])


def test_what_is_cleared_is_forgotten_when_the_next_text_comes() -> None:
    run = Printed()
    run.write(b"one\nhalf")
    run.lines.clear(wait=True)
    assert run.lines.last(9) == ["one", "half"]
    run.write(b"two\n")
    assert run.lines.last(9) == ["two"]
    run.lines.clear(wait=False)
    assert run.lines.last(9) == []
