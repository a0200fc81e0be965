"""Progress bars through a real kernel and a real container: they stay in place and end at their last state."""

from __future__ import annotations

import re
import textwrap

import nbformat
import pytest
from nbclient import NotebookClient

from skyrl_magic.loopback.daemon import ServerAddress
from tests.kernel.conftest import SETTINGS, Kernel, kernel_environment
from tests.kernel.test_display_kernel import outputs_of

#: What a cell runs, and the outputs that it leaves.
BARS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "a wide bar in steps": (
        """
        import sys, time
        for i in range(1300):
            sys.stdout.write('\\r%05d ' % i + '#' * 990)
            sys.stdout.flush()
            time.sleep(.004)
        print()
        print('done')
        """,
        [("display", "01299 " + "#" * 990), ("stdout", "done\n")],
    ),
    "as fast as it goes": (
        """
        import sys
        sys.stdout.write('\\r0')
        for i in range(1_500_000):
            sys.stdout.write('\\r%d' % i)
        print('\\ndone')
        """,
        [("display", "1499999"), ("stdout", "done\n")],
    ),
    "lines on the other stream": (
        """
        import sys, time
        for i in range(14001):
            sys.stderr.write('\\r%05d/14000 ' % i + '#' * 80)
            if i % 1000 == 0:
                print('step', i, flush=True)
            if i % 20 == 0:
                time.sleep(.004)
        sys.stderr.write('\\n')
        """,
        [
            ("display", "14000/14000 " + "#" * 80),
            ("stdout", "".join(f"step {step}\n" for step in range(0, 14001, 1000))),
        ],
    ),
    "nested": (
        """
        import sys, time
        for outer in range(40):
            sys.stderr.write('\\router %d ' % outer + '#' * 80)
            for inner in range(200):
                sys.stderr.write('\\n\\rinner %3d ' % inner + '-' * 80 + '\\x1b[A')
                if inner % 20 == 0:
                    time.sleep(.004)
        sys.stderr.write('\\n\\nend\\n')
        """,
        [("display", "outer 39 " + "#" * 80 + "\ninner 199 " + "-" * 80), ("stderr", "end\n")],
    ),
}


@pytest.mark.parametrize("bar", BARS)
def test_a_bar_ends_in_place(kernel: Kernel, bar: str) -> None:
    script, expected = BARS[bar]
    kernel.run(f"import textwrap; script = textwrap.dedent({script!r})")
    kernel.run("import pathlib; pathlib.Path('bar.py').write_text(script)")
    cell = kernel.run("%skyrl_modal python3 bar.py")
    assert cell.status == "ok", cell.error
    about_the_session = re.compile("session |local backend|image |volume ")
    shown = [(kind, text) for kind, text in outputs_of(cell.messages) if not about_the_session.match(text)]
    assert sorted(shown) == sorted(expected)


def test_bash_that_redraws_long_ends_at_the_last_number(kernel: Kernel) -> None:
    cell = kernel.run(
        "%skyrl_modal i=0; while [ $i -lt 300000 ]; do printf '\\r%d' $i; i=$((i+1)); done; echo; echo done"
    )
    shown = [text for _, text in outputs_of(cell.messages)]
    assert shown[-2:] == ["299999", "done\n"]
    assert not [text for text in shown if "left out" in text]
    logs = kernel.run("%skyrl_logs")
    assert "\n".join(text for _, text in outputs_of(logs.messages)).split() == ["299999", "done"]


#: Cells with a block whose first frame was shown as text before the cursor moved up into it, and what is left of each.
BLOCKS: dict[str, tuple[str, list[str]]] = {
    "a shell cell": (
        r"""
        %%skyrl_modal
        printf 'a 0\nb 0\n'; sleep 1; printf '\x1b[2A\ra 1\nb 1\ndone\n'
        """,
        ["a 1\nb 1\ndone"],
    ),
    "a Python cell": (
        r"""
        %%skyrl_python
        import time
        print('a 0\nb 0', flush=True)
        time.sleep(1)
        print('\x1b[2A\ra 1\nb 1\ndone', flush=True)
        """,
        ["a 1\nb 1\ndone"],
    ),
    # What rich's Live does: between two frames the cursor is at the end of the block's last line.
    "a live block": (
        r"""
        %%skyrl_python
        import sys, time
        for i in range(4):
            if i:
                sys.stdout.write('\r\x1b[2K' + '\x1b[1A\x1b[2K' * 2)
            sys.stdout.write(f'┌ task {i} ┐\n│ {i * 25:3} % │\n└────────┘')
            sys.stdout.flush()
            time.sleep(.3)
        print()
        """,
        ["┌ task 3 ┐\n│  75 % │\n└────────┘"],
    ),
    "below other output, on stderr": (
        r"""
        %%skyrl_python
        import sys, time
        from IPython.display import display
        print('kept')
        display('a picture')
        for i in range(3):
            sys.stderr.write(('\x1b[2A' if i else '') + f'\ra {i}\nb {i}\n')
            sys.stderr.flush()
            time.sleep(.4)
        """,
        ["kept\n", "'a picture'", "a 2\nb 2"],
    ),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_that_was_shown_is_drawn_anew(kernel: Kernel, block: str) -> None:
    code, left = BLOCKS[block]
    cell = kernel.run(textwrap.dedent(code).lstrip())
    assert cell.status == "ok", cell.error
    notes = re.compile("session |local backend|image |volume ")
    assert [text for _, text in outputs_of(cell.messages) if not notes.match(text)] == left
    kinds = [message["msg_type"] for message in cell.messages]
    assert kinds.count("clear_output") == 1
    shown = [m["content"]["transient"].get("display_id") if "transient" in m["content"] else "" for m in cell.messages]
    before, after = shown[: kinds.index("clear_output")], shown[kinds.index("clear_output") :]
    assert set(before) <= set(after), "notes are shown again"


def test_a_block_in_a_longer_cell_leaves_the_rest_of_the_cell_alone(kernel: Kernel) -> None:
    cell = kernel.run("print('mine')\n%skyrl_modal echo a 0; sleep 1; printf '\\x1b[A\\ra 1\\n'")
    assert "clear_output" not in [m["msg_type"] for m in cell.messages]
    assert [text for _, text in outputs_of(cell.messages)][-1] == "a 1"
    assert "mine" in cell.out


def test_a_saved_notebook_has_the_last_state_of_a_block(
    kernel: Kernel, loopback_server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in kernel_environment(kernel.folder, loopback_server).items():
        monkeypatch.setenv(name, value)
    code, left = BLOCKS["a shell cell"]
    shell_cell = textwrap.dedent(code).lstrip()
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (SETTINGS, shell_cell)])
    NotebookClient(book, resources={"metadata": {"path": str(kernel.folder)}}, kernel_name="python3").execute()
    outputs = book.cells[1].outputs
    assert [outputs[-1]["data"]["text/plain"]] == left
    assert "a 0" not in str(outputs)
