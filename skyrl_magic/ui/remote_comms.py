"""The comms of sessions' kernels in this notebook: their widgets live in the front end under the remote comm's id.

Each has a stand-in among this kernel's comms, which hands what the front end sends to the session. A page that was
loaded anew asks this kernel for all widgets over a comm of its own (``jupyter.widget.control``, in jupyter-widgets'
``ManagerBase._loadFromKernel``), and takes its one answer for all there are: the sessions' widgets are added to it. Any
other comm that a front end opens, and for which there is no target here, is for the session of the last Python cell.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from IPython.core.getipython import get_ipython

from skyrl_magic.core.display_merge import COMM_TYPES
from skyrl_magic.core.errors import BackendError, SessionError
from skyrl_magic.core.protocol import KernelMessage, ProtocolError, pack_buffers, unpack_buffers
from skyrl_magic.service.kernel import send_to_comm
from skyrl_magic.service.session import Session
from skyrl_magic.ui.cell_outputs import CellOutputs

#: How long this kernel waits for a remote widget's callback; the session's kernel may be busy. In seconds.
ANSWER_TIMEOUT_S = 5.0
#: The same for the states of all widgets. The front end waits 4 s for them, then it asks each widget.
STATES_TIMEOUT_S = 3.0
_WIDGET, _CONTROL = "jupyter.widget", "jupyter.widget.control"
_CONTROL_VERSION = "1.0.0"

#: The data and the buffers of the answer to a page that was loaded anew.
States = tuple[dict[str, Any], list[bytes]]


class _Answer:
    """What the session's kernel does with one message to a comm."""

    def __init__(self, session: Session) -> None:
        self.session = session
        """The one that may answer."""
        self.done = threading.Event()
        self.message: KernelMessage | None = None
        """The last one that it sent."""


class RemoteComms:
    """The comms of one notebook's sessions. Its methods may be called from any thread.

    Args:
        keep: remembers, by a name, where the answers to a front end's message are shown.
    """

    def __init__(self, keep: Callable[[Session, str, CellOutputs], object]) -> None:
        self._keep = keep
        self._names = (f"comm-{number}" for number in itertools.count(1))
        self._comms: dict[str, _RemoteComm] = {}
        self._pending: dict[str, _Answer] = {}
        self._busy: set[Session] = set()
        """Sessions that have not answered in time: nobody waits for them until they are heard again."""
        self._comm_open: Callable[..., Any] | None = None
        self._newest: Session | None = None
        """Where the last Python cell ran."""

    def use(self, session: Session) -> None:
        """A Python cell runs in the session."""
        self._newest = session
        # Every comm that the front end opens is heard of: whoever imports ipywidgets takes its targets anew.
        if self._comm_open is None:
            self._comm_open = _handlers()["comm_open"]
            _handlers()["comm_open"] = self._opened

    def hear(self, session: Session, message: KernelMessage) -> None:
        """Note a message that a session's kernel sent by itself."""
        answer = self._pending.get(message.run_id)
        if answer is not None and answer.session.name != session.name:
            answer = None
        if message.msg_type != "status":
            if answer is not None:
                answer.message = message
            return
        self._busy.discard(session)
        if answer is not None:
            answer.done.set()

    def follow(self, session: Session, message: KernelMessage) -> bool:
        """A message is about to be shown: a comm begins or ends with some.

        False where it must not be: its comm is one of this notebook's own kernel, or of another session.
        """
        if message.msg_type not in COMM_TYPES:
            return True
        comm_id, target = message.content.get("comm_id"), message.content.get("target_name")
        if not isinstance(comm_id, str):
            return False
        known = self._comms.get(comm_id)
        if comm_id in _manager().comms if known is None else known.session.name != session.name:
            return False
        if message.msg_type == "comm_open" and isinstance(target, str) and known is None:
            self._add(session, comm_id, target)
        elif message.msg_type == "comm_close":
            self.drop(comm_id)
        return True

    def _add(self, session: Session, comm_id: str, target: str) -> _RemoteComm:
        comm = self._comms[comm_id] = _RemoteComm(self, session, comm_id, target)
        _manager().register_comm(comm)
        return comm

    def drop(self, comm_id: str) -> None:
        """The comm is no more."""
        comm = self._comms.pop(comm_id, None)
        if comm is not None:
            with contextlib.suppress(KeyError):  # where the front end closed it, it is gone from there
                _manager().unregister_comm(comm)

    def forget(self, session: Session) -> None:
        """The session's kernel is gone, and its comms with it."""
        for comm_id in self._of(session):
            self.drop(comm_id)

    def forward(self, comm: _RemoteComm, kind: str, message: Mapping[str, Any]) -> None:
        """Hand what the front end sent to the session; what comes back is shown where this would have shown it.

        It waits for that, as the front end forgets its message when this kernel is done with it: what came later for
        an Output widget would be lost.
        """
        name = next(self._names)
        self._keep(comm.session, name, CellOutputs(message))
        sizes, payload = pack_buffers(message.get("buffers") or ())
        timeout_s = 0.0 if comm.session in self._busy else ANSWER_TIMEOUT_S
        # The widget of a session that is gone does nothing.
        with contextlib.suppress(SessionError, BackendError), self._answer_to(name, comm.session) as answer:
            content, metadata = dict(message["content"]), dict(message.get("metadata") or {})
            send_to_comm(comm.session, KernelMessage(name, 0, kind, content, metadata, sizes, payload))
            if not answer.done.wait(timeout_s):
                self._busy.add(comm.session)

    def close(self) -> None:
        """Leave the notebook's kernel as it was."""
        for comm_id in list(self._comms):
            self.drop(comm_id)
        if self._comm_open is not None:
            _handlers()["comm_open"], self._comm_open = self._comm_open, None

    @contextlib.contextmanager
    def _answer_to(self, name: str, session: Session) -> Any:
        answer = self._pending[name] = _Answer(session)
        try:
            yield answer
        finally:
            del self._pending[name]

    def _of(self, session: Session) -> list[str]:
        return [comm_id for comm_id, comm in list(self._comms.items()) if comm.session is session]

    # --- what the front end opens -----------------------------------------------------------------------------------

    def _opened(self, stream: Any, ident: Any, message: Mapping[str, Any]) -> None:
        target, targets = message["content"].get("target_name"), _manager().targets
        own = targets.get(target)
        if self._comm_open is None:
            return
        if target == _CONTROL and self._comms:
            targets[target] = lambda comm, message: self._open_control(own, comm, message)
            try:
                self._comm_open(stream, ident, message)
            finally:
                del targets[target]
                if own is not None:
                    targets[target] = own
        elif own is None and target != _CONTROL and self._newest is not None and self._newest.channel.alive:
            self.forward(self._add(self._newest, message["content"]["comm_id"], target), "comm_open", message)
        else:
            self._comm_open(stream, ident, message)

    # --- a page that was loaded anew --------------------------------------------------------------------------------

    def _open_control(self, own: Callable[..., Any] | None, comm: Any, message: Mapping[str, Any]) -> None:
        control = _Control(comm, self._with_remote)
        if own is not None:
            own(control, message)
        else:  # ipywidgets is not imported here: there are no local widgets
            control.on_msg(lambda _: control.send({"method": "update_states", "states": {}, "buffer_paths": []}))

    def _with_remote(self, data: dict[str, Any], buffers: Sequence[Any]) -> States | None:
        """The answer with the sessions' widgets; None where one of the sessions does not answer."""
        states, paths, all_buffers = dict(data["states"]), list(data["buffer_paths"]), list(buffers)
        for session in {comm.session for comm in list(self._comms.values()) if comm.target_name == _WIDGET}:
            mine = set(self._of(session))
            found = None
            with contextlib.suppress(SessionError, BackendError):
                found = self._states(session)
            if not session.channel.alive:
                self.forget(session)
                continue
            if found is None:
                return None
            theirs, their_buffers = found
            states |= {comm_id: state for comm_id, state in theirs["states"].items() if comm_id in mine}
            for path, buffer in zip(theirs["buffer_paths"], their_buffers, strict=False):
                if isinstance(path, list) and path and isinstance(path[0], str) and path[0] in mine:
                    paths.append(path)
                    all_buffers.append(buffer)
            for comm_id in mine - set(theirs["states"]):  # of a kernel that has ended
                if self._comms[comm_id].target_name == _WIDGET:
                    self.drop(comm_id)
        return {**data, "states": states, "buffer_paths": paths}, all_buffers

    def _states(self, session: Session) -> States | None:
        """All widgets of a session's kernel; None where it does not answer. Raises SessionError."""
        name, comm_id = next(self._names), uuid.uuid4().hex
        opening = {"comm_id": comm_id, "target_name": _CONTROL, "data": {}}
        request = {"comm_id": comm_id, "data": {"method": "request_states"}}
        closing = {"comm_id": comm_id, "data": {}}
        with self._answer_to(name, session) as answer:
            send_to_comm(session, KernelMessage("", 0, "comm_open", opening, {"version": _CONTROL_VERSION}))
            send_to_comm(session, KernelMessage(name, 0, "comm_msg", request))
            if not answer.done.wait(STATES_TIMEOUT_S):
                return None
        send_to_comm(session, KernelMessage("", 0, "comm_close", closing))
        data = answer.message.content.get("data") if answer.message is not None else None
        if answer.message is None or not isinstance(data, dict):
            return {"states": {}, "buffer_paths": []}, []  # a new kernel, without widgets
        whole = isinstance(data.get("states"), dict) and isinstance(data.get("buffer_paths"), list)
        with contextlib.suppress(ProtocolError):
            return (data, unpack_buffers(answer.message)) if whole else None
        return None


class _Control:
    """The front end's comm as ipywidgets sees it: what that answers is completed before it is sent."""

    def __init__(self, comm: Any, complete: Callable[[dict[str, Any], Sequence[Any]], States | None]) -> None:
        self._comm = comm
        self._complete = complete

    def on_msg(self, callback: Callable[[Any], object]) -> None:
        """Call it with each message."""
        self._comm.on_msg(callback)

    def send(self, data: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        """Send the answer; without one of a session's the comm is closed, and the front end asks each widget."""
        found = self._complete(data, buffers)
        if found is None:
            self._comm.close()
        else:
            self._comm.send(found[0], buffers=found[1])


class _RemoteComm:
    """What the local comm manager knows of a remote comm."""

    def __init__(self, comms: RemoteComms, session: Session, comm_id: str, target_name: str) -> None:
        self._comms = comms
        self.session = session
        self.comm_id = comm_id
        self.target_name = target_name

    def handle_msg(self, message: Mapping[str, Any]) -> None:
        """The front end wrote to the comm."""
        self._comms.forward(self, "comm_msg", message)

    def handle_close(self, message: Mapping[str, Any]) -> None:
        """The front end closed it."""
        self._comms.drop(self.comm_id)
        self._comms.forward(self, "comm_close", message)


def _manager() -> Any:
    shell: Any = get_ipython()
    return shell.kernel.comm_manager


def _handlers() -> dict[str, Any]:
    shell: Any = get_ipython()
    handlers: dict[str, Any] = shell.kernel.shell_handlers
    return handlers
