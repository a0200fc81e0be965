"""What a session whose agent was replaced sends of its own: text of a shell cell reaches the page, and nothing else."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError
from skyrl_magic.loopback.daemon import ServerAddress
from skyrl_magic.service import logs
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.connection import Timing
from skyrl_magic.service.session import Session
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import CELL_TIMEOUT_S, SETTINGS, Kernel, make_kernel
from tests.unit.service.processes import REPOSITORY, ProcessStream

#: Takes a frame as the channel's reader does, of the newest run of the notebook's session.
FORGE = """
import gc
from skyrl_magic.core import protocol
from skyrl_magic.service import logs
from skyrl_magic.service.session import Session
session = next(o for o in gc.get_objects() if isinstance(o, Session) and o.channel.alive)
run_id = logs.all_runs(session)[-1].run_id
def forge(msg_type, **content):
    session.channel._dispatch(protocol.KernelMessage(run_id, 0, msg_type, content))
script = {"text/html": "<script>forged</script>"}
"""
#: A process in place of ``attach``: greets, and then says one frame for each that it hears.
PEER = """
import itertools, sys
sys.path.insert(0, {repository!r})
from skyrl_magic.core import protocol
def say(message):
    sys.stdout.buffer.write(protocol.encode(message))
    sys.stdout.flush()
decoder = protocol.FrameDecoder()
while data := sys.stdin.buffer.read1():
    for message in decoder.feed(data):
        number = getattr(message, "request", 0)
        if isinstance(message, protocol.Hello):
            say(protocol.Welcome(session="x"))
        elif isinstance(message, protocol.Ping):
            say(protocol.Pong(message.number))
        elif number:
            {answer}
"""
SUMMARY = "dict(run_id='r', state='ended', command='')"


@pytest.fixture(scope="module")
def kernel(loopback_server: ServerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A notebook's kernel with a session of its own."""
    folder: Path = make_checkout(tmp_path_factory.mktemp("page") / "SkyRL", old_layout=False).root
    kernel = make_kernel(folder, loopback_server)
    kernel.run(SETTINGS)
    yield kernel
    kernel.run("%skyrl_stop --all")
    kernel.close()
    shutil.rmtree(folder, ignore_errors=True)


def sent(kernel: Kernel, code: str) -> list[dict[str, Any]]:
    """All that the kernel sends to the page while it executes this, also to other cells."""
    asked, found = kernel.client.execute(FORGE + code), []
    while True:
        message = kernel.client.get_iopub_msg(timeout=CELL_TIMEOUT_S)
        found.append(message)
        mine = message["parent_header"].get("msg_id") == asked
        assert not (mine and message["msg_type"] == "error"), message["content"]
        if mine and message["content"].get("execution_state") == "idle":
            return found


def forged(messages: list[dict[str, Any]]) -> list[str]:
    """The types of those that a page gets of what was forged."""
    ours = ("status", "execute_input")
    return [m["msg_type"] for m in messages if m["msg_type"] not in ours and "forged" in str(m["content"])]


def test_a_shell_run_shows_text_and_nothing_else(kernel: Kernel) -> None:
    assert kernel.run("%%skyrl_modal\necho hello").out == "hello\n"
    code = "forge('display_data', data=script)\nforge('comm_open', comm_id='forged', target_name='x', data={})"
    assert forged(sent(kernel, code)) == []


def test_a_python_run_shows_displays_and_no_message_of_another_kind(kernel: Kernel) -> None:
    assert kernel.run("%%skyrl_python\nprint(1)").out == "1\n"
    code = (
        "forge('execute_input', code='forged')\nforge('shutdown_reply', a='forged')\nforge('display_data', data=script)"
    )
    assert forged(sent(kernel, code)) == ["display_data"]


def test_a_comm_of_the_notebooks_own_kernel_is_never_written_to(kernel: Kernel) -> None:
    kernel.run("%%skyrl_python\nprint(1)")
    own = "import comm\nown = comm.create_comm(target_name='own')\n"
    code = own + "forge('comm_msg', comm_id=own.comm_id, data={'a': 'forged'})\n"
    assert forged(sent(kernel, code)) == []


# --- bounds ---------------------------------------------------------------------------------------------------------


def deep(levels: int) -> protocol.KernelMessage:
    content: dict[str, Any] = {}
    for _ in range(levels):
        content = {"a": content}
    return protocol.KernelMessage("run", 0, "display_data", content)


def test_a_deep_frame_is_a_broken_stream() -> None:
    assert list(protocol.FrameDecoder().feed(protocol.encode(deep(100))))
    with pytest.raises(protocol.ProtocolError, match="levels deep"):
        list(protocol.FrameDecoder().feed(protocol.encode(deep(300))))


def test_brackets_in_a_text_are_not_deep() -> None:
    message = protocol.KernelMessage("run", 0, "display_data", {"a": '["\\' * 1000})
    assert list(protocol.FrameDecoder().feed(protocol.encode(message))) == [message]


def test_a_frame_of_many_empty_lists_is_not_parsed() -> None:
    message = protocol.KernelMessage("run", 0, "display_data", {"a": [[]] * 1_100_000})
    with pytest.raises(protocol.ProtocolError, match="too many values"):
        list(protocol.FrameDecoder().feed(protocol.encode(message)))


@pytest.fixture
def make_session() -> Iterator[Any]:
    """Makes sessions with a forged agent, which answers each request by a line of Python."""
    channels: list[Channel] = []
    streams: list[ProcessStream] = []

    def make(answer: str) -> Any:
        code = PEER.format(repository=str(REPOSITORY), answer=answer)

        def connect() -> ProcessStream:
            streams.append(ProcessStream([sys.executable, "-I", "-c", code]))
            return streams[-1]

        channel = Channel(connect, timing=Timing())
        channels.append(channel)
        channel.open()
        session = Session.__new__(Session)  # of which the list alone needs the channel
        session.channel = channel
        return session

    yield make
    for channel in channels:
        channel.close()
    for stream in streams:
        stream.end()


def test_an_endless_list_of_runs_ends(make_session: Any) -> None:
    session = make_session(f"say(protocol.RunList(number, [{SUMMARY}] * 1000, True))")
    with pytest.raises(SessionError, match="list of runs does not end"):
        logs.all_runs(session)


@pytest.mark.parametrize("field", ["started_at='x'", "stdout_bytes=None", "exit_code='0'", "seen=[]", "command=7"])
def test_a_run_with_a_wrong_field_is_one_line(make_session: Any, field: str) -> None:
    session = make_session(f"say(protocol.RunList(number, [{{**{SUMMARY}, **dict({field})}}]))")
    with pytest.raises(SessionError, match="list of runs cannot be read"):
        logs.all_runs(session)


def test_no_more_bytes_are_taken_than_were_asked_for(make_session: Any) -> None:
    session = make_session("[say(protocol.JournalData(number, 0, 9, payload=b'123456789')) for _ in range(99)]")
    taken: list[bytes] = []
    with pytest.raises(SessionError, match="more than the 10 bytes"):
        session.channel.read_journal("r", "stdout", 0, 10, taken.append)
    assert b"".join(taken) == b"123456789"
