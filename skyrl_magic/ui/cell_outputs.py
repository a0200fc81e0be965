"""Messages of the session's Python kernel as this notebook's own: under their cell, with ids that no local output has.

They go out as the local kernel's messages of the same type, so that a front end treats them as it treats those. What
they hold is data for front ends' renderers, exactly as what a local cell displays is; nothing of it is evaluated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from IPython.core.getipython import get_ipython

from skyrl_magic.core.ansi import Tokenizer, harmless
from skyrl_magic.core.display_merge import COMM_TYPES
from skyrl_magic.core.protocol import KernelMessage, ProtocolError, unpack_buffers
from skyrl_magic.ui.cell_records import record_of, take_update

#: Before a remote display's id: an id of the user's own choice must not meet one of this notebook's.
_ID_PREFIX = "skyrl-remote-"
_DISPLAYS = ("display_data", "update_display_data", "execute_result")
_WITH_TOPIC = (*_DISPLAYS, "error", "clear_output")


class CellOutputs:
    """One place in the notebook, kept for what comes later: a cell's, or that of a front end's message to a widget.

    Args:
        parent: the Jupyter message that outputs there answer; by default the one that the calling thread handles.
    """

    def __init__(self, parent: Mapping[str, Any] | None = None) -> None:
        shell: Any = get_ipython()
        self._shell, self._kernel = shell, shell.kernel
        self._parent = self._kernel.get_parent() if parent is None else parent

    def publish(self, message: KernelMessage) -> None:
        """Send a message from the cell's thread, as its output; ``%%capture`` and its like see displays."""
        pub = self._shell.display_pub
        if message.msg_type in _DISPLAYS and not hasattr(pub, "pub_socket"):
            content = self._own(message)
            update = message.msg_type == "update_display_data"
            pub.publish(content["data"], content["metadata"], transient=content.get("transient"), update=update)
            return
        self.send(message)

    def send(self, message: KernelMessage) -> None:
        """Send a message to this place, from any thread and also when its cell has ended."""
        record = record_of(self._parent)
        if message.msg_type == "update_display_data":
            take_update(message)
        elif record is not None:
            record.take(message)
        self.send_again(message)

    def send_again(self, message: KernelMessage) -> None:
        """The same for a message that the cell's record has already."""
        try:
            buffers = unpack_buffers(message)
        except ProtocolError:
            return  # a damaged message of a container is not worth more than its loss
        topic = self._kernel._topic(message.msg_type) if message.msg_type in _WITH_TOPIC else None  # noqa: SLF001
        self._kernel.session.send(
            self._kernel.iopub_socket,
            message.msg_type,
            self._own(message),
            parent=self._parent,
            ident=topic,
            metadata=message.metadata,
            buffers=buffers,
        )

    def _own(self, message: KernelMessage) -> dict[str, Any]:
        """The content with this notebook's count and ids."""
        content = dict(message.content)
        if message.msg_type in _DISPLAYS:
            content.setdefault("data", {})
            content.setdefault("metadata", {})
            transient = content.get("transient")
            if isinstance(transient, dict) and transient.get("display_id"):
                content["transient"] = {**transient, "display_id": f"{_ID_PREFIX}{transient['display_id']}"}
        if message.msg_type == "execute_result":
            content["execution_count"] = self._shell.displayhook.prompt_count
        if message.msg_type in COMM_TYPES:
            content["data"] = self._own_state(content.get("data"))
        return content

    def _own_state(self, data: Any) -> Any:
        """An Output widget takes what answers the message of this id: here that is another one than in the kernel."""
        state = data.get("state") if isinstance(data, dict) else None
        if not isinstance(state, dict) or not state.get("msg_id"):
            return {} if data is None else data
        return {**data, "state": {**state, "msg_id": self._parent["header"]["msg_id"]}}


def plain_text(message: KernelMessage) -> str:
    """What a terminal shows of a message: the text of a display or a result, without what could harm."""
    data = message.content.get("data")
    if message.msg_type not in _DISPLAYS or not isinstance(data, Mapping):
        return ""
    tokens = Tokenizer()
    text = str(data.get("text/plain", "")).encode("utf-8", "replace")
    return "".join(map(harmless, tokens.feed(text, final=True))) + "\n"
