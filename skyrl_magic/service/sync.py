"""Brings the container's checkout up to what the user has, before each run: only what the user changed is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

from skyrl_magic.core import contract, protocol
from skyrl_magic.core.errors import CheckoutError
from skyrl_magic.core.secret_files import secret_files
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.checkout import CheckoutReader, Entry, Manifest, Scan
from skyrl_magic.service.connection import Refused
from skyrl_magic.service.tree_walk import GONE

#: The agent's word for a generation that is not its own.
STALE = "stale"
#: So much takes seconds to send, and a line says so. In bytes, and in files.
LARGE_BYTES = 30_000_000
MANY_FILES = 2_000
#: Frames wait for one another up to so many bytes, or so many of them: each go costs a round to the server.
_BATCH_BYTES = 1024 * 1024
_BATCH_FRAMES = 256
#: So many files that look like secrets are named; the others are counted.
_SECRETS_NAMED = 3
#: How often the difference is taken anew when another notebook changes the checkout at the same time.
_TRIES = 5


@dataclass
class Sent:
    """What one synchronisation did."""

    files: int = 0
    size_bytes: int = 0
    removed: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Files that were left out; each is named once."""
    special: list[str] = field(default_factory=list)
    """Sockets, pipes and devices, which were left out too; each is named once."""

    @property
    def notes(self) -> list[str]:
        """What is said of what was left out, in a line each."""
        reasons = (("cannot be read", self.unreadable), ("are sockets, pipes or devices", self.special))
        return [
            f"{len(paths)} of the checkout's files {reason} and were left out: {paths[0]}"
            for reason, paths in reasons
            if paths
        ]


class _Batch:
    """Frames of file contents that go out together."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._frames: list[protocol.PutFile] = []
        self._size_bytes = 0

    def put(self, frame: protocol.PutFile) -> None:
        """Send it now or with the next ones."""
        self._frames.append(frame)
        self._size_bytes += len(frame.payload)
        if self._size_bytes >= _BATCH_BYTES or len(self._frames) >= _BATCH_FRAMES:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        frames, self._frames, self._size_bytes = self._frames, [], 0
        if frames:
            self._channel.send(*frames)


class CheckoutSync:
    """Keeps one session's checkout in step with the user's.

    The comparison is between what the user has now and what a client last sent (the container's record of it), never
    with the container's files: what a run wrote there is kept until the user changes that file.
    """

    def __init__(self, reader: CheckoutReader) -> None:
        self.reader = reader
        self.generation = -1
        """The container's, as far as this client knows; a run that asks for it is refused when it is another."""
        self._sent: Scan | None = None
        self._there: Manifest = {}
        self._named: set[str] = set()
        self._secrets: set[str] = set()

    def new_secrets(self, paths: Iterable[str]) -> list[str]:
        """Those of the ``paths``, which are about to be sent, that look like secrets; each is named once."""
        found = [path for path in secret_files(paths) if path not in self._secrets]
        self._secrets.update(found)
        return found

    def send(
        self,
        channel: Channel,
        on_large: Callable[[int, int], object] = lambda *_: None,
        on_secrets: Callable[[list[str]], object] | None = None,
    ) -> Sent:
        """Send the difference.

        Args:
            channel: to the session.
            on_large: hears how many files and bytes there are, before more than :data:`MANY_FILES` or
                :data:`LARGE_BYTES` are sent.
            on_secrets: hears which of the files look like secrets, before they are sent; None where they stay on this
                machine.

        Raises:
            CheckoutError: files cannot be read consistently, or the container refuses one.
            SessionError: the channel broke, or the session is gone.
        """
        scan = self.reader.scan()
        if scan is self._sent and self.generation >= 0:
            return Sent()
        for _ in range(_TRIES):
            if self.generation < 0:
                self._refresh(channel)
            try:
                sent = self._send_difference(channel, scan.manifest, on_large, on_secrets)
            except Refused as refused:
                if refused.code == STALE:
                    self.generation = -1
                    continue
                raise CheckoutError(f"the session refused the checkout's change: {refused}") from None
            sent.unreadable = [path for path in scan.unreadable if path not in self._named]
            sent.special = [path for path in scan.special if path not in self._named]
            self._named.update(sent.unreadable, sent.special)
            self._sent = scan
            return sent
        raise CheckoutError("another notebook keeps changing this session's checkout: run the cell again")

    def _refresh(self, channel: Channel) -> None:
        state = channel.request(lambda number: protocol.GetCheckout(number, self.generation), protocol.CheckoutState)
        if state.payload:
            there = protocol.unpack_json(state.payload)
            self._there = {path: cast("Entry", tuple(entry)) for path, entry in there.items()}
        self.generation = state.generation

    def _send_difference(
        self,
        channel: Channel,
        here: Manifest,
        on_large: Callable[[int, int], object],
        on_secrets: Callable[[list[str]], object] | None,
    ) -> Sent:
        changed = {path: entry for path, entry in here.items() if self._there.get(path) != entry}
        removed = [path for path in self._there if path not in here]
        if not changed and not removed:
            return Sent()
        sent = Sent()
        contents = [path for path, entry in changed.items() if _has_new_content(entry, self._there.get(path))]
        size_bytes = sum(cast("int", changed[path][-1]) for path in contents)
        if size_bytes > LARGE_BYTES or len(contents) > MANY_FILES:
            on_large(len(contents), size_bytes)
        if on_secrets is not None and (secrets := self.new_secrets(contents)):
            on_secrets(secrets)
        batch = _Batch(channel)
        for path in contents:
            try:
                changed[path] = self._send_file(batch, path, sent)
            except GONE:  # since the scan
                del changed[path], here[path]
                removed += [path] if path in self._there else []
        batch.flush()
        sent.removed = len(removed)
        payload = protocol.pack_json({"set": changed, "remove": removed})
        state = channel.request(
            lambda number: protocol.ApplyCheckout(number, self.generation, payload), protocol.CheckoutState
        )
        self.generation = state.generation
        self._there = {path: entry for path, entry in self._there.items() if path in here} | changed
        return sent

    def _send_file(self, batch: _Batch, path: str, sent: Sent) -> Entry:
        """Send one file and return the entry that holds for the bytes that were sent. Raises one of ``GONE``."""
        offset = 0
        try:
            for part in self.reader.read(path):
                if isinstance(part, tuple):
                    mode = cast("int", part[1])
                    batch.put(protocol.PutFile(path, mode, offset, last=True))
                    sent.files += 1
                    sent.size_bytes += offset
                    return part
                if part:
                    batch.put(protocol.PutFile(path, 0o600, offset, last=False, payload=part))
                    offset += len(part)
                else:
                    offset = 0
        except GONE:
            raise
        except OSError as error:
            raise CheckoutError(f"{path} cannot be read ({error.strerror}): run the cell again") from None
        raise CheckoutError(f"{path} cannot be read")


def secrets_text(paths: list[str]) -> str:
    """What is said before files go that look like secrets."""
    named, others = ", ".join(paths[:_SECRETS_NAMED]), len(paths) - _SECRETS_NAMED
    more = f" and {others} more" if others > 0 else ""
    look, go = ("looks like a secret", "goes") if len(paths) == 1 else ("look like secrets", "go")
    return f"{named}{more} {look} and {go} into the container: {contract.IGNORE_FILE} leaves files out"


def _has_new_content(entry: Entry, there: Entry | None) -> bool:
    return entry[0] == "f" and (there is None or there[0] != "f" or there[2:] != entry[2:])
