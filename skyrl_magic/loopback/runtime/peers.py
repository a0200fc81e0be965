"""The keeper's end of its connections to the server: JSON lines, and a state of which only the newest counts."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: A line longer than this is not from our server, in bytes.
MAX_LINE_BYTES = 1024 * 1024


class Peer:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.stale = True
        """The peer has not seen the newest state."""
        self._inbox = bytearray()
        self._outbox = bytearray()

    @property
    def wants_to_write(self) -> bool:
        """Whether there is something to send."""
        return self.stale or bool(self._outbox)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message."""
        self._outbox += json.dumps(message).encode() + b"\n"

    def flush(self, state: Callable[[], dict[str, Any]]) -> None:
        """Send what the socket takes.

        Raises:
            OSError: The peer is gone.
        """
        if self.stale and not self._outbox:
            self.send(state())
            self.stale = False
        with contextlib.suppress(BlockingIOError):
            del self._outbox[: self.socket.send(self._outbox)]

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages that have come.

        Raises:
            OSError: The peer is gone.
        """
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        if not data or len(self._inbox) > MAX_LINE_BYTES:
            raise ConnectionResetError
        self._inbox += data
        *lines, rest = self._inbox.split(b"\n")
        self._inbox = bytearray(rest)
        for line in lines:
            yield json.loads(line)


class Peers:
    """All connections of one keeper, served by its selector."""

    def __init__(self, selector: selectors.BaseSelector, path: Path) -> None:
        self._selector = selector
        self._path = path
        self._peers: list[Peer] = []
        self._listener = socket.socket(socket.AF_UNIX)
        os.chdir(path.parent)  # a socket's path holds 107 bytes, a state directory's may be longer
        path.unlink(missing_ok=True)
        self._listener.bind(path.name)
        self._listener.listen()
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def add(self, connection: socket.socket) -> None:
        """Serve another connection."""
        peer = Peer(connection)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)

    def publish(self, state: Callable[[], dict[str, Any]]) -> None:
        """The state has changed."""
        for peer in self._peers:
            peer.stale = True
        self.flush(state)

    def flush(self, state: Callable[[], dict[str, Any]]) -> None:
        """Send to all peers what they can take; wait for the others to be writable."""
        for peer in list(self._peers):
            try:
                peer.flush(state)
            except OSError:
                self._drop(peer)
                continue
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.wants_to_write else 0)
            self._selector.modify(peer.socket, events, peer)

    def close(self, state: Callable[[], dict[str, Any]]) -> None:
        """Send the last state and hang up."""
        self.publish(state)
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.socket.settimeout(2)
                while peer.wants_to_write:
                    peer.flush(state)
            self._drop(peer)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def receive(self, peer: Peer) -> list[dict[str, Any]]:
        """The messages of a peer whose socket is readable; a peer that is gone is forgotten."""
        try:
            return list(peer.receive())
        except (OSError, ValueError):
            self._drop(peer)
            return []

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.add(self._listener.accept()[0])

    def _drop(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
            self._selector.unregister(peer.socket)
            peer.socket.close()
