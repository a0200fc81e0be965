"""Output that is read again from an offset, and stdin that is written by offset, over real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.loopback.runtime.input import StdinClosedError, StdinGapError, StdinWriter
from skyrl_magic.loopback.runtime.output import OffsetGoneError, PipeReader, ReplayBuffer

T = TypeVar("T")
DEADLINE_S = 30.0


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


async def soon(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, DEADLINE_S)


async def turns(count: int = 5) -> None:
    """Let everything that is ready happen."""
    for _ in range(count):
        await asyncio.sleep(0)


@given(st.lists(st.binary(min_size=1, max_size=50)), st.integers(1, 20), st.data())
def test_every_offset_that_is_kept_can_be_read(chunks: list[bytes], limit: int, data: st.DataObject) -> None:
    buffer = ReplayBuffer()
    for chunk in chunks:
        buffer.append(chunk)
    whole = b"".join(chunks)
    offset = data.draw(st.integers(0, len(whole)))
    read = b""
    while part := buffer.read(offset + len(read), limit):
        assert len(part) <= limit
        read += part
    assert read == whole[offset:]


@given(st.integers(0, 5000), st.integers(1, 3000))
def test_only_what_was_delivered_and_lies_far_behind_is_dropped(delivered: int, window: int) -> None:
    buffer = ReplayBuffer(window)
    whole = bytes(number % 251 for number in range(5000))
    for start in range(0, len(whole), 10):
        buffer.append(whole[start : start + 10])
    buffer.deliver(delivered)
    kept_from = max(0, delivered - window)
    assert buffer.start <= kept_from
    assert buffer.read(kept_from, 5000) == whole[kept_from : kept_from + 10 - kept_from % 10]
    if buffer.start:
        with pytest.raises(OffsetGoneError):
            buffer.read(buffer.start - 1)


def test_memory_is_bounded() -> None:
    buffer = ReplayBuffer(10_000)
    for _ in range(10_000):
        buffer.append(bytes(100))
        buffer.deliver(buffer.end)
    assert buffer.end - buffer.start < 20_000


def test_what_was_not_delivered_is_never_forgotten() -> None:
    buffer = ReplayBuffer()
    buffer.append(b"abc")
    buffer.deliver(2)
    buffer.forget()
    assert buffer.read(0) == b"abc"
    buffer.deliver(3)
    buffer.forget()
    assert buffer.start == 3
    assert buffer.read(3) == b""


def test_offset_beyond_the_end() -> None:
    with pytest.raises(OffsetGoneError):
        ReplayBuffer().read(1)


@in_loop
async def test_pipe_is_not_read_while_its_reader_is_behind() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    reader = PipeReader(read_end, backlog_bytes=100_000)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while written < 10_000_000:
            written += os.write(write_end, bytes(4096))
            await turns()
    assert 100_000 <= reader.buffer.end < 500_000
    assert written < 1_000_000
    received = 0
    while received < written:
        received += len(await soon(reader.read(received)))
        reader.deliver(received)
    os.close(write_end)
    assert await soon(reader.read(received)) == b""
    reader.close()


@in_loop
async def test_two_readers_get_the_same() -> None:
    read_end, write_end = os.pipe()
    reader = PipeReader(read_end)
    waiting = [asyncio.ensure_future(reader.read(0)) for _ in range(2)]
    await turns()
    os.write(write_end, b"x")
    assert [await soon(each) for each in waiting] == [b"x", b"x"]
    os.close(write_end)
    assert await soon(reader.read(1)) == b""


@in_loop
async def test_closed_reader_ends_its_stream_and_its_writer() -> None:
    read_end, write_end = os.pipe()
    reader = PipeReader(read_end)
    waiting = asyncio.ensure_future(reader.read(0))
    await turns()
    reader.close()
    assert await soon(waiting) == b""
    with pytest.raises(BrokenPipeError):
        os.write(write_end, b"x")
    os.close(write_end)


@given(st.binary(min_size=1, max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8))
def test_bytes_are_written_once_in_any_repetition(data: bytes, cuts: list[tuple[int, int]]) -> None:
    async def write_all() -> bytes:
        read_end, write_end = os.pipe()
        writer = StdinWriter(write_end)
        for start, stop in [*cuts, (0, len(data))]:
            if start <= writer.written_bytes:
                await writer.write(start, data[start:stop])
        await writer.write(len(data), b"", eof=True)
        with os.fdopen(read_end, "rb") as file:
            return file.read()

    assert asyncio.run(write_all()) == data


@in_loop
async def test_gap_is_refused() -> None:
    read_end, write_end = os.pipe()
    writer = StdinWriter(write_end)
    with pytest.raises(StdinGapError):
        await writer.write(1, b"x")
    writer.close()
    os.close(read_end)


@in_loop
async def test_write_that_was_cut_goes_on_where_it_stopped() -> None:
    read_end, write_end = os.pipe()
    writer = StdinWriter(write_end)
    data = os.urandom(1_000_000)
    first = asyncio.ensure_future(writer.write(0, data))
    await turns()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert 0 < writer.written_bytes < len(data)
    second = asyncio.ensure_future(writer.write(0, data, eof=True))
    received = await soon(asyncio.to_thread(_read_all, read_end))
    await soon(second)
    assert received == data


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@in_loop
async def test_process_that_ends_frees_its_writer() -> None:
    read_end, write_end = os.pipe()
    writer = StdinWriter(write_end)
    waiting = asyncio.ensure_future(writer.write(0, bytes(1_000_000)))
    await turns()
    writer.close()
    with pytest.raises(StdinClosedError):
        await soon(waiting)
    with pytest.raises(StdinClosedError):
        await writer.write(writer.written_bytes, b"x")
    await writer.write(0, b"x")  # that much was written: sent again, it is no error
    os.close(read_end)


@in_loop
async def test_reader_that_is_gone() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = StdinWriter(write_end)
    with pytest.raises(StdinClosedError):
        await writer.write(0, b"x")
    assert writer.closed
