"""Commands in sandboxes through Modal's own client."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import modal
import pytest
from modal.exception import ConflictError, InvalidError, NotFoundError
from modal.stream_type import StreamType
from modal_proto import api_pb2
from modal_proto import task_command_router_pb2 as router_pb2

from skyrl_magic.loopback.daemon import ServerAddress
from tests.conftest import make_client
from tests.loopback.making import SandboxMaker, run, until
from tests.loopback.modal_internals import inner, on_modal_loop


class Router:
    """Raw calls to the command router of one sandbox."""

    def __init__(self, sandbox: modal.Sandbox) -> None:
        self._sandbox = inner(sandbox)
        self.task_id: str = on_modal_loop(self._sandbox._get_task_id())

    def call(self, method: str, **fields: Any) -> Any:
        """A call of Modal's router client by its own name."""

        async def run() -> Any:
            client = await self._sandbox._get_command_router_client(self.task_id)
            return await getattr(client, method)(self.task_id, **fields)

        return on_modal_loop(run())

    def read(self, exec_id: str, start_offset: int, limit_bytes: int | None = None) -> bytes:
        """stdout from an offset on, to its end or until there are ``limit_bytes``; then the stream is cut."""

        async def run() -> bytes:
            client = await self._sandbox._get_command_router_client(self.task_id)
            stream = client.exec_stdio_read(
                self.task_id, exec_id, api_pb2.FILE_DESCRIPTOR_STDOUT, start_offset=start_offset
            )
            data = b""
            async for item in stream:
                data += item.data
                if limit_bytes is not None and len(data) >= limit_bytes:
                    await stream.aclose()
                    break
            return data

        data: bytes = on_modal_loop(run())
        return data


def exec_id(process: Any) -> str:
    return str(inner(process)._process_id)


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_exit_codes(sandbox: modal.Sandbox, code: int) -> None:
    assert run(sandbox, f"exit {code}")[0] == code


@pytest.mark.parametrize("signal", [1, 2, 9, 11, 15])
def test_signals(sandbox: modal.Sandbox, signal: int) -> None:
    assert run(sandbox, f"kill -{signal} $$")[0] == 128 + signal


def test_streams_are_apart(sandbox: modal.Sandbox) -> None:
    assert run(sandbox, "echo out; echo err >&2") == (0, "out\n", "err\n")


def test_program_that_is_missing(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("no-such-program")
    assert "no-such-program" in process.stderr.read()
    assert process.wait() == 127


def test_arguments_arrive_unchanged(sandbox: modal.Sandbox) -> None:
    arguments = ["", " ", "a b", "$HOME", "*", "'\"", "\\", "new\nline", "ä€😀", "-n", "--", "A=b"]
    process = sandbox.exec("python", "-c", "import sys; print(sys.argv[1:])", *arguments)
    assert process.stdout.read() == f"{arguments}\n"


def test_large_arguments(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("bash", "-c", 'echo "${#0}"', "x" * 60_000)
    assert process.stdout.read() == "60000\n"


def test_workdir_and_environment(sandbox: modal.Sandbox) -> None:
    secret = modal.Secret.from_dict({"A": "secret", "B": "secret"})
    result = run(sandbox, "pwd; echo $A $B", workdir="/var/lib", env={"B": "env"}, secrets=[secret])
    assert result[1] == "/var/lib\nsecret env\n"
    assert run(sandbox, "pwd")[1] == "/root\n"


def test_workdir_that_is_missing(sandbox: modal.Sandbox) -> None:
    code, _, stderr = run(sandbox, "true", workdir="/no/where")
    assert code != 0
    assert "/no/where" in stderr


def test_loader_variables_reach_only_the_command(sandbox: modal.Sandbox) -> None:
    code, stdout, stderr = run(sandbox, "echo $LD_LIBRARY_PATH", env={"LD_LIBRARY_PATH": "/no/where"})
    assert (code, stdout, stderr) == (0, "/no/where\n", "")


def test_stdin(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("cat", text=False)
    process.stdin.write(b"one\n")
    process.stdin.drain()
    chunks = iter(process.stdout)
    assert next(chunks) == b"one\n"
    process.stdin.write(b"\x00\xff two")
    process.stdin.write_eof()
    process.stdin.drain()
    assert b"".join(chunks) == b"\x00\xff two"
    assert process.wait() == 0


def test_stdin_that_nobody_reads(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("true")
    process.wait()
    process.stdin.write(b"x")
    with pytest.raises(ConflictError):
        process.stdin.drain()


def test_large_stdin(sandbox: modal.Sandbox) -> None:
    data = os.urandom(3_000_000)
    process = sandbox.exec("sha256sum")
    for start in range(0, len(data), 1_000_000):
        process.stdin.write(data[start : start + 1_000_000])
        process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.stdout.read().split()[0] == hashlib.sha256(data).hexdigest()


def test_stdin_is_written_once(sandbox: modal.Sandbox) -> None:
    router = Router(sandbox)
    process = sandbox.exec("cat", text=False)
    write = {"exec_id": exec_id(process)}
    router.call("exec_stdin_write", **write, offset=0, data=b"abc", eof=False)
    router.call("exec_stdin_write", **write, offset=0, data=b"abcd", eof=False)
    router.call("exec_stdin_write", **write, offset=2, data=b"cd", eof=False)
    assert router.call("exec_stdin_status", **write).num_bytes_written == 4
    with pytest.raises(InvalidError):
        router.call("exec_stdin_write", **write, offset=9, data=b"x", eof=False)
    router.call("exec_stdin_write", **write, offset=4, data=b"e", eof=True)
    router.call("exec_stdin_write", **write, offset=4, data=b"e", eof=True)
    status = router.call("exec_stdin_status", **write)
    assert (status.num_bytes_written, status.closed) == (5, True)
    with pytest.raises(ConflictError):
        router.call("exec_stdin_write", **write, offset=5, data=b"x", eof=False)
    assert process.stdout.read() == b"abcde"


def test_stdin_as_one_stream(sandbox: modal.Sandbox) -> None:
    router = Router(sandbox)
    data = os.urandom(2_000_000)
    process = sandbox.exec("sha256sum")
    assert router.call("exec_stdin_write_stream", exec_id=exec_id(process), source=io.BytesIO(data)) == len(data)
    assert process.stdout.read().split()[0] == hashlib.sha256(data).hexdigest()


def test_status_ends_a_stdin_stream(sandbox: modal.Sandbox) -> None:
    """A client that resumes asks how far the stream came; the old stream must not write after the answer."""
    router = Router(sandbox)
    process = sandbox.exec("bash", "-c", "read -r _; echo got; cat | wc -c", bufsize=1)
    exec_ = exec_id(process)

    async def open_stream() -> Any:
        client = await router._sandbox._get_command_router_client(router.task_id)

        async def chunks() -> Any:
            yield b"\n" + b"x" * 9
            await asyncio.Event().wait()

        return asyncio.ensure_future(client._exec_stdin_write_stream(router.task_id, exec_, 0, chunks()))

    async def ended(writing: Any) -> bool:
        writing.cancel()
        return bool(await asyncio.gather(writing, return_exceptions=True))

    writing = on_modal_loop(open_stream())
    lines = iter(process.stdout)
    assert next(lines) == "got\n"
    assert router.call("exec_stdin_status", exec_id=exec_).num_bytes_written == 10
    on_modal_loop(ended(writing))
    router.call("exec_stdin_write", exec_id=exec_, offset=10, data=b"yy", eof=True)
    assert next(lines) == "11\n"


def test_large_output_is_exact(sandbox: modal.Sandbox) -> None:
    script = "import sys, hashlib, os; d = os.urandom(1 << 20) * 20; sys.stdout.buffer.write(d); "
    script += "sys.stderr.write(hashlib.sha256(d).hexdigest())"
    process = sandbox.exec("python", "-c", script, text=False)
    digest = hashlib.sha256()
    for chunk in process.stdout:
        digest.update(chunk)
    assert process.stderr.read().decode() == digest.hexdigest()


def test_stream_is_cut_and_goes_on_at_its_offset(sandbox: modal.Sandbox) -> None:
    router = Router(sandbox)
    size_bytes = 30_000_000
    script = f"import sys; sys.stdout.buffer.write(b''.join(b'%015d\\n' % i for i in range({size_bytes // 16})))"
    process = sandbox.exec("python", "-c", script, text=False)
    expected = hashlib.sha256(b"".join(b"%015d\n" % i for i in range(size_bytes // 16))).hexdigest()
    data = b""
    while len(data) < size_bytes:
        data += router.read(exec_id(process), len(data), 4_000_000)
    assert len(data) == size_bytes
    assert hashlib.sha256(data).hexdigest() == expected
    assert process.wait() == 0
    assert router.read(exec_id(process), size_bytes - 5) == data[-5:]
    assert router.read(exec_id(process), 10_000_000) == data[10_000_000:]


def test_offset_that_is_not_there(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("echo", "x")
    process.wait()
    with pytest.raises(InvalidError, match="offset 100"):
        Router(sandbox).read(exec_id(process), 100)


def test_output_nobody_reads_blocks_the_process(sandbox: modal.Sandbox) -> None:
    count = "import os; n = 0\nwhile n < 50_000_000:\n  n += os.write(1, b'x' * 65536)\n  os.write(2, b'%d\\n' % n)"
    process = sandbox.exec("python", "-c", count, text=False)
    written = 0
    for line in process.stderr:
        written = max(written, *(int(number) for number in line.split()))
        if written > 1_000_000:
            break
    run(sandbox, "sleep 0.3")  # time enough for an unlimited writer to write it all
    assert process.poll() is None
    assert sum(len(chunk) for chunk in process.stdout) >= 50_000_000
    assert process.wait() == 0


def test_output_to_nowhere(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("head", "-c", "20000000", "/dev/zero", stdout=StreamType.DEVNULL)
    assert process.wait() == 0


def test_stderr_into_stdout(sandbox: modal.Sandbox) -> None:
    router = Router(sandbox)
    request = router_pb2.TaskExecStartRequest(
        task_id=router.task_id,
        exec_id="merged",
        command_args=["bash", "-c", "echo one; echo two >&2; echo three"],
        stdout_config=router_pb2.TASK_EXEC_STDOUT_CONFIG_PIPE,
        stderr_config=router_pb2.TASK_EXEC_STDERR_CONFIG_STDOUT,
    )

    async def start() -> None:
        client = await router._sandbox._get_command_router_client(router.task_id)
        await client.exec_start(request)
        await client.exec_start(request)  # sent again, it is the same command

    on_modal_loop(start())
    assert router.read("merged", 0) == b"one\ntwo\nthree\n"


def test_terminal(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("bash", "-c", "tty; test -t 0 && test -t 1 && stty size; read -r x; echo got $x", pty=True)
    process.stdin.write("word\n")
    process.stdin.drain()
    output = process.stdout.read()
    assert process.wait() == 0
    assert "/dev/pts/" in output
    assert "24 80" in output
    assert "got word" in output


def test_terminal_ends_with_control_d(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("cat", pty=True)
    process.stdin.write("x\n")
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.wait() == 0
    assert process.stdout.read().replace("\r", "") == "x\nx\n"


def test_timeout_ends_the_command(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("bash", "-c", "echo $$; sleep 1000; true", timeout=1)
    pid = process.stdout.read().strip()
    assert process.wait() in {-1, 137}  # the client's own deadline, or the kill that it then sees
    until(lambda: run(sandbox, f"test -e /proc/{pid}")[0] != 0)


def test_poll(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("bash", "-c", "read -r _; exit 5")
    assert process.poll() is None
    process.stdin.write_eof()
    process.stdin.drain()
    assert until(process.poll) == 5


def test_command_outlives_its_reader(create: SandboxMaker, loopback_server: ServerAddress) -> None:
    sandbox = create()
    client = make_client(loopback_server)
    other = modal.Sandbox.from_id(sandbox.object_id, client=client)
    process = other.exec("bash", "-c", "echo on; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo done >/tmp/done")
    assert next(iter(process.stdout)) == "on\n"
    other.detach()
    client.close()
    run(sandbox, "touch /tmp/go")
    until(lambda: run(sandbox, "cat /tmp/done")[1] == "done\n")


def test_unknown_command(sandbox: modal.Sandbox) -> None:
    with pytest.raises(NotFoundError):
        Router(sandbox).call("exec_wait", exec_id="nobody")


def test_many_at_once(sandbox: modal.Sandbox) -> None:
    def one(number: int) -> bool:
        return run(sandbox, f"echo {number}; sleep 0.1; echo end; exit {number}") == (number, f"{number}\nend\n", "")

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(48)))


def test_round_trip_is_not_held_up(sandbox: modal.Sandbox) -> None:
    """40 ms and more for each would mean that Nagle's algorithm waits for delayed acknowledgements."""
    process = sandbox.exec("cat", text=False)
    chunks = iter(process.stdout)
    fastest_s = 1.0
    for _ in range(50):
        start_s = time.monotonic()
        process.stdin.write(b"x")
        process.stdin.drain()
        next(chunks)
        fastest_s = min(fastest_s, time.monotonic() - start_s)
    process.stdin.write_eof()
    process.stdin.drain()
    assert fastest_s < 0.03
