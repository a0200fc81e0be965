"""A Python cell's run in the relay: its journal, its reply, its end."""

from __future__ import annotations

import selectors
import signal
import time
from pathlib import Path
from typing import Any, Dict, Optional, Union

from skyrl_magic.agent import paths, reserve
from skyrl_magic.agent.journal import JournalWriter
from skyrl_magic.agent.notify import Notifier
from skyrl_magic.core import protocol

_OUTPUTS = protocol.JOURNAL_STREAMS.index(protocol.OUTPUTS)
#: A larger message is left out with a word: no front end takes it either. In bytes.
_MAX_MESSAGE_BYTES = protocol.MAX_FRAME_BYTES // 2
EXIT_ERROR = 1

Message = Dict[str, Any]


def live_message(message: Message, run_id: str, client: int = 0) -> protocol.KernelMessage:
    """A Jupyter message as a frame; ``run_id`` and ``client`` as there."""
    sizes, payload = protocol.pack_buffers(message["buffers"])
    kind, content, metadata = message["msg_type"], message["content"], message["metadata"]
    return protocol.KernelMessage(run_id, client, kind, content, metadata, sizes, payload)


class KernelRun:
    """One cell on its way through the kernel. ``request`` says where its folder is."""

    def __init__(self, request: protocol.ExecuteRun, selector: selectors.BaseSelector) -> None:
        self.request = request
        self.run_id = request.run_id
        self.reply: Optional[Message] = None
        self.input_parent: Optional[Message] = None
        """The ``input_request`` that nobody has answered yet."""
        self.idle = False
        self.executing = False
        self.interrupt_due = False
        self.leaves = False
        """The kernel has to undo the run's environment."""
        self.over = False
        self._folder = Path(request.folder)
        self._began: Optional[float] = None
        self.began_since_boot_s = 0.0
        """When the kernel got the cell, by CLOCK_BOOTTIME."""
        self._exit_code = 0
        self._signal = 0
        self._journal: Optional[JournalWriter] = JournalWriter(
            self._folder, protocol.JOURNAL_STREAMS, lambda: reserve.release(self._folder.parent.parent)
        )
        self._notifier = Notifier(self._folder, selector)

    def code(self) -> str:
        """The cell's text."""
        return (self._folder / paths.CELL_FILE).read_bytes().decode("utf-8", "surrogateescape")

    def begin(self) -> None:
        """The kernel has the cell."""
        self._began = time.monotonic()
        self.began_since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self.request.note:
            self._say(self.request.note)

    def _say(self, text: str) -> None:
        self._write(protocol.STREAMS.index(protocol.STDERR), f"skyrl_magic: {text}\n".encode("utf-8", "replace"))

    def record(self, message: Message) -> None:
        """Keep a message of the kernel: text as text, everything else as it is."""
        content = message["content"]
        if message["msg_type"] == "stream" and content.get("name") in protocol.STREAMS:
            # Much text comes as a buffer (``kernel_main.Stream``).
            for data in (content["text"].encode("utf-8", "surrogateescape"), *message["buffers"]):
                if data:
                    self._write(protocol.STREAMS.index(content["name"]), data)
            return
        self._keep(live_message(message, self.run_id))

    def _keep(self, message: protocol.KernelMessage) -> None:
        try:
            data = protocol.encode(message)
        except protocol.ProtocolError:
            data = b"x" * (_MAX_MESSAGE_BYTES + 1)
        except (TypeError, ValueError):  # no JSON: from a kernel of another making
            return
        if len(data) > _MAX_MESSAGE_BYTES:
            self._say(f"a {message.msg_type} of over {_MAX_MESSAGE_BYTES // 2**20} MiB was left out")
            return
        self._write(_OUTPUTS, data)

    def _write(self, stream: int, data: Union[bytes, memoryview]) -> None:
        if self._journal is not None:
            self._journal.write(stream, memoryview(data))
            if self.over:
                self._journal.close()
            self._notifier.grown()

    def refuse(self, text: str) -> None:
        """The cell could not be run."""
        self._say(text)
        self._exit_code = EXIT_ERROR

    def interrupted(self) -> None:
        """The cell was taken back before it was run."""
        self._signal = signal.SIGINT
        self._exit_code = 128 + signal.SIGINT

    def died(self, cause: str) -> None:
        """The kernel ended under the cell."""
        self._keep(protocol.KernelMessage(self.run_id, msg_type="kernel_died", content={"cause": cause}))
        self._signal = signal.SIGKILL
        self._exit_code = 128 + signal.SIGKILL

    def end(self) -> protocol.ExecuteEnded:
        """How the run ended. What a thread of it prints later still goes into the journal."""
        if self.reply is not None:
            content = {name: value for name, value in self.reply["content"].items() if name != "traceback"}
            self._keep(protocol.KernelMessage(self.run_id, msg_type="execute_reply", content=content))
            if content.get("status") != "ok":
                self._exit_code = EXIT_ERROR
        self.over = True
        lost = ""
        if self._journal is not None:
            lost = self._journal.lost_line
            self._journal.close()  # a kernel has many cells, and few of them say something later
        duration_s = 0.0 if self._began is None else time.monotonic() - self._began
        self._notifier.close()
        return protocol.ExecuteEnded(self.run_id, self._exit_code, self._signal, duration_s, lost)

    def asks_exit(self) -> bool:
        """Whether the cell has ended the kernel with ``exit``."""
        payload = [] if self.reply is None else self.reply["content"].get("payload") or []
        return any(item.get("source") == "ask_exit" and not item.get("keepkernel") for item in payload)

    def forget(self) -> None:
        """Nothing of this run is expected any more."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
