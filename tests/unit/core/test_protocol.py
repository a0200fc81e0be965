"""Frames: what is encoded is decoded, in any chunking, and nothing else is."""

from __future__ import annotations

import dataclasses
import itertools
import json
import struct
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core import protocol
from skyrl_magic.core.protocol import codec

KINDS = sorted(codec.KINDS.items())
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**53), 2**53),
    str: TEXT,
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=2000),
    type(None): st.none(),
    Any: st.integers() | TEXT,
}


def by_type(hint: Any) -> st.SearchStrategy[Any]:
    origin, parts = typing.get_origin(hint), [by_type(part) for part in typing.get_args(hint)]
    if origin is dict:
        return st.dictionaries(*parts, max_size=3)
    if origin is list:
        return st.lists(*parts, max_size=3)
    return st.one_of(parts) if origin is typing.Union else SCALARS[hint]


def messages() -> st.SearchStrategy[protocol.Message]:
    """Any message of any kind."""

    def make(cls: type[protocol.Message]) -> st.SearchStrategy[protocol.Message]:
        hints = typing.get_type_hints(cls)
        return st.builds(cls, **{field.name: by_type(hints[field.name]) for field in dataclasses.fields(cls)})

    return st.one_of([make(cls) for _, cls in KINDS])


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data`` cut at places that the numbers choose."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])]


def decode(parts: list[bytes]) -> list[protocol.Message]:
    decoder = protocol.FrameDecoder()
    found = [message for part in parts for message in decoder.feed(part)]
    assert decoder.pending_bytes == 0
    return found


def body(kind: int, meta: bytes, payload: bytes = b"") -> bytes:
    inner = struct.pack(">BI", kind, len(meta)) + meta + payload
    return struct.pack(">I", len(inner)) + inner


@settings(deadline=None)
@given(st.lists(messages(), max_size=6), st.lists(st.integers(0, 10**6), max_size=12))
def test_what_is_sent_arrives_under_any_chunking(sent: list[protocol.Message], cuts: list[int]) -> None:
    assert decode(chunks(b"".join(map(protocol.encode, sent)), cuts)) == sent


@settings(deadline=None, max_examples=30)
@given(st.lists(messages(), min_size=1, max_size=3))
def test_what_is_sent_arrives_byte_by_byte(sent: list[protocol.Message]) -> None:
    data = b"".join(map(protocol.encode, sent))
    assert decode([data[i : i + 1] for i in range(len(data))]) == sent


@settings(deadline=None)
@given(messages(), st.integers(1, 50))
def test_a_frame_that_is_cut_waits_for_its_rest(message: protocol.Message, missing: int) -> None:
    data = protocol.encode(message)
    cut = max(len(data) - missing, 0)
    decoder = protocol.FrameDecoder()
    assert list(decoder.feed(data[:cut])) == []
    assert decoder.pending_bytes == cut
    assert list(decoder.feed(data[cut:])) == [message]


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_ends_in_a_protocol_error_or_in_nothing(data: bytes) -> None:
    decoder = protocol.FrameDecoder()
    try:
        for message in decoder.feed(data):
            assert isinstance(message, protocol.Message)
    except protocol.ProtocolError:
        pass


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_every_kind_has_defaults_and_its_number(number: int, kind: type[protocol.Message]) -> None:
    message = kind()
    assert number == kind.KIND
    assert protocol.encode(message)[4] == number
    assert decode([protocol.encode(message)]) == [message]


def test_unknown_kinds_are_skipped() -> None:
    known = protocol.Ping(7)
    assert decode([body(250, b"{}", b"later") + protocol.encode(known)]) == [known]


def test_unknown_fields_are_ignored_and_missing_ones_take_their_defaults() -> None:
    assert decode([body(2, b'{"number":3,"colour":"red"}')]) == [protocol.Ping(3)]
    assert decode([body(2, b"{}")]) == [protocol.Ping()]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        struct.pack(">I", protocol.MAX_FRAME_BYTES + 1),
        struct.pack(">I", 0),
        struct.pack(">I", 4) + b"abcd",
        body(2, b"[1]"),
        body(2, b"{"),
        body(2, b"\xff\xfe"),
        struct.pack(">I", 5) + struct.pack(">BI", 2, 99),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        list(protocol.FrameDecoder().feed(data))


def test_a_frame_that_is_too_large_is_not_made() -> None:
    with pytest.raises(protocol.ProtocolError, match="over"):
        protocol.encode(protocol.Output(payload=bytes(protocol.MAX_FRAME_BYTES)))


def test_what_came_before_garbage_is_still_yielded() -> None:
    decoder = protocol.FrameDecoder()
    feed = decoder.feed(protocol.encode(protocol.Ping(1)) + struct.pack(">I", 1) + b"x")
    assert next(feed) == protocol.Ping(1)
    with pytest.raises(protocol.ProtocolError):
        next(feed)


@given(st.binary(max_size=5000) | st.binary(max_size=20).map(lambda data: data * 500))
def test_payloads_come_back_compressed_or_not(data: bytes) -> None:
    compressed, payload = protocol.pack_payload(data)
    assert len(payload) <= len(data)
    assert protocol.raw_payload(payload, compressed=compressed, raw_bytes=len(data)) == data


def test_a_payload_that_says_another_size_is_refused() -> None:
    compressed, payload = protocol.pack_payload(b"a" * 10_000)
    assert compressed
    for size in (0, 9_999, 10_001, protocol.MAX_FRAME_BYTES + 1):
        with pytest.raises(protocol.ProtocolError):
            protocol.raw_payload(payload, compressed=True, raw_bytes=size)
    with pytest.raises(protocol.ProtocolError):
        protocol.raw_payload(b"no zlib", compressed=True, raw_bytes=7)
    with pytest.raises(protocol.ProtocolError):
        protocol.raw_payload(b"abc", compressed=False, raw_bytes=4)


@given(st.dictionaries(st.text(max_size=10), st.lists(st.integers() | TEXT, max_size=3), max_size=5))
def test_packed_json_comes_back(value: dict[str, Any]) -> None:
    assert protocol.unpack_json(protocol.pack_json(value)) == json.loads(json.dumps(value))


@pytest.mark.parametrize("payload", [b"", b"{}", protocol.pack_payload(b"{" * 1000)[1]])
def test_what_is_no_packed_json_is_refused(payload: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.unpack_json(payload)


# --- Jupyter messages -------------------------------------------------------------------------------------------------

BUFFERS = st.lists(st.binary(max_size=300), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXT, parts, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)


@st.composite
def jupyter_messages(draw: st.DrawFn) -> tuple[protocol.KernelMessage, list[bytes]]:
    """A message as the relay makes it, and its binary buffers."""
    buffers = draw(BUFFERS)
    sizes, payload = protocol.pack_buffers(buffers)
    kind = draw(st.sampled_from(["display_data", "comm_msg", "error", "input_request"]) | TEXT)
    return protocol.KernelMessage("run-1", 0, kind, draw(OBJECTS), draw(OBJECTS), sizes, payload), buffers


@settings(deadline=None)
@given(st.lists(jupyter_messages(), max_size=5), st.lists(st.integers(0, 10**6), max_size=12))
def test_jupyter_messages_and_their_buffers_arrive_under_any_chunking(
    sent: list[tuple[protocol.KernelMessage, list[bytes]]], cuts: list[int]
) -> None:
    received = decode(chunks(b"".join(protocol.encode(message) for message, _ in sent), cuts))
    assert received == [message for message, _ in sent]
    for message, (_, buffers) in zip(received, sent, strict=True):
        assert isinstance(message, protocol.KernelMessage)
        assert protocol.unpack_buffers(message) == buffers


def test_text_that_is_no_unicode_travels_in_a_message() -> None:
    message = protocol.KernelMessage(msg_type="stream", content={"text": "caf\udce9"})
    assert decode([protocol.encode(message)]) == [message]


@given(BUFFERS)
def test_buffers_are_packed_one_after_the_other(buffers: list[bytes]) -> None:
    sizes, payload = protocol.pack_buffers([memoryview(buffer) for buffer in buffers])
    assert payload == b"".join(buffers)
    assert protocol.unpack_buffers(protocol.KernelMessage(buffers=sizes, payload=payload)) == buffers


def test_a_buffer_of_wider_items_travels_as_its_bytes() -> None:
    numbers: Any = memoryview(struct.pack("<3d", 1.0, 2.0, 3.0)).cast("d")
    sizes, payload = protocol.pack_buffers([numbers])
    assert (sizes, payload) == ([24], bytes(numbers))


@given(st.lists(st.integers(0, 50), max_size=5), st.binary(max_size=100))
def test_buffers_are_taken_apart_only_where_their_sizes_fit(sizes: list[int], payload: bytes) -> None:
    message = protocol.KernelMessage(buffers=sizes, payload=payload)
    if sum(sizes) == len(payload):
        assert list(map(len, protocol.unpack_buffers(message))) == sizes
    else:
        with pytest.raises(protocol.ProtocolError):
            protocol.unpack_buffers(message)


@pytest.mark.parametrize(
    "sizes",
    [[4], [2], [5, -2], [1, 2.0], ["3"], [None], [[3]], [10**30], 3, None, "abc", {"3": 3}],
    ids=repr,
)
def test_sizes_that_are_none_are_refused(sizes: Any) -> None:
    meta = json.dumps({"buffers": sizes}).encode()
    (message,) = decode([body(protocol.KernelMessage.KIND, meta, b"abc")])
    assert isinstance(message, protocol.KernelMessage)
    with pytest.raises(protocol.ProtocolError):
        protocol.unpack_buffers(message)


@pytest.mark.parametrize(
    "field",
    [
        *('"idle_s":NaN', '"timeout_in_s":Infinity', '"timeout_in_s":-Infinity', '"idle_s":1e999', '"idle_s":null'),
        *('"request":1' + "0" * 400, '"spent_usd":"1"', '"ray":7', '"busy_with":null'),
        '"active_runs":' + "[" * 100_000,
    ],
    ids=lambda field: field[:22],
)
def test_a_field_that_cannot_be_is_refused(field: str) -> None:
    with pytest.raises(protocol.ProtocolError, match="Status frame"):
        decode([body(protocol.Status.KIND, b"{%s}" % field.encode())])


def test_what_a_kernel_shows_may_have_any_number() -> None:
    meta = b'{"content": {"data": {"application/json": [NaN, 1e999]}}}'
    (message,) = decode([body(protocol.KernelMessage.KIND, meta)])
    assert repr(message.content) == "{'data': {'application/json': [nan, inf]}}"  # type: ignore[attr-defined]
