"""Where the notebook shows what its sessions' Python kernels send, also outside of a running cell; and their widgets.

A widget that a remote cell makes lives in the front end under the remote comm's id. Here it has a stand-in, which hands
what the front end sends to that comm over to the session.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from IPython.core.getipython import get_ipython

from skyrl_magic.core.errors import BackendError, SessionError
from skyrl_magic.core.protocol import KernelMessage
from skyrl_magic.service.kernel import send_to_comm
from skyrl_magic.service.session import Session
from skyrl_magic.ui.cell_outputs import CellOutputs

#: Places that are remembered; what comes for an older one is not shown (the run's log has it).
_REMEMBERED = 1000
#: How long this kernel waits for a remote widget's callback; the session's kernel may be busy. In seconds.
ANSWER_TIMEOUT_S = 5.0


class RemoteOutputs:
    """The places of one notebook. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[str, CellOutputs] = OrderedDict()
        self._names = (f"comm-{number}" for number in itertools.count(1))
        self._comms: dict[str, _RemoteComm] = {}
        self._pending: dict[str, threading.Event] = {}

    def keep(self, name: str, place: CellOutputs) -> CellOutputs:
        """Remember the place of a run, or of the answers to a comm's message."""
        with self._lock:
            self._places[name] = place
            if len(self._places) > _REMEMBERED:
                self._places.popitem(last=False)
        return place

    def publish(self, session: Session, place: CellOutputs, message: KernelMessage) -> None:
        """Show a message of a run that is followed, in the cell's thread."""
        if message.msg_type == "comm_open":
            self._open(session, message.content)
        place.publish(message)

    def hear(self, session: Session, message: KernelMessage) -> None:
        """Show a message that came by itself; one of another notebook's run is not shown here."""
        if message.msg_type == "status":  # the kernel is done with what a widget was sent
            pending = self._pending.get(message.run_id)
            if pending is not None:
                pending.set()
            return
        with self._lock:
            place = self._places.get(message.run_id)
        if place is not None:
            if message.msg_type == "comm_open":
                self._open(session, message.content)
            place.send(message)

    def forget_comms(self, session: Session) -> None:
        """The session's kernel is gone, and its widgets with it."""
        for comm_id in [comm_id for comm_id, comm in self._comms.items() if comm.session is session]:
            comm = self._comms.pop(comm_id)
            with contextlib.suppress(KeyError):
                _comms().unregister_comm(comm)

    def _open(self, session: Session, content: Mapping[str, Any]) -> None:
        comm_id, target = content.get("comm_id"), content.get("target_name")
        known = getattr(_comms(), "comms", {})
        if not isinstance(comm_id, str) or not isinstance(target, str) or comm_id in known:
            return  # an id of this notebook's own widgets is never given away
        comm = self._comms[comm_id] = _RemoteComm(self, session, comm_id, target)
        _comms().register_comm(comm)

    def forward(self, comm: _RemoteComm, kind: str, message: Mapping[str, Any]) -> None:
        """Hand what the front end sent to the session; what comes back is shown where this would have shown it.

        It waits for that, as the front end forgets its message when this kernel is done with it: what came later for
        an Output widget would be lost.
        """
        name = next(self._names)
        self.keep(name, CellOutputs(message))
        done = self._pending[name] = threading.Event()
        buffers = [bytes(buffer) for buffer in message.get("buffers") or ()]
        try:
            with contextlib.suppress(SessionError, BackendError):  # the widget of a session that is gone does nothing
                send_to_comm(comm.session, name, kind, message["content"], buffers)
                done.wait(ANSWER_TIMEOUT_S)
        finally:
            del self._pending[name]


class _RemoteComm:
    """What the local comm manager knows of a remote comm."""

    def __init__(self, outputs: RemoteOutputs, session: Session, comm_id: str, target_name: str) -> None:
        self._outputs = outputs
        self.session = session
        self.comm_id = comm_id
        self.target_name = target_name

    def handle_msg(self, message: Mapping[str, Any]) -> None:
        """The front end wrote to the comm."""
        self._outputs.forward(self, "comm_msg", message)

    def handle_close(self, message: Mapping[str, Any]) -> None:
        """The front end closed it."""
        self._outputs.forward(self, "comm_close", message)


def _comms() -> Any:
    shell: Any = get_ipython()
    return shell.kernel.comm_manager
