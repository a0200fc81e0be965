from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import RunStopped, SessionLost
from skyrl_magic.core.spec import RunRequest
from skyrl_magic.service import logs
from skyrl_magic.service.connection import Refused
from skyrl_magic.service.runs import RunService, new_run_id
from skyrl_magic.service.session import Session
from skyrl_magic.service.watch import Trouble, Watch
from tests.unit.service.conftest import Recorder, World, sandbox_of
from tests.unit.service.processes import DEADLINE_S

DEAF = "trap '' INT TERM; echo ready; while :; do sleep 0.01; done"


def pressing(world: World) -> Callable[[protocol.Message], None]:
    """Presses Stop at each piece of stdout, as bash tells on stderr which signals it saw."""

    def press(event: protocol.Message) -> None:
        if isinstance(event, protocol.Output) and event.stream == protocol.STDOUT:
            world.interrupts.press()

    return press


def hurried() -> RunService:
    """A service for whose clock every grace is over when it is looked at again."""
    return RunService(itertools.count(step=1000.0).__next__)


def is_running(session: Session, run_id: str) -> bool:
    return run_id in session.ask_status().active_runs


def test_ids_are_names_that_are_read_well() -> None:
    ids = {new_run_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) == 6 and not set(i) & set("il1o0") for i in ids)


# --- a run and its options --------------------------------------------------------------------------------------------


def test_what_is_captured_is_whole_and_not_shown(world: World, session: Session) -> None:
    result, sink = world.run(session, "seq 100000; echo shown >&2", out="x")
    assert result.captured == {"stdout": bytearray(b"".join(b"%d\n" % i for i in range(1, 100_001)))}
    assert (sink.text(), sink.text(protocol.STDERR)) == ("", "shown\n")


def test_a_cell_travels_as_it_is(world: World, session: Session) -> None:
    _, sink = world.run(session, "cat <<'END' | wc -c\n" + "x" * 3_000_000 + "\nEND\n")
    assert sink.text() == "3000001\n"
    _, sink = world.run(session, "printf '%s' $'a\\tb' 'ünï' | od -An -c | tr -d ' \\n'")
    assert sink.text() == "a\\tb303274n303257"


def test_a_run_that_cannot_be_is_refused_and_not_watched(world: World, session: Session) -> None:
    with pytest.raises(Refused) as refused:
        world.runs.start(session, RunRequest("true"), "../x", Recorder())
    assert refused.value.code == "bad_request"
    assert session.channel._pending.watches == []


def test_starting_twice_is_starting_once(world: World, session: Session) -> None:
    request = RunRequest(f"echo x >> {world.folder}/once")
    for _ in range(2):
        sink = Recorder()
        watch = world.runs.start(session, request, "same", sink)
        assert world.runs.follow(session, request, watch, sink).exit_code == 0
    assert (world.folder / "once").read_text() == "x\n"


def test_a_run_starts_over_the_next_connection_where_one_breaks(world: World, session: Session) -> None:
    sandbox_of(session).streams[-1].process.kill()
    result, sink = world.run(session, "echo once")
    assert (result.exit_code, sink.text()) == (0, "once\n")
    assert len(logs.all_runs(session)) == 1


def test_a_container_that_ends_meanwhile(world: World, session: Session) -> None:
    sink = Recorder(lambda _: sandbox_of(session).terminate())
    with pytest.raises(SessionLost, match="the container has ended"):
        world.run(session, "echo x; sleep 300", sink)
    assert session.channel._pending.watches == []


# --- Stop -------------------------------------------------------------------------------------------------------------


def test_stop_is_sigint_at_first(world: World, session: Session) -> None:
    result, sink = world.run(session, "trap 'echo bye; exit 7' INT; echo x; while :; do sleep 0.01; done", once(world))
    assert (result.exit_code, result.stopped) == (7, "SIGINT")
    assert (sink.text(), sink.notes) == ("x\nbye\n", [])


def once(world: World) -> Recorder:
    """A sink at whose first event Stop is pressed."""

    def press(_: protocol.Message) -> None:
        sink.on_event = lambda _: None
        world.interrupts.press()

    sink = Recorder(press)
    return sink


def test_pressing_again_is_the_next_signal(world: World, session: Session) -> None:
    cell = "trap 'echo int' INT; trap 'echo term' TERM; echo x; while :; do sleep 0.01; done"
    # Each signal that the run answers is followed by another interrupt.
    result, sink = world.run(session, cell, Recorder(pressing(world)))
    assert (result.stopped, result.exit_code) == ("SIGKILL", 128 + signal.SIGKILL)
    assert (sink.text(), sink.notes) == ("x\nint\nterm\n", [])


def test_time_is_the_next_signal_too(world: World, session: Session) -> None:
    result, sink = world.run(session, DEAF, once(world), hurried())
    assert (result.stopped, result.exit_code) == ("SIGKILL", 128 + signal.SIGKILL)
    assert sink.notes == ["SIGINT did not end the run: SIGTERM follows", "SIGTERM did not end the run: SIGKILL follows"]


def test_nothing_escalates_before_its_time(world: World, session: Session) -> None:
    now = 0.0
    cell = "trap 'echo int' INT; trap 'exit 5' TERM; echo x; while :; do sleep 0.01; done"

    def on_event(event: protocol.Message) -> None:
        nonlocal now
        if sink.text() == "x\n":
            pressing(world)(event)
        if sink.text() == "x\nint\n":
            now = 5.0  # SIGINT was answered: its time is over now

    sink = Recorder(on_event)
    result, _ = world.run(session, cell, sink, RunService(lambda: now))
    assert (result.stopped, result.exit_code) == ("SIGTERM", 5)
    assert sink.notes == ["SIGINT did not end the run: SIGTERM follows"]


def test_a_stop_as_the_run_ends_by_itself(world: World, session: Session) -> None:
    sink = Recorder()

    def end_first(_: protocol.Message) -> None:
        (world.folder / "go").touch()
        while is_running(session, "run0"):
            pass
        sink.on_event = lambda _: None
        world.interrupts.press()

    sink.on_event = end_first
    result, _ = world.run(session, f"echo x; until [ -e {world.folder}/go ]; do sleep 0.01; done; exit 4", sink)
    # The signal and the end are on their way at the same time: the press is never lost, whichever is first.
    assert (result.exit_code, sink.notes) == (4, [])
    assert result.stopped == "SIGINT" or result.pressed_late


def test_stop_reaches_a_run_over_the_next_connection(world: World, session: Session) -> None:
    def cut_and_interrupt(_: protocol.Message) -> None:
        sink.on_event = lambda _: None
        sandbox_of(session).streams[-1].process.kill()
        world.interrupts.press()

    sink = Recorder(cut_and_interrupt)
    result, _ = world.run(session, "echo x; sleep 300", sink)
    assert (result.stopped, result.exit_code) == ("SIGINT", 128 + signal.SIGINT)


def test_a_real_sigint_in_the_main_thread(world: World, session: Session) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")
    sink = Recorder()

    def press(_: protocol.Message) -> None:
        sink.on_event = lambda _: None
        os.kill(os.getpid(), signal.SIGINT)

    sink.on_event = press
    with world.interrupts:
        result, _ = world.run(session, "echo x; sleep 300", sink)
    assert (result.stopped, result.exit_code, sink.text()) == ("SIGINT", 128 + signal.SIGINT, "x\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_press_that_wakes_nobody_is_heard(world: World, session: Session) -> None:
    request, sink = RunRequest("sleep 300"), Recorder()
    watch = world.runs.start(session, request, "silent", sink, world.interrupts)
    world.interrupts.divert(lambda: None)  # as where a signal comes right before the wait for the next event
    presser = threading.Timer(0.2, world.interrupts.press)
    presser.start()
    result = world.runs.follow(session, request, watch, sink, world.interrupts)
    presser.join()
    assert result.stopped == "SIGINT"


def test_a_press_after_the_end_is_told(world: World, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    unwatch = session.channel.unwatch

    def press_and_unwatch(watch: Watch) -> None:
        world.interrupts.press()
        unwatch(watch)

    monkeypatch.setattr(session.channel, "unwatch", press_and_unwatch)
    result, _ = world.run(session, "exit 3")
    assert (result.exit_code, result.stopped, result.pressed_late) == (3, "", True)


def test_a_run_that_not_even_sigkill_ends_is_left(world: World, session: Session) -> None:
    request, sink = RunRequest("echo x; sleep 300"), Recorder()
    watch = world.runs.start(session, request, "stuck", sink, world.interrupts)
    sandbox_of(session).supervisor.suspend()  # nobody carries the signals out
    now_s = 0.0

    def press(event: protocol.Message) -> None:
        nonlocal now_s
        now_s += 3.0  # not in a row, as one presses who wants it to end at once
        pressing(world)(event)

    try:
        sink.on_event = press
        watch.put(protocol.Output("stuck", payload=b"x", raw_bytes=1))
        for _ in range(3):
            watch.put(protocol.Output("stuck", payload=b"x", raw_bytes=1))
        with ThreadPoolExecutor(1) as pool:
            follow = RunService(lambda: now_s, signal_timeout_s=0.05).follow
            error = pool.submit(follow, session, request, watch, sink, world.interrupts).exception(DEADLINE_S)
    finally:
        sandbox_of(session).supervisor.resume()
    assert isinstance(error, RunStopped)
    assert "which no signal reaches: %skyrl_stop ends its session" in str(error)


def test_an_interrupt_while_it_starts_kills_what_began(world: World, session: Session) -> None:
    channel = session.channel
    patiently, interrupted = channel.patiently, False

    def start_and_interrupt(action):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        nonlocal interrupted
        answer = patiently(action)
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt
        return answer

    channel.patiently = start_and_interrupt  # type: ignore[method-assign]
    with pytest.raises(RunStopped, match="before the run began"):
        world.runs.start(session, RunRequest("sleep 300"), "late", Recorder())
    channel.patiently = patiently  # type: ignore[method-assign]
    watch = channel.add_watch(protocol.WatchRun("late"))
    channel.send(watch.resume())
    while not watch.ended:
        watch.events.get(timeout=DEADLINE_S)
    assert logs.summary(session, "late").exit_code == 128 + signal.SIGKILL


def test_a_press_leaves_the_cell_while_nothing_carries_the_signal(world: World, session: Session) -> None:
    attach = sandbox_of(session).streams[-1].process

    class Impatient(Recorder):
        def note(self, text: str) -> None:
            super().note(text)
            world.interrupts.press()
            world.interrupts.press()

    def freeze(_: protocol.Message) -> None:
        attach.send_signal(signal.SIGSTOP)  # it takes nothing any more
        watch.events.put(Trouble(broken=True))

    sink, request = Impatient(freeze), RunRequest("echo begun; sleep 600")
    watch = world.runs.start(session, request, "run", sink, world.interrupts)
    with pytest.raises(RunStopped, match="left run run, which no signal reaches now: %skyrl_sessions"):
        world.runs.follow(session, request, watch, sink, world.interrupts)
    assert sink.notes == ["the connection to the session broke; reconnecting"]
