"""Calls that Modal throttles: the client waits and asks again, here for a bounded time, and who waits is told.

The client does so in silence but for a warning, and without end (``MODAL_MAX_THROTTLE_WAIT``). That warning is what
is heard here, as nothing else says it. A bound of the user's own, in the environment or a profile, counts before ours.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import modal.config

#: How long a throttled call is tried again, in seconds.
MAX_WAIT_S = 120
#: What a progress shows meanwhile, with the time that it takes.
PHASE = "throttled by Modal, waiting"
#: Of the client's calls, and how the warning about a throttled one begins and ends (modal 1.6.4: ``grpc_utils``).
_LOGGER = "modal-utils"
_BEGIN, _END = "Warning: Received", "Retrying..."


def bound_waiting() -> None:
    """Bound the time for which modal's client waits where the user has said nothing."""
    settings = getattr(modal.config, "_SETTINGS", {})
    setting = settings.get("max_throttle_wait")
    if setting is not None and setting.default is None:
        settings["max_throttle_wait"] = setting._replace(default=MAX_WAIT_S)


class _Listener(logging.Filter):
    """Takes the warnings about throttled calls for as long as it is there."""

    def __init__(self, tell: Callable[[], object]) -> None:
        super().__init__()
        self._tell = tell

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is none of these."""
        text = record.getMessage()
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            return True
        self._tell()
        return False


@contextlib.contextmanager
def told_when_throttled(on_phase: Callable[[str], object]) -> Iterator[None]:
    """Within the block ``on_phase`` hears :data:`PHASE` when a call is throttled, in a thread of modal's client."""
    listener = _Listener(lambda: on_phase(PHASE))
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(listener)
    try:
        yield
    finally:
        logger.removeFilter(listener)
