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

#: Places that are remembered; what comes for an older one is not shown (the run's log has it).
_REMEMBERED = 1000


class RemoteOutputs:
    """The places of one notebook. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[str, CellOutputs] = OrderedDict()
        self._front_ends = WidgetFrontEnds()
        self.comms = RemoteComms(self.keep)

    def keep(self, name: str, place: CellOutputs) -> CellOutputs:
        """Remember the place of a run, or of the answers to a comm's message."""
        with self._lock:
            self._places[name] = place
            if len(self._places) > _REMEMBERED:
                self._places.popitem(last=False)
        return place

    def publish(self, session: Session, place: CellOutputs, message: KernelMessage) -> None:
        """Show a message of a run that is followed, in the cell's thread."""
        self.comms.follow(session, message)
        place.publish(message)
        missing = self._front_ends.missing(message)
        if missing:
            note(missing)

    def hear(self, session: Session, message: KernelMessage) -> None:
        """Show a message that came by itself; one of another notebook's run is not shown here."""
        self.comms.hear(session, message)
        with self._lock:
            place = self._places.get(message.run_id)
        if place is not None and message.msg_type != "status":
            self.comms.follow(session, message)
            place.send(message)
