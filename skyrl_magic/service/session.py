"""One session as this process sees it: its container, its channel, its state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from skyrl_magic.core import contract, protocol
from skyrl_magic.core.ends import end_reason
from skyrl_magic.core.errors import BackendError, SessionError, SessionLost
from skyrl_magic.core.ports import ByteStream, Sandbox
from skyrl_magic.core.session_tags import read_spec
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.connection import Timing
from skyrl_magic.service.sync import CheckoutSync

#: Ray's start is given up as a phase after so long; the agent goes on and says how it ended. In seconds.
RAY_TIMEOUT_S = 180.0
#: How often a waiting cell shows how long it has waited. In seconds.
TICK_S = 0.5


#: How the error begins that says why a container has ended.
ENDED = "the container has ended: "


class Progress(Protocol):
    """Hears how far the start of a session is; called in the thread that asked for it."""

    def begin(self, phase: str, hint: str = "") -> None:
        """A phase begins and the one before it is over: ``image``, ``checkout``, ``container``, ``Ray``.

        While it goes on, ``hint`` says what the user can do.
        """
        ...

    def tick(self) -> None:
        """Time has passed in the current phase."""
        ...

    def note(self, text: str) -> None:
        """One line that the user must see before what comes next."""
        ...


class Session:
    """One warm container and the channel to it.

    Args:
        name: as users know it.
        spec: what it was started with.
        sandbox: the container.
        sync: keeps its checkout in step; None without a checkout.
        timing: how patient its channel is.
    """

    def __init__(
        self,
        name: str,
        spec: SessionSpec,
        sandbox: Sandbox,
        sync: CheckoutSync | None,
        timing: Timing | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.spec_is_known = True
        """False where :attr:`spec` has its backend and app alone; :meth:`open` then asks its agent."""
        self.sandbox = sandbox
        self.sync = sync
        self._ray = threading.Condition()
        self.status = protocol.Status()
        self.on_kernel_message: Callable[[protocol.KernelMessage], None] = lambda _: None
        """Hears what the Python kernel sends outside of a run that is followed; in the channel's thread."""
        self.channel = Channel(self._attach, self._hear, timing, self._hear_kernel, sandbox.revive)
        self.channel.on_notice = self._hear_notice
        self._notices: dict[str, str] = {}
        self._noticed: set[str] = set()

    @property
    def is_of_earlier_version(self) -> bool:
        """Whether the agent is one that commits on no request, looks for no files and keeps its start's timeout.

        Its status has no timeout; it leaves requests that it does not know unanswered.
        """
        return not self.status.timeout_s

    def _attach(self) -> ByteStream:
        command = [*contract.AGENT_COMMAND, "attach", "--state-dir", contract.STATE_DIR]
        try:
            return self.sandbox.exec(command)
        except SessionLost:
            reason = self._end_reason()
            if reason:
                raise SessionLost(f"{ENDED}{reason}") from None
            raise

    def _end_reason(self) -> str:
        """Why the container has ended; empty where nobody can say."""
        try:
            end = self.sandbox.end()
            if end is None:
                return ""
            return end_reason(end, self.sandbox.last_output(), preemptible=self.spec.preemptible)
        except (BackendError, SessionLost):
            return ""

    def _hear(self, status: protocol.Status) -> None:
        with self._ray:
            self.status = status
            self._ray.notify_all()

    def _hear_kernel(self, message: protocol.KernelMessage) -> None:
        self.on_kernel_message(message)

    def _hear_notice(self, notice: protocol.Notice) -> None:
        with self._ray:
            if notice.about not in self._noticed:
                self._notices[notice.about] = notice.text

    def take_notices(self) -> Sequence[str]:
        """What the user should be shown now, each once in this process."""
        with self._ray:
            texts = list(self._notices.values())
            self._noticed |= self._notices.keys()
            self._notices.clear()
        return texts

    def open(self) -> None:
        """Open the channel; no effect where it is.

        Raises:
            SessionLost: the container ended meanwhile; the message says why. SessionError: it is not to be understood.
        """
        if self.channel.welcome.session:
            return
        try:
            self.channel.open()
        except SessionLost as error:
            raise SessionLost(f"session {self.name} did not come up: {error}") from None
        self._learn_spec()
        self._hear(self.ask_status())

    def _learn_spec(self) -> None:
        if self.spec_is_known:
            return
        try:
            self.spec = read_spec(self.channel.welcome.spec, self.spec.backend, self.spec.app)
        except ValueError:
            self.close()
            raise SessionError(f"session {self.name} does not say what it was started with") from None
        self.spec_is_known = True

    def close(self) -> None:
        """Leave the session; it and its runs go on."""
        self.channel.close()
        if self.sync is not None:
            self.sync.reader.close()

    def ask_status(self) -> protocol.Status:
        """The session's state now. Raises SessionError."""
        return self.channel.request(protocol.GetStatus, protocol.Status)

    def set_limits(
        self,
        *,
        timeout_s: float | None = None,
        idle_timeout_s: float | None = None,
        max_usd: float | None = None,
        usd_per_hour: float | None = None,
    ) -> None:
        """Change limits of the running container, all of them or, where one is refused, none.

        Args:
            timeout_s: seconds from its start; None leaves any of these as it is.
            idle_timeout_s: in seconds.
            max_usd: the budget in US dollars, from its start.
            usd_per_hour: the price that its budget is counted with.

        Raises:
            SessionError: it is over or spent already, or beyond what the container has; or no answer.
        """

        def ask() -> None:
            self.channel.request(
                lambda n: protocol.Configure(n, idle_timeout_s, max_usd, usd_per_hour, timeout_s), protocol.Done
            )

        self.channel.patiently(ask)
        self._hear(self.ask_status())

    def restart_ray(self, progress: Progress) -> protocol.Status:
        """Start Ray again, and wait for it as :meth:`wait_for_ray`; kernels and runs go on.

        Raises:
            SessionError: it has none, or did not start again; the message says why.
        """
        self.channel.patiently(lambda: self.channel.request(protocol.RestartRay, protocol.Done))
        self._hear(self.ask_status())
        status = self.wait_for_ray(progress)
        if status.ray == "failed":
            with self._ray:
                self._notices = {about: text for about, text in self._notices.items() if text != status.ray_problem}
            raise SessionError(status.ray_problem)
        return status

    def wait_for_ray(self, progress: Progress) -> protocol.Status:
        """Wait while Ray is starting; returns at once without Ray. Raises SessionLost."""
        deadline = time.monotonic() + RAY_TIMEOUT_S
        if self.status.ray == "starting":
            progress.begin("Ray")
        while self.status.ray == "starting" and time.monotonic() < deadline:
            if self.channel.lost is not None:
                raise self.channel.lost
            with self._ray:
                self._ray.wait(TICK_S)
            progress.tick()
        return self.status
