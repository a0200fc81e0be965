"""The blobs of a file of variables: collected for writing without a copy, and read without one."""

from __future__ import annotations

import mmap
import os
from typing import BinaryIO, List, Sequence, Union

from skyrl_magic.core.variables.problem import TooLarge, VariableProblem

Buffer = Union[bytes, bytearray, memoryview]

#: A blob from this size on, in bytes, is mapped by itself; smaller ones are read.
MAPPED_BYTES = 1024 * 1024
#: Where such a blob begins: a multiple of every page size that Linux and macOS have, in bytes.
PAGE_BYTES = 64 * 1024
#: Where a small one begins: Arrow's and NumPy's own alignment, in bytes.
ALIGNED_BYTES = 64


def padding(size_bytes: int, aligned_bytes: int) -> bytes:
    """What is to be written after ``size_bytes`` so that what follows is aligned."""
    return bytes(-size_bytes % aligned_bytes)


class Store:
    """Blobs to be written, in order. ``max_bytes`` bounds each variable: what lies between two :meth:`begin`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used = 0
        self.pieces: List[Buffer] = []
        self.size_bytes = 0

    def begin(self) -> None:
        """The next variable."""
        self._used = 0

    def check(self, size_bytes: int) -> None:
        """Raise TooLarge where ``size_bytes`` more are too much for the variable."""
        if self._used + size_bytes > self._max_bytes:
            raise TooLarge(self._used + size_bytes)

    def add(self, data: Buffer) -> List[int]:
        """Take a blob, without a copy, and return where it lies. Raises TooLarge."""
        view = memoryview(data)
        self.check(view.nbytes)
        self._used += view.nbytes
        pad = padding(self.size_bytes, PAGE_BYTES if view.nbytes >= MAPPED_BYTES else ALIGNED_BYTES)
        place = [self.size_bytes + len(pad), view.nbytes]
        self.pieces += [pad, view] if pad else [view]
        self.size_bytes = sum(place)
        return place


class Blobs:
    """The blobs of a file; ``start`` is where they begin, in bytes."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._start = start
        self.size_bytes = os.fstat(file.fileno()).st_size

    def read(self, place: Sequence[int]) -> memoryview:
        """The bytes at ``place``, which can be written to; the file stays as it is.

        Raises:
            VariableProblem: there is no such place.
        """
        offset, size = place
        begin = self._start + offset
        if not 0 <= offset <= begin + size <= self.size_bytes or size < 0:
            raise VariableProblem("the file of variables is damaged: a blob lies outside of it")
        if size >= MAPPED_BYTES and begin % mmap.ALLOCATIONGRANULARITY == 0:
            return memoryview(mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_COPY, offset=begin))
        return memoryview(read_exactly(self._file, begin, size))


def read_exactly(file: BinaryIO, offset: int, size: int) -> bytearray:
    """``size`` bytes from ``offset`` on. Raises VariableProblem where there are fewer."""
    data = bytearray(size)
    file.seek(offset)
    if (file.readinto(data) if size else 0) != size:  # type: ignore[attr-defined]
        raise VariableProblem("the file of variables is damaged: it ends too soon")
    return data
