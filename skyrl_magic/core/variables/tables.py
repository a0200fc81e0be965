"""NumPy arrays and scalars as their bytes; pandas, polars and Arrow tables as Arrow IPC streams."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence

from skyrl_magic.core.variables.problem import Unsendable, VariableProblem, first_line
from skyrl_magic.core.variables.store import Blobs, Buffer, Store

#: NumPy's kinds of dtypes whose values are their bytes (``O`` and ``T`` hold references).
_BYTE_KINDS = "biufcmMSUV"
#: What can name the rows or the columns of a pandas table and is plain data.
_AXIS_NAMES = (str, int, float, bool, type(None))
#: The name of pandas' dtype for columns of Python objects.
_OBJECT = "object"


def is_table(value: Any) -> bool:
    """Whether ``value`` is of a package that this module knows; nothing is imported."""
    return type(value).__module__.partition(".")[0] in _ENCODERS


def encode(value: Any, store: Store, at: str) -> List[Any]:
    """``[kind, *plain fields]`` for an array or a table, whose bytes go into ``store``.

    Args:
        value: of one of the packages.
        store: takes the bytes; they are not copied where they lie in one piece.
        at: the value's place in its variable, for errors.

    Raises:
        Unsendable: it is something else, or has what no open format carries. TooLarge: it is over the store's bound.
    """
    package = type(value).__module__.partition(".")[0]
    try:
        made: Optional[List[Any]] = _ENCODERS[package](value, store)
    except Unsendable as error:
        raise Unsendable(f"{at} is a {_name(value)} {error}") from None
    if made is None:
        raise Unsendable(f"{at} is of type {_name(value)}")
    return made


def decode(parts: Sequence[Any], blobs: Blobs) -> Any:
    """What :func:`encode` made. Raises VariableProblem for what is none, or needs a package that is missing."""
    kind, *fields = parts
    return _DECODERS[kind](blobs, *fields)


def _name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise VariableProblem(f"{what} needs {name}, which {sys.executable} has not: install it there") from None


# --- NumPy ------------------------------------------------------------------------------------------------------------


def _encode_numpy(value: Any, store: Store) -> Optional[List[Any]]:
    np = sys.modules["numpy"]
    if isinstance(value, np.generic):
        return ["scalar", _description(np, value.dtype), value.tobytes()]
    if type(value) not in (np.ndarray, np.memmap):
        return None
    description = _description(np, value.dtype)
    store.check(value.nbytes)  # before a copy is made
    fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    data: Buffer = b""
    if value.nbytes:
        data = np.ascontiguousarray(value.T if fortran else value).reshape(-1).view(np.uint8).data
    return ["array", description, list(value.shape), fortran, store.add(data)]


def _description(np: Any, dtype: Any) -> Any:
    """A dtype as plain data. Raises Unsendable where its values are more than their bytes, or it would change."""
    if dtype.kind in _BYTE_KINDS and not dtype.hasobject:
        description = np.lib.format.dtype_to_descr(dtype)
        if np.lib.format.descr_to_dtype(description) == dtype:
            return description
    raise Unsendable(f"of {dtype.name}")


def _dtype(np: Any, description: Any) -> Any:
    dtype = np.lib.format.descr_to_dtype(description)
    if dtype.hasobject or dtype.kind not in _BYTE_KINDS:
        raise VariableProblem("an array's type holds references")
    return dtype


def _to_scalar(_: Blobs, description: Any, data: bytes) -> Any:
    np = _package("numpy", "a NumPy value")
    dtype = _dtype(np, description)
    return np.frombuffer(data, dtype)[0] if dtype.itemsize else dtype.type()


def _to_array(blobs: Blobs, description: Any, shape: List[int], fortran: bool, place: List[int]) -> Any:  # noqa: FBT001
    np = _package("numpy", "an array")
    dtype, buffer = _dtype(np, description), blobs.read(place)
    if not buffer and dtype.itemsize and 0 not in shape:
        raise VariableProblem("an array has no bytes")
    return np.ndarray(tuple(shape), dtype, buffer or None, order="F" if fortran else "C")


# --- Arrow ------------------------------------------------------------------------------------------------------------


def _encode_arrow(value: Any, store: Store) -> Optional[List[Any]]:
    pa = sys.modules["pyarrow"]
    return ["arrow", _stream(pa, value, store)] if type(value) is pa.Table else None


def _stream(pa: Any, table: Any, store: Store) -> List[int]:
    """Put a table into the store as an Arrow IPC stream, copied once."""
    with pa.MockOutputStream() as mock:
        _write(pa, mock, table)
        size = mock.size()
    store.check(size)
    buffer = pa.allocate_buffer(size)
    with pa.FixedSizeBufferWriter(buffer) as sink:
        _write(pa, sink, table)
    return store.add(memoryview(buffer))


def _write(pa: Any, sink: Any, table: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _to_arrow(blobs: Blobs, place: List[int]) -> Any:
    pa = _package("pyarrow", "a table")
    _package("pyarrow.ipc", "a table")
    table = pa.ipc.open_stream(pa.py_buffer(blobs.read(place))).read_all()
    table.validate(full=True)  # what lies outside of its buffers would be read otherwise
    return table


# --- pandas -----------------------------------------------------------------------------------------------------------


def _encode_pandas(value: Any, store: Store) -> Optional[List[Any]]:
    pd = sys.modules["pandas"]
    if type(value) is pd.DataFrame:
        return ["frame", *_frame(value, store)]
    if type(value) is pd.Series:
        return ["series", value.name, *_frame(value.to_frame(name="values"), store)]
    return None


def _frame(frame: Any, store: Store) -> List[Any]:
    """A frame's dtypes, its place in the store and its axes' names where it has any.

    Arrow drops the name of a default index where it has no rows to count, and makes text of a number: names go beside.

    Raises:
        Unsendable: Arrow would change it.
    """
    names = [list(frame.index.names), list(frame.columns.names)]
    named = any(name is not None for axis in names for name in axis)
    if named:
        odd = next((name for axis in names for name in axis if type(name) not in _AXIS_NAMES), None)
        if odd is not None:
            raise Unsendable(f"one of whose axes is named by a {type(odd).__qualname__}, not by text or a number")
        frame = frame.copy(deep=False)
        frame.index = frame.index.set_names([None] * frame.index.nlevels)
        frame.columns = frame.columns.set_names([None] * frame.columns.nlevels)
    pa = _package("pyarrow", "a pandas table")
    _package("pyarrow.ipc", "a pandas table")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is refused below
            table = pa.Table.from_pandas(frame)
            empty = table.slice(0, 0).to_pandas()
    except (pa.ArrowException, ValueError, TypeError, NotImplementedError) as error:
        raise Unsendable(f"that Arrow does not carry ({first_line(error)})") from None
    if empty.columns.names != frame.columns.names or (len(frame.columns) and not empty.columns.equals(frame.columns)):
        raise Unsendable("whose labels of columns Arrow does not carry")
    kept, given = empty.index, frame.index
    if kept.names != given.names or (given.dtype.name != _OBJECT and kept.dtype != given.dtype):
        raise Unsendable("whose labels of rows Arrow does not carry")
    objects = [index for index, dtype in enumerate(frame.dtypes) if dtype.name == _OBJECT]
    return [objects, _stream(pa, table, store), *([names] if named else [])]


def _to_frame(blobs: Blobs, objects: List[int], place: List[int], names: Sequence[List[Any]] = ()) -> Any:
    _package("pandas", "a pandas table")
    frame = _to_arrow(blobs, place).to_pandas(integer_object_nulls=True)
    for index in objects:  # Arrow has found a narrower type for it
        if frame.dtypes.iloc[index].name != _OBJECT:
            frame.isetitem(index, frame.iloc[:, index].astype(object))
    if names:
        frame.index.names, frame.columns.names = names
    return frame


def _to_series(blobs: Blobs, name: Any, *fields: Any) -> Any:
    return _to_frame(blobs, *fields)["values"].rename(name)


# --- polars -----------------------------------------------------------------------------------------------------------


def _encode_polars(value: Any, store: Store) -> Optional[List[Any]]:
    pl = sys.modules["polars"]
    if type(value) is pl.DataFrame:
        return ["polars", *_polars(pl, value, store)]
    if type(value) is pl.Series:
        return ["polars series", *_polars(pl, value.to_frame(), store)]
    return None


def _polars(pl: Any, frame: Any, store: Store) -> List[Any]:
    if any(dtype.is_(pl.Object) for dtype in frame.dtypes):
        raise Unsendable("with a column of Python objects")
    store.check(int(frame.estimated_size()))
    stream = io.BytesIO()
    frame.write_ipc_stream(stream)
    return [store.add(stream.getbuffer())]


def _to_polars(blobs: Blobs, place: List[int]) -> Any:
    pl = _package("polars", "a polars table")
    try:
        return pl.read_ipc_stream(io.BytesIO(blobs.read(place)))
    except pl.exceptions.PanicException as error:  # no Exception, but a damaged stream is nothing more
        raise VariableProblem(f"a polars table cannot be read ({first_line(error)})") from None


def _to_polars_series(blobs: Blobs, place: List[int]) -> Any:
    return _to_polars(blobs, place).to_series(0)


_ENCODERS: Dict[str, Callable[[Any, Store], Any]] = {
    "numpy": _encode_numpy,
    "pandas": _encode_pandas,
    "polars": _encode_polars,
    "pyarrow": _encode_arrow,
}
_DECODERS: Dict[str, Callable[..., Any]] = {
    "scalar": _to_scalar,
    "array": _to_array,
    "arrow": _to_arrow,
    "frame": _to_frame,
    "series": _to_series,
    "polars": _to_polars,
    "polars series": _to_polars_series,
}
