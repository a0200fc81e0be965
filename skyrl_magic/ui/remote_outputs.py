"""Where the notebook shows what its sessions' Python kernels send, also outside of a running cell."""

from __future__ import annotations

import threading
from collections import OrderedDict

from skyrl_magic.core.protocol import KernelMessage
from skyrl_magic.service.session import Session
from skyrl_magic.ui.cell_outputs import CellOutputs
from skyrl_magic.ui.display import note
from skyrl_magic.ui.remote_comms import RemoteComms
from skyrl_magic.ui.widget_front_ends import WidgetFrontEnds

#: What a kernel may send to the page; all else that a container says it has to show is dropped.
_ALLOWED = frozenset(
    {
        *("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"),
        *("comm_open", "comm_msg", "comm_close"),
    }
)
#: Places that are remembered; what comes for an older one is not shown (the run's log has it).
_REMEMBERED = 1000


class RemoteOutputs:
    """The places of one notebook. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[tuple[str, str], CellOutputs] = OrderedDict()
        self._front_ends = WidgetFrontEnds()
        self.comms = RemoteComms(self.keep)

    def keep(self, session: Session, name: str, place: CellOutputs) -> CellOutputs:
        """Remember the place of a session's Python run, or of the answers to a comm's message.

        A shell run has none: it shows text and nothing else, whatever its container sends.
        """
        with self._lock:
            self._places[session.name, name] = place
            if len(self._places) > _REMEMBERED:
                self._places.popitem(last=False)
        return place

    def publish(self, session: Session, place: CellOutputs, message: KernelMessage) -> None:
        """Show a message of a run that is followed, in the cell's thread."""
        if message.msg_type not in _ALLOWED or not self.comms.follow(session, message):
            return
        place.publish(message)
        missing = self._front_ends.missing(message)
        if missing:
            note(missing)

    def hear(self, session: Session, message: KernelMessage) -> None:
        """Show a message that came by itself; one of another notebook's run is not shown here."""
        self.comms.hear(session, message)
        with self._lock:
            place = self._places.get((session.name, message.run_id))
        if place is not None and message.msg_type in _ALLOWED and self.comms.follow(session, message):
            place.send(message)
