"""Who listens at a port of this machine: modal's client speaks there to this user's processes, and root's, alone.

A port whose server has ended can be taken by any user of the machine, and the client connects again by itself: it would
say its token, and the next cell, to whoever is there.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import grpclib.client
import modal

#: Fields of a line of /proc/net/tcp (man proc_net): addresses, state, user, inode.
_LOCAL, _REMOTE, _STATE, _UID, _INODE = 1, 2, 3, 7, 9
_LISTENS = "0A"
_THIS_MACHINE = "127.0.0.1"
#: The same, and all addresses, as the kernel writes them.
_HERE = (f"{struct.unpack('=I', socket.inet_aton(_THIS_MACHINE))[0]:08X}", "00000000")


class StrangerError(modal.exception.Error):
    """Another user's process listens there. It is none of the errors after which modal's client tries again."""


def guard_connections() -> None:
    """From now on no connection of modal's client to 127.0.0.1 is one to another user's process."""
    channel = grpclib.client.Channel
    if channel._create_connection is not _guarded:  # noqa: SLF001  (grpclib 0.4.9 has no hook for it)
        channel._create_connection = _guarded  # type: ignore[method-assign]  # noqa: SLF001


_connect = grpclib.client.Channel._create_connection  # noqa: SLF001


async def _guarded(self: grpclib.client.Channel) -> Any:
    if self._host == _THIS_MACHINE and self._port is not None:
        check_listener(self._port)  # before: a stranger hears not even that we came
    protocol = await _connect(self)
    if self._host == _THIS_MACHINE and self._port is not None:
        transport = protocol.connection._transport  # noqa: SLF001
        try:
            check_listener(self._port, transport.get_extra_info("sockname")[1])
        except StrangerError:
            transport.abort()
            raise
    return protocol


def check_listener(port: int, from_port: int | None = None) -> None:
    """See that what listens at a port of this machine is this user's, or root's.

    Args:
        port: there.
        from_port: of a connection to it, whose other end must be theirs too.

    Raises:
        StrangerError: it is another user's.
    """
    wanted = None if from_port is None else f":{from_port:04X}"
    with Path("/proc/self/net/tcp").open(encoding="ascii") as lines:
        for line in lines:
            fields = line.split()
            address, _, at = fields[_LOCAL].partition(":")
            if address not in _HERE or at != f"{port:04X}":
                continue
            is_other_end = wanted is not None and fields[_REMOTE].endswith(wanted) and fields[_INODE] != "0"
            if (fields[_STATE] == _LISTENS or is_other_end) and int(fields[_UID]) not in (0, os.geteuid()):
                raise StrangerError(f"another user's program listens at port {port}, where the local server was")
