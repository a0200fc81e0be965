"""Drives a real agent: the zipapp's supervisor and attaches as processes, frames over their stdin and stdout."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

from skyrl_magic.agent.config import Config
from skyrl_magic.core import protocol

M = TypeVar("M", bound=protocol.Message)
#: Generous: the machine may be busy. Nothing waits this long when things work.
DEADLINE_S = 60.0
PING_S = 5.0


class Attached:
    """One ``attach`` process and the frames that came from it."""

    def __init__(self, agent: Path, state_dir: Path, *options: str, python: str = sys.executable) -> None:
        command = [python, "-IS", str(agent), "attach", "--state-dir", str(state_dir), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.frames: list[protocol.Message] = []
        self._decoder = protocol.FrameDecoder()
        self._requests = itertools.count(1)
        self.at_end = False

    def send(self, *messages: protocol.Message) -> None:
        self.send_bytes(b"".join(map(protocol.encode, messages)))

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self, timeout_s: float = DEADLINE_S) -> None:
        """Take what comes next; fails at the deadline or the end of the stream."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while not select.select([fd], [], [], min(timeout_s, PING_S))[0]:
            assert time.monotonic() < deadline, "the agent was silent"
            self.send(protocol.Ping())  # as a client does: the agent drops one that says nothing for long
        data = os.read(fd, 1 << 20)
        if not data:
            self.at_end = True
            assert self.process.stderr is not None
            raise EOFError(self.process.stderr.read().decode())
        self.frames += self._decoder.feed(data)

    def wait_for(self, kind: type[M], wanted: Callable[[M], bool] = lambda _: True) -> M:
        """The first frame of this kind that fits, from all that came and will come."""
        deadline = time.monotonic() + DEADLINE_S
        seen = 0
        while time.monotonic() < deadline:
            for frame in self.frames[seen:]:
                if isinstance(frame, kind) and wanted(frame):
                    return frame
            seen = len(self.frames)
            self.read()
        raise AssertionError(f"no {kind.__name__} came")

    def ask(self, request: protocol.Message, *kinds: type[protocol.Message]) -> protocol.Message:
        """Send ``request`` under a new number and return its answer."""
        number = next(self._requests)
        object.__setattr__(request, "request", number)
        self.send(request)
        return self.wait_for(
            protocol.Message, lambda frame: isinstance(frame, kinds) and getattr(frame, "request", None) == number
        )

    def run(self, script: str | bytes, run_id: str = "run-1", **options: object) -> protocol.RunEnded:
        """Start a script, watch it and wait for its end."""
        self.start(script, run_id, **options)
        self.send(protocol.WatchRun(run_id))
        return self.ended(run_id)

    def start(self, script: str | bytes, run_id: str = "run-1", **options: object) -> None:
        payload = script.encode() if isinstance(script, str) else script
        request = protocol.StartRun(0, run_id, payload=payload, **options)  # type: ignore[arg-type]
        answer = self.ask(request, protocol.Done, protocol.Failed)
        assert isinstance(answer, protocol.Done), answer

    def ended(self, run_id: str = "run-1") -> protocol.RunEnded:
        return self.wait_for(protocol.RunEnded, lambda frame: frame.run_id == run_id)

    def outputs(self, run_id: str = "run-1", stream: str | None = None) -> list[protocol.Output]:
        return [
            frame
            for frame in self.frames
            if isinstance(frame, protocol.Output) and frame.run_id == run_id and stream in (None, frame.stream)
        ]

    def text(self, stream: str = protocol.STDOUT, run_id: str = "run-1") -> bytes:
        """All bytes of a stream that came."""
        return b"".join(map(content, self.outputs(run_id, stream)))

    def wait_for_output(self, part: bytes, stream: str = protocol.STDOUT, run_id: str = "run-1") -> None:
        while part not in self.text(stream, run_id):
            self.read()

    def journal(self, run_id: str = "run-1", stream: str = protocol.STDOUT, start: int = 0, end: int = -1) -> bytes:
        """A range of a journal, over the channel."""
        request = protocol.ReadJournal(0, run_id, stream, start, end)
        first = self.ask(request, protocol.JournalData, protocol.Failed)
        assert isinstance(first, protocol.JournalData), first
        number = first.request
        self.wait_for(protocol.JournalData, lambda frame: frame.request == number and frame.last)
        parts = [f for f in self.frames if isinstance(f, protocol.JournalData) and f.request == number]
        at = start
        for part in parts:
            assert part.offset == at
            assert len(content(part)) == part.raw_bytes
            at += part.raw_bytes
        return b"".join(map(content, parts))

    def close(self) -> int:
        """Close stdin and wait for the end; returns the exit code."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        self.close()


class Session:
    """One supervisor in a temporary folder."""

    def __init__(
        self,
        agent: Path,
        folder: Path,
        env: dict[str, str] | None = None,
        python: str = sys.executable,
        **settings: object,
    ) -> None:
        self.agent = agent
        self.python = python
        self.folder = folder
        self.checkout = folder / "SkyRL"
        self.volume = folder / "data"
        self.volume.mkdir(parents=True, exist_ok=True)
        values: dict[str, object] = {
            "session": "test",
            "state_dir": str(folder / "state"),
            "checkout_dir": str(self.checkout),
            "volume_dir": str(self.volume),
            "volume_link": str(folder / "home" / "data"),
            "train_subdir": "skyrl-train",
            "ray": False,
            **settings,
        }
        self.config = Config(**values)  # type: ignore[arg-type]
        self.log = folder / "supervisor.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-IS", str(agent), "supervise", "--config", self.config.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
            )
        self._attached: list[Attached] = []

    @property
    def pid(self) -> int:
        """The supervisor, a child of :attr:`process`, which watches it."""
        return psutil.Process(self.process.pid).children()[0].pid

    def attach(self, *options: str) -> Attached:
        attached = Attached(self.agent, self.config.state, *options, python=self.python)
        self._attached.append(attached)
        attached.send(protocol.Hello(client_id="test"))
        attached.wait_for(protocol.Welcome)
        return attached

    def wait(self) -> int:
        """The supervisor's exit code."""
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        for attached in self._attached:
            attached.kill()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE_S)
            finally:
                self.process.kill()
                self.process.wait()


class Gate:
    """Where a script waits, with ``read x <{gate}``, until the test says a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.mkfifo(path)
        # Open both ways for good: no reader meets an end of file, no writer waits for a reader.
        self._fd = os.open(path, os.O_RDWR)

    def __str__(self) -> str:
        return str(self._path)

    def say(self, line: str = "") -> None:
        os.write(self._fd, f"{line}\n".encode())

    def close(self) -> None:
        os.close(self._fd)


def content(frame: protocol.Output | protocol.JournalData) -> bytes:
    """The bytes of the stream that a frame carries."""
    return zlib.decompress(frame.payload) if frame.compressed else frame.payload


def partition(frames: list[protocol.Message], stream: str, run_id: str = "run-1") -> Iterator[tuple[int, int, bytes]]:
    """``(start, end, bytes)`` of each Output and Gap (no bytes) of a stream, in order; fails where they do not abut."""
    at = None
    for frame in frames:
        if isinstance(frame, protocol.Output) and (frame.run_id, frame.stream) == (run_id, stream):
            start, end, data = frame.offset, frame.offset + frame.raw_bytes, content(frame)
            assert len(data) == frame.raw_bytes > 0
        elif isinstance(frame, protocol.Gap) and (frame.run_id, frame.stream) == (run_id, stream):
            start, end, data = frame.start, frame.end, b""
            assert start < end
        else:
            continue
        assert at in (None, start), f"{stream}: {at} is followed by {start}"
        at = end
        yield start, end, data


def alive(pid: int) -> bool:
    """Whether process ``pid`` exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event; fails at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
