"""The magics: parse the line, call a service, show what came of it."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import line_cell_magic, line_magic, magics_class, no_var_expand

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.expand import Evaluate
from skyrl_magic.core.imports import import_whole
from skyrl_magic.core.options import (
    ALL_SCOPES,
    LIVE,
    SESSION,
    START_SCOPES,
    TRAVEL_SCOPES,
    Given,
    Line,
    names_of,
    parse_line,
    without_comment,
)
from skyrl_magic.core.values import object_name
from skyrl_magic.ui.config import Settings

if TYPE_CHECKING:
    from skyrl_magic.ui.cells import Cells
    from skyrl_magic.ui.notebook import Services

_MODAL_HELP = "Run the cell, or the rest of the line, with bash in the session's container."
_PYTHON_HELP = "Run the cell, or the rest of the line, in the session's own Python kernel, which keeps its variables."
_RESTART_HELP = (
    "Restart the session's Python kernel: its variables go; the container, its files and Ray stay.\n"
    "With --ray start Ray again, and nothing else: the kernel and runs go on."
)
_PUSH_HELP = "Set variables of this notebook in the session's Python kernel, which is started where there is none."
_PULL_HELP = (
    "Set variables of the session's Python kernel in this notebook: all of them, or none where one cannot come."
)
_START_HELP = "Start a session before it is needed, or change what can change while it runs."
_SESSIONS_HELP = (
    "A table of your running sessions, of every app; * marks the current one, to which a cell without options goes.\n"
    "Where a price is known: what an hour costs in US dollars at the present use, and what was spent."
)
_USE_HELP = (
    "Make a session that runs this notebook's current one: cells without options go there from now on\n"
    "(docs/sessions.md)."
)
_STOP_HELP = (
    "Stop the current session, those of these names, or with --all every one of yours, of every app: runs end, the\n"
    "volume is committed, and the container is gone. The current one is the one that this notebook has named or\n"
    "started last; %skyrl_sessions marks it (docs/sessions.md)."
)
_PICKER_HELP = "Pick a session's resources with widgets: use them as the notebook's defaults, or start it now."


M = TypeVar("M", bound="SkyRLMagic")
T = TypeVar("T")


def _uncommented(magic: Callable[[M, str], T]) -> Callable[[M, str], T]:
    """A line magic without the comment of its line; a command's own comment is its shell's, or Python's."""

    @functools.wraps(magic)
    def run(self: M, line: str) -> T:
        return magic(self, without_comment(line))

    return run


@magics_class
class SkyRLMagic(Settings):
    """``%%skyrl_modal`` and its sister magics. The traits are the notebook's defaults (``%config SkyRLMagic``).

    Args:
        shell: the shell that the magics are registered in.
        make_services: builds the services; called by the first magic that needs them.
    """

    def __init__(self, shell: InteractiveShell, make_services: Callable[[], Services]) -> None:
        super().__init__(shell=shell)
        self._make_services = make_services
        self._cells: Cells | None = None

    @property
    def cells(self) -> Cells:
        """The notebook's use cases over the services (``ui.cells.Cells``), made when they are first needed."""
        if self._cells is None:
            import_whole("skyrl_magic.ui.cells")
            from skyrl_magic.ui.cells import Cells

            self._cells = Cells(self._make_services(), self.rules)
        return self._cells

    def close(self) -> None:
        """Close the channels; sessions and runs go on."""
        if self._cells is not None:
            self._cells.close()
            self._cells = None

    # --- for the picker and the completer -----------------------------------------------------------------------

    def session_names(self) -> list[str]:
        """The names of this notebook's sessions; asks nobody."""
        return [] if self._cells is None else self._cells.session_names()

    def run_ids(self) -> list[str]:
        """The ids of this notebook's runs, the newest first; asks nobody."""
        return [] if self._cells is None else [*reversed(self._cells.notebook.runs)]

    def current_given(self) -> Given:
        """The notebook's defaults."""
        return self.given()

    def use_defaults(self, given: Given) -> None:
        """Make ``given`` the notebook's defaults; the next cell without options takes them."""
        self.assign(given)
        self.session = given.session  # the picker always says whether there is a name
        if self._cells is not None:
            self._cells.notebook.config = Given()  # as if the next cell named all of it

    def ask_kernel(
        self, options: str, msg_type: str, content: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any] | None:
        """Ask the Python kernel that a cell's ``options`` mean; None without an answer. Raises SkyRLMagicError."""
        if self._cells is None:
            return None
        return self._cells.ask_kernel(
            parse_line(options).given, self.given(), _folder(), (msg_type, content, timeout_s)
        )

    def start_from_picker(self, line: str) -> str:
        """Start the session of the picker's options line and return the line that says so.

        The picker shows its limits, so those of ``%config`` do not bound them.
        """
        config = dataclasses.replace(self.given(), timeout_s=None, idle_timeout_s=None)
        return self.cells.start(parse_line(line, scopes=(SESSION, LIVE)).given, config, _folder())

    # --- magics -------------------------------------------------------------------------------------------------

    @no_var_expand
    @line_cell_magic
    def skyrl_modal(self, line: str, cell: str | None = None) -> Any:
        """Run the cell with bash in the session's container: ``%%skyrl_modal --gpu L4``; ``-h`` lists the options."""
        line = line if cell is None else without_comment(line)
        return self._run(parse_line(line, evaluate=self._evaluate(line)), cell, "%%skyrl_modal")

    @no_var_expand
    @line_cell_magic
    def skyrl_python(self, line: str, cell: str | None = None) -> Any:
        """Run the cell in the session's Python kernel: ``%%skyrl_python`` is ``%%skyrl_modal --python``."""
        line = line if cell is None else without_comment(line)
        parsed = parse_line(f"--python {line}", evaluate=self._evaluate(line))
        return self._run(parsed, cell, "%%skyrl_python")

    def _run(self, parsed: Line, cell: str | None, magic: str) -> Any:
        given = parsed.given
        if given.help:
            _say_help(magic, _PYTHON_HELP if given.python else _MODAL_HELP)
            return None
        _check_cell(parsed, cell, magic)
        if given.python and cell is not None and not cell.strip():
            return None  # as an empty cell of Python anywhere
        from skyrl_magic.service.command import check_command, names_interpreter, script_of, unix_lines

        command = unix_lines(parsed.rest if cell is None else cell)
        check_command(command, shell=not given.python)
        if not given.python and names_interpreter(command):
            if given.errexit:
                raise OptionError(
                    "--errexit is bash's, and the cell's first line (#!) names what executes it: #!/bin/bash -e"
                )
            command = script_of(command)
        if given.dry_run:
            _say(self.cells.describe(given, self.given(), _folder(), command))
            return None
        from skyrl_magic.ui.callers import calling_frame, value_is_used, variables_of
        from skyrl_magic.ui.front_end import fails_silently
        from skyrl_magic.ui.variables import of_cell

        frame = calling_frame()
        namespace = variables_of(frame, self._namespace())
        variables = of_cell(given, namespace)
        if not given.python and not names_interpreter(command):
            self._hint_at_braces(command, namespace, given.input or ())
        if given.bg:
            return self.cells.run_in_background(given, self.given(), _folder(), command, variables, self._assign)
        if cell is None and value_is_used(frame):
            variables = dataclasses.replace(variables, value=True)
        outcome = self.cells.run(given, self.given(), _folder(), command, variables)
        self._assign(outcome.variables)
        if outcome.error is not None and not (cell is not None and fails_silently(outcome.error)):
            raise outcome.error
        return outcome.value

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_start(self, line: str) -> None:
        """Start a session before it is needed: ``%skyrl_start --gpu A100:4``."""
        given = _options_alone("%skyrl_start", _START_HELP, line, self._evaluate(line))
        if given is not None:
            _check_uv(given)
            self.cells.start(given, self.given(), _folder())

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_restart(self, line: str) -> None:
        """Restart the session's Python kernel, or Ray: ``%skyrl_restart [--session NAME] [--uv OPTIONS|--ray]``."""
        given = _options_alone("%skyrl_restart", _RESTART_HELP, line, self._evaluate(line))
        if given is not None and given.ray:
            self.cells.restart_ray(given, self.given(), _folder())
        elif given is not None:
            self.cells.restart(given, self.given(), _folder())

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_push(self, line: str) -> None:
        """Set variables of this notebook in the session's Python kernel: ``%skyrl_push a,b``."""
        from skyrl_magic.ui.variables import names_and_options, of_push

        names, given = names_and_options("%skyrl_push", line, TRAVEL_SCOPES, self._evaluate(line))
        if given.help:
            _say_help("%skyrl_push a,b", _PUSH_HELP, scopes=TRAVEL_SCOPES)
            return
        self.cells.push(given, self.given(), _folder(), of_push(given, names, self._namespace()))

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_pull(self, line: str) -> None:
        """Set variables of the session's Python kernel in this notebook: ``%skyrl_pull c,d``."""
        from skyrl_magic.ui.variables import names_and_options, of_pull

        names, given = names_and_options("%skyrl_pull", line, TRAVEL_SCOPES, self._evaluate(line))
        if given.help:
            _say_help("%skyrl_pull c,d", _PULL_HELP, scopes=TRAVEL_SCOPES)
            return
        self._assign(self.cells.pull(given, self.given(), _folder(), of_pull(given, names)))

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_attach(self, line: str) -> None:
        """Go on with a run in this cell: ``%skyrl_attach [RUN] [--from start]``."""
        from skyrl_magic.ui.attach import ATTACH_HELP, read_attach

        asked = read_attach(line, self._evaluate(line))
        if asked.help:
            _say(ATTACH_HELP)
            return
        outcome = self.cells.attach(asked.run, self.given(), _folder(), from_start=asked.from_start)
        self._assign(outcome.variables)
        if outcome.error is not None:
            raise outcome.error

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_cancel(self, line: str) -> None:
        """Stop runs for good: ``%skyrl_cancel [RUN…]``, or all of a session with ``--session NAME``."""
        from skyrl_magic.ui.attach import CANCEL_HELP, read_cancel

        asked = read_cancel(line, self._evaluate(line))
        if asked.help:
            _say(CANCEL_HELP)
            return
        self.cells.cancel(asked.runs, asked.session, self.given(), _folder())

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_sessions(self, line: str) -> Any:
        """A table of your running sessions."""
        if _no_options("%skyrl_sessions", _SESSIONS_HELP, line):
            return None
        return self.cells.sessions_table(self.given(), _folder())

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_use(self, line: str) -> None:
        """Make a session that runs the current one: ``%skyrl_use NAME``."""
        if _asks_for_help(line):
            _say(f"usage: %skyrl_use NAME\n\n{_USE_HELP}")
            return
        names = self._words("%skyrl_use", line)
        if len(names) != 1:
            raise OptionError("%skyrl_use takes the name of one session: %skyrl_sessions shows yours")
        name = object_name("%skyrl_use", names[0])
        self.cells.use(name, self.given(), _folder())

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_stop(self, line: str) -> None:
        """Stop sessions: ``%skyrl_stop`` the current one, ``%skyrl_stop NAME…``, ``%skyrl_stop --all`` of every app."""
        if _asks_for_help(line):
            _say(f"usage: %skyrl_stop [NAME…|--all]\n\n{_STOP_HELP}")
            return
        self.cells.stop(self._words("%skyrl_stop", line), self.given(), _folder())

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_runs(self, line: str) -> Any:
        """A table of this notebook's runs, newest first: ``%skyrl_runs [--all] [--limit N] [--state STATE]``."""
        from skyrl_magic.ui.runs import USAGE, read_runs_line

        asked = read_runs_line(line, self._evaluate(line))
        if asked.help:
            _say(USAGE)
            return None
        return self.cells.runs_table(asked, self.given(), _folder())

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_logs(self, line: str) -> None:
        """Show, follow, search or save a run's output: ``%skyrl_logs [RUN] [--follow] [--tail N] [--grep RE]``."""
        self.cells.logs(line, self.given(), _folder(), self._evaluate(line))

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_trust(self, line: str) -> None:
        """Show what the project file would set, and accept it or not: ``%skyrl_trust [-y|--no]``."""
        from skyrl_magic.ui.trust import answer

        _say(answer(line, _folder()))

    @no_var_expand
    @line_magic
    @_uncommented
    def skyrl_picker(self, line: str) -> None:
        """Pick a session's resources with widgets."""
        if _no_options("%skyrl_picker", _PICKER_HELP, line):
            return
        from skyrl_magic.ui.picker import show_picker

        show_picker(self)

    def _evaluate(self, line: str) -> Evaluate | None:
        """What evaluates the expressions of a line in the variables of the code that has it; None without braces."""
        if "{" not in line:
            return None
        from skyrl_magic.ui.callers import calling_frame, variables_of
        from skyrl_magic.ui.expansion import Expansion

        return Expansion(variables_of(calling_frame(), self._namespace()))

    def _hint_at_braces(self, command: str, namespace: Mapping[str, Any], sent: Sequence[str]) -> None:
        from skyrl_magic.ui.display import note
        from skyrl_magic.ui.expansion import names_in_braces

        for name in names_in_braces(command, namespace, sent):
            text = f"{{{name}}} is text for the shell: with -i {name} the command finds the variable as ${name}"
            if self.cells.notebook.once(text):
                note(text)

    def _words(self, magic: str, line: str) -> list[str]:
        """The words of a line that has no options but names, also with commas between them. Raises OptionError."""
        return names_of(magic, line, self._evaluate(line), object_name)

    def _namespace(self) -> dict[str, Any]:
        return {} if self.shell is None else self.shell.user_ns

    def _assign(self, variables: dict[str, Any]) -> None:
        if self.shell is not None:
            self.shell.push(variables)


def _asks_for_help(line: str) -> bool:
    return not {"-h", "--help"}.isdisjoint(line.split())


def _options_alone(magic: str, summary: str, line: str, evaluate: Evaluate | None) -> Given | None:
    """The options of a magic that takes nothing else; None where its help was asked for, which is printed."""
    parsed = parse_line(line, scopes=START_SCOPES, evaluate=evaluate)
    if parsed.given.help:
        _say_help(magic, summary, scopes=START_SCOPES)
        return None
    if parsed.rest:
        raise OptionError(f"{parsed.rest.split()[0]!r} is no option of {magic}; -h lists them")
    return parsed.given


def _no_options(magic: str, summary: str, line: str) -> bool:
    """Whether the help of a magic without options was asked for; it is printed, and any other word refused."""
    if _asks_for_help(line):
        _say(f"usage: {magic}\n\n{summary}")
        return True
    if line.strip():
        raise OptionError(f"{magic} takes no options")
    return False


def _check_cell(parsed: Line, cell: str | None, magic: str) -> None:
    given = parsed.given
    if cell is not None and parsed.rest:
        word = parsed.rest.split()[0]
        raise OptionError(f"{word!r} is no option: the code of a {magic} cell goes below its first line")
    if given.out is not None and given.out == given.err:
        raise OptionError(f"--out and --err both name {given.out}: give each a variable of its own")
    if given.python and given.errexit:
        raise OptionError("--errexit is for shell cells: a Python cell ends at its first error")
    if given.bg and given.output:
        raise OptionError("-o needs the cell's end, and a --bg cell returns before: %skyrl_pull brings them later")
    _check_uv(given)


def _check_uv(given: Given) -> None:
    if given.uv is not None and not given.python:
        raise OptionError("--uv is for the Python kernel: add --python")


def _say_help(magic: str, summary: str, scopes: Iterable[str] = ALL_SCOPES) -> None:
    from skyrl_magic.core.option_help import help_text

    _say(help_text(magic, summary, scopes=scopes))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _folder() -> Path:
    """The notebook's folder: the current one, also when somebody has deleted it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.environ.get("PWD") or Path.home())
