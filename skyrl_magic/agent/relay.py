"""Between the supervisor and the session's Python kernel: cells go in one after the other, and what they show is kept.

Runs in the kernel's interpreter, as a child of the supervisor. Each cell's run has its journal, as a shell cell's has:
text goes into ``stdout`` and ``stderr``, every other message into ``outputs`` (``core.protocol.KernelMessage`` frames),
in the order in which the kernel sent them. The relay adds two records of its own to what Jupyter sends: the
``execute_reply`` at a run's end, and ``kernel_died``.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple, Type, Union

from skyrl_magic.agent.jupyter import Kernel, Message, describe_end
from skyrl_magic.agent.kernel_run import KernelRun, live_message
from skyrl_magic.agent.late import LateOutput
from skyrl_magic.agent.wire import Channel, dispatch, wakeup_pair
from skyrl_magic.core import protocol

#: Runs whose late output still finds its way.
_REMEMBERED_RUNS = 1000
_HELPER = "__import__('_skyrl_kernel')"
#: What of iopub is no output.
_NO_OUTPUT = ("execute_input", "iopub_welcome", "shutdown_reply", "debug_event")
_COMM = ("comm_open", "comm_msg", "comm_close")
#: How long after an interrupt the kernel is woken once more, in seconds: on a busy machine its thread may take a while
#: from the signal to the call in which it sleeps.
_NUDGES_S = (0.05, 0.2, 1.0, 5.0)


class Relay:
    """The relay's loop.

    Args:
        control: to the supervisor.
        folder: for the kernel's sockets and log.
        paths: folders of the checkout's packages.
        packages: a folder with ipykernel, where the interpreter has none of its own.
    """

    def __init__(self, control: socket.socket, folder: Path, paths: List[str], packages: List[str]) -> None:
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._signal_end = wakeup_pair()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._signal_end.fileno())
        self._selector.register(self._wakeup, selectors.EVENT_READ, lambda _: self._wakeup.recv(4096))
        self._kernel = Kernel(folder, paths, packages, self._selector)
        self._ready = self._warm = False
        self._heard_iopub = False
        self._over = False
        self._killed = ""
        """Why the kernel ends, where somebody asked for that."""
        self._kill_at: Optional[float] = None
        """When the kernel, which is to end, is killed; by the monotonic clock."""
        self._exit_s = 0.0
        self._waiting: Deque[KernelRun] = deque()
        self._current: Optional[KernelRun] = None
        self._runs: OrderedDict[str, KernelRun] = OrderedDict()
        self._asked: Dict[str, Union[int, Callable[[Message], None]]] = {}
        self._comms: OrderedDict[str, Tuple[str, int]] = OrderedDict()
        fd = control.fileno()
        self._supervisor = Channel(self._selector, fd, fd, self._from_supervisor, self._supervisor_gone)
        self._nudges: List[float] = []
        """When the kernel is woken after an interrupt, by the monotonic clock."""
        self._late = LateOutput(self._supervisor.send)
        self._handlers: Dict[Type[protocol.Message], Callable[[Any], None]] = {
            protocol.ExecuteRun: self._execute,
            protocol.SignalRun: self._signal,
            protocol.KernelRequest: self._request,
            protocol.KernelMessage: self._comm_message,
            protocol.InputReply: self._answer_input,
            protocol.EndKernel: self._end_kernel,
        }
        self._kernel.send("shell", "kernel_info_request", {})

    def run(self) -> int:
        """Serve until the kernel or the supervisor is gone; returns the exit code."""
        while not self._over:
            dispatch(self._selector, self._wait_s())
            self._nudge()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = None
                self._kernel.kill()
            for message in self._kernel.messages():
                self._take(message)
            self._late.flush()
            status = self._kernel.poll()
            if status is not None:
                for message in self._kernel.last_messages():
                    self._take(message)
                self._died(self._killed or describe_end(status))
        self._kernel.kill()
        self._kernel.close()
        return 0

    # --- the supervisor ---

    def _from_supervisor(self, message: protocol.Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(message)

    def _supervisor_gone(self, _: Optional[Exception]) -> None:
        self._over = True

    def _execute(self, request: protocol.ExecuteRun) -> None:
        self._waiting.append(KernelRun(request, self._selector))
        self._next()

    def _next(self) -> None:
        """Hand the next cell to the kernel, which executes one at a time."""
        if self._current is not None or not self._ready or self._killed:
            return
        if not self._waiting:
            self._warm_up()
            return
        run = self._current = self._waiting.popleft()
        if run.request.env or run.request.workdir:
            code = f"{_HELPER}.enter({run.request.env!r}, {run.request.workdir!r})"
            self._quietly(code, lambda reply: self._entered(run, reply))
        else:
            self._send_cell(run)

    def _entered(self, run: KernelRun, reply: Message) -> None:
        if reply["content"]["status"] == "ok":
            run.leaves = True
            self._send_cell(run)
        else:
            run.refuse(f"the cell was not run: {reply['content'].get('evalue', '')}")
            self._end(run)

    def _send_cell(self, run: KernelRun) -> None:
        content = {
            "code": run.code(),
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": run.request.allow_stdin,
            "stop_on_error": False,
        }
        msg_id = self._kernel.send("shell", "execute_request", content)
        self._runs[msg_id] = run
        if len(self._runs) > _REMEMBERED_RUNS:
            self._runs.popitem(last=False)[1].forget()
        run.begin()
        self._supervisor.send(protocol.ExecuteStarted(run.run_id))

    def _quietly(self, code: str, done: Callable[[Message], None]) -> None:
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False, "stop_on_error": False}
        self._asked[self._kernel.send("shell", "execute_request", content)] = done

    def _warm_up(self) -> None:
        """Once, when no cell waits."""
        if not self._warm:
            self._warm = True
            self._quietly(f"{_HELPER}.warm_up()", lambda _: None)

    def _signal(self, request: protocol.SignalRun) -> None:
        """SIGINT interrupts the cell that is executed and takes back one that waits; others end the kernel."""
        waiting = next((run for run in self._waiting if run.run_id == request.run_id), None)
        if waiting is not None:
            self._waiting.remove(waiting)
            waiting.interrupted()
            self._end(waiting)
        elif self._current is not None and self._current.run_id == request.run_id:
            if request.signal != signal.SIGINT:
                self._killed = "Stop ended it"
                self._kernel.kill()
            elif self._current.executing:
                self._interrupt(self._current)
            else:
                self._current.interrupt_due = True

    def _end_kernel(self, request: protocol.EndKernel) -> None:
        """Interrupt the cell, and shut the kernel down when it is over, or now where there is none."""
        if self._killed:
            return
        self._killed, self._exit_s = request.reason, request.exit_s
        if self._current is None:
            self._shut_down()
            return
        self._kill_at = time.monotonic() + request.grace_s
        if self._current.executing:
            self._interrupt(self._current)
        else:
            self._current.interrupt_due = True

    def _shut_down(self) -> None:
        """What a notebook's own kernel gets when it is shut down or restarted."""
        self._kill_at = time.monotonic() + self._exit_s
        self._kernel.send("control", "shutdown_request", {"restart": False})

    def _interrupt(self, run: KernelRun) -> None:
        """Interrupt the run's cell, and see that it ends.

        An interrupt that meets ipykernel itself, before or behind the cell, makes it forget the request. Requests are
        answered in their order: where another one's answer comes first, no other will.
        """

        def answered(_: Message) -> None:
            if not run.over and run is self._current and run.reply is None:
                run.interrupted()
                self._end(run)

        self._kernel.interrupt(run.began_since_boot_s)
        self._nudges = [time.monotonic() + after_s for after_s in _NUDGES_S]
        self._asked[self._kernel.send("shell", "kernel_info_request", {})] = answered

    def _nudge(self) -> None:
        """Wake a kernel that an interrupt met right before its thread went to sleep.

        Python notes a signal and acts on it between two instructions; where the next one is a system call that waits,
        that is when it ends. Another signal, to which nothing happens, ends it.
        """
        while self._nudges and time.monotonic() >= self._nudges[0]:
            del self._nudges[0]
            if self._current is not None:
                self._kernel.nudge()

    def _wait_s(self) -> Optional[float]:
        times = [*self._nudges[:1], *(() if self._kill_at is None else (self._kill_at,))]
        waits = [self._late.wait_s(), *(max(at - time.monotonic(), 0.0) for at in times)]
        return min((wait_s for wait_s in waits if wait_s is not None), default=None)

    def _request(self, request: protocol.KernelRequest) -> None:
        msg_id = self._kernel.send("shell", request.msg_type, request.content)
        self._asked[msg_id] = request.request

    def _comm_message(self, message: protocol.KernelMessage) -> None:
        if message.msg_type in _COMM:
            more = {"metadata": message.metadata, "buffers": list(protocol.unpack_buffers(message))}
            msg_id = self._kernel.send("shell", message.msg_type, message.content, **more)
            self._comms[msg_id] = (message.run_id, message.client)
            if len(self._comms) > _REMEMBERED_RUNS:
                self._comms.popitem(last=False)

    def _answer_input(self, reply: protocol.InputReply) -> None:
        if self._current is not None and self._current.run_id == reply.run_id and self._current.input_parent:
            parent, self._current.input_parent = self._current.input_parent, None
            self._kernel.send("stdin", "input_reply", {"value": reply.value, "status": "ok"}, parent=parent)

    # --- the kernel ---

    def _take(self, message: Message) -> None:
        parent = message["parent_header"].get("msg_id", "")
        if message["channel"] == "iopub":
            self._heard_iopub = True
            self._take_iopub(message, parent)
        elif message["channel"] == "stdin":
            run = self._runs.get(parent)
            if run is not None and message["msg_type"] == "input_request":
                run.input_parent = message
                run.record(message)
        elif message["channel"] == "shell":
            self._take_reply(message, parent)

    def _take_iopub(self, message: Message, parent: str) -> None:
        run, kind = self._runs.get(parent), message["msg_type"]
        if kind == "status":
            idle = message["content"]["execution_state"] == "idle"
            if parent in self._comms:  # a widget's callback: nobody else says that the kernel works on that
                self._supervisor.send(protocol.KernelBusy(not idle))
            if idle:
                self._idle_after(run, parent, message)
        elif kind == "execute_input" and run is not None:
            run.executing = True
            if run.interrupt_due:  # it came before the kernel, which is deaf between cells, had begun
                self._interrupt(run)
        elif kind in _NO_OUTPUT:
            pass
        elif run is not None:
            if not run.over:
                run.record(message)
            else:
                self._late.add(run, message)
        elif parent not in self._asked:
            run_id, client = self._comms.get(parent, ("", 0))
            self._supervisor.send(live_message(message, run_id, client))

    def _idle_after(self, run: Optional[KernelRun], parent: str, message: Message) -> None:
        """The kernel has done what a cell, or a message to a widget, asked of it."""
        if run is not None:
            run.idle = True
            self._end_if_over(run)
        elif parent in self._comms:
            self._supervisor.send(live_message(message, *self._comms[parent]))

    def _take_reply(self, message: Message, parent: str) -> None:
        run = self._runs.get(parent)
        if run is not None:
            run.reply = message
            self._end_if_over(run)
            return
        asker = self._asked.pop(parent, None)
        if isinstance(asker, int):
            self._supervisor.send(protocol.KernelReply(asker, message["content"]))
        elif asker is not None:
            asker(message)
        elif message["msg_type"] == "kernel_info_reply" and not self._ready:
            self._ready = self._heard_iopub
            if self._ready:
                self._supervisor.send(protocol.RelayReady())
                self._next()
            else:  # the subscription was not there yet: what a cell shows now would be lost
                self._kernel.send("shell", "kernel_info_request", {})

    def _end_if_over(self, run: KernelRun) -> None:
        if run.idle and run.reply is not None and not run.over:
            if run.leaves:
                run.leaves = False
                self._quietly(f"{_HELPER}.leave()", lambda _: self._end(run))
            else:
                self._end(run)

    def _end(self, run: KernelRun) -> None:
        if run.asks_exit():  # the kernel goes in a moment: the next cell is for another one
            self._killed = "a cell called exit()"
            self._supervisor.send(protocol.RelayFailed(self._killed))
        self._supervisor.send(run.end())
        if run is self._current:
            self._current = None
            if self._kill_at is not None:
                self._shut_down()
        self._next()

    def _died(self, cause: str) -> None:
        """The kernel is gone: its cell ends with the cause, and those that waited for it too."""
        last = self._kernel.last_words() if not self._ready else ""
        # First of all: a cell that comes when its client has heard of the end is for the next kernel.
        self._supervisor.send(protocol.RelayFailed(cause))
        for run in [self._current, *self._waiting]:
            if run is not None:
                run.died(f"{cause}: {last}" if last else cause)
                self._supervisor.send(run.end())
        self._current = None
        self._waiting.clear()
        self._supervisor.finish(lambda: None)
        self._over = True
