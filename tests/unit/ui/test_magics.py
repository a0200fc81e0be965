from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from skyrl_magic.core.errors import OptionError, RunFailed, SkyRLMagicError
from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import Given
from skyrl_magic.ui.magics import SkyRLMagic
from skyrl_magic.ui.notebook import Services
from tests.unit.service.processes import ProcessBackend


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    """A shell with a profile of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", folder)
        found = InteractiveShell()
        yield found
        assert found.history_manager is not None
        found.history_manager.end_session()


class Made:
    """How often the services were asked for."""

    def __init__(self, services: Services) -> None:
        self._services, self.times = services, 0

    def __call__(self) -> Services:
        self.times += 1
        return self._services


@pytest.fixture
def made(services: Services) -> Made:
    return Made(services)


@pytest.fixture
def magics(
    shell: InteractiveShell, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SkyRLMagic]:
    """The magics over real services, in a folder without a checkout."""
    monkeypatch.chdir(tmp_path)
    found = SkyRLMagic(shell, made)
    found.assign(Given(gpu=NO_GPU, ray=False, repo="none", backend="local"))
    yield found
    found.close()


def magic(magics: SkyRLMagic, name: str, *arguments: str | None) -> Any:
    """Call a magic as IPython does."""
    return getattr(magics, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("skyrl_modal", ("--gpuu L4", "ls"), "did you mean --gpu"),
        ("skyrl_modal", ("nvidia-smi", "ls"), "'nvidia-smi' is no option: the code .* goes below"),
        ("skyrl_modal", ("", " \n"), "there is nothing to run"),
        ("skyrl_modal", ("",), "there is nothing to run"),
        ("skyrl_start", ("--out x",), "unknown option --out"),
        ("skyrl_start", ("ls",), "'ls' is no option of %skyrl_start"),
        ("skyrl_sessions", ("all",), "takes no options"),
        ("skyrl_picker", ("now",), "takes no options"),
        ("skyrl_use", ("",), "takes the name of one session"),
        ("skyrl_use", ("a b",), "takes the name of one session"),
        ("skyrl_use", ("--session a",), "takes the name of one session"),
        ("skyrl_use", ("--gpu",), "a name is 1 to 64 of"),
    ],
)
def test_a_wrong_line_is_refused_before_anything_is_made(
    magics: SkyRLMagic, made: Made, name: str, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        magic(magics, name, *arguments)
    assert made.times == 0


def test_help_is_printed_and_makes_nothing(magics: SkyRLMagic, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    for name, has, lacks in (
        ("skyrl_modal", "--errexit", "%skyrl_start"),
        ("skyrl_start", "--gpu", "--errexit"),
        ("skyrl_sessions", "usage: %skyrl_sessions\n", "--gpu"),
        ("skyrl_picker", "usage: %skyrl_picker\n", "--gpu"),
        ("skyrl_stop", "usage: %skyrl_stop [NAME…|--all]\n", "--gpu"),
        ("skyrl_use", "usage: %skyrl_use NAME\n", "--gpu"),
    ):
        magic(magics, name, "-h")
        said = capsys.readouterr().out
        assert has in said
        assert lacks not in said
    assert made.times == 0


def test_a_dry_run(magics: SkyRLMagic, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]) -> None:
    magic(magics, "skyrl_modal", "--dry-run --gpu T4 nvidia-smi -L")
    said = capsys.readouterr().out
    assert "gpu          T4\n" in said
    assert "command      nvidia-smi -L\n" in said
    assert backend.made == []


def test_captured_output_is_assigned_also_of_a_failed_run(magics: SkyRLMagic, shell: InteractiveShell) -> None:
    magic(magics, "skyrl_modal", "--out got --err oops", "echo a; echo b >&2")
    assert (shell.user_ns["got"], shell.user_ns["oops"]) == ("a\n", "b\n")
    with pytest.raises(RunFailed):
        magic(magics, "skyrl_modal", "--out got echo before; exit 3")
    assert shell.user_ns["got"] == "before\n"


def test_an_error_is_one_line_in_ipython(
    magics: SkyRLMagic, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.register_magics(magics)
    result = shell.run_cell("%%skyrl_modal\nexit 3")
    assert isinstance(result.error_in_exec, SkyRLMagicError)
    shown = [line for line in capsys.readouterr().out.splitlines() if "RunFailed" in line or "Traceback" in line]
    assert len(shown) == 1
    assert "exit code 3" in shown[0]


def test_names_of_variables_are_left_to_bash(
    magics: SkyRLMagic, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.register_magics(magics)
    shell.user_ns["x"] = "python"
    shell.run_cell("%skyrl_modal x=bash; echo \"$x {x}\" '{y}'")
    assert capsys.readouterr().out.endswith("bash {x} {y}\n")


def test_a_table_a_start_and_a_stop(magics: SkyRLMagic, backend: ProcessBackend) -> None:
    magic(magics, "skyrl_start", "--session mine")
    assert magics.session_names() == ["mine"]
    assert "mine" in repr(magic(magics, "skyrl_sessions", ""))
    magic(magics, "skyrl_stop", "mine")
    assert backend.made[0].poll() is not None
    assert magics.session_names() == []


def test_the_picker_sets_the_defaults_and_starts(magics: SkyRLMagic, backend: ProcessBackend) -> None:
    magic(magics, "skyrl_modal", "true")
    magics.use_defaults(Given(gpu=Gpu("T4", 1)))
    assert magics.current_given().gpu == Gpu("T4", 1)
    magic(magics, "skyrl_modal", "true")
    assert [str(sandbox.request.spec.gpu) for sandbox in backend.made] == ["none", "T4"]
    assert magics.start_from_picker("--session picked --gpu none").startswith("session picked: no GPU")


def test_closed_magics_begin_anew(magics: SkyRLMagic, made: Made) -> None:
    assert magics.session_names() == []
    first = magics.cells
    magics.close()
    magics.close()
    with contextlib.suppress(RuntimeError):  # its services are closed
        assert magics.cells is not first
    assert made.times == 2


def run_cells(shell: InteractiveShell, *cells: str) -> Any:
    """Run cells as a notebook does; the last one's value."""
    result = None
    for cell in cells:
        result = shell.run_cell(cell)
        result.raise_error()
    return None if result is None else result.result


def test_a_line_magic_gives_its_text_as_an_exclamation_mark_does(
    magics: SkyRLMagic, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.register_magics(magics)
    run_cells(shell, "x = %skyrl_modal echo a b; echo c; echo seen >&2", "y = !echo a b; echo c")
    assert type(shell.user_ns["x"]) is type(shell.user_ns["y"])
    assert shell.user_ns["x"] == shell.user_ns["y"] == ["a b", "c"]
    assert (shell.user_ns["x"].n, shell.user_ns["x"].s) == ("a b\nc", "a b c")
    said = capsys.readouterr()
    assert "a b" not in said.out
    assert "seen" in said.out + said.err


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("def f():\n    r = %skyrl_modal echo 1\n    return r\nf()", ["1"]),
        ("def f():\n    %skyrl_modal echo 1\nf()", None),
        ("f = lambda: get_ipython().run_line_magic('skyrl_modal', 'echo 2')\nf()", ["2"]),
        ("[get_ipython().run_line_magic('skyrl_modal', f'echo {i}').s for i in range(2)]", ["0", "1"]),
        ("a, b = %skyrl_modal echo 1; echo 2\n(b, a)", ("2", "1")),
        ("_ = %skyrl_modal true\n_", []),
        ("class A:\n    x = %skyrl_modal echo 3\nA.x", ["3"]),
        ("text = ['0']\ntext += get_ipython().run_line_magic('skyrl_modal', 'echo 4')\ntext", ["0", "4"]),
        ("x = %time %skyrl_modal echo 5\nx", ["5"]),
        ("x = %skyrl_modal --no-raise-error echo 6; exit 3\nx", ["6"]),
        ("x = %skyrl_modal --out y echo 7\nx + [y]", ["7", "7\n"]),
        ("%skyrl_modal echo 8", None),
        ("%time %skyrl_modal echo 9", None),
    ],
)
def test_what_a_line_magic_returns_is_its_value_where_that_is_used(
    magics: SkyRLMagic, shell: InteractiveShell, code: str, value: object
) -> None:
    shell.register_magics(magics)
    assert run_cells(shell, *code.rsplit("\n", 1)) == value


def test_a_failed_command_assigns_nothing(magics: SkyRLMagic, shell: InteractiveShell) -> None:
    shell.register_magics(magics)
    run_cells(shell, "x = 'before'")
    with pytest.raises(RunFailed):
        run_cells(shell, "x = %skyrl_modal echo part; exit 3")
    assert shell.user_ns["x"] == "before"


def test_variables_of_the_function_that_calls_travel(magics: SkyRLMagic, shell: InteractiveShell) -> None:
    shell.register_magics(magics)
    run_cells(shell, "n = 1", "def f(n):\n    r = %skyrl_modal -i n echo $n\n    return r.n")
    assert run_cells(shell, "f(5)") == "5"
    assert run_cells(shell, "x = %skyrl_modal -i n echo $n", "x.n") == "1"


def test_braces_in_options_are_python_and_those_of_a_command_are_text(
    magics: SkyRLMagic, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.register_magics(magics)
    run_cells(shell, "lr = 3e-4\nd = {'k': [1, 'two words']}")
    shown = "x = %skyrl_modal --env LR={lr:.0e} --env W={d['k'][1]} --env H=$HOME/{{lr}} echo \"$LR $W $H {lr}\""
    assert run_cells(shell, shown, "x.n") == "3e-04 two words $HOME/{lr} {lr}"
    hint = "{lr} is text for the shell: with -i lr the command finds the variable as $lr"
    assert capsys.readouterr().out.count(hint) == 1
    run_cells(shell, "%skyrl_modal echo {lr} {d} {nope} ${lr}", "%skyrl_modal -i lr echo {lr}")
    run_cells(shell, "n = 1", "%%skyrl_modal\n#!/usr/bin/env python3\nn = 2; print(f'{n}')")
    assert "text for the shell" not in capsys.readouterr().out
    assert run_cells(shell, "def f(a):\n    x = %skyrl_modal --env A={a + 1} echo $A\n    return x.n", "f(1)") == "2"
    with pytest.raises(OptionError, match=r"--env \{lx\}: there is no lx in this notebook; write \{\{lx\}\} for"):
        run_cells(shell, "%skyrl_modal --env LR={lx} true")
    with pytest.raises(OptionError, match=r"--env \{lr.x\} gives AttributeError: 'float' object"):
        run_cells(shell, "%skyrl_modal --env LR={lr.x} true")


def test_names_of_runs_and_sessions_can_come_from_variables(
    magics: SkyRLMagic, shell: InteractiveShell, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.register_magics(magics)
    run_cells(
        shell, "name = 'mine'", "%skyrl_start --session {name}", "run = %skyrl_modal --bg echo said", "run.wait()"
    )
    capsys.readouterr()
    run_cells(shell, "%skyrl_logs {run.id} --tail {1 + 0 * len(name)}")
    assert "said" in capsys.readouterr().out
    run_cells(shell, "%skyrl_attach {run.id} --from start", "%skyrl_cancel {run.id}", "%skyrl_stop {name}  # {nobody}")
    assert backend.made[0].poll() is not None


def test_a_comment_stops_no_session(
    magics: SkyRLMagic, shell: InteractiveShell, backend: ProcessBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.register_magics(magics)
    run_cells(shell, "%skyrl_start --session train # with nothing", "%skyrl_start --session scratch")
    run_cells(shell, "%skyrl_sessions  # mine", "%skyrl_stop scratch  # not train")
    assert [sandbox.poll() is None for sandbox in backend.made] == [True, False]
    assert "no session" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("#!/usr/bin/env python3\nimport os, sys\nprint(os.getcwd() == os.environ['HERE'], sys.stdin.read())", "True "),
        ("\n\n#!/bin/sh -e\nfalse\necho on", ""),
        ('#! /usr/bin/awk -f\nBEGIN { print "it\'s" }', "it's"),
        ("#!/bin/cat\nsome text", "#!/bin/cat\nsome text"),
    ],
)
def test_a_cell_runs_with_the_interpreter_of_its_first_line(
    magics: SkyRLMagic, shell: InteractiveShell, tmp_path: Path, cell: str, shown: str
) -> None:
    (tmp_path / "here").mkdir()
    options = f"--no-raise-error --out got --workdir {tmp_path}/here --env HERE={tmp_path}/here"
    magic(magics, "skyrl_modal", options, cell)
    assert shell.user_ns["got"].strip() == shown.strip()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "#!/usr/bin/no-such",
            "there is no /usr/bin/no-such in the container, .*: #!/usr/bin/env no-such looks",
        ),
        ("#!/etc/hosts", "/etc/hosts, which the cell's first line names, cannot run it: "),
        ("#!", "names no interpreter"),
        ("#!/usr/bin/env no-such", "no-such.*: No such file"),
    ],
)
def test_an_interpreter_that_is_not_there_is_a_line(
    magics: SkyRLMagic, shell: InteractiveShell, line: str, says: str
) -> None:
    with pytest.raises(RunFailed, match="exit code 127"):
        magic(magics, "skyrl_modal", "--err oops", f"{line}\ntrue\n")
    assert re.search(says, shell.user_ns["oops"])


def test_errexit_is_bashs(magics: SkyRLMagic, made: Made) -> None:
    with pytest.raises(OptionError, match="--errexit is bash's"):
        magic(magics, "skyrl_modal", "--errexit", "#!/bin/sh\ntrue")
    assert made.times == 0


@pytest.mark.parametrize(
    ("value", "heard"),
    [
        ("text é\n", "text é\n".encode()),
        (b"\0\xff\r\n", b"\0\xff\r\n"),
        (["a", "b c"], b"a\nb c\n"),
        ([], b""),
        ("", b""),
        ("line\n" * 700_000, b"line\n" * 700_000),
    ],
)
def test_stdin_of_a_shell_cell(magics: SkyRLMagic, shell: InteractiveShell, value: object, heard: bytes) -> None:
    shell.user_ns["fed"] = value
    magic(magics, "skyrl_modal", "--stdin fed --out got", "sha256sum")
    assert shell.user_ns["got"].split()[0] == hashlib.sha256(heard).hexdigest()


def test_stdin_in_every_kind_of_shell_run(magics: SkyRLMagic, shell: InteractiveShell) -> None:
    shell.register_magics(magics)
    lines = ["one", "two"]
    shell.user_ns["lines"] = lines
    assert run_cells(shell, "x = %skyrl_modal --stdin lines tac", "x") == lines[::-1]
    assert run_cells(shell, "x = %skyrl_modal cat", "x") == []
    run_cells(shell, "run = %skyrl_modal --bg --out got --stdin lines read a; echo $a", "run.wait()")
    assert shell.user_ns["got"] == "one\n"
    magic(magics, "skyrl_modal", "--out got --stdin lines", "#!/usr/bin/env python3\nprint(input(), input())")
    assert shell.user_ns["got"] == "one two\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--python --stdin lines", "--stdin is for shell cells: -i lines"),
        ("--stdin number", "--stdin number is of type int: give text, bytes, or a list of lines"),
        ("--stdin mixed", "--stdin mixed is of type list"),
        ("--stdin nope", "there is no variable nope here"),
        ("--stdin lines --max-bytes 3", "--stdin lines has 8 bytes, over the 3 bytes of --max-bytes"),
    ],
)
def test_what_cannot_be_stdin_is_told_before_anything_runs(
    magics: SkyRLMagic, shell: InteractiveShell, made: Made, options: str, says: str
) -> None:
    shell.user_ns.update(lines=["one", "two"], number=1, mixed=["a", 1])
    with pytest.raises(SkyRLMagicError, match=says):
        magic(magics, "skyrl_modal", options, "cat")
    assert made.times == 0
