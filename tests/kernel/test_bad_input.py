"""Wrong input in a notebook: one line each, and nothing is started; odd output and odd checkouts are shown and sent."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import SETTINGS, Cell, Kernel, make_kernel

LIBC = ctypes.CDLL(None)
#: ``prctl.h`` and ``capability.h``: without these two, root reads no more than others do.
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


def one_line(cell: Cell) -> str:
    """The cell's error, which is one line and no traceback."""
    assert cell.status == "error"
    assert len(cell.error) == 1
    assert len(cell.error[0].splitlines()) == 1
    return cell.error[0]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%%skyrl_modal --gpuu L4\nls", "unknown option --gpuu; did you mean --gpu?"),
        ("%%skyrl_modal --sesion x\nls", "did you mean --session?"),
        ("%%skyrl_modal --gpu L5\nls", "there is no GPU 'L5'; did you mean L4?"),
        ("%%skyrl_modal --gpu A100:0\nls", "the count of A100 is 1 to 8, as in A100:2"),
        ("%%skyrl_modal --gpu A100:9\nls", "the count of A100 is 1 to 8"),
        ("%%skyrl_modal --timeout 0\nls", "--timeout 0: give 1s to 24h, as in 3600, 90s, 30m or 4h"),
        ("%%skyrl_modal --timeout 25h\nls", "give 1s to 24h"),
        ('%%skyrl_modal --env "A=b\nls', "--env: a quote in its value does not close"),
        ("%skyrl_modal echo 'abc", "the quote ' in line 1 of the command does not close"),
        ('%%skyrl_modal\nls\necho "abc\nls', 'the quote " in line 2 of the command does not close'),
        ("%%skyrl_modal --env HF_TOKEN=hush\nls", "this looks like a secret and would stay in the notebook"),
        ("%%skyrl_modal --env X=hf_abcdefghijklmnopqrstuvwxyz\nls", "use --secret NAME"),
        ("%%skyrl_modal --repo /nowhere\nls", "there is no such folder; --repo none runs without a checkout"),
        ("%%skyrl_modal --repo /usr\nls", "no SkyRL checkout (with a folder skyrl-gym); --repo none runs without one"),
        ("%%skyrl_modal --backend modal\nls", "there is no Modal token: `modal setup` makes one, --backend local"),
        ("%skyrl_start --backend modal", "there is no Modal token"),
        ("%%skyrl_modal\n \n\n", "there is nothing to run: write a command, or use %skyrl_start"),
        ("%skyrl_modal", "there is nothing to run"),
        ("%%skyrl_modal\ntrue\necho a\0b", "line 2 of the command has a zero byte"),
        ("%skyrl_stop nosuch", "there is no session nosuch: %skyrl_sessions lists them"),
        ("%skyrl_logs nosuch", "no run nosuch"),
        ("%%skyrl_modal --secret nosuch\nls", "Secret 'nosuch' not found; check the name"),
    ],
)
def test_a_wrong_line_is_answered_in_one_line_and_starts_nothing(kernel: Kernel, cell: str, says: str) -> None:
    answer = one_line(kernel.run(cell))
    assert says in answer
    assert "hush" not in answer
    assert "no sessions run" in kernel.run("%skyrl_sessions").result


def test_an_empty_cell_is_answered_by_ipython(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal\n")
    assert cell.status == "error"
    assert "the cell body is empty" in cell.err
    assert cell.error == []


def test_a_session_that_runs_with_another_spec_is_left_as_it_is(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal --session mine echo x > /tmp/mark")
    answer = one_line(kernel.run("%skyrl_modal --session mine --gpu T4 ls"))
    assert "session mine runs with --gpu none (asked: T4): leave the options out to use it, or choose another" in answer
    assert kernel.run("%skyrl_modal --session mine cat /tmp/mark").out == "x\n"
    kernel.run("%skyrl_stop mine")


def test_a_cell_of_5_mb_runs_and_one_that_cannot_be_sent_is_refused(kernel: Kernel) -> None:
    cell = kernel.run(f"%%skyrl_modal\n: '{'x' * 5_000_000}'\necho over")
    assert (cell.out, cell.error) == ("over\n", [])
    make = "large = 'x' * 40_000_000\nget_ipython().run_cell_magic('skyrl_modal', '', f': {large}')"
    answer = one_line(kernel.run(make))
    assert "the command has 40 MB, at most 34 MB are sent: put its data into a file of the checkout" in answer


def test_zero_bytes_and_broken_utf8_are_shown_and_kept(kernel: Kernel) -> None:
    line = r"printf 'a\0b\377\376c\xe2\x82 \xed\xa0\x80\n'; printf 'e\0\377\n' >&2"
    cell = kernel.run(f"%%skyrl_modal --no-raise-error\n{line}")
    assert (cell.out, cell.err) == ("ab\ufffd\ufffdc\ufffd \ufffd\ufffd\ufffd\n", "e\ufffd\n")
    kernel.run(f"%%skyrl_modal --out kept\n{line}")
    assert kernel.run("print(ascii(kept))").out == r"'a\x00b\ufffd\ufffdc\ufffd \ufffd\ufffd\ufffd\n'" + "\n"


def test_a_line_of_100_mb_is_cut_for_the_display_and_kept_whole(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal\nhead -c 100000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert cell.error == []
    assert len(cell.messages) < 100
    assert sum(len(str(message["content"])) for message in cell.messages) < 2_000_000
    (note,) = [note for note in cell.notes if "left out here" in note]
    assert "%skyrl_logs" in note
    assert note.endswith("\nend")
    assert kernel.run("%skyrl_logs --bytes 99999998:100000005").out == "xx\nend\n"


def test_100_000_redraws_a_second_are_few_messages_with_the_last_state(kernel: Kernel) -> None:
    # All at once: faster than any program that redraws.
    cell = kernel.run("%%skyrl_modal\nfor i in 1 2 3 4 5; do seq 1 200000 | tr '\\n' '\\r'; done; echo; echo end")
    assert cell.error == []
    assert len(cell.messages) < 60
    assert "200000" in cell.notes[-1] + cell.out
    assert (cell.notes[-1] + cell.out).rstrip().endswith("end")


def test_a_program_that_draws_a_whole_screen_is_told_once(kernel: Kernel) -> None:
    screen = r"printf '\e[?1049h\e[1;1Htop\e[5;3Hrow'; printf '\e[5;3Hagain\e[?1049l\n'"
    cell = kernel.run(f"%%skyrl_modal\n{screen}")
    assert cell.out == "top\nrow\nagain\n"
    # Run by itself, or first on a worker, the cell also says that it starts the session.
    assert sum("draws a whole screen, and a cell is no terminal" in note for note in cell.notes) == 1


def test_a_program_that_waits_for_keys_gets_none(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal\nread -r answer; echo \"[$answer]\"; tty; python3 -c 'input()'")
    assert cell.out == "[]\nnot a tty\n"
    assert "EOFError" in cell.err


@pytest.fixture(scope="module")
def odd_kernel(loopback_server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel whose user, as ordinary ones, cannot read every file, in a checkout with what is no plain file."""
    checkout = make_checkout(tmp_path_factory.mktemp("odd") / "SkyRL", old_layout=False)
    odd = checkout.root / "odd"
    odd.mkdir()
    os.mkfifo(odd / "fifo")
    here = Path.cwd()
    os.chdir(odd)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
    finally:
        os.chdir(here)
    Path(os.fsdecode(bytes(odd) + b"/no\xff\xfe.txt")).write_text("odd name\n")
    (odd / "two\nlines").write_text("x")
    (odd / "dangling").symlink_to("/nowhere")
    (odd / "closed").write_text("x")
    (odd / "closed").chmod(0)

    def drop() -> None:
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)

    kernel = make_kernel(checkout.root, loopback_server, preexec_fn=drop)
    kernel.run(SETTINGS)
    yield kernel
    kernel.run("%skyrl_stop --all")
    kernel.close()


def test_unreadable_files_are_named_and_odd_ones_come_along(odd_kernel: Kernel) -> None:
    cell = odd_kernel.run("%%skyrl_modal\nls -b odd; cat odd/no*")
    assert cell.out.splitlines() == ["dangling", r"no\377\376.txt", r"two\nlines", "odd name"]
    (note,) = [note for note in cell.notes if "cannot be read" in note]
    assert note == "1 of the checkout's files cannot be read and were left out: odd/closed"
    again = odd_kernel.run("%skyrl_modal true")
    assert again.notes == []  # it was said


def test_a_checkout_of_50_000_files(odd_kernel: Kernel) -> None:
    odd_kernel.run("%skyrl_modal true")
    many = odd_kernel.folder / "many"
    many.mkdir()
    for number in range(50_000):
        os.close(os.open(many / str(number), os.O_CREAT | os.O_WRONLY, 0o644))
    cell = odd_kernel.run("%%skyrl_modal\nls many | wc -l")
    assert (cell.out, cell.error) == ("50000\n", [])
    # On a busy machine it takes so long that the connection is said to be lost meanwhile, and back.
    assert "sending 50,000 files with 0 MB that changed in the checkout; .skyrlignore leaves folders out" in cell.notes
    (odd_kernel.folder / ".skyrlignore").write_text("many/\n")
    assert odd_kernel.run("%%skyrl_modal\nls many 2>&1 | wc -l").out == "1\n"
