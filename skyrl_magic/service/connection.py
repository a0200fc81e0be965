"""One exec of the agent's ``attach``: frames go in whole, from any thread. The channel opens the next one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TypeVar

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import BackendError, SessionError, SessionLost
from skyrl_magic.core.ports import ByteStream

M = TypeVar("M", bound=protocol.Message)
#: How soon a writer that waits for its turn sees that the connection was given up, in seconds.
_LOOK_S = 0.1


@dataclass(frozen=True)
class Timing:
    """How patient a channel is. All in seconds."""

    ping_interval_s: float = 5.0
    awaited_ping_interval_s: float = 1.0
    """The same while a run is followed."""
    revive_after_s: float = 0.5
    """Without an answer for so long the server is looked after, where it is ours."""
    trouble_s: float = 2.0
    """Without an answer for so long the user hears of it."""
    pong_timeout_s: float = 16.0
    """Without an answer for so long the connection counts as broken."""
    attach_timeout_s: float = 60.0
    """How long the first greeting may take."""
    reconnect_timeout_s: float = 60.0
    """How long a broken connection may take to come back."""
    reopen_pauses_s: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Pauses before the tries to open the channel again."""


class ChannelBroken(SessionError):
    """The connection broke while a request was under way; the session may well be alive."""


class Refused(SessionError):
    """The agent refused a request. ``code`` as in ``core.protocol.Failed``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Connection:
    """A stream and its writers' turns. A stream that may have taken half a frame is closed."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self.read = stream.read

    def close(self) -> None:
        """Give the stream up; who waits for a turn hears of it."""
        self._closed.set()
        self._stream.close()

    def write(self, *messages: protocol.Message, patience_s: float = -1) -> None:
        """Send frames; after ``patience_s`` behind another writer (-1: however long it takes) they are left out.

        Raises:
            ChannelBroken: the stream broke; it is closed.
        """
        data = b"".join(protocol.encode(message) for message in messages)
        if not self._turn(patience_s):
            return
        try:
            self._stream.write(data)
        except (BackendError, SessionLost) as error:
            self.close()
            raise ChannelBroken(f"the connection to the session broke: {error}") from None
        except BaseException:  # interrupted: nobody knows how much of it went out
            self.close()
            raise
        finally:
            self._writing.release()

    def _turn(self, patience_s: float) -> bool:
        """Wait for this writer's turn; False when its patience is over."""
        if patience_s >= 0:
            return self._writing.acquire(timeout=patience_s)
        while not self._writing.acquire(timeout=_LOOK_S):
            if self._closed.is_set():
                raise ChannelBroken("the connection to the session broke")
        return True


def checked(answer: protocol.Message | Exception, reply: type[M]) -> M:
    """The answer of a request, where it is the one that was asked for. Raises SessionError, or what it is."""
    if isinstance(answer, Exception):
        raise answer
    if isinstance(answer, protocol.Failed):
        raise Refused(answer.code, answer.message)
    if not isinstance(answer, reply):
        raise SessionError(f"the session answered {type(answer).__name__} instead of {reply.__name__}")
    return answer
