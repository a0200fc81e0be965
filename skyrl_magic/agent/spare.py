"""The shim of the next run, forked and made ready ahead of time: a cell must not wait for that."""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn, Optional

from skyrl_magic.agent import procs
from skyrl_magic.agent.shim import LENGTH, RunSpec, Shim, environment_of

#: The first byte from a shim: that it is ready, or the number of the error that keeps it from that.
_READY = 0
_READY_TIMEOUT_S = 10.0
_KILLED = errno.ESRCH


class Spare:
    """A shim that waits for its run, forked by this process, which must be single-threaded.

    What ``control`` is sent first is :meth:`RunSpec.to_bytes`; before that its folder becomes the run's.

    Args:
        folder: to be made, by the shim.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ready = False
        self.control, theirs = socket.socketpair()
        try:
            if os.fork() == 0:
                _child(theirs, folder)
        except OSError:
            self.control.close()
            raise
        finally:
            theirs.close()

    def wait(self) -> None:
        """Wait until it is ready. Raises ``OSError``: it cannot make its files, or somebody has killed it."""
        if not self._ready:
            self.control.settimeout(_READY_TIMEOUT_S)
            answer = self.control.recv(1) or bytes([_KILLED])
            self.control.setblocking(True)
            if answer[0] != _READY:
                raise OSError(answer[0], os.strerror(answer[0]))
            self._ready = True
        try:
            if not self.control.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                raise OSError(_KILLED, os.strerror(_KILLED))
        except BlockingIOError:
            pass

    def become(self, folder: Path) -> None:
        """Make its folder the run's. Raises ``OSError``."""
        self.folder.rename(folder)
        self.folder = folder

    def discard(self) -> None:
        """Let it go."""
        import shutil

        self.control.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _child(control: socket.socket, folder: Path) -> NoReturn:
    code = 1
    try:
        gc.disable()  # the supervisor's sockets must not be collected here: their numbers are in use again
        procs.default_signals()
        procs.close_all_but({control.fileno()})
        os.setsid()
        procs.become_subreaper()
        shim = _made(control, folder)
        _warm_up()
        spec = _receive(control)
        if spec is not None:
            shim.run(spec)
        code = 0
    except Exception:  # noqa: BLE001  (a forked child has nobody above it that could report)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _made(control: socket.socket, folder: Path) -> Shim:
    try:
        folder.mkdir(parents=True)
        shim = Shim(control, folder)
    except OSError as error:
        control.send(bytes([error.errno or errno.EIO]))
        os._exit(1)
    control.send(bytes([_READY]))
    return shim


def _warm_up() -> None:
    """Go the way to bash's start once, so that the run finds its pages copied from the supervisor's."""
    data = RunSpec("", "", "", {}, errexit=False).to_bytes()
    environment_of(RunSpec(**json.loads(data[LENGTH.size :])))


def _receive(control: socket.socket) -> Optional[RunSpec]:
    """The run that the supervisor sends, None when it has none and leaves."""
    head = control.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = bytearray()
    while len(data) < length:
        part = control.recv(length - len(data))
        if not part:
            return None
        data += part
    return RunSpec(**json.loads(data))
