"""The use cases on sessions that are ordinary processes; ``tests/kernel`` has them on containers in a notebook."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skyrl_magic.core.errors import (
    BackendUnavailable,
    CheckoutError,
    NotFound,
    OptionError,
    RunFailed,
    RunStopped,
    SessionConflict,
    SessionError,
    SessionLost,
    UnknownRun,
)
from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import Given
from skyrl_magic.service.runs import RunService
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.cells import Cells
from skyrl_magic.ui.notebook import Services
from skyrl_magic.ui.outcome import Outcome
from skyrl_magic.ui.progress import CellProgress
from skyrl_magic.ui.runs import read_runs_line
from skyrl_magic.ui.variables import Variables
from tests.unit.service.processes import DEADLINE_S, ProcessBackend

DEFAULTS = Given(gpu=NO_GPU, ray=False, repo="none")


class Book:
    """A notebook in a folder, with its defaults."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.cells = Cells(services)
        self.folder = folder
        self.config = DEFAULTS

    def run(self, command: str, **given: object) -> Outcome:
        return self.cells.run(Given(**given), self.config, self.folder, command)  # type: ignore[arg-type]

    @property
    def session(self) -> str:
        assert self.cells.notebook.current is not None
        return self.cells.notebook.current.name or ""


@pytest.fixture
def book(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    for name in ("MODAL_GPU", "MODAL_APP_NAME", "SKYRL_MAGIC_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    found = Book(services, tmp_path)
    yield found
    found.cells.close()


@pytest.fixture
def other_book(book: Book, backend: ProcessBackend, agent: Path) -> Iterator[Book]:
    """Another notebook, in a kernel of its own."""
    found = Book(Services(SessionService(lambda _: backend, lambda: agent), RunService(), lambda: "local"), book.folder)
    found.cells.notebook.key = "other"
    yield found
    found.cells.close()


# --- runs -------------------------------------------------------------------------------------------------------------


def test_the_first_cell_starts_a_session_and_says_so(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    assert book.run("echo hello; echo oops >&2") == Outcome()
    said = capsys.readouterr()
    assert said.out.startswith("volume skyrl-data is new\n")
    assert f"\nsession {book.session}: no GPU, volume skyrl-data (image " in said.out
    assert "local backend, no Modal account is set up" in said.out
    assert said.out.endswith("hello\n")
    assert said.err == "oops\n"
    assert book.run("echo again") == Outcome()
    assert capsys.readouterr().out == "again\n"


def test_captured_output_is_no_output(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = book.run("echo a; printf '\\xff' >&2", out="x", err="y")
    assert outcome == Outcome({"x": "a\n", "y": "�"})
    assert "a\n" not in capsys.readouterr().out.splitlines(keepends=True)


def test_a_failed_run_is_an_error_in_one_line(book: Book) -> None:
    error = book.run("exit 3", out="x").error
    assert isinstance(error, RunFailed)
    assert error.exit_code == 3
    assert error.run_id == book.cells.notebook.own_runs[0]
    assert str(error).startswith(f"run {error.run_id} failed: exit code 3 after ")
    assert "137 (SIGKILL)" in str(book.run("kill -9 $$").error)
    assert "exit code 200 after" in str(book.run("exit 200").error)


def test_or_a_line_only(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    assert book.run("exit 3", raise_error=False) == Outcome()
    assert "failed: exit code 3 after" in capsys.readouterr().out


def test_a_run_that_could_not_be_started_is_not_the_last_one(book: Book, tmp_path: Path) -> None:
    book.run("true")
    last = book.cells.notebook.own_runs[0]
    assert isinstance(book.run("true", repo=str(tmp_path / "nowhere")).error, CheckoutError)
    assert book.cells.notebook.own_runs[0] == last


def test_a_session_that_has_ended_is_started_again(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true")
    backend.made[0].terminate()
    capsys.readouterr()
    assert book.run("echo back") == Outcome()
    said = capsys.readouterr().out
    assert "an earlier session of this name had ended: it was killed (SIGKILL)\n" in said
    assert said.endswith("back\n")
    assert len(backend.made) == 2


def test_a_session_that_another_notebook_has_started_again_is_told_of(
    book: Book, other_book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="shared", gpu=Gpu("A100", 1))
    other_book.cells.stop(["shared"], DEFAULTS, book.folder)
    other_book.run("true", session="shared", gpu=Gpu("T4", 1))
    capsys.readouterr()
    assert book.run("echo there") == Outcome()
    said = capsys.readouterr().out
    assert "an earlier session of this name had ended: " in said
    is_new = "started elsewhere, with --gpu T4 instead of A100: its Python kernel is new"
    assert f"session shared is another one now, {is_new}\n" in said
    book.run("true", session="shared")
    assert "another one now" not in capsys.readouterr().out, "once"
    other_book.cells.stop(["shared"], DEFAULTS, book.folder)
    other_book.run("true", session="shared", gpu=Gpu("T4", 1))
    capsys.readouterr()
    book.cells.use("shared", DEFAULTS, book.folder)
    assert "session shared is another one now, started elsewhere: its" in capsys.readouterr().out
    other_book.cells.stop(["shared"], DEFAULTS, book.folder)
    other_book.run("true", session="shared", gpu=Gpu("T4", 1))
    capsys.readouterr()
    assert isinstance(book.run("true", session="shared", gpu=Gpu("A100", 1)).error, SessionConflict)


def test_a_run_that_ends_with_its_session_has_not_failed(book: Book, backend: ProcessBackend) -> None:
    book.run("true")
    error = book.run(f"kill -TERM {backend.made[0].process.pid}; sleep 300", raise_error=False).error
    assert isinstance(error, SessionLost)
    says = r"run \w+ ended after .*: the backend ended its container \(it was preempted, or stopped there\)"
    assert re.fullmatch(says, str(error))


def test_a_session_that_runs_has_the_hard_timeout_of_its_start(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="long", timeout_s=1800)
    book.config = replace(DEFAULTS, hard_timeout_s=3600)
    capsys.readouterr()
    assert book.run("true", timeout_s=7200) == Outcome()
    assert "session long now ends in " in capsys.readouterr().out
    error = book.run("true", session="new", timeout_s=7200).error
    assert isinstance(error, OptionError)
    assert str(error).startswith("--timeout 2h: the container ends 1h after its start at the latest")
    assert len(backend.made) == 1


def test_of_a_line_that_is_refused_no_limit_is_set(
    book: Book, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="s", usd_per_hour=0.5, timeout_s=7200)
    assert book.cells.notebook.current is not None
    session = services.sessions.get(*book.cells.notebook.current.place)
    assert session is not None
    before = session.ask_status()
    capsys.readouterr()
    assert isinstance(book.run("echo no", timeout_s=3600, idle_timeout_s=90, max_usd=1e-9).error, SessionError)
    after = session.ask_status()
    assert (after.timeout_s, after.idle_timeout_s, after.max_usd) == (7200.0, before.idle_timeout_s, before.max_usd)
    assert "now ends" not in capsys.readouterr().out
    assert book.run("true", timeout_s=3600, idle_timeout_s=90, max_usd=5.0) == Outcome()
    after = session.ask_status()
    assert (after.timeout_s, after.idle_timeout_s, after.max_usd) == (3600.0, 90.0, 5.0)
    said = capsys.readouterr().out
    assert re.search(r"session s now ends in .* \(--timeout 1h\)", said)
    assert re.search(r"session s now ends at \$5 \(--max-usd\): \$0\.\d+ is spent, at \$0\.50 an hour", said)


def test_a_session_that_is_started_again_names_the_timeout_that_it_keeps(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", timeout_s=7200)
    assert "(--timeout)" not in capsys.readouterr().out
    backend.made[0].terminate()
    book.run("true")
    assert ", ends after 2h (--timeout), volume" in capsys.readouterr().out


def test_an_interrupted_start_is_stopped_before_the_run(book: Book, backend: ProcessBackend) -> None:
    def press(_: str) -> None:
        raise KeyboardInterrupt

    backend.before = press
    error = book.run("echo never").error
    assert isinstance(error, RunStopped)
    assert "was starting; its creation is cancelled" in str(error)
    assert backend.made == []


def test_a_cell_whose_session_another_notebook_starts_meanwhile_says_what_it_got(
    book: Book, backend: ProcessBackend, services: Services, agent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Services(SessionService(lambda _: backend, lambda: agent), services.runs, services.auto_backend)

    def win(phase: str) -> None:
        if phase == "container":
            backend.before = lambda _: None
            Book(other, book.folder).run("true")

    backend.before = win
    assert book.run("echo hello") == Outcome()
    said = capsys.readouterr().out
    assert len(backend.made) == 1
    assert said.count(f"session {book.session}: no GPU, volume skyrl-data (image ") == 2
    other.close()


def set_ray(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let ``ray`` be a script; Ray itself is in tests/contract and tests/kernel."""
    (folder / "bin").mkdir()
    (folder / "bin" / "ray").write_text(f"#!/bin/bash\n{script}\n")
    (folder / "bin" / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")


def test_a_cell_waits_for_the_ray_of_a_session_that_runs_already(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_ray(monkeypatch, tmp_path, f"until [ -e {tmp_path}/go ] || [ $((i++)) = 3000 ]; do sleep 0.01; done")
    begin = CellProgress.begin
    presses = iter([True, False])

    def press(progress: CellProgress, phase: str) -> None:
        begin(progress, phase)
        if phase == "Ray":
            if next(presses):
                raise KeyboardInterrupt
            (tmp_path / "go").touch()

    monkeypatch.setattr(CellProgress, "begin", press)
    assert isinstance(book.run("true", ray=True).error, RunStopped)
    capsys.readouterr()
    assert book.run("echo hello", ray=True) == Outcome()
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"session \S+: no GPU, volume skyrl-data \(Ray [\d.]+s\)", said[0])
    assert said[-1] == "hello"


def test_ray_is_started_again_in_the_current_session_alone(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_ray(monkeypatch, tmp_path, "true")
    book.run("true", session="b", ray=True)
    book.run("true", session="a", ray=False)
    with pytest.raises(SessionError, match="session a was started with --no-ray"):
        book.cells.restart_ray(Given(ray=True), book.config, book.folder)


# --- which session ----------------------------------------------------------------------------------------------------


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What was shown since, of it the lines with any of these words."""
    return [line for line in capsys.readouterr().out.splitlines() if any(word in line for word in words)]


def test_a_cell_without_options_stays_where_the_last_one_was(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    book.run("true")
    first = book.session
    book.run("true", session="second")
    assert book.session == "second"
    running = f"now in session second; still running: {first} (%skyrl_stop NAME ends one)"
    assert lines(capsys, "now in") == [running]
    book.run("echo 2 > mark; pwd")
    book.run("cat mark", gpu=NO_GPU)
    assert book.session == "second"
    assert lines(capsys, "now in") == []
    book.run("true", session=first)
    assert book.run("cat mark").error is not None
    assert book.run("cat mark", session="second").error is None
    assert sorted(book.cells.session_names()) == sorted([first, "second"])


def test_a_contradiction_starts_another_session_and_the_line_says_which_option_did(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="mine")
    error = book.run("true", session="mine", volume="other").error
    assert isinstance(error, SessionConflict)
    assert len(str(error).splitlines()) == 1
    capsys.readouterr()
    assert book.run("true", volume="other") == Outcome()
    second = book.session
    says = f"--volume other is not session mine's skyrl-data: now in session {second}; "
    assert lines(capsys, "now in") == [f"{says}still running: mine (%skyrl_stop NAME ends one)"]
    assert book.run("true", volume="other", gpu=NO_GPU) == Outcome()
    assert [sandbox.request.spec.volume for sandbox in backend.made] == ["skyrl-data", "other"]
    book.run("true", volume="skyrl-data")
    assert book.session == "mine"
    assert len(backend.made) == 2


def test_a_changed_config_counts_as_if_the_next_cell_named_it(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="mine")
    book.config = replace(DEFAULTS, volume="other", idle_timeout_s=77)
    book.run("true")
    assert "%config SkyRLMagic.volume = other is not session mine's skyrl-data: now in" in capsys.readouterr().out
    assert len(backend.made) == 2
    book.run("true", session="mine")
    book.run("true")
    assert book.session == "mine", "the setting has not changed since"


def test_a_session_of_the_settings_that_runs_otherwise_is_left_alone(
    book: Book, services: Services, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Book(services, book.folder)
    other.run("true", session="train")
    book.config = replace(DEFAULTS, session="train")
    book.run("true", volume="other")
    assert book.session != "train"
    says = f"--volume other is not session train's skyrl-data: now in session {book.session}"
    assert lines(capsys, "now in") == [says]
    assert [sandbox.poll() is None for sandbox in backend.made] == [True, True]


def test_use_changes_the_current_session(book: Book, services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        book.run("true", session=name)
    capsys.readouterr()
    book.cells.use("one", DEFAULTS, book.folder)
    assert lines(capsys, "now in") == ["now in session one; still running: two (%skyrl_stop NAME ends one)"]
    assert book.run("true", gpu=NO_GPU) == Outcome()
    assert book.session == "one"
    with pytest.raises(NotFound, match="there is no session nosuch"):
        book.cells.use("nosuch", DEFAULTS, book.folder)
    assert book.session == "one"
    fresh = Book(services, book.folder)
    fresh.config = replace(DEFAULTS, session="two")
    fresh.cells.use("one", fresh.config, book.folder)
    fresh.run("true")
    assert fresh.session == "one", "the settings only say where a notebook begins"


def test_a_notebook_that_finds_a_running_session_hears_of_the_backend_too(
    book: Book, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true")
    capsys.readouterr()
    Book(services, book.folder).run("echo hello")
    assert capsys.readouterr().out == (
        "local backend, no Modal account is set up (`modal setup`): the container runs on this machine\nhello\n"
    )


def test_a_gpu_that_is_not_there_is_said_once(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        book.run("true", gpu=Gpu("L4", 1))
    assert capsys.readouterr().out.count("the local backend adds no GPU") == 1


def test_who_joins_a_session_hears_of_a_gpu_that_he_asked_for_only(
    book: Book, other_book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="mine", gpu=Gpu("L4", 1))
    capsys.readouterr()
    other_book.cells.use("mine", DEFAULTS, book.folder)
    other_book.run("true", session="mine")
    assert "adds no GPU" not in capsys.readouterr().out
    other_book.run("true", gpu=Gpu("L4", 1))
    assert "--gpu L4: the local backend adds no GPU" in capsys.readouterr().out


def test_the_idle_timeout_is_set_while_the_session_runs(book: Book, services: Services) -> None:
    book.run("true")
    book.run("true", idle_timeout_s=77)
    session = services.sessions.get("local", "my_skyrl_app", book.session)
    assert session is not None
    assert session.ask_status().idle_timeout_s == 77


def test_settings_change_no_limit_of_a_session_that_a_notebook_joins(
    book: Book, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="train", timeout_s=14400, idle_timeout_s=77)
    session = services.sessions.get("local", "my_skyrl_app", "train")
    assert session is not None
    again = Book(services, book.folder)  # its kernel after a restart
    again.config = replace(DEFAULTS, session="train", timeout_s=3600, idle_timeout_s=600)
    assert again.run("true") == Outcome()
    status = session.ask_status()
    assert (status.timeout_s, status.idle_timeout_s) == (14400, 77)
    again.config = replace(again.config, idle_timeout_s=99)
    assert again.run("true") == Outcome()
    status = session.ask_status()
    assert (status.timeout_s, status.idle_timeout_s) == (14400, 99), "only what was changed counts"
    again.config = replace(again.config, timeout_s=7200)
    capsys.readouterr()
    assert again.run("true") == Outcome()
    assert session.ask_status().timeout_s == 7200
    assert lines(capsys, "--timeout 2h") != []


def test_the_folders_checkout_is_brought_along(book: Book, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "clone"
    (root / "skyrl-gym").mkdir(parents=True)
    (root / "hello.txt").write_text("hello\n")
    book.folder, book.config = root, replace(DEFAULTS, repo=None)
    assert book.run("cat hello.txt") == Outcome()
    assert ", checkout clone (" in capsys.readouterr().out
    (root / "hello.txt").write_text("changed\n")
    book.run("cat hello.txt")
    assert capsys.readouterr().out == "changed\n"


def test_a_session_with_another_checkout_says_that_edits_do_not_go_there(
    book: Book, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for root in (theirs, mine):
        (root / "skyrl-gym").mkdir(parents=True)
        (root / "whose").write_text(root.name)
    book.config = replace(DEFAULTS, repo=None)
    book.folder = theirs
    book.run("true", session="c1")
    assert "are not sent" not in capsys.readouterr().out
    book.folder = mine
    says = "session c1 has the checkout theirs, and edits in mine are not sent there: choose another"
    says += " --session NAME for them"
    book.run("cat whose", session="c1")
    assert capsys.readouterr().out == f"{says}\ntheirs"
    book.run("cat whose")
    assert capsys.readouterr().out == "theirs"
    book.config = DEFAULTS
    book.run("true", session="bare")
    capsys.readouterr()
    book.config = replace(DEFAULTS, repo=None)
    book.run("true", session="bare")
    assert "session bare has no checkout, and edits in mine are not sent there" in capsys.readouterr().out


def test_the_project_files_session_is_used_where_nobody_says_another(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYRL_MAGIC_TRUST", str(tmp_path))
    (tmp_path / "pyproject.toml").write_text("[tool.skyrl-magic]\nsession = 'ours'\n")
    book.run("true")
    assert book.session == "ours"
    book.config = replace(DEFAULTS, session="mine")
    book.run("true")
    assert book.session == "mine"
    book.run("true", session="said")
    assert book.session == "said"


# --- which run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def next_kernel(book: Book, backend: ProcessBackend, agent: Path) -> Iterator[Callable[[], Book]]:
    """Ends the notebook's kernel and gives the next one of it."""
    made: list[Services] = []

    def begin() -> Book:
        book.cells.close()
        made.append(Services(SessionService(lambda _: backend, lambda: agent), RunService(), lambda: "local"))
        return Book(made[-1], book.folder)

    yield begin
    for services in made:
        services.close()


def test_a_run_that_was_shown_whole_is_no_news_to_the_next_kernel(
    book: Book, next_kernel: Callable[[], Book], capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("echo shown; echo too >&2")
    capsys.readouterr()
    again = next_kernel()
    again.run("true")
    assert "meanwhile" not in capsys.readouterr().out
    again.cells.attach("-2", DEFAULTS, book.folder, from_start=False)
    said = capsys.readouterr()
    assert (said.out.splitlines()[1], said.err) == ("shown", "too\n")
    assert "is over and was shown in this notebook before: here it is from its start" in said.out


def test_many_runs_that_ended_meanwhile_are_few_lines(
    book: Book, next_kernel: Callable[[], Book], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        arguments = (Given(), DEFAULTS, book.folder, f"echo {number}", Variables(), lambda _: None)
        book.cells.run_in_background(*arguments).wait(DEADLINE_S)
    capsys.readouterr()
    next_kernel().run("true")
    said = lines(capsys, "of this notebook")
    assert len(said) == 4
    assert all(" ended meanwhile (exit code 0): %skyrl_attach " in line for line in said[:3])
    assert said[3] == "and 2 runs of this notebook before it: %skyrl_runs lists them"


def test_the_table_of_runs_has_this_notebooks(book: Book, services: Services) -> None:
    other = Book(services, book.folder)
    other.cells.notebook.key = "other"
    other.run("echo theirs")
    assert repr(book.cells.runs_table(read_runs_line(""), DEFAULTS, book.folder)).splitlines() == [
        "this notebook has no runs",
        "1 run of your other notebooks: --all shows them too",
    ]
    for number in range(3):
        book.run(f"echo {number}")
    table = book.cells.runs_table(read_runs_line("--limit 2"), DEFAULTS, book.folder)
    commands = [row[table.columns.index("command")] for row in table.rows]
    assert commands == ["echo 2", "echo 1"]
    assert [table.caption[0], table.caption[-1]] == [
        "and 1 older run: --limit N shows more",
        "1 run of your other notebooks: --all shows them too",
    ]
    table = book.cells.runs_table(read_runs_line("--all"), DEFAULTS, book.folder)
    assert len(table.rows) == 4
    for wrong in ("--limit 0", "--limit all", "--limit -1", "--limit 9999999"):
        with pytest.raises(OptionError, match="give how many runs are shown, as in --limit 50"):
            read_runs_line(wrong)


def test_a_handle_says_as_of_when_it_is(book: Book) -> None:
    arguments = (Given(), DEFAULTS, book.folder, "sleep 300", Variables(), lambda _: None)
    handle = book.cells.run_in_background(*arguments)
    assert re.search(r": running · \S+ · as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d · %skyrl_attach", repr(handle))
    handle.cancel()
    handle.background.wait(DEADLINE_S)
    assert "as of" not in repr(handle)


# --- start, list, stop, dry run ---------------------------------------------------------------------------------------


def test_start_says_what_runs(book: Book) -> None:
    said = book.cells.start(Given(), DEFAULTS, book.folder)
    assert said.startswith(f"session {book.session}: no GPU")
    assert book.cells.start(Given(), DEFAULTS, book.folder) == f"session {book.session} is running"


def test_the_table_marks_the_current_session(book: Book) -> None:
    assert repr(book.cells.sessions_table(DEFAULTS, book.folder)) == "no sessions run on the local backend"
    book.run("true", session="one")
    book.run("true", session="two")
    table = book.cells.sessions_table(DEFAULTS, book.folder)
    assert sorted(row[0] for row in table.rows) == ["* two", "one"]
    assert all(
        row[table.columns.index("ends in")].endswith("s if idle")
        or row[table.columns.index("ends in")].endswith("m if idle")
        for row in table.rows
    )


def test_stop(book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two", "three"):
        book.run("true", session=name)
    book.cells.stop([], DEFAULTS, book.folder)
    book.cells.stop(["one", "one"], DEFAULTS, book.folder)
    assert [s.poll() is None for s in backend.made] == [False, True, False]
    book.cells.stop(["--all"], DEFAULTS, book.folder)
    book.cells.stop(["--all"], DEFAULTS, book.folder)
    stopped = [f"session {name} is stopped" for name in ("three", "one", "two")]
    assert lines(capsys, "stopped", "no session") == [*stopped, "no session was running"]
    with pytest.raises(NotFound):
        book.cells.stop(["one"], DEFAULTS, book.folder)
    with pytest.raises(OptionError, match=r"unknown option --al; did you mean --all\?"):
        book.cells.stop(["--al"], DEFAULTS, book.folder)
    with pytest.raises(OptionError, match="leave the names out"):
        book.cells.stop(["one", "--all"], DEFAULTS, book.folder)


def test_attach_without_a_run_never_means_an_older_one(book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    book.run("echo older", session="one")
    book.run("echo newer", session="two")
    newest = book.cells.notebook.own_runs[0]
    book.cells.stop([], book.config, book.folder)
    capsys.readouterr()
    for run in ("", "-1"):
        with pytest.raises(UnknownRun, match=f"run {newest} is over, and its session too: %skyrl_logs {newest} shows"):
            book.cells.attach(run, book.config, book.folder, from_start=False)
    assert "older" not in capsys.readouterr().out


def test_stop_without_a_name_ends_what_was_named_last_whatever_the_settings_say(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.config = replace(DEFAULTS, session="train")
    book.cells.run_in_background(Given(), book.config, book.folder, "sleep 300", Variables(), lambda _: None)
    book.run("true", session="scratch")
    table = book.cells.sessions_table(book.config, book.folder)
    assert sorted(row[0] for row in table.rows) == ["* scratch", "train"]
    capsys.readouterr()
    book.cells.stop([], book.config, book.folder)
    assert [s.poll() is None for s in backend.made] == [True, False]
    again = "still running: train (%skyrl_use NAME goes to one); a cell without options starts scratch again"
    assert capsys.readouterr().out.splitlines() == ["session scratch is stopped", again]
    book.cells.stop([], book.config, book.folder)
    assert capsys.readouterr().out.splitlines() == ["session scratch had ended before", again]
    assert backend.made[0].poll() is None, "a second stop does not reach for another one"


def test_a_second_stop_leaves_the_new_session_of_another_notebook(
    book: Book, other_book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="train")
    book.cells.stop([], DEFAULTS, book.folder)
    other_book.run("true", session="train")
    capsys.readouterr()
    book.cells.stop([], DEFAULTS, book.folder)
    another = "another one of this name runs, which %skyrl_stop train ends"
    assert capsys.readouterr().out == f"session train had ended before; {another}\n"
    assert backend.made[1].poll() is None
    book.cells.stop(["train"], DEFAULTS, book.folder)
    assert backend.made[1].poll() is not None


def test_stop_leaves_a_session_that_another_notebook_has_stopped_and_started_again(
    book: Book, other_book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="train")
    other_book.cells.stop(["train"], DEFAULTS, book.folder)
    other_book.run("true", session="train")
    capsys.readouterr()
    book.cells.stop([], DEFAULTS, book.folder)
    assert "session train had ended before; another one" in capsys.readouterr().out
    assert backend.made[1].poll() is None
    book.run("true", session="train")
    book.cells.stop([], DEFAULTS, book.folder)
    assert backend.made[1].poll() is not None, "it is this notebook's too now"


def test_a_session_of_two_notebooks_is_stopped_with_its_name_only(
    book: Book, other_book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    def go_on(who: Book, command: str) -> str:
        who.cells.run_in_background(Given(), DEFAULTS, book.folder, command, Variables(), lambda _: None)
        return who.cells.notebook.own_runs[0]

    mine = go_on(book, "sleep 300")
    capsys.readouterr()
    theirs = go_on(other_book, "sleep 301")
    name = book.session
    assert other_book.session == name
    said = capsys.readouterr().out
    assert f"session {name} runs already: other notebooks of yours use it too\n" in said
    assert f"run {mine} of another notebook goes on in this session" in said
    end = rf"of another notebook goes on in session {name}: %skyrl_stop {name} ends it all the same"
    for who, run in ((book, rf"{theirs} \(sleep 301\)"), (other_book, rf"{mine} \(sleep 300\)")):
        with pytest.raises(OptionError, match=f"^run {run} {end}$"):
            who.cells.stop([], DEFAULTS, book.folder)
    assert backend.made[0].poll() is None
    assert book.run("true") == Outcome()
    capsys.readouterr()
    book.cells.stop([name], DEFAULTS, book.folder)
    with_it = f"run {mine} (sleep 300), and of another notebook run {theirs} (sleep 301)"
    assert f"session {name} is stopped, and with it {with_it}\n" in capsys.readouterr().out


def test_stop_names_the_runs_that_end_with_a_session(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("sleep 300", f"sleep 301 # {'x' * 90}"):
        book.cells.run_in_background(Given(), DEFAULTS, book.folder, command, Variables(), lambda _: None)
    newest, first = book.cells.notebook.own_runs
    capsys.readouterr()
    book.cells.stop([], DEFAULTS, book.folder)
    runs = rf"{first} \(sleep 300\), {newest} \(sleep 301 # x+…\)"
    assert re.fullmatch(rf"session {book.session} is stopped, and with it runs {runs}\n", capsys.readouterr().out)
    assert backend.made[0].poll() is not None


def test_stop_ends_all_that_are_there_and_then_reports_the_others(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        book.run("true", session=name)
    with pytest.raises(NotFound, match=r"there is no session nosuch, neither: %skyrl_sessions lists them"):
        book.cells.stop(["nosuch", "one", "neither", "two"], DEFAULTS, book.folder)
    assert [s.poll() is None for s in backend.made] == [False, False]
    assert lines(capsys, "is stopped") == ["session one is stopped", "session two is stopped"]


def test_a_notebook_without_a_current_session_stops_none(
    book: Book, services: Services, backend: ProcessBackend
) -> None:
    book.run("true")
    fresh = Book(services, book.folder)
    with pytest.raises(NotFound, match=rf"is in no session yet: %skyrl_stop NAME ends one \({book.session}\)"):
        fresh.cells.stop([], DEFAULTS, book.folder)
    assert fresh.cells.sessions_table(DEFAULTS, book.folder).rows[0][0] == book.session
    assert backend.made[0].poll() is None


def test_sessions_of_another_app_are_listed_and_stopped(
    book: Book, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    book.run("true", session="first", app="other")
    book.run("true", session="second", app="third")
    book.run("true", session="here")
    table = book.cells.sessions_table(DEFAULTS, book.folder)
    assert table.columns[:2] == ("session", "app")
    assert {row[0]: row[1] for row in table.rows} == {"* here": "my_skyrl_app", "first": "other", "second": "third"}
    book.cells.stop(["first"], DEFAULTS, book.folder)
    assert [s.poll() is None for s in backend.made] == [False, True, True]
    assert "session first is stopped" in capsys.readouterr().out
    book.cells.stop(["--all"], DEFAULTS, book.folder)
    assert [s.poll() is None for s in backend.made] == [False, False, False]


def test_stop_all_goes_on_after_one_that_refuses(book: Book, backend: ProcessBackend) -> None:
    for name in ("one", "two"):
        book.run("true", session=name)

    def refuse() -> None:
        raise BackendUnavailable("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.made[0], "terminate", refuse)
        with pytest.raises(BackendUnavailable, match="no network"):
            book.cells.stop(["--all"], DEFAULTS, book.folder)
    assert backend.made[1].poll() is not None


def test_after_a_stop_the_next_cell_starts_the_session_again(book: Book, backend: ProcessBackend) -> None:
    for name in ("one", "two"):
        book.run("true", session=name)
    book.cells.stop([], DEFAULTS, book.folder)
    book.run("true")
    book.cells.stop(["--all"], DEFAULTS, book.folder)
    book.run("true")
    assert [s.request.name for s in backend.made] == ["one", "two", "two", "two"]


def test_a_dry_run_touches_nothing(book: Book, backend: ProcessBackend) -> None:
    said = book.cells.describe(
        Given(gpu=Gpu("A100", 4), timeout_s=7200, secrets=("hf",)), replace(DEFAULTS, timeout_s=3600), book.folder, "ls"
    )
    rows = dict(line.split(None, 1) for line in said.splitlines())
    assert (rows["gpu"], rows["timeout"], rows["secrets"], rows["command"]) == ("A100:4", "1h", "hf", "ls")
    assert (rows["workdir"], rows["env"]) == ("/root/SkyRL", "none")
    assert "note: --timeout 2h is bounded to 1h by your settings" in said
    assert backend.made == []
    assert book.cells.notebook.current is None


def test_a_dry_run_shows_the_runs_environment_and_folder(book: Book) -> None:
    for workdir, shown in (("examples/gsm8k", "/root/SkyRL/examples/gsm8k"), ("/tmp", "/tmp")):  # noqa: S108
        said = book.cells.describe(Given(env=(("A", "b c"), ("N", "1")), workdir=workdir), DEFAULTS, book.folder, "ls")
        rows = dict(line.split(None, 1) for line in said.splitlines())
        assert (rows["env"], rows["workdir"]) == ("A='b c' N=1", shown)


def test_closing_leaves_sessions(book: Book, backend: ProcessBackend) -> None:
    book.run("true")
    book.cells.close()
    assert backend.made[0].poll() is None
    for stream in backend.made[0].streams:
        assert stream.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("backend", [1], indirect=True)
def test_the_table_says_when_others_see_what_is_written_to_a_volume_of_version_1(book: Book) -> None:
    book.run("true")
    assert list(book.cells.sessions_table(DEFAULTS, book.folder).caption) == [
        "volume skyrl-data is version 1: Modal shows changes to others some seconds later, and at the session's end"
    ]
