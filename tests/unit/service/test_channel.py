from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from skyrl_magic.core import contract, protocol
from skyrl_magic.core.errors import SessionError, SessionLost
from skyrl_magic.core.ports import ByteStream
from skyrl_magic.service.channel import TRIES, Channel
from skyrl_magic.service.connection import ChannelBroken, Refused, Timing
from skyrl_magic.service.session import Session
from skyrl_magic.service.watch import Lost, Trouble
from tests.unit.service.conftest import Recorder, World, sandbox_of
from tests.unit.service.processes import DEADLINE_S, REPOSITORY, ProcessSandbox, ProcessStream

ATTACH = [*contract.AGENT_COMMAND, "attach", "--state-dir", contract.STATE_DIR]
GARBAGE = "sys.stdout.write('this is not a frame')"
SILENCE = ""
#: A peer that is there, greets, and then answers a watch with a frame whose fields have no right type.
ODD_FIELD = "say(protocol.Welcome(session='x')); say(protocol.Output('run', 'stdout', 'x', 'y'))"
QUICK = Timing(reopen_pauses_s=(0.0,) * 20)
#: A new agent has to greet within the time for a pong: on a busy machine it may need several tries.
IMPATIENT = Timing(ping_interval_s=0.05, pong_timeout_s=1.0, reopen_pauses_s=(0.0,) * 100)


def peer(script: str) -> list[str]:
    """The command of a process that says something in place of ``attach``, and then only listens."""
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from skyrl_magic.core import protocol\n"
        "def say(message): sys.stdout.buffer.write(protocol.encode(message)); sys.stdout.flush()\n"
        f"{script}\nsys.stdout.flush()\nsys.stdin.buffer.read()\n"
    )
    return [sys.executable, "-I", "-c", code]


class Line:
    """What a channel connects through: the given peers first, one after another, then the real agent."""

    def __init__(self, sandbox: ProcessSandbox, *peers: str) -> None:
        self._sandbox = sandbox
        self._peers = [peer(script) for script in peers]
        self.streams: list[ProcessStream] = []

    def connect(self) -> ByteStream:
        if self._peers:
            self.streams.append(ProcessStream(self._peers.pop(0)))
            self._sandbox.streams.append(self.streams[-1])
        else:
            self.streams.append(self._sandbox.exec(ATTACH))
        return self.streams[-1]


@pytest.fixture
def make_channel(session: Session) -> Iterator[Callable[..., tuple[Channel, Line]]]:
    """Makes channels to one supervisor; they are closed after the test."""
    channels: list[Channel] = []

    def make(*peers: str, timing: Timing = QUICK) -> tuple[Channel, Line]:
        line = Line(sandbox_of(session), *peers)
        channels.append(Channel(line.connect, timing=timing))
        return channels[-1], line

    yield make
    for channel in channels:
        channel.close()


MakeChannel = Callable[..., tuple[Channel, Line]]


def status(channel: Channel) -> protocol.Status:
    return channel.request(protocol.GetStatus, protocol.Status)


def ended(watch_events: object, kind: type[protocol.Message | Lost | Trouble]) -> object:
    """The next event of this kind."""
    while True:
        event = watch_events.get(timeout=DEADLINE_S)  # type: ignore[attr-defined]
        if isinstance(event, kind):
            return event


# --- requests -------------------------------------------------------------------------------------------------------


def test_requests_at_once_get_their_own_answers(session: Session) -> None:
    def ask(number: int) -> object:
        if number % 2:
            return status(session.channel).ray
        return session.channel.request(protocol.ListRuns, protocol.RunList).runs

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [[], "off"] * 20


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (protocol.SignalRun(run_id="nosuch", signal=15), "unknown_run"),
        (protocol.StartRun(run_id="../x"), "bad_request"),
        (protocol.ApplyCheckout(generation=99, payload=protocol.pack_json({})), "stale"),
        (protocol.Configure(idle_timeout_s=-1.0), "bad_request"),
    ],
)
def test_a_refusal_has_its_code(session: Session, message: protocol.Message, code: str) -> None:
    def make(number: int) -> protocol.Message:
        object.__setattr__(message, "request", number)
        return message

    with pytest.raises(Refused) as refused:
        session.channel.request(make, protocol.Done)
    assert refused.value.code == code
    assert len(str(refused.value).splitlines()) == 1
    assert status(session.channel).ray == "off"  # the channel is as good as before


def test_an_answer_of_another_kind_is_an_error(session: Session) -> None:
    with pytest.raises(SessionError, match="answered Status instead of Done"):
        session.channel.request(protocol.GetStatus, protocol.Done)


def test_a_request_without_an_answer_ends(session: Session) -> None:
    with pytest.raises(SessionError, match="did not answer"):
        session.channel.request(lambda _: protocol.Ping(), protocol.Done, timeout_s=0.01)


def test_the_journal_of_no_run_is_refused(session: Session) -> None:
    with pytest.raises(Refused, match="no run nosuch"):
        session.channel.read_journal("nosuch", "stdout", 0, -1, bytes)


# --- the first connection ---------------------------------------------------------------------------------------------


def test_another_version_says_how_to_go_on(make_channel: MakeChannel) -> None:
    channel, _ = make_channel("say(protocol.Welcome(version=99, session='old'))")
    with pytest.raises(SessionError, match=r"version 99 .* version 1: end it with %skyrl_stop old ") as error:
        channel.open()
    assert not isinstance(error.value, SessionLost)
    assert not channel.alive


def test_an_agent_that_never_answers(make_channel: MakeChannel) -> None:
    channel, line = make_channel(SILENCE, timing=Timing(attach_timeout_s=0.05))
    with pytest.raises(SessionLost, match="did not answer"):
        channel.open()
    assert line.streams[0].process.wait(DEADLINE_S) == 0  # it saw the end of its input


def test_garbage_at_first_is_another_try(make_channel: MakeChannel) -> None:
    channel, line = make_channel(GARBAGE)
    assert channel.open().session != ""
    assert len(line.streams) == 2


def test_a_container_that_only_sends_garbage_is_given_up(make_channel: MakeChannel) -> None:
    timing = Timing(reopen_pauses_s=(0.0, 0.0))
    channel, line = make_channel(GARBAGE, GARBAGE, GARBAGE, timing=timing)
    with pytest.raises(SessionLost, match=r"cannot be reached any more .*%skyrl_sessions") as error:
        channel.open()
    assert len(str(error.value).splitlines()) == 1
    assert len(line.streams) == 3


# --- connections that break -------------------------------------------------------------------------------------------


def test_odd_fields_from_the_container_break_one_connection_only(make_channel: MakeChannel) -> None:
    channel, line = make_channel(ODD_FIELD)
    channel.add_watch(protocol.WatchRun("run"))
    channel.open()
    assert channel.patiently(lambda: status(channel)).ray == "off"
    assert len(line.streams) == 2


def test_a_killed_attach_is_replaced_and_an_action_is_repeated(make_channel: MakeChannel) -> None:
    channel, line = make_channel()
    channel.open()
    tried = 0

    def kill(_: int) -> protocol.Message:
        line.streams[-1].process.kill()
        return protocol.Ping()  # what has no number has no answer either

    def action() -> protocol.Status:
        nonlocal tried
        tried += 1
        if tried < TRIES:
            channel.request(kill, protocol.Done)
        return status(channel)

    assert channel.patiently(action).ray == "off"
    assert tried == TRIES


def test_patience_has_an_end(make_channel: MakeChannel) -> None:
    channel, line = make_channel()
    channel.open()
    tried = 0

    def action() -> None:
        nonlocal tried
        tried += 1
        raise ChannelBroken("broken")

    with pytest.raises(ChannelBroken):
        channel.patiently(action)
    assert tried == TRIES
    assert len(line.streams) == 1


def test_silence_after_the_greeting_is_seen_by_the_pings(make_channel: MakeChannel) -> None:
    channel, line = make_channel("say(protocol.Welcome(session='x'))", timing=IMPATIENT)
    channel.open()
    with pytest.raises(ChannelBroken):
        status(channel)
    channel.wait_connected(DEADLINE_S)
    assert len(line.streams) > 1


def test_a_server_that_was_revived_is_gone_back_to_at_once(session: Session) -> None:
    line = Line(sandbox_of(session), "say(protocol.Welcome(session='x'))")
    timing = Timing(awaited_ping_interval_s=0.05, revive_after_s=0.05, trouble_s=3600, pong_timeout_s=3600)
    channel = Channel(line.connect, timing=timing, revive=lambda: True)
    channel.add_watch(protocol.WatchRun("run"))
    channel.open()
    assert channel.patiently(lambda: status(channel)).ray == "off"
    assert len(line.streams) == 2
    channel.close()


def test_who_follows_a_run_hears_of_trouble_and_of_its_end(session: Session) -> None:
    line = Line(sandbox_of(session), "say(protocol.Welcome(session='x'))")
    timing = Timing(awaited_ping_interval_s=0.05, trouble_s=0.1, pong_timeout_s=2.0)
    channel = Channel(line.connect, timing=timing)
    watch = channel.add_watch(protocol.WatchRun("run"))
    channel.open()
    assert [ended(watch.events, Trouble), ended(watch.events, Trouble)] == [Trouble(broken=True), Trouble(broken=False)]
    assert len(line.streams) == 2
    channel.close()


def test_who_waits_for_a_stuck_writer_is_freed(make_channel: MakeChannel) -> None:
    channel, line = make_channel(timing=Timing(ping_interval_s=3600, awaited_ping_interval_s=3600))
    channel.open()
    line.streams[0].process.send_signal(signal.SIGSTOP)
    part = protocol.PutFile("f", payload=bytes(protocol.CHUNK_BYTES))
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(_send_forever, channel, part) for _ in range(2)]
        time.sleep(0.3)  # there is no event that says that a pipe is full
        channel.drop()
        assert [type(writer.exception(DEADLINE_S)) for writer in writers] == [ChannelBroken] * 2
    assert channel.patiently(lambda: status(channel)).ray == "off"


def test_a_writer_that_is_stuck_is_freed(make_channel: MakeChannel) -> None:
    channel, line = make_channel(timing=IMPATIENT)
    channel.open()
    line.streams[0].process.send_signal(signal.SIGSTOP)  # it takes nothing any more
    part = protocol.PutFile("f", payload=bytes(protocol.CHUNK_BYTES))
    with pytest.raises(ChannelBroken):
        _send_forever(channel, part)
    assert channel.patiently(lambda: status(channel)).ray == "off"


def _send_forever(channel: Channel, message: protocol.Message) -> None:
    while True:
        channel.send(message)


def test_an_interrupted_write_leaves_no_half_frame(make_channel: MakeChannel) -> None:
    channel, line = make_channel()
    channel.open()
    stream, whole = line.streams[0], line.streams[0].write

    def half(data: bytes) -> None:
        whole(data[: len(data) // 2])
        raise KeyboardInterrupt

    stream.write = half  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        status(channel)
    assert channel.patiently(lambda: status(channel)).ray == "off"
    assert len(line.streams) == 2


def test_the_status_is_asked_for_again_after_a_break(session: Session) -> None:
    heard: list[protocol.Status] = []
    again = threading.Event()
    line = Line(sandbox_of(session))

    def hear(status: protocol.Status) -> None:
        heard.append(status)
        again.set()

    channel = Channel(line.connect, hear)
    channel.open()
    assert heard == []
    line.streams[0].process.kill()
    assert again.wait(DEADLINE_S)
    assert heard[0].ray == "off"
    channel.close()


# --- the end ------------------------------------------------------------------------------------------------------


def test_a_killed_container_is_told_to_requests_and_watchers(world: World, session: Session) -> None:
    channel = session.channel
    watch = channel.add_watch(protocol.WatchRun("run"))
    channel.request(lambda n: protocol.StartRun(n, "run", payload=b"sleep 300"), protocol.Done, also=watch.resume())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(channel.request, lambda _: protocol.Ping(), protocol.Done)  # no answer comes to this one
        sandbox_of(session).terminate()
        error = asked.exception(DEADLINE_S)
    assert isinstance(error, ChannelBroken | SessionLost)
    lost = ended(watch.events, Lost)
    assert isinstance(lost, Lost)
    assert str(lost.error) == "the container has ended: it was killed (SIGKILL)"
    assert not channel.alive
    with pytest.raises(SessionLost, match="the container has ended"):
        status(channel)
    with pytest.raises(SessionLost, match="the container has ended"):
        channel.add_watch(protocol.WatchRun("other"))
    with pytest.raises(SessionLost, match="the container has ended"):
        world.run(session, "true")


def test_a_closed_channel_frees_who_waits(session: Session) -> None:
    channel = session.channel
    watch = channel.add_watch(protocol.WatchRun("run"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(channel.request, lambda _: protocol.Ping(), protocol.Done)
        channel.close()
        assert isinstance(asked.exception(DEADLINE_S), ChannelBroken)
    assert isinstance(ended(watch.events, Lost), Lost)
    with pytest.raises(ChannelBroken, match="is closed"):
        channel.patiently(lambda: status(channel))


def test_runs_go_on_without_their_channel(world: World, session: Session) -> None:
    go = world.folder / "go"
    done = world.folder / "done"
    watch = session.channel.add_watch(protocol.WatchRun("run"))
    cell = f"until [ -e {go} ]; do sleep 0.01; done; echo late; touch {done}".encode()
    session.channel.request(lambda n: protocol.StartRun(n, "run", payload=cell), protocol.Done)
    session.channel.close()
    go.touch()
    assert not watch.ended
    other = Session(session.name, session.spec, session.sandbox, None)
    other.open()
    again = other.channel.add_watch(protocol.WatchRun("run"))
    other.channel.send(again.resume())
    event = ended(again.events, protocol.RunEnded)
    assert isinstance(event, protocol.RunEnded)
    assert (event.exit_code, done.exists()) == (0, True)
    other.channel.close()


def test_nothing_is_lost_or_repeated_when_attach_is_killed_again_and_again(world: World, session: Session) -> None:
    cuts = 0

    def cut(_: protocol.Message) -> None:
        nonlocal cuts
        if cuts < 4:
            cuts += 1
            sandbox_of(session).streams[-1].process.kill()

    sink = Recorder(cut)
    result, _ = world.run(session, "for i in $(seq 1 80); do echo line $i; sleep 0.01; done", sink)
    assert result.exit_code == 0
    assert sink.text() == "".join(f"line {i}\n" for i in range(1, 81))
    assert cuts > 1
