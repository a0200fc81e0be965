"""The magics in a real kernel, on the local backend."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import Cell, Kernel, make_kernel


def test_first_cell_tells_what_it_started(kernel: Kernel) -> None:
    kernel.run("%skyrl_stop --all")
    cell = kernel.run("%%skyrl_modal\necho hello")
    assert cell.out == "hello\n"
    assert re.fullmatch(
        r"session none-[0-9a-f]{6}: no GPU, volume skyrl-data, checkout SkyRL"
        r" \(image [\d.]+s · checkout [\d.]+s · container [\d.]+s\)",
        cell.notes[0],
    )
    assert any(note.startswith("local backend, no Modal account is set up") for note in cell.notes)
    again = kernel.run("%%skyrl_modal\necho hello")
    assert (again.out, again.notes) == ("hello\n", [])


def test_line_magic_reaches_bash_unchanged(kernel: Kernel) -> None:
    assert kernel.run("x = 1\n%skyrl_modal echo \"$HOME {x} 'q'\" | cat; echo $((1+1))").out == "/root {x} 'q'\n2\n"


def test_cell_text_is_not_expanded(kernel: Kernel) -> None:
    assert kernel.run("%%skyrl_modal\nx=7; echo $x {x} $sys\n").out == "7 {x}\n"


def test_failure_raises_one_line(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal\necho out; exit 3")
    assert cell.status == "error"
    assert len(cell.error) == 1
    says = r"RunFailed.*run \w{6} failed: exit code 3 after [\d.]+s; %skyrl_logs \w{6} shows its output"
    assert re.search(says, cell.error[0])
    assert cell.out == "out\n"


def test_failure_that_does_not_raise(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal --no-raise-error\nexit 3")
    assert cell.status == "ok"
    assert any("exit code 3" in note for note in cell.notes)


def test_a_signal_is_named(kernel: Kernel) -> None:
    assert "137 (SIGKILL)" in kernel.run("%skyrl_modal kill -9 $$").error[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("%%skyrl_modal --gpuu L4\nls", "did you mean --gpu?"),
        ("%%skyrl_modal --gpu L5\nls", "did you mean L4?"),
        ("%%skyrl_modal nvidia-smi\nls", "goes below its first line"),
        ("%%skyrl_modal\n\n", "nothing to run"),
        ("%%skyrl_modal --env HF_TOKEN=x\nls", "--secret NAME"),
        ("%skyrl_modal --repo /nowhere ls", "there is no such folder"),
        ("%skyrl_stop nosuch", "there is no session nosuch"),
        ("%skyrl_logs nosuch", "no run nosuch"),
        ("%skyrl_sessions --all", "takes no options"),
    ],
)
def test_wrong_lines_answer_in_one_line_and_start_nothing(kernel: Kernel, line: str, says: str) -> None:
    before = kernel.run("%skyrl_sessions").result
    cell = kernel.run(line)
    assert cell.status == "error"
    assert len(cell.error) == 1
    assert says in cell.error[0]
    after = kernel.run("%skyrl_sessions").result
    assert _names(after) == _names(before)


def _names(table: str) -> list[str]:
    return sorted(line.lstrip("* ").split()[0] for line in table.splitlines()[1:])


def test_dry_run_touches_nothing(kernel: Kernel) -> None:
    before = kernel.run("%skyrl_sessions").result
    cell = kernel.run("%%skyrl_modal --gpu A100:4 --timeout 2h --dry-run\nnvidia-smi")
    shown = dict(line.split(None, 1) for line in cell.out.splitlines() if line.split(None, 1)[1:])
    assert (shown["gpu"], shown["timeout"], shown["command"]) == ("A100:4", "2h", "nvidia-smi")
    assert _names(kernel.run("%skyrl_sessions").result) == _names(before)


def test_help(kernel: Kernel) -> None:
    assert "--no-raise-error" in kernel.run("%skyrl_modal -h").out
    for cell in ("%%skyrl_modal -h", "%%skyrl_python --help\n\n", "\n%%skyrl_python --gpu L4 -h"):
        assert "--no-raise-error" in kernel.run(cell).out
    assert "cell body is empty" in kernel.run("%%skyrl_modal").err
    assert "--errexit" not in kernel.run("%skyrl_start -h").out


def test_capture(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal --out a --err b\nseq 1 100000; echo oops >&2")
    assert (cell.out, cell.err) == ("", "")
    assert kernel.run("print(len(a), a.split()[-1], repr(b))").out == "588895 100000 'oops\\n'\n"


def test_captured_output_of_a_failed_run_is_there(kernel: Kernel) -> None:
    assert kernel.run("%%skyrl_modal --out c\necho before; false").status == "error"
    assert kernel.run("print(repr(c))").out == "'before\\n'\n"


def test_stop_ends_the_run_and_raises(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_modal\necho begun; sleep 300", interrupt_at="begun")
    assert cell.status == "error"
    assert "was stopped by SIGINT" in cell.error[-1]
    assert "sleep 300" not in kernel.run("%skyrl_modal pgrep -af [s]leep; true").out


def test_partial_lines_are_shown_while_the_run_goes_on(kernel: Kernel) -> None:
    # The interrupt only comes when the partial line was seen, and only it ends the cell.
    cell = kernel.run("%%skyrl_modal\nprintf 'no newline'; sleep 300", interrupt_at="no newline")
    assert "was stopped" in cell.error[-1]


def test_flood_is_bounded_and_its_log_whole(kernel: Kernel, tmp_path: Path) -> None:
    cell = kernel.run("%%skyrl_modal\nseq 1 3000000")
    size = sum(len(str(i)) + 1 for i in range(1, 3_000_001))
    assert len(cell.messages) < 100
    assert sum(len(str(m["content"])) for m in cell.messages) < 3_000_000
    assert any("left out" in note for note in cell.notes)
    assert any("3000000" in note for note in cell.notes)
    saved = tmp_path / "log.txt"
    kernel.run(f"%skyrl_logs --save {saved}")
    assert saved.stat().st_size == size
    assert kernel.run("%skyrl_logs --tail 2").out == "2999999\n3000000\n"
    assert kernel.run("%skyrl_logs --bytes 0:4").out == "1\n2\n"


def test_logs_of_a_run_show_both_streams(kernel: Kernel) -> None:
    kernel.run("%%skyrl_modal\necho one; echo two >&2")
    cell = kernel.run("%skyrl_logs")
    assert (cell.out, cell.err) == ("one\n", "two\n")
    assert kernel.run("%skyrl_logs --stderr").out == ""


def test_config_is_checked_and_used(kernel: Kernel) -> None:
    cell = kernel.run("%config SkyRLMagic.gpu = 'L5'\nprint('on')")
    assert (cell.status, cell.out) == ("error", "")  # so Run All ends
    assert "did you mean L4?" in cell.error[0]
    kernel.run("%config SkyRLMagic.volume = 'other'")
    assert "other at /root/data" in kernel.run("%skyrl_modal --gpu none --dry-run ls").out
    kernel.run("%config SkyRLMagic.volume = None")


def test_two_sessions_and_the_way_back(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal true")
    cell = kernel.run("%skyrl_modal --session second hostname")
    assert any("still running" in note for note in cell.notes)
    kernel.run("%skyrl_modal echo x > /tmp/mark")
    assert kernel.run("%skyrl_modal --gpu none cat /tmp/mark").out == "x\n"
    assert kernel.run("%skyrl_modal --gpu none --session third cat /tmp/mark").status == "error"
    assert any("now in session second; still" in note for note in kernel.run("%skyrl_use second").notes)
    assert kernel.run("%skyrl_modal cat /tmp/mark").out == "x\n"
    elsewhere = kernel.run("%skyrl_modal --volume another true")
    says = "--volume another is not session second's skyrl-data: now in"
    assert any(note.startswith(says) for note in elsewhere.notes)
    conflict = kernel.run("%skyrl_modal --session second --gpu T4 ls")
    assert "session second runs with --gpu none (asked: T4)" in conflict.error[0]
    kernel.run("%skyrl_stop --all")


def test_sessions_of_another_app_are_stopped_by_name_and_by_all(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal --session elsewhere --app other true")
    kernel.run("%skyrl_modal --session here true")
    assert "elsewhere" in kernel.run("%skyrl_sessions").result
    assert kernel.run("%skyrl_stop elsewhere").notes == ["session elsewhere is stopped"]
    kernel.run("%skyrl_modal --session elsewhere --app other true")
    kernel.run("%skyrl_modal --session here true")
    assert "session elsewhere is stopped" in kernel.run("%skyrl_stop --all").notes
    assert kernel.run("%skyrl_sessions").result == "no sessions run on the local backend"


def _wait_for_end_of(kernel: Kernel, name: str) -> None:
    # The session's own end is the event: its name is free again when the table has it no more.
    code = (
        "import time\n"
        "deadline = time.monotonic() + 60\n"
        f"while {name!r} in repr(get_ipython().run_line_magic('skyrl_sessions', '')) and time.monotonic() < deadline:\n"
        "    time.sleep(0.2)\n"
    )
    kernel.run(code)
    assert name not in kernel.run("%skyrl_sessions").result


def test_idle_timeout_changes_live_and_ends_the_container(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal --session brief --idle-timeout 1s true")
    _wait_for_end_of(kernel, "brief")
    cell = kernel.run("%skyrl_modal --session brief --idle-timeout 600s echo again")
    assert cell.out == "again\n", cell.error
    assert any(note.endswith("had ended: nothing ran for 1s (--idle-timeout)") for note in cell.notes)
    kernel.run("%skyrl_stop brief")


def test_a_session_whose_time_is_over_says_so_in_the_run_and_afterwards(kernel: Kernel) -> None:
    cell = kernel.run("%skyrl_modal --session short --timeout 6s echo begun; sleep 300")
    assert cell.out == "begun\n"
    assert cell.error[0].endswith(": its time was over (--timeout 6s)")
    _wait_for_end_of(kernel, "short")
    cell = kernel.run("%skyrl_modal --session short echo again")
    assert cell.out == "again\n", cell.error
    assert any(note.endswith("of this name had ended: its time was over (--timeout 6s)") for note in cell.notes)
    kernel.run("%skyrl_stop short")


def test_another_notebook_joins_the_same_session(kernel: Kernel, loopback_server: ServerAddress) -> None:
    kernel.run("%skyrl_modal --volume of-both echo hello > /tmp/from-the-first")
    other = make_kernel(kernel.folder, loopback_server)
    try:
        other.run("%load_ext skyrl_magic")
        cell = other.run("%skyrl_modal --gpu none --no-ray --volume of-both cat /tmp/from-the-first")
        assert cell.out == "hello\n"
        assert len(cell.notes) == 1, "nothing was started"
        assert cell.notes[0].startswith("local backend, no Modal account is set up")
    finally:
        other.close()


def test_after_a_kernels_death_the_next_one_finds_the_run_that_goes_on(
    loopback_server: ServerAddress, tmp_path: Path
) -> None:
    folder = make_checkout(tmp_path / "SkyRL", old_layout=False).root
    setup = "%load_ext skyrl_magic\n%config SkyRLMagic.gpu = 'none'\n%config SkyRLMagic.ray = False"
    kernel = make_kernel(folder, loopback_server)
    try:
        kernel.run(setup)
        pid = int(kernel.run("import os\nprint(os.getpid())").out)
        kernel.client.execute("%%skyrl_modal\necho begun; sleep 300")
        seen = ""
        while "begun" not in seen:
            seen += kernel.client.get_iopub_msg(timeout=60)["content"].get("text", "")
        os.kill(pid, signal.SIGKILL)  # a restart by Jupyter interrupts the cell first, which stops its run
    finally:
        kernel.close()
    kernel = make_kernel(folder, loopback_server)
    try:
        kernel.run(setup)
        assert " 1 run " in kernel.run("%skyrl_sessions").result
        assert "this notebook is in no session yet" in kernel.run("%skyrl_stop").error[0]
        cell = kernel.run("%skyrl_logs")
        assert cell.out == "begun\n", cell.error
    finally:
        kernel.run("%skyrl_stop --all")
        kernel.close()


def test_unload_leaves_sessions_running(loopback_server: ServerAddress, tmp_path: Path) -> None:
    kernel = make_kernel(make_checkout(tmp_path / "SkyRL", old_layout=False).root, loopback_server)
    try:
        kernel.run("%load_ext skyrl_magic")
        kernel.run("%skyrl_modal --session kept --gpu none --no-ray true")
        kernel.run("%unload_ext skyrl_magic")
        assert kernel.run("%skyrl_modal ls").status == "error"
        kernel.run("%load_ext skyrl_magic")
        assert kernel.run("%skyrl_modal --session kept echo back").out == "back\n"
        kernel.run("%skyrl_stop kept")
    finally:
        kernel.close()


def test_load_ext_imports_nothing_heavy_and_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "import IPython.core.magics.extension\n"
        "before = set(sys.modules), threading.active_count()\n"
        "get_ipython().run_line_magic('load_ext', 'skyrl_magic')\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before[0]}\n"
        "print(sorted(new - set(sys.stdlib_module_names)), threading.active_count() - before[1])\n"
    )
    fresh = Kernel(tmp_path, {"IPYTHONDIR": str(tmp_path / "ipython")})
    try:
        assert fresh.run(code).out == "['skyrl_magic'] 0\n"
    finally:
        fresh.close()


def test_a_python_cells_value_has_the_number_of_the_cell(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_python\n1 + 1")
    numbers = {
        m["msg_type"]: m["content"]["execution_count"] for m in cell.messages if "execution_count" in m["content"]
    }
    assert set(numbers) == {"execute_input", "execute_result"}
    assert numbers["execute_input"] == numbers["execute_result"]


def test_a_traceback_has_the_numbers_of_this_notebooks_cells(kernel: Kernel) -> None:
    def number(cell: Cell) -> int:
        return int(next(m["content"]["execution_count"] for m in cell.messages if m["msg_type"] == "execute_input"))

    kernel.run("above = 1")
    defines = kernel.run("%%skyrl_python\ndef fails(): return 1 / 0")
    calls = kernel.run("%%skyrl_python\nfails()")
    (error,) = [m["content"] for m in calls.messages if m["msg_type"] == "error"]
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))
    assert re.findall(r"^Cell In ?\[(\d+)\]", text, re.MULTILINE) == [str(number(calls)), str(number(defines))]
