from __future__ import annotations

import zlib

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.display_intake import Intake
from skyrl_magic.core.errors import SessionError
from skyrl_magic.service.session import Session
from skyrl_magic.service.watch import Watch, payload_bytes, readable


def test_it_goes_on_where_it_is() -> None:
    watch = Watch(protocol.WatchRun("r", stdout_offset=5, stderr_offset=7, stdout="all", stderr="show", shown_bytes=3))
    watch.put(protocol.Output("r", "stdout", 5, 10, payload=bytes(10)))
    watch.put(protocol.Gap("r", "stderr", 7, 1000))
    watch.put(protocol.Output("r", "stderr", 1000, 4, payload=bytes(4), shown_bytes=17))
    assert watch.resume() == protocol.WatchRun(
        "r", stdout_offset=15, stderr_offset=1004, stdout="all", stderr="show", shown_bytes=17
    )


def test_it_ends_with_its_run() -> None:
    watch = Watch(protocol.WatchRun("r"))
    watch.put(protocol.RunStarted("r"))
    before = watch.ended
    watch.put(protocol.RunEnded("r"))
    assert (before, watch.ended) == (False, True)
    assert [type(watch.events.get(timeout=0)) for _ in range(2)] == [protocol.RunStarted, protocol.RunEnded]


def test_a_stream_that_no_run_has_is_refused() -> None:
    watch = Watch(protocol.WatchRun("r"))
    with pytest.raises(KeyError):
        watch.put(protocol.Output("r", "stdlog", 0, 1, payload=b"x"))
    assert watch.events.empty()


def test_the_agent_goes_on_at_the_byte_it_is_asked_for(session: Session) -> None:
    channel = session.channel
    cell = b"printf 0123456789; printf abc >&2"
    channel.request(lambda number: protocol.StartRun(number, "r", payload=cell), protocol.Done)
    again = channel.add_watch(protocol.WatchRun("r", stdout_offset=4, stderr_offset=1))
    channel.send(again.resume())
    texts: dict[str, tuple[int, bytes]] = {}
    while not isinstance(event := again.events.get(timeout=60), protocol.RunEnded):
        if isinstance(event, protocol.Output):
            offset, text = texts.get(event.stream, (event.offset, b""))
            texts[event.stream] = (offset, text + payload_bytes(event))
    assert texts == {"stdout": (4, b"456789"), "stderr": (1, b"bc")}


@pytest.mark.parametrize(
    ("payload", "compressed", "raw_bytes"),
    [(b"abc", False, 4), (b"abc", True, 3), (zlib.compress(bytes(1000)), True, 2000)],
)
def test_a_payload_that_is_not_what_it_says(payload: bytes, compressed: bool, raw_bytes: int) -> None:  # noqa: FBT001
    output = protocol.Output("r", "stdout", 0, raw_bytes, compressed, payload)
    with pytest.raises(SessionError, match="cannot be read"):
        payload_bytes(output)


def test_output_that_cannot_be_read_is_an_error_of_the_session() -> None:
    with pytest.raises(SessionError, match="cannot be read"), readable():
        Intake().take(protocol.Output("k3f9", protocol.STDOUT, 5, -1, compressed=True, payload=zlib.compress(b"")))
