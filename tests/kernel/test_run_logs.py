"""Runs in a notebook: the table, names, following and searching a log, and logs that outlive their container."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import modal
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel
from tests.kernel.processes import kill
from tests.kernel.running import Running

VOLUME = "runs-of-a-test"
LONG = "%%skyrl_modal --bg\nfor n in $(seq 1 1000); do echo line $n; sleep 0.2; done"


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def book(
    request: pytest.FixtureRequest,
    loopback_server: ServerAddress,
    modal_client: modal.Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kernel]:
    """A notebook with a volume of its own, of either version."""
    modal.Volume.objects.create(VOLUME, version=request.param, client=modal_client)
    kernel = make_kernel(
        make_checkout(tmp_path_factory.mktemp("runs") / "SkyRL", old_layout=False).root, loopback_server
    )
    kernel.run(f"{SETTINGS}\n%config SkyRLMagic.volume = '{VOLUME}'")
    yield kernel
    kernel.run("%skyrl_stop --all")
    kernel.close()
    modal.Volume.objects.delete(VOLUME, client=modal_client)


def table(kernel: Kernel, options: str = "") -> list[list[str]]:
    """The rows of ``%skyrl_runs``, the heading first."""
    cell = kernel.run(f"print(repr(get_ipython().run_line_magic('skyrl_runs', {options!r})))")
    assert cell.status == "ok", cell.error
    return [re.split(r"\s{2,}", line.rstrip()) for line in cell.out.splitlines()]


def until_archived(kernel: Kernel, run_id: str) -> None:
    """Wait until the volume knows the run's end: a pass comes half a second after that."""
    deadline = time.monotonic() + 60
    while not any(row[0] == run_id and row[-1] == "container, volume" for row in table(kernel)):
        assert time.monotonic() < deadline


def test_a_killed_container_leaves_its_logs(book: Kernel, loopback_server: ServerAddress) -> None:
    assert book.run("%skyrl_modal echo short").out == "short\n"
    short = table(book)[1][0]
    until_archived(book, short)
    running = Running(book, "%%skyrl_modal\nfor n in $(seq 1 10000); do echo line $n; sleep 0.01; done")
    running.until_text("line 1500\n")  # three passes of the archive, or two on a machine that is busy
    kill(loopback_server, "supervise")
    cell = running.end()
    error = "\n".join(cell.error)
    found = re.search(r"run (\w{6}) ended with its session: .*%skyrl_logs (\w{6}) shows what of its output", error)
    assert found, error
    assert found[1] == found[2]
    run_id = found[1]

    cell = book.run(f"%skyrl_logs {run_id}")
    assert cell.status == "ok", cell.error
    where, missing = cell.notes[:2]
    assert re.fullmatch(rf"run {run_id}: session \S+ is gone; its log is on volume runs-of-a-test", where)
    kept = re.search(r"bytes after ([\d,]+) of stdout may be missing: its container died before they were", missing)
    assert kept, missing
    text = "".join(f"line {n}\n" for n in range(1, 10_000))
    assert cell.out == text[: int(kept[1].replace(",", ""))]
    assert cell.out.startswith("line 1\nline 2\n")
    assert "line 200\n" in cell.out

    assert book.run(f"%skyrl_logs {short}").out == "short\n"
    assert book.run(f"%skyrl_logs {run_id} --tail 1").out == cell.out.splitlines(keepends=True)[-1]
    assert book.run(f"%skyrl_logs {run_id} --grep 'line 1[01]$'").out == "line 10\nline 11\n"
    rows = {row[0]: row for row in table(book)[1:]}
    assert "lost with its container" in rows[run_id]
    assert rows[run_id][-1] == "volume"
    assert "ended 0" in rows[short]
    assert book.run("%skyrl_sessions").result == "no sessions run on the local backend"


def test_the_table_and_its_filters(book: Kernel) -> None:
    book.run("%skyrl_modal --session one true")
    book.run("%skyrl_modal --session two echo out; exit 3")
    book.run("%skyrl_python 1 + 1")
    handle = book.run("%%skyrl_modal --session one --bg\necho begun; sleep 600")
    assert handle.status == "ok"
    rows = table(book)
    assert rows[0] == ["run", "session", "kind", "state", "started", "took", "output", "command", "log"]
    caption = " ".join(rows[-1])
    assert caption.startswith("logs stay on volume runs-of-a-test for 14 days, and 2 GB of them in all (%config ")
    newest = rows[1]
    assert newest[1:4] == ["one", "shell", "running"]
    assert newest[7:] == ["echo begun; sleep 600", "container"]
    assert rows[2][1:4] == ["two", "python", "ended 0"]
    assert rows[3][1:4] == ["two", "shell", "failed 3"]
    assert rows[3][6:8] == ["4 B", "echo out; exit 3"]
    assert [row[1] for row in table(book, "--session one")[1:-1]] == ["one", "one"]
    assert [row[3] for row in table(book, "--state failed --since 1h")[1:-1]] == ["failed 3"]
    assert table(book, "--since 2020-01-01 --session two")[1][1] == "two"
    assert book.run("%skyrl_runs --since 2100-01-01").result.startswith("no runs are like that")
    assert "did you mean failed?" in book.run("%skyrl_runs --state faild").error[-1]
    assert "did you mean --state?" in book.run("%skyrl_runs --stat failed").error[-1]
    assert "usage: %skyrl_runs" in book.run("%skyrl_runs -h").out
    book.run(f"%skyrl_cancel {newest[0]}")
    assert table(book)[1][3] == "stopped SIGINT"


def test_a_run_is_followed_until_stop_ends_that(book: Kernel, loopback_server: ServerAddress) -> None:
    book.run(LONG)
    running = Running(book, "%skyrl_logs --follow --grep '[02468]$'")
    running.until_text("line 4\n")
    book.manager.interrupt_kernel()
    cell = running.end()
    assert cell.status == "error"
    run_id = table(book)[1][0]
    assert f"run {run_id} goes on: %skyrl_attach {run_id} shows it" in cell.error[-1]
    assert cell.out.startswith("line 2\nline 4\n")
    assert table(book)[1][3] == "running"
    assert book.run(f"%skyrl_logs {run_id[:5]} --grep 'line [13]$'").out == "line 1\nline 3\n"
    assert book.run("%skyrl_logs -1 --grep 'line 2$'").out == "line 2\n"

    running = Running(book, "%skyrl_logs --follow --tail 1")
    running.until(lambda running: running.cell.out.count("\n") > 2)
    kernel = make_kernel(book.folder, loopback_server)
    try:
        kernel.run(f"{SETTINGS}\n%config SkyRLMagic.volume = '{VOLUME}'")
        kernel.run(f"%skyrl_cancel {run_id}")
    finally:
        kernel.close()
    cell = running.end()
    assert cell.status == "ok", cell.error
    assert any(re.fullmatch(rf"run {run_id} has ended after .*: stopped by SIGINT", note) for note in cell.notes)


def test_a_python_cell_is_shown_again_from_the_volume(book: Kernel) -> None:
    book.run(
        "%%skyrl_python\nfrom IPython.display import HTML, display\nprint('text')\ndisplay(HTML('<b>x</b>'))\n6 * 7"
    )
    run_id = table(book)[1][0]
    book.run("%skyrl_stop --all")
    cell = book.run(f"%skyrl_logs {run_id}")
    assert cell.out == "text\n"
    shown = [m["content"]["data"] for m in cell.messages if m["msg_type"] in ("display_data", "execute_result")]
    assert any(data.get("text/html") == "<b>x</b>" for data in shown)
    assert any(data.get("text/plain") == "42" for data in shown)
    assert table(book)[1][-1] == "volume"
