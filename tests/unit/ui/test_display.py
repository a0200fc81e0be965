"""The display outside a kernel; in one, see ``tests/kernel/test_display_kernel.py``."""

from __future__ import annotations

import io

import pytest

from skyrl_magic.core.protocol import OUTPUTS, STDERR, STDOUT, Gap, Output, ProtocolError
from skyrl_magic.ui.display import PhaseLine, RunDisplay, in_kernel, note


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def feed(display: RunDisplay, text: str | bytes, stream: str = STDOUT) -> None:
    data = text.encode() if isinstance(text, str) else text
    display.feed(Output("k3f9", stream, display.offsets[stream], len(data), payload=data))


def test_this_is_no_kernel() -> None:
    assert not in_kernel()


def test_streams_are_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    display = RunDisplay("k3f9")
    feed(display, "out\n")
    feed(display, "err\n", STDERR)
    assert capsys.readouterr() == ("out\n", "err\n")
    assert display.flush_due_s is None
    assert display.offsets == {STDOUT: 4, STDERR: 4, OUTPUTS: 0}


def test_a_terminal_gets_what_moves_and_colors_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    display = RunDisplay("k3f9")
    feed(display, "\r 10%\x1b[K\x1b[31mred\x1b[0m\x1b[A\b\x1b]0;title\x07\x00\x1b[2J\x1b[?25l\n")
    assert capsys.readouterr().out == "\r 10%\x1b[K\x1b[31mred\x1b[0m\x1b[A\b\n"


def test_a_program_that_draws_a_whole_screen_is_told_that_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = RunDisplay("k3f9")
    feed(display, "\x1b[?1049h\x1b[2;1Hfirst\n")
    feed(display, "\x1b[3;1Hsecond\n")
    shown = capsys.readouterr().out
    assert shown.startswith("first\nthis program draws a whole screen, and a cell is no terminal")
    assert shown.endswith("(top -b, ex -s)\nsecond\n")


def test_cut_characters_wait_and_are_shown_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    display = RunDisplay("k3f9")
    feed(display, "é".encode()[:1])
    assert capsys.readouterr().out == ""
    feed(display, "é".encode()[1:] + "漢".encode()[:2])
    assert capsys.readouterr().out == "é"
    display.close("run k3f9 failed: exit code 3 after 2.1 s")
    assert capsys.readouterr().out == "�run k3f9 failed: exit code 3 after 2.1 s\n"


def test_a_gap_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    display = RunDisplay("k3f9")
    display.feed(Gap("k3f9", STDERR, 0, 5_000_000))
    feed(display, "end\n", STDERR)
    assert capsys.readouterr().err == ("\n… 5.0 MB left out here; %skyrl_logs k3f9 --save FILE writes all of it\nend\n")


def test_a_damaged_frame_is_refused() -> None:
    with pytest.raises(ProtocolError):
        RunDisplay("k3f9").feed(Output("k3f9", STDOUT, 0, 9, payload=b"short"))


def test_phases_in_a_terminal_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = Terminal(), Clock()
    monkeypatch.setattr("sys.stdout", out)
    line = PhaseLine(clock=clock)
    line.begin("image")
    clock.now_s = 0.21
    line.begin("Ray")
    clock.now_s = 9.4
    line.tick()
    line.done()
    shown = ["image …", "image 0.2s · Ray …", "image 0.2s · Ray 9s …", "image 0.2s · Ray 9.2s"]
    assert out.getvalue() == "".join(f"\r{text}\x1b[K" for text in shown) + "\n"


def test_phases_in_a_script_are_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    line = PhaseLine(clock=clock)
    line.begin("image")
    clock.now_s = 1.0
    line.tick()
    assert capsys.readouterr().out == ""
    line.done("session ready")
    assert capsys.readouterr().out == "session ready (image 1s)\n"


def test_note(capsys: pytest.CaptureFixture[str]) -> None:
    note("a notice")
    assert capsys.readouterr().out == "a notice\n"
