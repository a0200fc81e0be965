"""Plain values as msgpack, with extension types for what msgpack has not.

Types are kept exactly: a subclass (a named tuple, a ``defaultdict``) is not plain, as it would arrive as its base.
"""

from __future__ import annotations

import datetime as dt
import struct
import zoneinfo
from typing import Any, Callable, Dict, List, Set

from skyrl_magic.core.variables import tables
from skyrl_magic.core.variables.problem import Unsendable, VariableProblem, first_line
from skyrl_magic.core.variables.store import Blobs, Store

#: The extension types.
_INT, _TUPLE, _SET, _FROZENSET, _COMPLEX, _DATETIME, _DATE, _TIME, _TIMEDELTA, _BYTEARRAY, _TABLE = range(1, 12)
_NATIVE = frozenset((type(None), bool, int, float, str, bytes))
_CONTAINERS: Dict[type, int] = {tuple: _TUPLE, set: _SET, frozenset: _FROZENSET}
_COMPLEX_FORMAT = struct.Struct("<dd")
_EXACT = {"unicode_errors": "surrogatepass"}


def msgpack() -> Any:
    """The package. Raises VariableProblem where it is missing."""
    try:
        import msgpack
    except ImportError:
        import sys

        raise VariableProblem(
            f"variables travel by msgpack, which {sys.executable} has not: install it there (pip install msgpack)"
        ) from None
    return msgpack


class Encoder:
    """Packs one value after the other; arrays and tables go into ``store``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._msgpack = msgpack()
        self._above: Set[int] = set()
        """The containers that the current value lies in."""

    def pack(self, value: Any, name: str) -> bytes:
        """The variable ``name`` as bytes, and what is large about it in the store.

        Raises:
            Unsendable: it, or something in it, has no open format. TooLarge: it is over the store's bound.
        """
        try:
            data = self._packed(self._made_plain(value, name))
        except (RecursionError, ValueError, OverflowError) as error:
            raise Unsendable(f"{name} is nested too deeply, or too large ({first_line(error)})") from None
        finally:
            self._above.clear()
        self._store.check(len(data))
        return data

    def _packed(self, value: Any) -> bytes:
        data: bytes = self._msgpack.packb(value, default=self._too_big_int, **_EXACT)
        return data

    def _too_big_int(self, value: Any) -> Any:
        if type(value) is not int:
            raise Unsendable(_what(value, "a number in it"))
        return self._msgpack.ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))

    def _made_plain(self, value: Any, at: str) -> Any:
        """``value`` with msgpack's types alone; ``at`` is where it lies in the variable."""
        kind = type(value)
        if kind in _NATIVE:
            return value
        if kind in (list, tuple, dict, set, frozenset):
            if id(value) in self._above:
                raise Unsendable(f"{at} contains itself")
            self._above.add(id(value))
            made = self._container(value, kind, at)
            self._above.discard(id(value))
            return made
        code_data = _SCALARS[kind](value) if kind in _SCALARS else None
        if code_data is not None:
            code, data = code_data
            return self._msgpack.ExtType(code, data if isinstance(data, bytes) else self._packed(data))
        if tables.is_table(value):
            parts = tables.encode(value, self._store, at)
            return self._ext(_TABLE, [self._made_plain(part, at) for part in parts])
        raise Unsendable(_what(value, at))

    def _ext(self, code: int, items: List[Any]) -> Any:
        return self._msgpack.ExtType(code, self._packed(items))

    def _container(self, value: Any, kind: type, at: str) -> Any:
        if kind is dict:
            if _NATIVE.issuperset(map(type, value)) and _NATIVE.issuperset(map(type, value.values())):
                return value
            return {
                self._made_plain(key, f"a key of {at}"): self._made_plain(item, f"{at}[{_short(key)}]")
                for key, item in value.items()
            }
        if _NATIVE.issuperset(map(type, value)):
            items = value if kind is list else list(value)
        elif kind in (set, frozenset):
            items = [self._made_plain(item, f"an item of {at}") for item in value]
        else:
            items = [self._made_plain(item, f"{at}[{index}]") for index, item in enumerate(value)]
        return items if kind is list else self._ext(_CONTAINERS[kind], items)


def decode(data: bytes, blobs: Blobs) -> Any:
    """The value that :meth:`Encoder.pack` packed. Raises VariableProblem where the bytes are none."""
    package = msgpack()

    def unpack(part: bytes) -> Any:
        # The quick look finds lengths that are not there, before memory is made ready for them.
        unpacker = package.Unpacker(max_buffer_size=max(len(part), 1))
        unpacker.feed(part)
        unpacker.skip()
        return package.unpackb(part, ext_hook=made, strict_map_key=False, **_EXACT)

    def made(code: int, part: bytes) -> Any:
        if code == _TABLE:
            return tables.decode(unpack(part), blobs)
        return _EXTENSIONS[code](part, unpack)

    try:
        return unpack(bytes(data))
    except VariableProblem:
        raise
    except Exception as error:  # noqa: BLE001  # whatever the other side has made of it
        raise VariableProblem(f"it is damaged ({first_line(error)})") from None


def _what(value: Any, at: str) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{at} is of type {name}"


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:37]}…"  # noqa: PLR2004  (a line stays readable)


# --- times ------------------------------------------------------------------------------------------------------------


def _zone(zone: Any) -> Any:
    """A time zone as plain data. Raises Unsendable for one of another making."""
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [_delta(offset), *name]
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return zone.key
    raise Unsendable(f"its time zone is a {type(zone).__module__}.{type(zone).__qualname__}")


def _to_zone(zone: Any) -> Any:
    if isinstance(zone, list):
        offset, *name = zone
        return dt.timezone.utc if not name and not any(offset) else dt.timezone(dt.timedelta(*offset), *name)
    return zone if zone is None else zoneinfo.ZoneInfo(zone)


def _delta(delta: dt.timedelta) -> List[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _clock(time: Any) -> List[Any]:
    return [time.hour, time.minute, time.second, time.microsecond, time.fold, _zone(time.tzinfo)]


def _to_datetime(part: bytes, unpack: Callable[[bytes], Any]) -> dt.datetime:
    *fields, fold, zone = unpack(part)
    naive = dt.datetime(*fields)  # noqa: DTZ001  (its zone follows)
    return naive.replace(fold=fold, tzinfo=_to_zone(zone))


def _to_time(part: bytes, unpack: Callable[[bytes], Any]) -> dt.time:
    *fields, fold, zone = unpack(part)
    return dt.time(*fields).replace(fold=fold, tzinfo=_to_zone(zone))


_SCALARS: Dict[type, Callable[[Any], Any]] = {
    complex: lambda v: (_COMPLEX, _COMPLEX_FORMAT.pack(v.real, v.imag)),
    bytearray: lambda v: (_BYTEARRAY, bytes(v)),
    dt.datetime: lambda v: (_DATETIME, [v.year, v.month, v.day, *_clock(v)]),
    dt.date: lambda v: (_DATE, [v.year, v.month, v.day]),
    dt.time: lambda v: (_TIME, _clock(v)),
    dt.timedelta: lambda v: (_TIMEDELTA, _delta(v)),
}
_EXTENSIONS: Dict[int, Callable[[bytes, Callable[[bytes], Any]], Any]] = {
    _INT: lambda part, _: int.from_bytes(part, "little", signed=True),
    _TUPLE: lambda part, unpack: tuple(unpack(part)),
    _SET: lambda part, unpack: set(unpack(part)),
    _FROZENSET: lambda part, unpack: frozenset(unpack(part)),
    _COMPLEX: lambda part, _: complex(*_COMPLEX_FORMAT.unpack(part)),
    _BYTEARRAY: lambda part, _: bytearray(part),
    _DATETIME: _to_datetime,
    _DATE: lambda part, unpack: dt.date(*unpack(part)),
    _TIME: _to_time,
    _TIMEDELTA: lambda part, unpack: dt.timedelta(*unpack(part)),
}
