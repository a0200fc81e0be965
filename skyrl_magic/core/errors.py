"""Every error that a user can meet, in one hierarchy.

::

    SkyRLMagicError
    ├── OptionError            a wrong option or value; raised before any I/O
    ├── BackendError           the cloud or the local server
    │   ├── BackendUnavailable     cannot be reached, or does not answer
    │   ├── AuthError              no token, or a refused one
    │   ├── NotFound               a sandbox, volume or secret that is not there
    │   ├── AlreadyExists          the name is taken
    │   └── NoCapacity             no machine of this kind is to be had now
    ├── SessionError           a session cannot be started, found or used
    │   ├── SessionConflict        the name belongs to another spec
    │   └── SessionLost            the container ended while it was used
    │       └── SessionUnreachable     or cannot be reached any more, and may well run
    ├── CheckoutError          the checkout cannot be found, read or sent
    ├── VariableError          a variable cannot be sent or brought back; none was assigned
    └── RunError               what a cell's command did
        ├── RunFailed              it ended with another exit code than 0
        ├── CellError              a Python cell raised; it shows itself as it did there
        ├── KernelDied             the Python kernel ended under its cell
        ├── RunStopped             the user stopped it; a KeyboardInterrupt too
        │   └── RunLeft                or stopped watching it, and it goes on
        └── UnknownRun             no run with this id

Each message is one line: what happened, and what to do next. Foreign errors are mapped in ``cloud/`` only. A notebook
shows the line and no traceback of ours (IPython asks for ``_render_traceback_``).
"""

from __future__ import annotations

from collections.abc import Iterable


class SkyRLMagicError(Exception):
    """Base of all errors that this package raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: one line."""
        return [f"\x1b[31m{type(self).__name__}\x1b[0m: {self}"]


def reason_of(error: Exception) -> str:
    """Why something failed, in plain words: of an operating system's error its text, without its number."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(text.splitlines()), type(error).__name__)


class OptionError(SkyRLMagicError):
    """A magic line or a setting is wrong; nothing was started."""


class BackendError(SkyRLMagicError):
    """The backend refused or failed."""


class BackendUnavailable(BackendError):
    """The backend cannot be reached, or does not answer."""


class AuthError(BackendError):
    """There is no token, or the backend refused it."""


class NotFound(BackendError):
    """The backend has no such sandbox, volume or secret."""


class TooLarge(BackendError):
    """A file on a volume has more bytes than were asked for."""


class AlreadyExists(BackendError):
    """The backend has one of that name already."""


class NoCapacity(BackendError):
    """The backend has no machine of this kind now, or gives none to this account."""


class SessionError(SkyRLMagicError):
    """A session cannot be started, found or used."""


class SessionConflict(SessionError):
    """A session of that name does not satisfy what is asked for, or is somebody else's."""

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why
        """The options that it contradicts; empty where it cannot be used at all."""


class SessionLost(SessionError):
    """The container ended while it was in use."""


class SessionUnreachable(SessionLost):
    """The container cannot be reached any more; it may well run."""


class CheckoutError(SkyRLMagicError):
    """The checkout cannot be found, read or sent."""


class VariableError(SkyRLMagicError):
    """A variable is missing, cannot be sent or loaded, or is too large; none was assigned."""


class RunError(SkyRLMagicError):
    """A cell's command did not end well."""


class RunFailed(RunError):
    """The command ended with another exit code than 0."""

    def __init__(self, message: str, exit_code: int, run_id: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.run_id = run_id


class CellError(RunError):
    """A Python cell raised. :meth:`named` makes one that has the original's name."""

    traceback: tuple[str, ...] = ()
    run_id = ""
    shown = False
    """What there is to see of it was shown among the cell's outputs."""

    @classmethod
    def named(cls, name: str, message: str, traceback: Iterable[str], run_id: str) -> CellError:
        """An error whose class has the remote one's name, so that a front end shows what it would show of that.

        Args:
            name: of the remote class; not trusted.
            message: the remote error's text.
            traceback: as the remote kernel rendered it, with its source lines.
            run_id: the run.
        """
        error: CellError = type(name.replace("\0", "") or cls.__name__, (cls,), {})(message)
        error.traceback, error.run_id = tuple(traceback), run_id
        return error

    def _render_traceback_(self) -> list[str]:
        """The remote traceback."""
        return list(self.traceback) or super()._render_traceback_()


class KernelDied(RunError):
    """The Python kernel ended while it ran the cell; its variables are gone."""


class RunStopped(RunError, KeyboardInterrupt):
    """The user stopped the run. As after any Stop, ``except Exception`` sees it and so does ``KeyboardInterrupt``."""


class RunLeft(RunStopped):
    """The user stopped watching the run, which goes on."""


class UnknownRun(RunError):
    """There is no run with this id."""
