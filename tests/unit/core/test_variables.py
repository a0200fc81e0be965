"""The codec of variables: what goes in comes out, with its types; what is damaged is refused in one line."""

from __future__ import annotations

import collections
import datetime as dt
import io
import mmap
import subprocess
import sys
import tempfile
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from skyrl_magic.core.variables import DEFAULT_MAX_BYTES, Packed, VariableProblem, find, pack, unpack
from skyrl_magic.core.variables.store import MAPPED_BYTES

INDIA = dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")
zones = st.sampled_from(
    [None, dt.timezone.utc, INDIA, zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("America/New_York")]
)
numbers = st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
times: st.SearchStrategy[Any] = st.dates() | st.timedeltas() | st.datetimes(timezones=zones) | st.times(timezones=zones)
keys: st.SearchStrategy[Any] = st.none() | st.booleans() | numbers | st.text() | st.binary() | times
hashables = keys | st.lists(keys, max_size=3).map(tuple) | st.frozensets(keys, max_size=3)
plain = st.recursive(
    hashables | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashables, max_size=3)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=20,
)
dtypes = npst.scalar_dtypes() | npst.unicode_string_dtypes() | npst.byte_string_dtypes() | npst.array_dtypes()
arrays = dtypes.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0)))


def written(packed: Packed) -> BinaryIO:
    """What was packed as an open file."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (the caller closes it)
    file.writelines(packed.pieces)
    file.flush()
    assert file.seek(0, io.SEEK_END) == packed.size_bytes
    return file


def round_trip(value: Any, **options: Any) -> Any:
    """What comes out for ``value``, when the file is closed."""
    packed = pack({"x": value}, **options)
    with written(packed) as file:
        return unpack(file, packed.pickled)["x"]


def types(value: Any) -> Any:
    """The types of a value and of all that it holds."""
    if isinstance(value, dict):
        return [(types(key), types(item)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(types(item)) for item in value)
    return (type(value), [types(item) for item in value]) if isinstance(value, (list, tuple)) else type(value)


# --- plain data -------------------------------------------------------------------------------------------------------


@given(plain)
def test_plain_data_comes_out_as_it_went_in(value: Any) -> None:
    found = round_trip(value)
    assert found == value
    assert types(found) == types(value)


@given(st.dictionaries(st.text(min_size=1), plain, max_size=4))
def test_several_variables_in_one_file(values: dict[str, Any]) -> None:
    with written(pack(values)) as file:
        assert unpack(file) == values


def test_what_equality_does_not_tell() -> None:
    assert repr(round_trip([float("nan"), -0.0, float("inf"), complex("nan")])) == "[nan, -0.0, inf, (nan+0j)]"
    assert round_trip("a\ud800") == "a\ud800"
    assert list(round_trip({2: 0, 1: 0})) == [2, 1]
    late = dt.datetime(2025, 10, 26, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    assert (round_trip(late).fold, round_trip(late).utcoffset()) == (1, dt.timedelta(hours=1))


def test_a_list_of_a_million_numbers_is_packed_as_it_is() -> None:
    assert round_trip(list(range(1_000_000)))[-1] == 999_999


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (object, "x is of type object"),
        (lambda: [1, {"k": (2, object())}], "x[1]['k'][1] is of type object"),
        (lambda: {frozenset([object()]): 1}, "an item of a key of x is of type object"),
        (lambda: collections.OrderedDict(a=1), "x is of type collections.OrderedDict"),
        (lambda: Point(1, 2), "Point"),
        (lambda: dt.datetime(2025, 1, 1, tzinfo=Strange()), "time zone is a"),
        (lambda: np.array([None]), "x is a numpy.ndarray of object"),
        (lambda: np.ma.array([1]), "x is of type numpy.MaskedArray"),
        (lambda: pd.Timestamp("2025"), "x is of type pandas.Timestamp"),
        (lambda: pl.DataFrame({"a": [object()]}), "with a column of Python objects"),
        (lambda: pd.DataFrame({"a": [object()]}), "that Arrow does not carry"),
        (lambda: pd.DataFrame([[1, 2]], columns=[1, "a"]), "whose labels of columns Arrow does not carry"),
        (lambda: pd.DataFrame([1]).rename_axis([("a", 1)]), "one of whose axes is named by a tuple"),
        (lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]), "that Arrow does not carry"),
    ],
)
def test_what_has_no_open_format_is_named(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(VariableProblem, match="--pickle sends it as a pickle") as caught:
        pack({"x": make()})
    assert str(caught.value).startswith("x cannot be sent: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


class Point(NamedTuple):
    """A tuple, and more."""

    x: int
    y: int


class Strange(dt.tzinfo):
    """A zone of the user's own."""

    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)

    dst = utcoffset

    def tzname(self, _: dt.datetime | None) -> str:
        return "strange"


def test_a_value_that_contains_itself_and_one_that_is_too_deep() -> None:
    loop: list[Any] = []
    loop.append((loop,))
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(VariableProblem, match="contains itself"):
        pack({"x": loop})
    with pytest.raises(VariableProblem, match="nested too deeply"):
        pack({"x": deep})


# --- arrays and tables ------------------------------------------------------------------------------------------------


@given(arrays)
def test_arrays_come_out_as_they_went_in(array: np.ndarray[Any, Any]) -> None:
    for value in (array, array.T, array[..., ::2] if array.ndim else array):
        found = round_trip(value)
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes()
        assert found.flags.writeable
    if array.size:
        item = array.flat[0]
        assert type(round_trip(item)) is type(item)
        assert repr(round_trip([item])) == repr([item])


def test_a_large_array_is_packed_and_loaded_without_a_copy() -> None:
    array = np.arange(MAPPED_BYTES)
    packed = pack({"x": array})
    assert any(np.shares_memory(np.frombuffer(piece, np.uint8), array) for piece in packed.pieces if len(piece) > 0)
    with written(packed) as file:
        found, again = unpack(file)["x"], unpack(file)["x"]
    assert isinstance(found.base, mmap.mmap)
    found[0] = 7  # neither the file's nor another's
    assert again[0] == 0


FRAMES = [
    pd.DataFrame(),
    pd.DataFrame(index=[1, 2]),
    pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, float("nan")], "d": [True, False]}),
    pd.DataFrame({"a": pd.Series([1, None], dtype=object), "b": pd.Series(["u", "v"], dtype=object)}),
    pd.DataFrame({"a": pd.Series([1, None], dtype="Int64"), "b": pd.Categorical(["u", "v"])}),
    pd.DataFrame({"a": [dt.date(2025, 1, 1)]}, index=pd.Index(["row"], name="name")),
    pd.DataFrame({"a": np.arange(300_000.0)}),
    pd.DataFrame({"t": pd.date_range("2025", periods=2, tz="UTC")}, index=[5, 6]),
    pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "u"), (2, "v")], names=["p", None])),
    pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
    pd.DataFrame(np.arange(6).reshape(3, 2)),
    pd.DataFrame({"a": [1, 2]}).rename_axis("step"),
    pd.DataFrame({"a": [1, 2]}).rename_axis(7),
    pd.DataFrame({"a": [1, 2]}).rename_axis("a"),
    pd.DataFrame({"a": [1, 2]}).rename_axis(columns="metric"),
    pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(3, 9, 3, name="step")),
    pd.DataFrame({"a": []}, dtype=float).rename_axis("step"),
    pd.DataFrame().rename_axis("step"),
    pd.DataFrame({"a": [1, 2]}, index=pd.CategoricalIndex(["u", "v"], name="kind")),
    pd.DataFrame(np.arange(6).reshape(3, 2)).rename_axis("step").rename_axis(columns=0),
    pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, "u")], names=["p", "p"])),
    pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")], names=["p", None])),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_pandas_frames_come_out_as_they_went_in_and_can_be_changed(frame: pd.DataFrame) -> None:
    found = round_trip({"in": [frame]})["in"][0]
    pd.testing.assert_frame_equal(found, frame)
    if frame.size:
        found.iloc[0, 0] = found.iloc[-1, 0]


def test_names_of_axes_keep_their_type_and_the_frame_that_was_sent_its_own() -> None:
    frame = pd.DataFrame({"a": [1]}).rename_axis(7)
    found = round_trip(frame)
    assert [*found.index.names, *frame.index.names] == [7, 7]
    assert type(found.index.name) is int
    assert isinstance(found.index, pd.RangeIndex)


@pytest.mark.parametrize("name", [None, "n", ("n", 1), 3])
@pytest.mark.parametrize("step", [None, "step"])
def test_series(name: Any, step: str | None) -> None:
    series = pd.Series([1.0, 2.0], index=["u", "v"], name=name)
    pd.testing.assert_series_equal(round_trip(series), series)
    counted = pd.Series([1.0, 2.0], name=name).rename_axis(step)
    pd.testing.assert_series_equal(round_trip(counted), counted)
    assert round_trip(pl.Series("n", [1, None])).to_list() == [1, None]


def test_polars_and_arrow_tables() -> None:
    frame = pl.DataFrame({"a": [1, None], "b": [["x"], []], "c": pl.Series(["u", "u"], dtype=pl.Categorical)})
    assert round_trip(frame).equals(frame)
    table = pa.table({"a": [1, None, 3], "b": ["x", "y", None], "c": pa.array(["u", "u", "v"]).dictionary_encode()})
    for value in (table, table.slice(1), table.slice(0, 0)):
        assert round_trip(value).equals(value)


# --- bounds, pickles, names -------------------------------------------------------------------------------------------


def test_the_bound_is_on_each_variable() -> None:
    pack({"a": np.zeros(900, np.uint8), "b": b"x" * 900}, max_bytes=1000)
    for value in (np.zeros(1100, np.uint8), [np.zeros(600, np.uint8)] * 2, "x" * 1100, pd.DataFrame({"a": range(999)})):
        with pytest.raises(VariableProblem, match=r"^b has [\d.]+ (bytes|KiB), over the 0.977 KiB of --max-bytes"):
            pack({"a": 1, "b": value}, max_bytes=1000)
    assert DEFAULT_MAX_BYTES == 256 * 2**20


def test_pickles_only_where_they_are_allowed_on_both_sides() -> None:
    packed = pack({"f": lambda: 7, "plain": 1}, as_pickle=True)
    assert packed.pickled == ("f",)
    with written(packed) as file:
        assert unpack(file, packed.pickled)["f"]() == 7
        with pytest.raises(VariableProblem, match="f is a pickle, which only --pickle loads"):
            unpack(file)


def test_a_pickle_that_cannot_be_made_or_loaded_is_one_line() -> None:
    with pytest.raises(VariableProblem, match=r"^x cannot be sent, not even as a pickle: TypeError: cannot pickle"):
        pack({"x": (letter for letter in "abc")}, as_pickle=True)
    packed = pack({"x": Breaks()}, as_pickle=True)
    with (
        written(packed) as file,
        pytest.raises(VariableProblem, match=r"^the pickle of x cannot be loaded: OSError: no"),
    ):
        unpack(file, ["x"])


class Breaks:
    """Its pickle raises when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return breaking, ()


def breaking() -> None:
    raise OSError("no\nnever")


def test_names() -> None:
    namespace = {"scores": 1, "frame": 2}
    assert find(namespace, ["frame"], "here") == {"frame": 2}
    with pytest.raises(VariableProblem, match=r"^there is no variable score here; did you mean scores\?$"):
        find(namespace, ["frame", "score"], "here")
    with pytest.raises(VariableProblem, match=r"^there is no variable nope here$"):  # and not IPython's own open
        find({"open": open, "exit": exit}, ["nope"], "here")
    with pytest.raises(VariableProblem, match=r"^there is no variable zzz here$"):
        find(namespace, ["zzz"], "here")


# --- what cannot be trusted -------------------------------------------------------------------------------------------


VALUES = {"a": [1, (2, {3})], "b": np.arange(9), "c": pa.table({"s": ["x", "yz"]}), "d": dt.date(2025, 1, 1)}


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A file's bytes."""
    return b"".join(map(bytes, pack(VALUES).pieces))


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(data: st.DataObject, whole: bytes) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of the file is padding; what is not lies at its ends.
        place = data.draw(st.integers(0, 400) | st.integers(len(whole) - 1000, len(whole) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    with tempfile.TemporaryFile() as file:
        file.write(damaged[:cut])
        file.flush()
        try:
            unpack(file)
        except VariableProblem as problem:
            assert "\n" not in str(problem)  # noqa: PT017  (it need not be raised)


def test_lengths_that_are_not_there_take_no_memory() -> None:
    from skyrl_magic.core.variables.bundle import HEAD

    claims = b"\xdd\x7f\xff\xff\xff" * 30  # arrays of 2**31 items in one another
    with tempfile.TemporaryFile() as file:
        file.write(HEAD.pack(b"skyrlvr1", len(claims), HEAD.size + len(claims)) + claims)
        file.flush()
        with pytest.raises(VariableProblem):
            unpack(file)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (["|O", [1], False, [0, 8]], "holds references"),
        (["|u1", [10**15], False, [0, 0]], "an array has no bytes"),
        (["|u1", [9], False, [0, 8]], "too small"),
        (["|u1", [-8], False, [0, 8]], "negative"),
        (["|u1", [8], False, [8, 8]], "lies outside"),
        (["|u1", [8], False, [-8, 8]], "lies outside"),
    ],
)
def test_an_array_that_cannot_be_is_refused(array: list[Any], says: str) -> None:
    import msgpack

    from skyrl_magic.core.variables.bundle import HEAD

    packed = msgpack.packb(msgpack.ExtType(11, msgpack.packb(["array", *array])))
    table = msgpack.packb({"x": [0, packed]})
    with tempfile.TemporaryFile() as file:
        file.write(HEAD.pack(b"skyrlvr1", len(table), HEAD.size + len(table)) + table + bytes(8))
        file.flush()
        with pytest.raises(VariableProblem, match=f"^x cannot be loaded: .*{says}"):
            unpack(file)


# --- where packages are missing ---------------------------------------------------------------------------------------


Bare = Callable[[str, bool], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    """Runs code in an interpreter that has the standard library, the codec and, where asked for, msgpack."""

    def run(code: str, with_msgpack: bool) -> subprocess.CompletedProcess[str]:  # noqa: FBT001
        import msgpack

        root = Path(__file__).resolve().parents[3]
        packages = tmp_path / "packages"
        packages.mkdir(exist_ok=True)
        if with_msgpack:
            (packages / "msgpack").symlink_to(Path(msgpack.__file__).parent)
        lines = f"import sys; sys.path += [{str(root)!r}, {str(packages)!r}]\n{code}"
        return subprocess.run([sys.executable, "-I", "-S", "-c", lines], capture_output=True, text=True, check=False)

    return run


def test_the_codec_imports_the_standard_library_alone(bare: Bare) -> None:
    done = bare("from skyrl_magic.core.variables import pack\npack({'x': 1})", False)
    assert "variables travel by msgpack, which" in done.stderr.splitlines()[-1]
    assert "install it there (pip install msgpack)" in done.stderr.splitlines()[-1]


def test_a_package_that_is_missing_is_named(bare: Bare, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(map(bytes, pack({"x": np.arange(3)}).pieces)))
    done = bare(f"from skyrl_magic.core.variables import unpack\nunpack(open({str(path)!r}, 'rb'))", True)
    assert "x cannot be loaded: an array needs numpy, which" in done.stderr.splitlines()[-1]
