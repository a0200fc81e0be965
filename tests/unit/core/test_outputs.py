"""A Python run's outputs: each message once and in order, whatever the channel did, and nothing that is none."""

from __future__ import annotations

import itertools
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core import protocol
from skyrl_magic.core.outputs import OutputsDecoder, checked
from skyrl_magic.core.protocol import OUTPUTS, KernelMessage, Output, ProtocolError


def message(number: int, size_bytes: int = 0) -> KernelMessage:
    sizes, payload = protocol.pack_buffers([bytes([number % 256]) * size_bytes])
    data = {"text/plain": f"<{number} 雪>"}
    return KernelMessage("k3f9", 0, "display_data", {"data": data}, {"n": number}, sizes, payload)


def frame(data: bytes, start: int, end: int) -> Output:
    """Bytes ``[start, end)`` of the stream, as they travel."""
    compressed, payload = protocol.pack_payload(data[start:end])
    return Output("k3f9", OUTPUTS, start, end - start, compressed, payload)


def feed(decoder: OutputsDecoder, frames: list[Output]) -> list[KernelMessage]:
    return [found for part in frames for found in decoder.feed(part)]


MESSAGES = st.lists(st.integers(0, 2000), max_size=8).map(
    lambda sizes: [message(number, size) for number, size in enumerate(sizes)]
)
CUTS = st.lists(st.integers(0, 10**6), max_size=15)


@settings(deadline=None)
@given(MESSAGES, CUTS)
def test_messages_come_once_and_in_order_under_any_chunking(sent: list[KernelMessage], cuts: list[int]) -> None:
    data = b"".join(map(protocol.encode, sent))
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    assert feed(OutputsDecoder(), [frame(data, a, b) for a, b in itertools.pairwise(places)]) == sent


@settings(deadline=None)
@given(MESSAGES, st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=20))
def test_what_a_new_channel_sends_again_is_not_shown_again(
    sent: list[KernelMessage], steps: list[tuple[int, int]]
) -> None:
    """Each frame begins at most where the last one ended, as after a cut, and may end before it too."""
    data = b"".join(map(protocol.encode, sent))
    decoder, reached, shown = OutputsDecoder(), 0, []
    for back, size in [*steps, (0, len(data))]:
        start = max(0, reached - back)
        end = min(len(data), start + size)
        shown += feed(decoder, [frame(data, start, end)])
        reached = max(reached, end)
    assert shown == sent


@given(st.integers(0, 300), st.integers(1, 300))
def test_a_gap_is_refused(reached: int, missing: int) -> None:
    data = b"".join(protocol.encode(message(number)) for number in range(10))
    decoder = OutputsDecoder()
    feed(decoder, [frame(data, 0, reached)])
    with pytest.raises(ProtocolError, match=f"{missing} bytes of a run's outputs are missing"):
        feed(decoder, [frame(data, reached + missing, len(data))])


def body(kind: int, meta: Any) -> bytes:
    text = json.dumps(meta).encode()
    inner = struct.pack(">BI", kind, len(text)) + text
    return struct.pack(">I", len(inner)) + inner


@pytest.mark.parametrize(
    "fields",
    [
        {"content": []},
        {"content": None},
        {"content": "text"},
        {"metadata": []},
        {"metadata": 1},
        {"msg_type": 1},
        {"msg_type": None},
        {"msg_type": ["error"]},
        {"run_id": 7},
        {"run_id": {}},
        {"buffers": 3},
        {"buffers": None},
    ],
    ids=repr,
)
def test_fields_of_a_wrong_type_are_refused(fields: dict[str, Any]) -> None:
    good = protocol.encode(message(1))
    bad = body(KernelMessage.KIND, {"msg_type": "display_data", **fields})
    decoder = OutputsDecoder()
    found = decoder.feed(frame(good + bad, 0, len(good + bad)))
    assert next(found) == message(1)
    with pytest.raises(ProtocolError, match=r"fields of a wrong type|of a KernelMessage frame cannot be"):
        next(found)


def test_a_good_message_is_itself() -> None:
    good = message(3, 10)
    assert checked(good) is good


def test_frames_of_other_kinds_are_no_messages() -> None:
    data = protocol.encode(protocol.Ping(1)) + protocol.encode(message(2)) + body(250, {})
    assert feed(OutputsDecoder(), [frame(data, 0, len(data))]) == [message(2)]


@pytest.mark.parametrize("data", [b"no frames at all", body(KernelMessage.KIND, []), struct.pack(">I", 2**31)])
def test_what_are_no_frames_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(OutputsDecoder(), [frame(data, 0, len(data))])


def test_a_stream_that_no_run_has_is_refused() -> None:
    with pytest.raises(ProtocolError, match="has no place in a cell"):
        feed(OutputsDecoder(), [Output("k3f9", "stdin", 0, 1, payload=b"x")])
