"""Small JSON documents on disk, replaced atomically. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

_ALPHABET = string.ascii_letters + string.digits
#: Modal's object ids are a prefix and this many letters and digits; the client tells sandboxes apart by it.
ID_LENGTH = 22


def new_id(prefix: str) -> str:
    """A fresh object id such as ``vo-`` and 22 random letters and digits."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH))


def id_from_digest(prefix: str, digest: bytes) -> str:
    """The object id that belongs to a content digest: equal contents get equal ids."""
    number = int.from_bytes(digest, "big")
    letters = []
    for _ in range(ID_LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    return f"{prefix}-" + "".join(letters)


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """Replace ``path`` by ``value`` so that a reader sees the old document or the new one, never a part.

    Raises:
        OSError: The file cannot be written, for example on a full disk; the old document is still there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(value, file, separators=(",", ":"))
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def read_json(path: Path) -> Any:
    """The document at ``path``, or None if there is none.

    Raises:
        ValueError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text("ascii"))
    except FileNotFoundError:
        return None


class Record(Protocol):
    """What a :class:`Table` holds."""

    @property
    def object_id(self) -> str:
        """The key."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""


R = TypeVar("R", bound=Record)


class Table(Generic[R]):
    """All records of one kind: in memory, and after every change in one document on disk.

    Only the server's event loop touches it.
    """

    def __init__(self, path: Path, record_type: Any) -> None:
        self._path = path
        rows = read_json(path) or []
        self._records: dict[str, R] = {}
        for row in rows:
            record: R = record_type.from_json(row)
            self._records[record.object_id] = record

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._records.values()))

    def __contains__(self, object_id: str) -> bool:
        return object_id in self._records

    def get(self, object_id: str) -> R | None:
        """The record with this id, or None."""
        return self._records.get(object_id)

    def put(self, record: R) -> None:
        """Add or replace a record and write the document."""
        self._records[record.object_id] = record
        self.save()

    def remove(self, object_id: str) -> None:
        """Forget a record and write the document."""
        if self._records.pop(object_id, None) is not None:
            self.save()

    def save(self) -> None:
        """Write the document, after a record was changed in place."""
        write_json(self._path, [record.to_json() for record in self._records.values()])


def now() -> float:
    """Unix time in seconds."""
    return time.time()
