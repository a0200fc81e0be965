"""However a Python kernel ends, its cell hears KeyboardInterrupt, and its ``atexit`` handlers run; within bounds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel
from tests.kernel.running import Running
from tests.kernel.test_limits import ended

PYTHON = "%%skyrl_python\n"
SAVE = "import pathlib\ndef save(word):\n    with open('/root/data/kept', 'a') as file: file.write(word + '\\n')\n"
AT_EXIT = SAVE + "import atexit\natexit.register(save, 'handler')\n"
INTERRUPTED = "print('up')\ntry:\n    while True: time.sleep(0.01)\nexcept BaseException as e:\n"
INTERRUPTED += "    save(type(e).__name__)\n    raise\nfinally:\n    save('finally')"


@pytest.fixture
def other(kernel: Kernel, loopback_server: ServerAddress) -> Iterator[Kernel]:
    """Another notebook in the same checkout."""
    found = make_kernel(kernel.folder, loopback_server)
    found.run(SETTINGS)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _nothing_kept(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal rm -f /root/data/kept")


def kept(kernel: Kernel) -> list[str]:
    return kernel.run("%skyrl_modal cat /root/data/kept").out.split()


def test_a_restart_runs_atexit_handlers_and_ends_what_python_ends(kernel: Kernel) -> None:
    more = "import tempfile, threading, time\nfolder = tempfile.TemporaryDirectory()\n"
    more += "threading.Thread(target=lambda: (time.sleep(0.3), save('thread'))).start()\nprint(folder.name)"
    folder = kernel.run(PYTHON + AT_EXIT + more).out.strip()
    cell = kernel.run("%skyrl_restart")
    assert [note for note in cell.notes if "is new" in note] == cell.notes
    assert sorted(kept(kernel)) == ["handler", "thread"]
    assert kernel.run(f"%skyrl_modal ls -d {folder} 2>&1 | grep -c 'No such'").out == "1\n"
    assert "NameError" in kernel.run(PYTHON + "folder").error[-1]


@pytest.mark.parametrize(
    ("cell_code", "raised"),
    [(INTERRUPTED, "KeyboardInterrupt"), (INTERRUPTED.replace("time.sleep", "await asyncio.sleep"), "CancelledError")],
)
def test_a_restart_interrupts_the_cell_of_another_notebook(
    kernel: Kernel, other: Kernel, cell_code: str, raised: str
) -> None:
    kernel.run(PYTHON + AT_EXIT + "import asyncio, time")
    running = Running(kernel, PYTHON + cell_code)
    running.until_text("up\n")
    assert any("is new" in note for note in other.run("%skyrl_restart").notes)
    cell = running.end()
    assert "the Python kernel was restarted with %skyrl_restart" in cell.error[-1]
    rows = kernel.run("%skyrl_runs --limit 1").result
    assert "stopped: the Python kernel was restarted with %skyrl_restart" in " ".join(rows.split()), rows
    assert kept(kernel) == [raised, "finally", "handler"]


def test_what_does_not_end_is_killed_in_its_time(kernel: Kernel, other: Kernel) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up')\nwhile True: pass"
    running = Running(kernel, PYTHON + deaf)
    running.until_text("up\n")
    assert any("is new" in note for note in other.run("%skyrl_restart").notes)
    assert "the Python kernel was restarted with %skyrl_restart" in running.end().error[0]
    kernel.run(PYTHON + "import atexit, threading\natexit.register(threading.Event().wait)")
    assert any("is new" in note for note in kernel.run("%skyrl_restart").notes)
    assert kernel.run(PYTHON + "print(1)").out == "1\n"


def test_processes_of_cells_do_not_keep_atexit_handlers_from_running(kernel: Kernel) -> None:
    started = "import multiprocessing, os, subprocess, time\nchildren = multiprocessing.get_context('fork')\n"
    started += "child, sleep = children.Process(target=time.sleep, args=(600,)), subprocess.Popen(['sleep', '600'])\n"
    started += "child.start()\npool = children.Pool(1)\nprint(child.pid, sleep.pid, pool.apply(os.getpid))"
    pids = kernel.run(PYTHON + AT_EXIT + started).out.split()
    assert len(pids) == 3
    assert any("is new" in note for note in kernel.run("%skyrl_restart").notes)
    assert kept(kernel) == ["handler"]
    folders = " ".join(f"/proc/{pid}" for pid in pids)
    assert kernel.run(f"%skyrl_modal ls -d {folders} 2>/dev/null | wc -l").out == "0\n"


def test_a_run_that_comes_while_the_kernel_ends_is_for_the_next_one(kernel: Kernel, other: Kernel) -> None:
    kernel.run(
        PYTHON + "import atexit, time, pathlib\natexit.register(time.sleep, 2)\n"
        "atexit.register(pathlib.Path('/tmp/ending').touch)"
    )
    restart = Running(other, "%skyrl_restart")
    kernel.run("%skyrl_modal until [ -e /tmp/ending ]; do sleep 0.01; done")
    cell = kernel.run(PYTHON + "print('atexit' in globals())")
    assert (cell.out, cell.error) == ("False\n", [])
    assert restart.end().error == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--timeout {}", "its time was over (--timeout {}s)"),
        ("--usd-per-hour 3600 --max-usd {}", "its budget of ${} was spent (--max-usd)"),
    ],
)
def test_a_cell_under_a_limit_hears_of_it(kernel: Kernel, options: str, reason: str) -> None:
    before = time.monotonic()
    kernel.run("%%skyrl_python --session short\n" + AT_EXIT + "import time")
    limit = math.ceil(time.monotonic() - before) + 8  # the session is not so old yet, however slow its start was
    options, reason = options.format(limit), reason.format(limit)
    cell = kernel.run(f"%%skyrl_python {options}\n" + INTERRUPTED)
    assert cell.out == "up\n", (cell.error, cell.notes)
    assert cell.error[0].endswith(f": {reason}")
    again = kernel.run("%skyrl_modal --timeout 10m --max-usd 900 cat /root/data/kept")
    assert again.out.split() == ["KeyboardInterrupt", "finally", "handler"], (again.error, again.notes)
    assert ended(again.notes) == reason
    kernel.run("%skyrl_stop short")


def test_stop_ends_the_kernel_and_the_cell_of_another_notebook_in_an_orderly_way(kernel: Kernel, other: Kernel) -> None:
    kernel.run("%%skyrl_python --session both\n" + AT_EXIT + "import time")
    running = Running(kernel, PYTHON + INTERRUPTED)
    running.until_text("up\n")
    other.run("%skyrl_stop both")
    assert "%skyrl_stop by" in running.end().error[0]
    assert kept(kernel) == ["KeyboardInterrupt", "finally", "handler"]
    kernel.run("%skyrl_stop both")


def test_an_error_of_a_cell_that_was_interrupted_is_shown(kernel: Kernel, other: Kernel) -> None:
    kernel.run("%%skyrl_python --session failing\nimport time")
    running = Running(kernel, PYTHON + "print('up')\ntry:\n    time.sleep(600)\nfinally:\n    1 / 0")
    running.until_text("up\n")
    other.run("%skyrl_stop failing")
    cell = running.end()
    assert any("ZeroDivisionError" in line for line in cell.error)
    assert "%skyrl_stop by" in cell.error[-1]


def test_an_idle_end_runs_atexit_handlers(kernel: Kernel) -> None:
    kernel.run("%%skyrl_python --session brief --idle-timeout 2s\n" + AT_EXIT)
    kernel.run(
        "import time\nwhile 'brief' in repr(get_ipython().run_line_magic('skyrl_sessions', '')): time.sleep(0.2)"
    )
    cell = kernel.run("%skyrl_modal --session brief --idle-timeout 600s cat /root/data/kept")
    assert cell.out == "handler\n"
    kernel.run("%skyrl_stop brief")
