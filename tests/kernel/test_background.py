"""Runs in the background, and cells that go back to runs or end them, in a real kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import SETTINGS, Cell, Kernel, make_kernel
from tests.kernel.running import Running

#: A run that says "up" and goes on until a file of this name is there.
#: With a trap, as bash goes on where its `sleep` ends in the moment in which SIGINT comes: it takes it for handled.
WAITING = "trap 'trap - INT; kill -INT $$' INT; echo up; until [ -e /tmp/{name} ]; do sleep 0.02; done; echo down"


def run_id_of(kernel: Kernel) -> str:
    """The run that was started last."""
    return kernel.run("get_ipython().skyrl_magic.cells.notebook.own_runs[0]").result.strip("'")


def open_gate(kernel: Kernel, name: str) -> None:
    kernel.run(f"%skyrl_modal touch /tmp/{name}")


@pytest.fixture
def restarted(kernel: Kernel, loopback_server: ServerAddress) -> Iterator[Kernel]:
    """Another kernel of the same notebook, as after a restart."""
    other = make_kernel(kernel.folder, loopback_server)
    other.run(SETTINGS)
    yield other
    other.close()


def test_a_background_cell_returns_a_handle_at_once(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal --bg\n" + WAITING.format(name="one"))
    assert cell.status == "ok", cell.error
    assert cell.result == "", "it is a display, which can be updated"
    assert re.search(r"run \w{6} in session \S+: running", cell.notes[-1])
    assert kernel.run("run = _\nrun.done, run.exit_code, run.state").result == "(False, None, 'running')"
    open_gate(kernel, "one")
    cell = kernel.run("run.wait(60).tail()")
    assert cell.result == "'up\\ndown'", cell.error
    assert kernel.run("run.done, run.exit_code, run.state").result == "(True, 0, 'ended')"


def test_its_display_stays_up_to_date(kernel: Kernel) -> None:
    display = Running(kernel, "%%skyrl_modal --bg\necho '<b>up</b>'; sleep 0.2; echo down").end()
    ident = [m for m in display.messages if m["msg_type"] == "display_data"][-1]["content"]["transient"]["display_id"]
    cell = kernel.run(
        "import time\nrun = _\nrun.wait()\nbegun = time.monotonic()\n"
        "while run._places[0]._data != run._data() and time.monotonic() < begun + 30: time.sleep(0.01)"
    )
    assert cell.status == "ok", cell.error
    updates = [m["content"] for m in cell.messages if m["msg_type"] == "update_display_data"]
    last = [content["data"] for content in updates if content["transient"]["display_id"] == ident][-1]
    assert ": ended ·" in last["text/plain"]
    assert last["text/plain"].endswith("  <b>up</b>\n  down")
    assert "&lt;b&gt;up&lt;/b&gt;\ndown" in last["text/html"], "what a run prints is text"


def test_captured_streams_are_assigned_at_the_end(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg --out got --err wrong\necho one; echo two >&2; sleep 0.1; echo three")
    assert kernel.run("_.wait(); got, wrong").result == "('one\\nthree\\n', 'two\\n')"


def test_a_failed_run_raises_where_it_is_waited_for(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal --bg\nexit 3")
    assert cell.status == "ok"
    cell = kernel.run("run = _\nrun.wait()")
    assert "failed: exit code 3" in cell.error[-1]
    assert kernel.run("run.state").result == "'failed: exit code 3'"
    assert "failed: exit code 3" in kernel.run("await run").error[-1]


def test_a_run_can_be_awaited_beside_other_tasks(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg\nsleep 0.2; echo done")
    code = "import asyncio\nrun = _\nseen = []\nasync def other():\n    seen.append(run.done)\n"
    cell = kernel.run(code + "await asyncio.gather(run, other())\nseen, run.tail()")
    assert cell.result == "([False], 'done')", cell.error


def test_waiting_can_be_given_up(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg\n" + WAITING.format(name="two"))
    assert "goes on after 0s" in kernel.run("run = _\nrun.wait(0.01)").error[-1]
    # Said when the main thread is in there, as Stop before that is an ordinary KeyboardInterrupt.
    code = """
import sys, threading, time
def say(main=threading.get_ident(), code=run.background.wait.__func__.__code__):
    def inside(frame):
        return frame is not None and (frame.f_code is code or inside(frame.f_back))
    while not inside(sys._current_frames()[main]):
        time.sleep(0.01)
    print("waits", flush=True)
threading.Thread(target=say).start()
run.wait()
"""
    cell = kernel.run(code, interrupt_at="waits")
    assert re.search(r"RunLeft.*: run \w{6} goes on: %skyrl_attach", cell.error[-1])
    assert kernel.run("run.state").result == "'running'"
    assert "'stopped by SIGINT'" in kernel.run("run.cancel()\nrun.background.wait()\nrun.state").result
    assert "was stopped by SIGINT" in kernel.run("run.wait()").error[-1]


def test_stop_ends_await_and_not_the_run(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg\n" + WAITING.format(name="three"))
    cell = kernel.run("run = _\nprint('waits', flush=True)\nawait run", interrupt_at="waits")
    assert cell.status == "error"
    assert kernel.run("run.state").result == "'running'"
    kernel.run("run.cancel()\nrun.background.wait()")


def test_a_handle_says_what_ended_its_session(restarted: Kernel) -> None:
    restarted.run("%%skyrl_modal --bg --session ends\necho up; sleep 300")
    restarted.run("run = _")
    restarted.run("%skyrl_stop ends")
    restarted.run("run.background.wait()")
    state = restarted.run("print(run.state)").out
    assert state.startswith("stopped: %skyrl_stop by ") or state == "lost\n"
    rows = restarted.run("%skyrl_runs --session ends").result
    assert "stopped: %skyrl_stop by " in rows


def test_a_python_cell_in_the_background(kernel: Kernel) -> None:
    kernel.run("%%skyrl_python --bg\nimport sys\nprint('text')\ndisplay('shown')\nx = 41\n1/0")
    cell = kernel.run("run = _\nrun.wait()")
    assert "ZeroDivisionError" in cell.error[-1]
    assert kernel.run("run.state").result == "'failed: ZeroDivisionError'"
    assert kernel.run("run.tail()").result == "\"text\\n'shown'\""
    assert kernel.run("%%skyrl_python\nx + 1").result == "42"


def test_values_do_not_come_back_from_a_background_cell(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_python --bg -o x\nx = 1")
    assert "%skyrl_pull" in cell.error[-1]


def test_two_runs_go_on_side_by_side_and_a_cell_beside_them(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg\n" + WAITING.format(name="three"))
    kernel.run("first = _")
    kernel.run("%%skyrl_modal --bg\n" + WAITING.format(name="three"))
    kernel.run("second = _")
    open_gate(kernel, "three")
    assert kernel.run("[run.wait(60).tail() for run in (first, second)]").result == "['up\\ndown', 'up\\ndown']"


def test_more_runs_than_the_setting_allows_are_refused(kernel: Kernel) -> None:
    kernel.run("%config SkyRLMagic.max_runs = 1")
    try:
        kernel.run("%%skyrl_modal --bg\n" + WAITING.format(name="four"))
        run_id = run_id_of(kernel)
        cell = kernel.run("%skyrl_modal true")
        assert "1 run goes on in this session already" in cell.error[-1]
    finally:
        kernel.run("%config SkyRLMagic.max_runs = 16")
    notes = kernel.run(f"%skyrl_cancel {run_id}").notes
    assert any(note.startswith(f"run {run_id} is stopped; ") for note in notes), notes
    notes = kernel.run(f"%skyrl_cancel {run_id}").notes
    assert f"run {run_id} had ended before" in notes


def test_cancel_ends_all_runs_of_a_session(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal --bg\ntrap '' INT; echo up; while :; do sleep 0.05; done")
    name = re.search(r"in session (\S+):", cell.notes[-1])
    assert name
    kernel.run("%config SkyRLMagic.grace = 0.1")
    try:
        cell = kernel.run(f"run = _\n%skyrl_cancel --session {name[1]}")
        assert any(" is stopped; " in note for note in cell.notes), cell.notes
        assert kernel.run("run.state").result == "'stopped by SIGTERM'"
        assert "nothing runs" in kernel.run(f"%skyrl_cancel --session {name[1]}").notes[-1]
    finally:
        kernel.run("%config SkyRLMagic.grace = 5.0")


def test_attach_shows_a_background_run_from_its_start_and_its_handle_hears_of_the_end(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg\n" + WAITING.format(name="five"))
    kernel.run("run = _")
    attached = Running(kernel, "%skyrl_attach")
    attached.until_text("up\n")
    # The cell that is attached holds the kernel: the gate is opened by another run that was started before.
    kernel.manager.interrupt_kernel()
    cell = attached.end()
    assert cell.out == "up\n"
    assert "was stopped by SIGINT" in cell.error[-1]
    assert kernel.run("run.state").result == "'stopped by SIGINT'"


def detached(kernel: Kernel, code: str, at: str) -> Cell:
    kernel.run("%config SkyRLMagic.on_interrupt = 'detach'")
    cell = kernel.run(code, interrupt_at=at)
    kernel.run("%config SkyRLMagic.on_interrupt = 'stop'")
    assert "goes on" in cell.error[-1]
    return cell


@pytest.mark.parametrize("magic", ["%%skyrl_modal", "%%skyrl_python"])
def test_detach_leaves_the_run_and_attach_goes_on_at_the_byte(kernel: Kernel, magic: str) -> None:
    code = (
        WAITING.format(name="six")
        if magic == "%%skyrl_modal"
        else ("import os, time\nprint('up')\nwhile not os.path.exists('/tmp/six'): time.sleep(0.02)\nprint('down')")
    )
    assert detached(kernel, f"{magic}\n{code}", "up").out == "up\n"
    run_id = run_id_of(kernel)
    open_gate(kernel, "six")
    cell = kernel.run(f"%skyrl_attach {run_id}")
    assert cell.out == "down\n", cell.error
    assert cell.notes[-1] == f"run {run_id} has ended"
    again = kernel.run(f"%skyrl_attach {run_id}")
    assert ("here it is from its start" in again.notes[0], again.out) == (True, "up\ndown\n")
    kernel.run("%skyrl_modal rm /tmp/six")


def test_detached_from_a_background_run_its_handle_follows_again(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg --out got\n" + WAITING.format(name="seven"))
    kernel.run("run = _")
    kernel.run("%config SkyRLMagic.on_interrupt = 'detach'")
    attached = Running(kernel, f"print('begins', flush=True)\n%skyrl_attach {run_id_of(kernel)}")
    attached.until_text("begins")
    kernel.manager.interrupt_kernel()
    assert attached.end().status == "error"
    kernel.run("%config SkyRLMagic.on_interrupt = 'stop'")
    open_gate(kernel, "seven")
    assert kernel.run("run.wait(60).exit_code, got").result == "(0, 'up\\ndown\\n')"


@pytest.mark.parametrize(
    "options", ["", "--stderr", "--grep up", "--save log.txt", "--bytes 0:2", "--tail 1", "--follow", "python"]
)
def test_a_log_that_is_read_leaves_the_run_to_its_handle(kernel: Kernel, options: str) -> None:
    code = "%%skyrl_modal --bg\n" + WAITING.format(name="read")
    if options == "python":
        options = ""
        wait = "while not os.path.exists('/tmp/read'): time.sleep(0.02)"
        code = f"%%skyrl_python --bg\nimport os, time\nprint('up')\n{wait}\nprint('down')"
    kernel.run(code)
    kernel.run("run = _")
    kernel.run("import time\nwhile run.tail() != 'up': time.sleep(0.01)")
    reading = Running(kernel, f"%skyrl_logs {options} {{run.id}}")
    if "--follow" in options:
        reading.until_text("up\n")
        kernel.manager.interrupt_kernel()
    assert reading.end().status == ("error" if "--follow" in options else "ok")
    open_gate(kernel, "read")
    cell = kernel.run("run.wait(60).exit_code, run.tail()")
    assert cell.result == "(0, 'up\\ndown')", cell.error
    kernel.run("%skyrl_modal rm /tmp/read")


def test_an_attach_that_is_cut_short_leaves_the_run_to_its_handle(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg --out got\n" + WAITING.format(name="cut"))
    kernel.run("run = _")
    run_id = run_id_of(kernel)
    # Stop, in the moment in which nobody follows the run.
    code = """
runs = get_ipython().skyrl_magic.cells._run_cells._runs
def stop(*_):
    del runs.attach
    raise KeyboardInterrupt
runs.attach = stop
"""
    assert kernel.run(code).status == "ok"
    assert "KeyboardInterrupt" in "".join(kernel.run(f"%skyrl_attach {run_id}").error)
    open_gate(kernel, "cut")
    cell = kernel.run("run.wait(60).exit_code, got")
    assert cell.result == "(0, 'up\\ndown\\n')", cell.error


def test_the_next_kernel_is_told_of_the_run_and_goes_on_with_it(kernel: Kernel, restarted: Kernel) -> None:
    detached(kernel, "%%skyrl_modal\n" + WAITING.format(name="eight"), "up")
    run_id = run_id_of(kernel)
    cell = restarted.run("%skyrl_modal touch /tmp/eight")
    assert any(f"run {run_id}" in note and "%skyrl_attach" in note for note in cell.notes), cell.notes
    cell = restarted.run(f"%skyrl_attach {run_id}")
    assert cell.out == "down\n", "the same notebook has seen the rest"
    cell = restarted.run(f"%skyrl_attach {run_id} --from start")
    assert cell.out == "up\ndown\n"


@pytest.mark.parametrize(
    "cell",
    [
        "%%skyrl_modal\nfor i in 1 2 3; do echo $i; echo $i >&2; sleep 0.15; done; echo end",
        "%%skyrl_python\nimport time\nfor i in range(3): print(i); time.sleep(0.15)\nprint('end')\n1 + 1",
    ],
)
def test_a_run_that_was_followed_to_its_end_is_shown_again_from_its_start(kernel: Kernel, cell: str) -> None:
    shown = kernel.run(cell)
    assert shown.out.endswith("end\n")
    for _ in range(2):
        again = kernel.run("%skyrl_attach -1")
        assert "here it is from its start" in again.notes[0]
        assert (again.out, again.err, again.result) == (shown.out, shown.err, shown.result)


def test_attach_raises_what_the_run_failed_with(kernel: Kernel, restarted: Kernel) -> None:
    kernel.run("%skyrl_modal --no-raise-error exit 5")
    assert "failed: exit code 5" in restarted.run(f"%skyrl_attach {run_id_of(kernel)}").error[-1]


def test_a_run_that_was_stopped_is_in_the_table_as_that(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal\necho begun; sleep 300", interrupt_at="begun")
    run_id = run_id_of(kernel)
    rows = kernel.run("%skyrl_runs --state stopped").result.splitlines()
    assert any(row.startswith(run_id) and "stopped SIGINT" in row for row in rows), rows


def test_after_a_restart_a_run_is_named_by_the_beginning_of_its_id(kernel: Kernel, restarted: Kernel) -> None:
    kernel.run("%%skyrl_modal --bg\necho up; sleep 300")
    run_id = run_id_of(kernel)
    notes = restarted.run(f"%skyrl_cancel {run_id[:5]}").notes
    assert any(note.startswith(f"run {run_id} is stopped; ") for note in notes), notes


def test_places_are_those_of_the_table_also_after_an_attach(kernel: Kernel, restarted: Kernel) -> None:
    detached(kernel, "%%skyrl_modal\n" + WAITING.format(name="ten"), "up")
    first = run_id_of(kernel)
    kernel.run("%skyrl_modal echo second")
    second = run_id_of(kernel)
    restarted.run("%config SkyRLMagic.on_interrupt = 'detach'")
    restarted.run(f"%skyrl_attach {first} --from start", interrupt_at="up")
    restarted.run("%config SkyRLMagic.on_interrupt = 'stop'")
    table = restarted.run("%skyrl_runs").result.splitlines()
    assert [row.split()[0] for row in table[1:3]] == [second, first]
    assert restarted.run("%skyrl_cancel -1").notes == [f"run {second} had ended before"]
    assert restarted.run("%skyrl_cancel -2").notes[0].startswith(f"run {first} is stopped")


def test_another_notebooks_run_is_not_meant_unless_it_is_named(
    restarted: Kernel, loopback_server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    detached(restarted, "%%skyrl_modal --session shared\n" + WAITING.format(name="mine"), "up")
    mine = run_id_of(restarted)
    monkeypatch.setenv("JPY_SESSION_NAME", "other.ipynb")
    other, again = (make_kernel(restarted.folder, loopback_server) for _ in range(2))
    try:
        other.run(SETTINGS)
        assert f"run {mine} of another notebook goes on" in "\n".join(
            other.run("%skyrl_modal --session shared echo theirs").notes
        )
        theirs = run_id_of(other)
        assert other.run("%skyrl_attach").out == "theirs\n"
        assert "no run of this notebook goes on; other notebooks' do" in other.run("%skyrl_cancel").error[-1]
        again.run(SETTINGS)
        assert again.run("%skyrl_logs -1").out == "theirs\n"
        assert again.run("%skyrl_cancel -1").notes == [f"run {theirs} had ended before"]
        open_gate(other, "mine")
        named = again.run(f"%skyrl_attach {mine}")
        assert (named.out, "another notebook's" in named.notes[0]) == ("up\ndown\n", True)
    finally:
        other.close()
        again.close()


def test_a_python_cell_says_what_ended_its_session(kernel: Kernel, restarted: Kernel) -> None:
    cell = Running(restarted, "%%skyrl_python --session brief\nimport time\nprint('begun')\ntime.sleep(300)")
    cell.until_text("begun")
    kernel.run("%skyrl_stop brief")
    error = cell.end().error[-1]
    assert "SessionLost" in error
    assert "%skyrl_stop by " in error


def test_cancel_without_a_run_means_the_one_that_goes_on(kernel: Kernel) -> None:
    assert "no run of this notebook goes on" in kernel.run("%skyrl_cancel").error[-1]
    kernel.run("%%skyrl_modal --bg\nsleep 300")
    one = run_id_of(kernel)
    kernel.run("run = %skyrl_modal --bg sleep 301")
    error = kernel.run("%skyrl_cancel").error[-1]
    assert "2 runs of this notebook go on: name those to stop" in error
    assert one in error
    assert "is stopped" in "\n".join(kernel.run("%skyrl_cancel {run.id}").notes)
    assert f"run {one} is stopped" in "\n".join(kernel.run("%skyrl_cancel").notes)
    assert "no run of this notebook goes on" in kernel.run("%skyrl_cancel").error[-1]


def test_a_new_kernel_is_told_what_goes_on_now_and_what_ended_unseen(kernel: Kernel, restarted: Kernel) -> None:
    detached(kernel, "%%skyrl_modal\necho up; until [ -e /tmp/eleven ]; do sleep 0.01; done; echo late; exit 3", "up")
    ended = run_id_of(kernel)
    kernel.run("%skyrl_modal --bg sleep 300")
    cancelled = run_id_of(kernel)
    kernel.run("%skyrl_modal touch /tmp/eleven")
    restarted.run("%skyrl_sessions")
    restarted.run(f"%skyrl_cancel {cancelled}")
    notes = "\n".join(restarted.run("%skyrl_modal echo next").notes)
    assert f"run {ended} of this notebook ended meanwhile (exit code 3): %skyrl_attach {ended} shows the rest" in notes
    assert "goes on in this session" not in notes
    assert restarted.run(f"%skyrl_attach {ended}").out == "late\n"


def test_a_python_cell_says_which_run_it_waits_for(kernel: Kernel, restarted: Kernel) -> None:
    kernel.run(
        "%%skyrl_python --bg\nimport pathlib, time\nwhile not pathlib.Path('/tmp/go').exists(): time.sleep(0.01)"
    )
    first = run_id_of(kernel)
    waiting = Running(kernel, "%%skyrl_python\nprint('mine')")
    waiting.until(lambda it: any(f"executes the cell of run {first}" in note for note in it.cell.notes))
    open_gate(restarted, "go")
    assert waiting.end().out == "mine\n"


def test_a_run_that_is_not_there(kernel: Kernel) -> None:
    for magic in ("%skyrl_attach", "%skyrl_cancel"):
        cell = kernel.run(f"{magic} zzzzzz")
        assert len(cell.error) == 1
        assert "zzzzzz" in cell.error[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%skyrl_attach a b", "second one"),
        ("%skyrl_attach --from 5", "it is start"),
        ("%skyrl_attach --form start", "did you mean --from"),
        ("%skyrl_cancel a --session b", "name the runs"),
        ("%skyrl_cancel --sesion b", "did you mean --session"),
    ],
)
def test_wrong_lines(kernel: Kernel, line: str, says: str) -> None:
    cell = kernel.run(line)
    assert len(cell.error) == 1
    assert says in cell.error[0]


@pytest.mark.parametrize("then", ["leave", "stop"])
def test_a_kernel_that_ends_leaves_its_run_or_stops_it(
    loopback_server: ServerAddress, tmp_path: Path, then: str
) -> None:
    checkout = make_checkout(tmp_path / "SkyRL", old_layout=False)
    first = make_kernel(checkout.root, loopback_server)
    first.run(f"{SETTINGS}\n%config SkyRLMagic.on_kernel_exit = {then!r}")
    cell = Running(first, "%%skyrl_modal --session ending\n" + WAITING.format(name="nine"))
    cell.until_text("up")
    first.manager.shutdown_kernel()  # as Jupyter does it: an interrupt, then a request
    first.client.stop_channels()
    first.manager.cleanup_resources()
    second = make_kernel(checkout.root, loopback_server)
    second.run(SETTINGS)
    cell_after = second.run("%skyrl_modal --session ending touch /tmp/nine")
    told = [note for note in cell_after.notes if "goes on in this session" in note]
    runs = "[run.run_id for run in logs.all_runs(next(iter(get_ipython().skyrl_magic.cells.notebook.runs.values())))]"
    run_id = second.run(f"from skyrl_magic.service import logs\n{runs}[0]").result.strip("'")
    attached = second.run(f"%skyrl_attach {run_id} --from start")
    if then == "leave":
        assert len(told) == 1
        assert attached.out == "up\ndown\n", attached.error
    else:
        assert not told
        assert attached.out == "up\n"
        assert "was stopped by SIGINT" in attached.error[-1]
    second.run("%skyrl_stop ending")
    second.close()
