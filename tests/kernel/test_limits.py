"""What ends a session, as a notebook sees it: said before, said by the cell that runs, and by the next one."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import modal
import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel
from tests.kernel.test_faults import account_kernel

ENDLESS = "trap 'echo late > /root/data/late; exit 9' TERM; echo up; while :; do sleep 0.05; done"


def ended(notes: list[str]) -> str:
    """Why the session before had ended, as the next cell says it."""
    [line] = [note for note in notes if "of this name had ended" in note]
    return line.partition("had ended: ")[2]


@pytest.fixture
def other(kernel: Kernel, loopback_server: ServerAddress) -> Iterator[Kernel]:
    """Another notebook in the same checkout."""
    found = make_kernel(kernel.folder, loopback_server)
    found.run(SETTINGS)
    yield found
    found.close()


def test_the_timeout_is_said_and_the_next_cell_says_that_it_came(kernel: Kernel) -> None:
    cell = kernel.run(f"%%skyrl_modal --session short --timeout 20\n{ENDLESS}")
    assert any(
        note.startswith("session short ends in 2s (--timeout 20s): its runs end then; the volume is committed")
        for note in cell.notes
    ), cell.notes
    assert "its time was over (--timeout 20s)" in cell.error[0]
    again = kernel.run("%skyrl_modal cat /root/data/late")
    assert again.out == "late\n"
    assert ended(again.notes) == "its time was over (--timeout 20s)"
    kernel.run("%skyrl_stop short")


def test_what_is_said_while_no_cell_runs_is_shown_by_the_next_one_once(kernel: Kernel) -> None:
    kernel.run("%skyrl_start --session quiet --usd-per-hour 3600 --max-usd 60")
    spent = "float(repr(get_ipython().run_line_magic('skyrl_sessions', '')).split('$')[-1].split()[0]) > 48"
    kernel.run(f"import time\nwhile not {spent}: time.sleep(0.2)", timeout_s=200)
    cell = kernel.run("%skyrl_modal echo on")
    [said] = [note for note in cell.notes if "(--max-usd)" in note]
    assert said.startswith("session quiet has spent $4")
    assert kernel.run("%skyrl_modal echo on").notes == []
    kernel.run("%skyrl_stop quiet")


def test_the_budget_is_said_and_the_next_cell_says_that_it_was_spent(kernel: Kernel) -> None:
    cell = kernel.run(f"%%skyrl_modal --session rich --usd-per-hour 3600 --max-usd 8\n{ENDLESS}")
    assert any("$3600.00/h (your usd_per_hour)" in note for note in cell.notes), cell.notes
    assert any("session rich has spent $6.4" in note for note in cell.notes), cell.notes
    assert "its budget of $8 was spent (--max-usd)" in cell.error[0]
    again = kernel.run("%skyrl_modal --max-usd 300 --session rich echo on")
    assert again.out == "on\n"
    assert ended(again.notes) == "its budget of $8 was spent (--max-usd)"
    table = kernel.run("%skyrl_sessions").result
    assert table.splitlines()[0].split()[-3:] == ["$/h", "spent", "checkout"]
    assert "3600.00" in table
    assert "(budget)" in table
    kernel.run("%skyrl_stop rich")


def test_a_budget_is_set_and_refused_while_the_session_runs(kernel: Kernel) -> None:
    kernel.run("%skyrl_start --session poor --usd-per-hour 360000")
    cell = kernel.run("%skyrl_modal --session poor --max-usd 0.5 echo no")
    assert len(cell.error) == 1
    assert "session poor has spent $" in cell.error[0]
    assert "give a larger --max-usd, or end it with %skyrl_stop poor" in cell.error[0]
    assert cell.out == ""
    kernel.run("%skyrl_modal --session poor --max-usd 4000 echo yes")
    assert "$/h" in kernel.run("%skyrl_sessions").result
    kernel.run("%skyrl_stop poor")


def test_settings_bound_a_budget(kernel: Kernel) -> None:
    kernel.run("%config SkyRLMagic.max_usd = 2\n%config SkyRLMagic.usd_per_hour = 1")
    text = kernel.run("%skyrl_modal --dry-run --max-usd 5 ls").out
    kernel.run("%config SkyRLMagic.max_usd = None\n%config SkyRLMagic.usd_per_hour = None")
    assert "price        $1.00/h (your usd_per_hour)\nbudget       $2\n" in text
    assert "note: --max-usd 5 is bounded to 2 by your settings" in text


def test_the_local_backend_costs_nothing_and_says_so(kernel: Kernel) -> None:
    text = kernel.run("%skyrl_modal --dry-run --session free ls").out
    assert "price        nothing (the local backend)\nbudget       none\n" in text
    modal_text = kernel.run("%skyrl_modal --dry-run --session free --backend modal --gpu L4 ls").out
    assert "price        $0.82/h (Modal's public prices of 2026-10), and CPU and memory used beyond" in modal_text
    cell = kernel.run("%skyrl_modal --session free --max-usd 5 echo on")
    assert cell.out == "on\n"
    assert "the local backend costs nothing: --max-usd has nothing to bound here" in cell.notes
    assert "$/h" not in kernel.run("%skyrl_sessions").result
    kernel.run("%skyrl_stop free")


def test_idle_time_that_ended_it_is_said_by_the_next_cell(kernel: Kernel) -> None:
    kernel.run("%skyrl_modal --session lazy --idle-timeout 2 true")
    kernel.run("import time\nwhile 'lazy' in repr(get_ipython().run_line_magic('skyrl_sessions', '')): time.sleep(0.2)")
    assert ended(kernel.run("%skyrl_modal true").notes) == "nothing ran for 2s (--idle-timeout)"
    kernel.run("%skyrl_stop lazy")


def test_a_new_kernel_hears_how_the_session_before_it_ended(kernel: Kernel, other: Kernel) -> None:
    kernel.run("%skyrl_modal --session lonely --idle-timeout 2 true")
    kernel.run(
        "import time\nwhile 'lonely' in repr(get_ipython().run_line_magic('skyrl_sessions', '')): time.sleep(0.2)"
    )
    cell = other.run("%skyrl_modal --session lonely true")
    assert re.fullmatch(r"nothing ran for 2s \(--idle-timeout\), [\d.]+s ago", ended(cell.notes))
    other.run("%skyrl_stop lonely")
    cell = kernel.run("%skyrl_modal --session lonely true")
    assert [note for note in cell.notes if "%skyrl_stop" in note] == [], "what one did oneself is no news"
    kernel.run("%skyrl_stop lonely")


def test_who_stopped_it_is_said_by_the_run_and_by_the_next_cell(kernel: Kernel, other: Kernel) -> None:
    kernel.run("%skyrl_start --session shared")
    kernel.on_text = ("up\n", lambda: other.run("%skyrl_stop shared"))
    cell = kernel.run(f"%%skyrl_modal --session shared\n{ENDLESS}")
    assert "%skyrl_stop by " in cell.error[0]
    assert ended(kernel.run("%skyrl_modal true").notes).startswith("%skyrl_stop by ")
    kernel.run("%skyrl_stop shared")


def test_a_container_that_its_backend_ends_is_said(kernel: Kernel, modal_client: modal.Client) -> None:
    kernel.run("%skyrl_start --session taken")
    sandbox = modal.Sandbox.from_name("my_skyrl_app", "taken", client=modal_client)
    kernel.on_text = ("up\n", threading.Thread(target=sandbox.terminate).start)
    cell = kernel.run(f"%%skyrl_modal --session taken\n{ENDLESS}")
    says = "the backend ended its container (it was preempted, or stopped there)"
    assert says in cell.error[0]
    again = kernel.run("%skyrl_modal cat /root/data/late")
    assert again.out == "late\n"
    assert ended(again.notes) == says
    kernel.run("%skyrl_stop taken")


def test_an_accounts_rates_are_asked_for(loopback_server: ServerAddress, tmp_path: Path) -> None:
    token = {"MODAL_TOKEN_ID": loopback_server.token_id, "MODAL_TOKEN_SECRET": loopback_server.token_secret}
    with account_kernel(tmp_path, MODAL_SERVER_URL=loopback_server.url, **token) as kernel:
        cell = kernel.run("%skyrl_modal --session paid --max-usd 1 echo on")
        assert cell.out == "on\n", cell.error
        assert any("$0.00/h (this account's rates)" in note for note in cell.notes), cell.notes
        kernel.run("%skyrl_stop paid")


def test_the_timeout_changes_while_the_session_runs(kernel: Kernel) -> None:
    kernel.run("%config SkyRLMagic.hard_timeout = '8h'")
    kernel.run("%skyrl_start --session lasting --idle-timeout 12h")
    assert kernel.run("%skyrl_modal echo on").notes == []
    cell = kernel.run("%skyrl_modal --timeout 4h echo longer")
    assert cell.out == "longer\n"
    assert [note for note in cell.notes if "--timeout 4h" in note] == cell.notes
    assert re.match(r"session lasting now ends in (4h|3h59m)", cell.notes[0])
    assert re.search(r"4h|3h59m", kernel.run("%skyrl_sessions").result)
    assert re.match(r"session lasting now ends in (2h|1h59m)", kernel.run("%skyrl_start --timeout 2h").notes[0])
    too_much = "--timeout 9h: the container of session lasting ends 8h after its start, in "
    assert too_much in kernel.run("%skyrl_start --timeout 9h").error[0]
    too_much = "--timeout 9h: the container ends 8h after its start at the latest (%config SkyRLMagic.hard_timeout)"
    assert kernel.run("%skyrl_start --session other --timeout 9h").error[0].endswith(too_much)
    kernel.run("%skyrl_modal sleep 1")  # it is older than that now
    assert "already: give more, or end it with %skyrl_stop lasting" in kernel.run("%skyrl_start --timeout 1s").error[0]
    kernel.run("%config SkyRLMagic.hard_timeout = '24h'")
    cell = kernel.run("%skyrl_start --session lasting --timeout 9h")
    assert "--timeout 9h: the container of session lasting ends 8h after its start, in 8h, whatever" in cell.error[0]
    kernel.run("%skyrl_stop lasting")
