"""The file of variables: written from pieces, read from an open file."""

from __future__ import annotations

import difflib
import pickle
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Collection, Dict, List, Mapping, Sequence, Tuple

from skyrl_magic.core.variables.plain import Encoder, decode, msgpack
from skyrl_magic.core.variables.problem import TooLarge, Unsendable, VariableProblem, first_line, size_text
from skyrl_magic.core.variables.store import PAGE_BYTES, Blobs, Buffer, Store, padding, read_exactly

#: What a variable may have when nothing else was said, in bytes.
DEFAULT_MAX_BYTES = 256 * 1024 * 1024
#: The head: a mark, the size of the packed variables and the offset of the blobs, in bytes.
HEAD = struct.Struct("<8sQQ")
_MARK = b"skyrlvr1"
#: How a variable was packed: in the open formats, or as a pickle.
_OPEN, _PICKLE = 0, 1
#: What IPython adds to everybody's variables: nobody means one of these.
_OTHERS = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


@dataclass(frozen=True)
class Packed:
    """Variables on their way. The ``pieces`` may be the variables' own memory: they go out before those change."""

    pieces: Sequence[Buffer]
    size_bytes: int
    pickled: Tuple[str, ...]
    """The names of those that travel as pickles."""


def find(namespace: Mapping[str, Any], names: Sequence[str], where: str) -> Dict[str, Any]:
    """The variables of these names.

    Raises:
        VariableProblem: one is missing; the line says ``where`` and has the nearest name that is there.
    """
    for name in names:
        if name not in namespace:
            texts = (key for key in namespace if isinstance(key, str) and key not in _OTHERS)
            known = [key for key in texts if not key.startswith("_")]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            raise VariableProblem(
                f"there is no variable {name} {where}" + (f"; did you mean {near[0]}?" if near else "")
            )
    return {name: namespace[name] for name in names}


def pack(values: Mapping[str, Any], max_bytes: int = DEFAULT_MAX_BYTES, *, as_pickle: bool = False) -> Packed:
    """Variables as a file's pieces.

    Args:
        values: the variables.
        max_bytes: bound on each of them.
        as_pickle: what has no open format may travel as a pickle.

    Raises:
        VariableProblem: one cannot be sent, or is too large.
    """
    store = Store(max_bytes)
    encoder = Encoder(store)
    table: Dict[str, List[Any]] = {}
    for name, value in values.items():
        store.begin()
        mark = len(store.pieces), store.size_bytes
        try:
            try:
                table[name] = [_OPEN, encoder.pack(value, name)]
            except Unsendable as error:
                if not as_pickle:
                    raise VariableProblem(f"{name} cannot be sent: {error}; --pickle sends it as a pickle") from None
                del store.pieces[mark[0] :]
                store.size_bytes = mark[1]
                store.begin()
                table[name] = [_PICKLE, encoder.pack(store.add(_pickled(name, value)), name)]
        except TooLarge as error:
            sizes = f"{size_text(error.size_bytes)}, over the {size_text(max_bytes)} of --max-bytes"
            raise VariableProblem(f"{name} has {sizes}: give a larger --max-bytes, or send less") from None
    packed: bytes = msgpack().packb(table)
    start = HEAD.size + len(packed)
    pad = padding(start, PAGE_BYTES)
    pieces = [HEAD.pack(_MARK, len(packed), start + len(pad)), packed, *([pad, *store.pieces] if store.pieces else [])]
    size_bytes = start + (len(pad) + store.size_bytes if store.pieces else 0)
    return Packed(pieces, size_bytes, tuple(name for name, (how, _) in table.items() if how == _PICKLE))


def unpack(file: BinaryIO, pickled: Collection[str] = ()) -> Dict[str, Any]:
    """The variables in an open file; it may be closed and removed afterwards, but its bytes must not change.

    Args:
        file: at its full length.
        pickled: the variables whose pickles may be loaded, which runs what code they name.

    Raises:
        VariableProblem: the file is damaged, or a variable cannot be loaded here.
    """
    mark, size, start = HEAD.unpack(read_exactly(file, 0, HEAD.size))
    blobs = Blobs(file, start)
    if mark != _MARK or size > blobs.size_bytes:
        raise VariableProblem("this is no file of variables")
    table = decode(bytes(read_exactly(file, HEAD.size, size)), blobs)
    if not isinstance(table, dict):
        raise VariableProblem("the file of variables is damaged: it has no names")
    return {str(name): _loaded(str(name), item, blobs, pickled) for name, item in table.items()}


def _loaded(name: str, item: Any, blobs: Blobs, pickled: Collection[str]) -> Any:
    try:
        how, packed = item
        value = decode(packed, blobs)
        if how == _OPEN:
            return value
        data = blobs.read(value)
    except (VariableProblem, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, VariableProblem) else first_line(error)
        raise VariableProblem(f"{name} cannot be loaded: {text}") from None
    if name not in pickled:
        raise VariableProblem(f"{name} is a pickle, which only --pickle loads")
    try:
        return pickle.loads(data)  # noqa: S301  (the user has allowed this one, and was told what it means)
    except Exception as error:  # noqa: BLE001  # it runs code of any kind
        raise VariableProblem(f"the pickle of {name} cannot be loaded: {first_line(error)}") from None


def _pickled(name: str, value: Any) -> bytes:
    try:
        import cloudpickle as pickler  # it takes functions and classes of the notebook along
    except ImportError:
        pickler = pickle
    try:
        data: bytes = pickler.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001  # a value's own code runs
        raise VariableProblem(f"{name} cannot be sent, not even as a pickle: {first_line(error)}") from None
    return data
