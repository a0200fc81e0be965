"""What can go wrong in Python cells: each ends in one line that says so, and the session stays usable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skyrl_magic.agent.kernel_magics import NAMES
from skyrl_magic.core.display_budget import RICH_BURST_MESSAGES
from skyrl_magic.core.display_queue import MAX_WAITING_DISPLAYS
from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.ui.magics import SkyRLMagic
from tests.kernel.conftest import SETTINGS, Cell, Kernel, make_kernel
from tests.kernel.processes import kill
from tests.kernel.running import Running

PYTHON = "%%skyrl_python\n"


@pytest.fixture
def other(kernel: Kernel, loopback_server: ServerAddress) -> Iterator[Kernel]:
    """A second notebook in the same session."""
    other = make_kernel(kernel.folder, loopback_server)
    other.run(SETTINGS)
    yield other
    other.close()


def python(kernel: Kernel, code: str, *, interrupt_at: str = "") -> Cell:
    return kernel.run(PYTHON + code, interrupt_at=interrupt_at)


def test_a_traceback_of_megabytes_is_bounded_and_its_log_has_all_of_it(kernel: Kernel, tmp_path: object) -> None:
    cell = python(kernel, "def f(local):\n    raise ValueError(local)\nf('x' * 5_000_000)")
    assert cell.status == "error"
    assert sum(map(len, cell.error)) < 300_000
    assert any("left out" in line and "%skyrl_logs" in line for line in cell.error)
    assert "ValueError" in cell.error[-1]
    saved = f"{tmp_path}/log"
    kernel.run(f"%skyrl_logs --save {saved}")
    with open(saved) as file:  # noqa: PTH123
        assert len(file.read()) > 5_000_000


def test_ten_thousand_displays_keep_the_newest_and_count_the_rest(kernel: Kernel) -> None:
    cell = python(kernel, "for i in range(10_000): display(i)")
    shown = [int(note) for note in cell.notes if note.isdigit()]
    assert shown == sorted(set(shown))
    assert shown[-MAX_WAITING_DISPLAYS:] == list(range(10_000 - MAX_WAITING_DISPLAYS, 10_000))
    assert len(shown) >= MAX_WAITING_DISPLAYS + RICH_BURST_MESSAGES
    (left_out,) = [note for note in cell.notes if "left out" in note]
    assert f"{10_000 - len(shown):,} displays left out" in left_out


def test_a_thread_that_prints_later_is_shown_with_its_own_cell(kernel: Kernel) -> None:
    begun = python(
        kernel,
        "import threading\ngo = threading.Event()\n"
        "def late():\n    go.wait()\n    print('late')\n    display('late display')\n    done.set()\n"
        "done = threading.Event()\nthread = threading.Thread(target=late)\nthread.start()",
    )
    parent = begun.messages[0]["parent_header"]["msg_id"]
    running = Running(kernel, PYTHON + "go.set(); done.wait(); print('mine')")
    cell = running.end()
    running.until(lambda running: len(running.strays) == 2)
    late = running.strays
    assert cell.out == "mine\n"
    assert [message["parent_header"]["msg_id"] for message in late] == [parent, parent]
    assert late[0]["content"]["text"] == "late\n"
    assert kernel.run("%skyrl_logs " + _run_ids(kernel)[-2]).out == "late\n"


def test_a_process_that_outlives_its_cell_writes_into_that_one(kernel: Kernel) -> None:
    begun = python(
        kernel,
        "import subprocess\n"
        "child = subprocess.Popen('echo first; read line; echo late $line', shell=True, stdin=subprocess.PIPE)\n"
        "import time\nfor _ in range(3): time.sleep(0.1)",
    )
    assert begun.out == "first\n"
    parent = begun.messages[0]["parent_header"]["msg_id"]
    running = Running(kernel, PYTHON + "child.communicate(b'text\\n'); print('mine')")
    cell = running.end()
    running.until(lambda running: len(running.strays) == 1)
    late = running.strays
    assert cell.out == "mine\n"
    assert [(m["parent_header"]["msg_id"], m["content"]["text"]) for m in late] == [(parent, "late text\n")]


def test_a_cut_channel_amid_displays_shows_each_once(kernel: Kernel, loopback_server: ServerAddress) -> None:
    kernel.on_text = ("line 3\n", lambda: kill(loopback_server, "attach"))
    each = "    print('line', i)\n    display(i)\n    time.sleep(0.05)"
    cell = python(kernel, f"import time\nfor i in range(40):\n{each}")
    assert cell.status == "ok", cell.error
    assert cell.out.splitlines() == [f"line {i}" for i in range(40)]
    assert [note for note in cell.notes if note.isdigit()] == [str(i) for i in range(40)]


def test_two_notebooks_share_a_kernel_and_each_sees_its_own(kernel: Kernel, other: Kernel) -> None:
    python(kernel, "order = []")
    first = Running(
        kernel, PYTHON + "import time\nfor i in range(20):\n    print('a', i)\n    time.sleep(0.05)\norder.append('a')"
    )
    first.until_text("a 0\n")
    second = python(other, "print('b')\norder.append('b')\norder")
    assert (second.out, second.result) == ("b\n", "['a', 'b']")
    assert first.end().out == "".join(f"a {i}\n" for i in range(20))


DEATHS = {
    "import ctypes; ctypes.string_at(0)": "SIGSEGV",
    "import os; os._exit(3)": "code 3",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "SIGKILL, out of memory?",
    "import os; os.abort()": "SIGABRT",
}


#: Goes on when its text has left the kernel's process: what zmq has not sent is lost with it, in any ipykernel.
IS_HEARD = """
import pathlib, sys, time
print({text!r}, flush=True)
runs = pathlib.Path(sys.argv[2]).parents[2] / 'runs'
while not any({text!r} in file.read_text() for file in runs.glob('*/stdout')): time.sleep(0.01)
"""


@pytest.mark.parametrize("code", DEATHS, ids=DEATHS.values())
def test_a_kernel_that_dies_ends_its_cell_with_the_cause(kernel: Kernel, code: str) -> None:
    python(kernel, "x = 1")
    text = f"before {DEATHS[code]}"
    cell = python(kernel, IS_HEARD.format(text=text) + code)
    assert cell.out == f"{text}\n"
    assert len(cell.error) == 1
    assert DEATHS[code] in cell.error[0]
    again = python(kernel, "'x' in globals()")
    assert again.result == "False"
    assert "new Python kernel" in again.err
    assert python(kernel, "1").err == ""


@pytest.mark.parametrize("code", ["exit()", "quit()", "exit(keep_kernel=False)"])
def test_exit_in_a_cell_ends_the_kernel_and_says_so(kernel: Kernel, code: str) -> None:
    cell = python(kernel, f"x = 1\nprint('last')\n{code}")
    assert (cell.status, cell.out) == ("ok", "last\n")
    assert len([note for note in cell.notes if "ends the session's Python kernel" in note]) == 1
    again = python(kernel, "'x' in globals()")  # also in the moment in which the old one still goes
    assert again.result == "False"
    assert "a cell called exit()" in again.err


def test_exit_that_keeps_the_kernel_keeps_it(kernel: Kernel) -> None:
    cell = python(kernel, "x = 1\nexit(keep_kernel=True)")
    assert not any("kernel" in note for note in cell.notes)
    again = python(kernel, "x")
    assert (again.result, again.err) == ("1", "")


@pytest.mark.parametrize(
    "code",
    ["%skyrl_pull x", "y = 1\n%skyrl_stop --all", "%%skyrl_modal --gpu L4\nls", "%%skyrl_python\n1", "x = %skyrl_logs"],
)
def test_a_magic_of_the_notebook_inside_a_python_cell_says_where_it_belongs(kernel: Kernel, code: str) -> None:
    cell = python(kernel, code)
    assert cell.status == "error"
    (line,) = cell.err.splitlines()
    name = next(word for word in code.split() if "skyrl" in word)
    assert line.startswith(f"UsageError: {name} is the notebook's")
    assert cell.error == []


def test_each_magic_of_the_notebook_is_known_there() -> None:
    assert set(NAMES) == set(SkyRLMagic.magics["line"]) | set(SkyRLMagic.magics["cell"])


def test_a_killed_relay_ends_its_cell_and_the_next_one_goes_on(kernel: Kernel, loopback_server: ServerAddress) -> None:
    kernel.on_text = ("begun\n", lambda: kill(loopback_server, "relay"))
    cell = python(kernel, "import time\nprint('begun')\ntime.sleep(300)")
    assert len(cell.error) == 1
    assert "the Python kernel" in cell.error[0]
    assert python(kernel, "3").result == "3"
    assert kernel.run("%skyrl_modal pgrep -f 'agent.pyz kernel' | wc -l").out.strip() == "1"


def test_stop_raises_in_the_cell_and_leaves_the_kernel(kernel: Kernel) -> None:
    python(kernel, "x = 41")
    cell = python(kernel, "import time\nprint('begun')\ntime.sleep(300)", interrupt_at="begun")
    assert "KeyboardInterrupt" in cell.error[-1]
    assert any("time.sleep" in line for line in cell.error)
    assert python(kernel, "x + 1").result == "42"


def test_stop_while_the_cell_asks(kernel: Kernel) -> None:
    kernel.on_question = kernel.manager.interrupt_kernel
    cell = python(kernel, "input('? ')")
    assert "KeyboardInterrupt" in cell.error[-1]
    assert python(kernel, "4").result == "4"


def test_a_second_stop_ends_a_kernel_that_does_not_hear_the_first(kernel: Kernel) -> None:
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, lambda *_: print('heard', flush=True))\nprint('deaf')\n"
    first = Running(kernel, PYTHON + deaf + "time.sleep(300)")
    first.until_text("deaf")
    kernel.manager.interrupt_kernel()
    first.until_text("heard")
    kernel.manager.interrupt_kernel()
    cell = first.end()
    assert len(cell.error) == 1
    assert "Stop ended it" in cell.error[0]
    assert "its variables are gone" in cell.error[0]
    assert python(kernel, "5").result == "5"


def test_a_restart_ends_what_another_notebook_executes(kernel: Kernel, other: Kernel) -> None:
    first = Running(kernel, PYTHON + "import time\nprint('begun')\ntime.sleep(300)")
    first.until_text("begun")
    assert any("is new" in note for note in other.run("%skyrl_restart").notes)
    cell = first.end()
    assert len(cell.error) == 1
    assert "ended after" in cell.error[0]
    assert "the Python kernel was restarted" in cell.error[0]
    again = python(kernel, "6")
    assert (again.result, again.err) == ("6", "")


def _run_ids(kernel: Kernel) -> list[str]:
    code = "print(*get_ipython().magics_manager.registry['SkyRLMagic'].cells.notebook.runs)"
    return kernel.run(code).out.split()


#: Goes on, and says when another cell waits for this one.
SEES_THE_NEXT = """
import pathlib, sys, time
runs = pathlib.Path(sys.argv[2]).parents[2] / 'runs'
print('begun')
while not any(b'never ' + b'shown' in file.read_bytes() for file in runs.glob('*/cell*')): time.sleep(0.05)
print('the next one waits')
time.sleep(300)
"""


def test_stop_of_a_cell_that_waits_for_another_notebooks(kernel: Kernel, other: Kernel) -> None:
    first = Running(kernel, PYTHON + SEES_THE_NEXT)
    first.until_text("begun")
    second = Running(other, PYTHON + "print('never shown')")
    first.until_text("waits")
    other.manager.interrupt_kernel()
    stopped = second.end()
    assert stopped.out == ""
    assert len(stopped.error) == 1
    assert "was stopped by SIGINT" in stopped.error[0]
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in first.end().error[-1]


def test_stop_does_not_wait_for_the_last_displays_of_a_run_that_has_ended(kernel: Kernel) -> None:
    kernel.on_note = ("shown 3", kernel.manager.interrupt_kernel)
    cell = python(
        kernel,
        "for number in range(60):\n"
        "    page = {'text/plain': f'shown {number}', 'text/html': '.' * 900_000}\n"
        "    display(page, raw=True)",
    )
    assert cell.status == "error"
    assert "had ended by itself, with exit code 0, before Stop came" in cell.error[-1]
    assert "shown 59" not in cell.notes
    assert any("the rest is left out here; %skyrl_logs" in note for note in cell.notes)
    assert python(kernel, "1 + 1").result == "2"


def test_a_kernel_that_uv_cannot_start_says_why(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal --session uv printf '[project]\\nname = 1\\n' >pyproject.toml")
    cell = kernel.run("%skyrl_python --session uv --uv '--offline' 1 + 1")
    assert len(cell.error) == 1
    assert "uv run could not start: " in cell.error[0]
    assert kernel.run("%skyrl_python --session uv 1 + 1").result == "2", "in the cluster's Python"
    assert "%skyrl_restart" in kernel.run("%skyrl_python --session uv --uv '--offline' 1 + 1").error[0]
    kernel.run("%skyrl_stop uv")


DETACHED = "subprocess.Popen(['sleep', '{seconds}'], start_new_session=True)"


def test_stop_reaches_what_the_cell_has_detached_and_nothing_of_earlier_cells(kernel: Kernel) -> None:
    python(kernel, f"import subprocess, time\nearlier = {DETACHED.format(seconds=301)}")
    code = f"mine = {DETACHED.format(seconds=302)}\nprint('begun')\ntime.sleep(300)"
    assert "KeyboardInterrupt" in python(kernel, code, interrupt_at="begun").error[-1]
    cell = python(kernel, "print(mine.wait(10), earlier.poll())\nearlier.kill()")
    assert cell.out == "-2 None\n", cell.error


def test_a_cell_that_does_not_hear_stop_says_what_comes_next(kernel: Kernel) -> None:
    kernel.run("%config SkyRLMagic.grace = 0.2")
    code = "import time\nprint('begun')\nwhile True:\n    try:\n        time.sleep(300)\n    except BaseException: pass"
    running = Running(kernel, PYTHON + code)
    running.until_text("begun")
    kernel.manager.interrupt_kernel()
    running.until(lambda cell: any("■ again ends its Python kernel" in note for note in cell.cell.notes))
    kernel.manager.interrupt_kernel()
    assert "Stop ended it" in running.end().error[-1]
    kernel.run("%config SkyRLMagic.grace = 5.0")


def test_a_cell_that_takes_the_interrupt_has_ended_well(kernel: Kernel) -> None:
    code = "import time\ntry:\n    print('begun')\n    time.sleep(300)\nexcept KeyboardInterrupt: print('taken')"
    cell = python(kernel, code, interrupt_at="begun")
    assert (cell.out, cell.error) == ("begun\ntaken\n", [])
    newest = kernel.run("%skyrl_runs").result.splitlines()[1]
    assert "ended 0" in newest, newest
