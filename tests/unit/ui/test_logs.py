from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import OptionError, SessionLost, UnknownRun
from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.options import Given
from skyrl_magic.core.ports import ByteStream
from skyrl_magic.service.owners import asker, user_at_host
from skyrl_magic.service.run_list import known_runs
from skyrl_magic.service.runs import RunService
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.cells import Cells
from skyrl_magic.ui.logs import LOG_OPTIONS, USAGE
from skyrl_magic.ui.notebook import Services
from tests.unit.service.processes import ProcessBackend

DEFAULTS = Given(gpu=NO_GPU, ray=False, repo="none", backend="local")


@pytest.fixture
def cells(services: Services, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cells:
    """A notebook that has run one cell."""
    found = Cells(services)
    command = "for i in 1 2 3; do echo out $i; done; sleep 0.05; echo err >&2"
    assert found.run(Given(), DEFAULTS, tmp_path, command).error is None
    capsys.readouterr()
    return found


def show(cells: Cells, line: str) -> None:
    cells.logs(line, DEFAULTS, Path.cwd())


def run_id(cells: Cells) -> str:
    assert cells.notebook.own_runs[0] is not None
    return cells.notebook.own_runs[0]


@pytest.mark.parametrize(
    ("line", "out", "err"),
    [
        ("", "out 1\nout 2\nout 3\n", "err\n"),
        ("RUN", "out 1\nout 2\nout 3\n", "err\n"),
        ("  RUN  ", "out 1\nout 2\nout 3\n", "err\n"),
        ("--stderr", "", "err\n"),
        ("RUN --stdout", "out 1\nout 2\nout 3\n", ""),
        ("RUN\t--stdout", "out 1\nout 2\nout 3\n", ""),
        ("--stdout RUN", "out 1\nout 2\nout 3\n", ""),
        ("--tail 2 --stdout", "out 2\nout 3\n", ""),
        ("--tail=1 --stderr", "", "err\n"),
        ("--stdout --bytes 4:8", "1\nou", ""),
        ("--stdout --bytes 12:", "out 3\n", ""),
        ("--stdout --bytes :5", "out 1", ""),
    ],
)
def test_any_part_is_shown(cells: Cells, capsys: pytest.CaptureFixture[str], line: str, out: str, err: str) -> None:
    show(cells, line.replace("RUN", run_id(cells)))
    said = capsys.readouterr()
    assert (said.out, said.err) == (out, err)


def test_any_part_is_saved(cells: Cells, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log file"
    for options, text in [
        ("--stdout", "out 1\nout 2\nout 3\n"),
        ("", "out 1\nout 2\nout 3\nerr\n"),
        ("--tail 1", "out 3\nerr\n"),
    ]:
        show(cells, f"{options} --save '{path}'".strip())
        assert path.read_text() == text
        assert capsys.readouterr().out == f"{len(text)} B of run {run_id(cells)} are in {path}\n"


@pytest.mark.parametrize("options", ["", "--tail 1"])
@pytest.mark.parametrize(("place", "says"), [("nowhere/x", "there is no folder"), (".", "Is a directory")])
def test_where_nothing_can_be_saved(cells: Cells, tmp_path: Path, options: str, place: str, says: str) -> None:
    with pytest.raises(OptionError, match=f"--save .*{says}"):
        show(cells, f"{options} --save {tmp_path}/{place}".strip())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--tail none", "--tail none: give a number of lines"),
        ("--tail 0", "give a number of lines"),
        ("--bytes 5", "give FROM:TO"),
        ("--bytes -1:5", "give FROM:TO"),
        ("--bytes a:b", "give FROM:TO"),
        ("--tali 3", "did you mean --tail"),
        ("one two", "'two' is no option"),
        ("--stdout one two", "'two' is no option"),
        ("--grep (", "no regular expression"),
        ("--follow --save x", "--follow shows what comes"),
    ],
)
def test_wrong_lines(cells: Cells, line: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        show(cells, line)


def test_help(cells: Cells, capsys: pytest.CaptureFixture[str]) -> None:
    show(cells, "-h")
    assert capsys.readouterr().out == f"{USAGE}\n"
    assert all(option.flag in USAGE for option in LOG_OPTIONS if option.flag != "--help")


def test_runs_that_are_not_known(services: Services, cells: Cells, backend: ProcessBackend) -> None:
    with pytest.raises(UnknownRun, match=r"there is no run abc: %skyrl_runs lists them$"):
        show(cells, "abc")
    services.sessions.stop("local", "my_skyrl_app", backend.made[0].request.name)
    with pytest.raises(UnknownRun, match="there is no run abc: %skyrl_runs lists them"):
        show(cells, "abc")
    assert len(backend.made) == 1


def test_nothing_ran_in_the_session_yet(services: Services, tmp_path: Path) -> None:
    book = Cells(services)
    book.start(Given(), DEFAULTS, tmp_path)
    with pytest.raises(UnknownRun, match="this notebook has started no run"):
        show(book, "")


@pytest.fixture
def restarted(backend: ProcessBackend, agent: Path) -> Iterator[Cells]:
    """The notebook in another process: it has run nothing and has no session open."""
    services = Services(SessionService(lambda _: backend, lambda: agent), RunService(), lambda: "local")
    found = Cells(services)
    yield found
    found.close()


@pytest.mark.parametrize("line", ["", "RUN"])
def test_a_restarted_notebook_finds_its_runs(
    cells: Cells, restarted: Cells, backend: ProcessBackend, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(restarted, f"{line} --tail 1 --stdout".replace("RUN", run_id(cells)).strip())
    assert capsys.readouterr().out == "out 3\n"
    assert len(restarted.session_names()) == len(backend.made) == 1


def test_a_restarted_notebook_finds_its_last_run_in_whichever_session(
    cells: Cells, restarted: Cells, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells.run(Given(session="other", app="elsewhere"), DEFAULTS, tmp_path, "echo there")
    cells.start(Given(session="third"), DEFAULTS, tmp_path)
    capsys.readouterr()
    show(restarted, "")
    assert capsys.readouterr().out == "there\n"
    assert restarted.session_names() == ["other"]


@pytest.mark.parametrize("line", ["", "-1"])
def test_another_notebooks_run_is_not_meant_where_none_is_named(cells: Cells, restarted: Cells, line: str) -> None:
    restarted.notebook.key = "another"
    with pytest.raises(UnknownRun, match="this notebook has started no run: %skyrl_runs --all lists all runs"):
        show(restarted, line)
    with pytest.raises(UnknownRun, match="this notebook has started no run"):
        restarted.attach(line, DEFAULTS, Path.cwd(), from_start=False)
    assert restarted.session_names() == []
    show(restarted, run_id(cells))


def test_a_run_in_another_session_is_found_by_its_id(
    cells: Cells, restarted: Cells, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells.run(Given(session="other"), DEFAULTS, tmp_path, "echo there")
    cells.start(Given(session="third"), DEFAULTS, tmp_path)
    capsys.readouterr()
    show(restarted, run_id(cells))
    assert capsys.readouterr().out == "there\n"
    assert restarted.session_names() == ["other"]  # the others were looked into and left


def test_a_session_that_does_not_answer_is_named(cells: Cells, restarted: Cells, backend: ProcessBackend) -> None:
    sandbox = backend.made[0]

    def refuse(_: list[str]) -> ByteStream:
        raise SessionLost("no connection")

    sandbox.exec = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(UnknownRun, match=rf"session {sandbox.request.name} does not answer: .*no connection"):
        show(restarted, run_id(cells))


@pytest.mark.parametrize("backend", [1, 2], indirect=True)
@pytest.mark.parametrize("line", ["", "RUN", "PREFIX", "-1"])
def test_a_log_outlives_its_session(
    cells: Cells, restarted: Cells, backend: ProcessBackend, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cells.stop([], DEFAULTS, Path.cwd())
    name = backend.made[0].request.name
    for book in (cells, restarted):
        capsys.readouterr()
        show(book, line.replace("RUN", run_id(cells)).replace("PREFIX", run_id(cells)[:4]))
        said = capsys.readouterr()
        assert said.err == "err\n"
        note, *out = said.out.splitlines()[-4:]
        assert out == ["out 1", "out 2", "out 3"]
        assert note.startswith(f"run {run_id(cells)}: session {name} ended at ")
        assert note.endswith(f"(%skyrl_stop by {asker('local')} ended it); its log is on volume skyrl-data")
    assert len(backend.made) == 1


@pytest.mark.parametrize("whose", [user_at_host(), "anne (us-1)", "bob@far"])
def test_whose_a_run_on_the_volume_is(
    services: Services,
    cells: Cells,
    restarted: Cells,
    backend: ProcessBackend,
    whose: str,
) -> None:
    cells.stop([], DEFAULTS, Path.cwd())
    folder = backend.volume("skyrl-data").folder
    (catalog,) = (folder / protocol.CATALOGS).glob("*.json")
    assert json.loads(catalog.read_text())["owner"] == "ann (us-1)"
    catalog.write_text(json.dumps({**json.loads(catalog.read_text()), "owner": whose}))
    request = backend.made[0].request
    (run,) = known_runs(services.sessions, SessionRequest(request.spec, None, 600)).runs
    is_mine = whose != "bob@far"
    assert (run.run_id, run.mine) == (run_id(cells), is_mine)
    if is_mine:
        show(restarted, "-1")
    else:
        assert run.owner == "bob@far"
        with pytest.raises(UnknownRun):
            show(restarted, "-1")


def test_what_never_reached_the_volume_is_said(cells: Cells, backend: ProcessBackend) -> None:
    backend.made[0].terminate()
    with pytest.raises(UnknownRun, match=rf"nothing of run {run_id(cells)} is on volume skyrl-data"):
        show(cells, "")


@pytest.mark.parametrize(
    ("line", "out", "err"),
    [
        ("--grep 2$", "out 2\n", ""),
        ("--grep '[13]|err' --tail 2", "out 3\n", "err\n"),
        ("--grep . --stderr", "", "err\n"),
        ("--follow", "out 1\nout 2\nout 3\nENDED\n", "err\n"),
        ("--follow --tail 1", "out 3\nENDED\n", "err\n"),
        ("--follow --grep 'out 2'", "out 2\nENDED\n", ""),
    ],
)
def test_lines_that_match_and_a_log_that_is_over(
    cells: Cells, capsys: pytest.CaptureFixture[str], line: str, out: str, err: str
) -> None:
    show(cells, line)
    said = capsys.readouterr()
    text = re.sub(rf"run {run_id(cells)} has ended after [0-9.]+s: exit code 0", "ENDED", said.out)
    assert (text, said.err) == (out, err)


def test_no_line_that_matches(cells: Cells, capsys: pytest.CaptureFixture[str]) -> None:
    show(cells, "--grep nothing")
    assert capsys.readouterr().out == f"no line of run {run_id(cells)} has nothing\n"
