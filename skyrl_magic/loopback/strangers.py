"""Only this user's processes, and root's, may talk to the server: anybody else's connection ends before it says a word.

A listener on 127.0.0.1 can be reached by every user of the machine. So a token in other hands opens nothing, and
connections that say nothing take no place from those who may speak.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from grpclib.server import Server

#: Of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h: message types, a flag, "any", and where the user stands
#: in an answer (behind four bytes, the socket's identity and three numbers).
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _ERROR, _ANY = 4, 20, 1, 2, 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_UID_AT = 4 + 48 + 12
#: The kernel answers while the question is sent.
_ANSWER_S = 1.0
#: Fields of a line of /proc/net/tcp (man proc_net, "proc_pid_net").
_LOCAL, _REMOTE, _UID = 1, 2, 7

Factory = Callable[[], asyncio.BaseProtocol]


class _Door(asyncio.Protocol):
    """What a connection meets first; a protocol is made for this user's alone."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection over, or end it."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (asyncio's listeners make no other)
        if not is_trusted(owner_of_peer(transport.get_extra_info("socket"))):
            transport.abort()
            return
        protocol = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def guarded(factory: Factory) -> Factory:
    """Protocols of ``factory``, for connections of this user's processes."""
    return lambda: _Door(factory)


class GuardedServer(Server):
    """grpclib's server for this user's processes alone."""

    def _protocol_factory(self) -> asyncio.Protocol:  # type: ignore[override]
        return _Door(super()._protocol_factory)


def is_trusted(uid: int | None) -> bool:
    """Whether a process of this user may talk to ours; root can do anything anyway."""
    return uid is not None and uid in (0, os.geteuid())


def owner_of_peer(connection: socket.socket) -> int | None:
    """The user whose process is at the other end of a connection over 127.0.0.1; None where it has gone already."""
    try:
        here, there = connection.getsockname(), connection.getpeername()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        return _asked(there, here)
    return _read(_address(*there), _address(*here)) if not _asked.answered else None


class _Kernel:
    """Asks the kernel for one socket (man sock_diag): 27 µs, where to read the list of all takes 3 ms and more."""

    def __init__(self) -> None:
        self.answered = False
        """Once it has, what it does not know is not there; where it never does, it has no such interface."""

    def __call__(self, local: tuple[str, int], remote: tuple[str, int]) -> int:
        """The user of the socket between two addresses. Raises OSError."""
        ends = struct.pack(
            "!HH4s12x4s12x", local[1], remote[1], socket.inet_aton(local[0]), socket.inet_aton(remote[0])
        )
        request = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, _ANY) + ends
        request += struct.pack("=III", 0, _ANY, _ANY)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as kernel:
            kernel.settimeout(_ANSWER_S)
            kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request)
            answer = kernel.recv(4096)
        if _HEADER.unpack_from(answer)[1] == _ERROR:
            raise OSError(-struct.unpack_from("=i", answer, _HEADER.size)[0], "no such socket")
        self.answered = True
        return int(struct.unpack_from("=I", answer, _HEADER.size + _UID_AT)[0])


_asked = _Kernel()


def _read(local: str, remote: str) -> int | None:
    """The same from /proc/net/tcp, with the addresses as that has them."""
    with Path("/proc/self/net/tcp").open(encoding="ascii") as lines:
        for line in lines:
            fields = line.split()
            if fields[_LOCAL] == local and fields[_REMOTE] == remote:
                return int(fields[_UID])
    return None


def _address(host: str, port: int) -> str:
    # The kernel prints the address as a number in the machine's own byte order.
    (number,) = struct.unpack("=I", socket.inet_aton(host))
    return f"{number:08X}:{port:04X}"
