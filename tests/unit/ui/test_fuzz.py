"""Any magic line through IPython, the real parser and the magics: no traceback, no container for a wrong line."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from skyrl_magic.core.errors import BackendUnavailable, CheckoutError, OptionError, SkyRLMagicError
from skyrl_magic.core.options import OPTIONS
from skyrl_magic.service.runs import RunService
from skyrl_magic.service.sessions import SessionService
from skyrl_magic.ui.magics import SkyRLMagic
from skyrl_magic.ui.notebook import Services
from tests.unit.service.processes import ProcessBackend

#: The same lines in every run of the suite.
FUZZ = settings(derandomize=True, deadline=None, max_examples=250)

FLAGS = [name for option in OPTIONS for name in (option.flag, option.short) if name]
GOOD = ["L4", "A100:4", "none", "3600", "30m", "4h", "8", "32GiB", "local", "name-1", "K=V", "'a b'", "var", "0.5"]
BAD = [
    "L5",
    "A100:0",
    "0",
    "25h",
    "-1",
    "a/b",
    "1a",
    "HF_TOKEN=x",
    "K",
    "'open",
    '"open',
    "\\",
    "\0",
    "~nobody/x",
    "=",
    "",
]
BLANK = st.sampled_from([" ", "  ", "\t", ""])
# IPython's own: a question mark asks for help, and whatever ends a line for ``splitlines`` ends it.
_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=f"?{_ENDS}"), max_size=12)
WORD = st.one_of(st.sampled_from(FLAGS), st.sampled_from(GOOD), st.sampled_from(BAD), PLAIN)
FLAG_WORD = st.builds(lambda flag, value: f"{flag}={value}", st.sampled_from(FLAGS), st.sampled_from(GOOD + BAD))
LINE = st.lists(st.one_of(WORD, FLAG_WORD), max_size=8).map(" ".join)
BODY = st.one_of(st.sampled_from(["ls", " \n", "echo 'open", "a\0b"]), st.text(max_size=30))
LINE_MAGICS = [
    "skyrl_modal",
    "skyrl_start",
    "skyrl_stop",
    "skyrl_use",
    "skyrl_sessions",
    "skyrl_logs",
    "skyrl_attach",
    "skyrl_cancel",
]


class NoContainers(ProcessBackend):
    """A backend that counts what it is asked to start, and starts nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked = 0
        self.before = self._refuse

    def _refuse(self, phase: str) -> None:
        self.asked += 1
        raise BackendUnavailable(f"no {phase} today; run the cell again")


class Bench:
    """A shell with the magics over that backend."""

    def __init__(self, shell: InteractiveShell, backend: NoContainers, agent: Path) -> None:
        self.shell, self.backend = shell, backend
        services = Services(SessionService(lambda _: backend, lambda: agent), RunService(), lambda: "local")
        self.magics = SkyRLMagic(shell, lambda: services)
        shell.register_magics(self.magics)

    def error(self, code: str) -> BaseException | None:
        """What the cell ends with."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = self.shell.run_cell(code)
        error: BaseException | None = result.error_before_exec or result.error_in_exec
        return error


@pytest.fixture(scope="module")
def bench(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", folder)
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        shell = InteractiveShell()
        found = Bench(shell, NoContainers(Path(folder)), agent)
        yield found
        found.magics.close()
        assert shell.history_manager is not None
        shell.history_manager.end_session()


def check(bench: Bench, code: str) -> None:
    before = bench.backend.asked
    error = bench.error(code)
    if error is None or isinstance(error, UsageError):  # the latter is IPython's, one line too
        assert bench.backend.asked == before
        return
    assert isinstance(error, SkyRLMagicError), repr(error)
    assert len(str(error).splitlines()) == 1
    if isinstance(error, (OptionError, CheckoutError)):
        assert bench.backend.asked == before


@FUZZ
@given(st.sampled_from(LINE_MAGICS), BLANK, LINE)
@example("skyrl_modal", " ", "--repo \0 ls")
@example("skyrl_modal", " ", "--image \0 ls")
@example("skyrl_stop", " ", "\0")
@example("skyrl_logs", " ", "--save \0")
@example("skyrl_attach", " ", "\0")
@example("skyrl_cancel", " ", "-1 \0")
@example("skyrl_modal", " ", "--workdir \0 ls")
def test_any_line_is_answered_in_one_line(bench: Bench, magic: str, blank: str, line: str) -> None:
    check(bench, f"%{magic} {blank}{line}")


@FUZZ
@given(LINE, BODY)
def test_any_cell_is_answered_in_one_line(bench: Bench, line: str, body: str) -> None:
    check(bench, f"%%skyrl_modal {line}\n{body}")


WRONG = st.one_of(
    st.builds(lambda word: f"--{word}x", st.text("abcdefgh-", min_size=1, max_size=8)),
    st.sampled_from(FLAGS)
    .filter(lambda flag: flag.startswith("--") and len(flag) > len("--cpu"))
    .map(lambda f: f[:-1]),
    st.sampled_from(["--gpu L5", "--gpu A100:0", "--timeout 0", "--timeout 25h", "--idle-timeout x", "--cpu 0"]),
    st.sampled_from(["--memory 1", "--env HF_TOKEN=x", "--env K", "--out 1a", "--backend cloud", "--session a/b"]),
    st.sampled_from(["--env 'K=open", '--image "open', "--dry-run=yes", "--volume ''", "--secret"]),
)
RIGHT = st.lists(st.sampled_from(["--ray", "--errexit", "--env K=V", "--secret name", "--no-raise-error"]), max_size=3)


@FUZZ
@given(RIGHT, WRONG)
def test_a_wrong_option_anywhere_among_right_ones_starts_nothing(bench: Bench, right: list[str], wrong: str) -> None:
    before = bench.backend.asked
    line = " ".join([*right, wrong])
    for code in (f"%%skyrl_modal {line}\nls", f"%skyrl_start {line}"):
        assert isinstance(bench.error(code), OptionError), line
    assert bench.backend.asked == before


def test_a_right_line_reaches_the_backend(bench: Bench) -> None:
    before = bench.backend.asked
    assert isinstance(bench.error("%%skyrl_modal --gpu none\nls"), BackendUnavailable)
    assert bench.backend.asked == before + 1
