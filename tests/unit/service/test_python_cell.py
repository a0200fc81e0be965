"""A Python cell's messages as they are followed: what is held, what is asked, and how it ended."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.protocol import KernelMessage
from skyrl_magic.service.interrupts import Interrupts
from skyrl_magic.service.python_cell import PythonCell


class Follower:
    """A cell's view and its session's channel, which keep what they get."""

    def __init__(self, answer: Callable[[], str] = lambda: "") -> None:
        self.shown: list[KernelMessage] = []
        self.asked: list[tuple[str, bool]] = []
        self.sent: list[protocol.Message] = []
        self.wakes = 0
        self.interrupts = Interrupts()
        self._answer = answer
        self._bytes = 0
        channel = SimpleNamespace(send=self.sent.append, patiently=lambda action: action())
        session: Any = SimpleNamespace(channel=channel)
        self.cell = PythonCell(session, "k3f9", self, self.interrupts)

    def message(self, message: KernelMessage) -> None:
        self.shown.append(message)

    def ask(self, prompt: str, *, password: bool) -> str:
        self.asked.append((prompt, password))
        return self._answer()

    def feed(self, *messages: KernelMessage) -> None:
        data = b"".join(map(protocol.encode, messages))
        self.feed_bytes(data)

    def feed_bytes(self, data: bytes) -> None:
        self.cell.feed(protocol.Output("k3f9", protocol.OUTPUTS, self._bytes, len(data), payload=data))
        self._bytes += len(data)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """As a cell's run is followed: Stop is counted."""
        with self.interrupts:
            self.interrupts.divert(self._wake)
            yield

    def _wake(self) -> None:
        self.wakes += 1


def message(kind: str, **content: object) -> KernelMessage:
    return KernelMessage("k3f9", msg_type=kind, content=content)


DISPLAY = message("display_data", data={"text/plain": "a"})
ERROR = message("error", ename="ValueError", evalue="wrong", traceback=["ValueError: wrong"])
OTHER = message("error", ename="KeyError", evalue="'a'", traceback=["KeyError: 'a'"])
OK = message("execute_reply", status="ok", payload=[])
FAILED = message("execute_reply", status="error", ename="ValueError")


def test_messages_are_shown_as_they_come() -> None:
    follower = Follower()
    comm = message("comm_open", comm_id="w")
    follower.feed(DISPLAY, comm, DISPLAY, OK)
    assert follower.shown == [DISPLAY, comm, DISPLAY]
    assert follower.cell.end.well


def test_the_error_that_ends_a_cell_is_held_back() -> None:
    follower = Follower()
    follower.feed(DISPLAY, ERROR, FAILED)
    assert follower.shown == [DISPLAY]
    end = follower.cell.end
    assert (end.error, end.failed, end.well) == (ERROR, "ValueError", False)


def test_an_error_in_the_middle_is_shown_in_its_place() -> None:
    follower = Follower()
    follower.feed(ERROR, DISPLAY, OTHER, FAILED)
    assert follower.shown == [ERROR, DISPLAY]
    assert follower.cell.end.error == OTHER


def test_of_two_errors_the_last_is_held() -> None:
    follower = Follower()
    follower.feed(ERROR, OTHER)
    assert (follower.shown, follower.cell.end.error) == ([ERROR], OTHER)


def test_text_behind_an_error_shows_it_first() -> None:
    follower = Follower()
    follower.feed(ERROR)
    follower.cell.before_text()
    follower.cell.before_text()
    assert (follower.shown, follower.cell.end.error) == ([ERROR], None)
    follower.feed(FAILED)
    assert (follower.cell.end.failed, follower.cell.end.well) == ("ValueError", False)


def test_an_error_of_a_cell_that_ended_well_is_output() -> None:
    follower = Follower()
    follower.feed(ERROR, OK)
    assert follower.shown == [ERROR]
    assert follower.cell.end.well


@pytest.mark.parametrize(
    ("reply", "failed"),
    [
        ({"status": "error", "ename": "SystemExit"}, "SystemExit"),
        ({"status": "aborted"}, "error"),
        ({"status": "error", "ename": None}, "error"),
        ({}, "error"),
        ({"status": "ok"}, ""),
    ],
)
def test_a_reply_that_is_not_ok_names_its_error(reply: dict[str, object], failed: str) -> None:
    follower = Follower()
    follower.feed(message("execute_reply", **reply))
    assert (follower.cell.end.failed, follower.cell.end.well) == (failed, not failed)
    assert follower.shown == []


@pytest.mark.parametrize("payload", [[{"source": "page"}, "no object", None], "text", None, {"source": "page"}])
def test_of_a_replys_payload_only_objects_count(payload: object) -> None:
    follower = Follower()
    follower.feed(message("execute_reply", status="ok", payload=payload))
    assert follower.cell.end.payload == ([{"source": "page"}] if isinstance(payload, list) else [])


def test_a_kernel_that_died_says_why() -> None:
    follower = Follower()
    follower.feed(DISPLAY, message("kernel_died", cause="it ran out of memory"))
    assert follower.shown == [DISPLAY]
    assert (follower.cell.end.died, follower.cell.end.well) == ("it ran out of memory", False)


def test_a_long_error_is_held_within_bounds() -> None:
    follower = Follower()
    follower.feed(message("error", ename="E", evalue="", traceback=["x" * 1_000_000]), FAILED)
    error = follower.cell.end.error
    assert error is not None
    assert "%skyrl_logs k3f9" in error.content["traceback"][0]
    assert len(error.content["traceback"][0]) < 60_000


def test_a_question_is_answered() -> None:
    answers = iter(["Ada", "s3cret"])
    follower = Follower(lambda: next(answers))
    with follower.running():
        follower.feed(message("input_request", prompt="Name? ", password=False))
        follower.feed(message("input_request", prompt="Password: ", password=True), DISPLAY)
    assert follower.asked == [("Name? ", False), ("Password: ", True)]
    assert follower.sent == [protocol.InputReply("k3f9", "Ada"), protocol.InputReply("k3f9", "s3cret")]
    assert follower.shown == [DISPLAY]


def test_stop_at_a_question_stops_the_cell_and_answers_nothing() -> None:
    follower: Follower

    def stop() -> str:
        follower.interrupts.press()
        raise AssertionError("Stop ends what waits for the user")

    follower = Follower(stop)
    with follower.running():
        follower.feed(message("input_request", prompt="? "), DISPLAY)
        assert follower.interrupts.take() == 1
    assert (follower.sent, follower.wakes, follower.shown) == ([], 1, [DISPLAY])


def test_frames_of_any_size_make_the_same_messages() -> None:
    whole, cut = Follower(), Follower()
    sent = [DISPLAY, ERROR, DISPLAY, OTHER, FAILED]
    whole.feed(*sent)
    data = b"".join(map(protocol.encode, sent))
    for start, end in itertools.pairwise([*range(0, len(data), 7), len(data)]):
        cut.feed_bytes(data[start:end])
    assert (cut.shown, cut.cell.end) == (whole.shown, whole.cell.end)


def test_a_damaged_frame_is_refused() -> None:
    with pytest.raises(protocol.ProtocolError):
        Follower().feed_bytes(b"\xff" * 100)
    with pytest.raises(protocol.ProtocolError):
        Follower().cell.feed(protocol.Output("k3f9", protocol.OUTPUTS, 5, 1, payload=b"x"))
