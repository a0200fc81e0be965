"""How a sandbox ended, through the real client: by the status of its result, on both families of calls."""

from __future__ import annotations

from collections.abc import Iterator

import modal
import pytest
from modal.exception import SandboxTimeoutError

from skyrl_magic.cloud.sandboxes import ModalSandbox
from skyrl_magic.core.ends import End, How
from skyrl_magic.core.errors import SessionLost
from skyrl_magic.loopback.daemon import ServerAddress
from tests.loopback.answering import answering
from tests.loopback.making import SandboxMaker


@pytest.fixture(params=["L4", None], ids=["V1", "V2"])
def make(request: pytest.FixtureRequest, modal_client: modal.Client) -> Iterator[SandboxMaker]:
    """Makes sandboxes that end with the test."""
    maker = SandboxMaker(modal_client, request.param)
    yield maker
    maker.close()


@pytest.mark.parametrize(
    ("status", "message", "end"),
    [
        ("", "", End(How.TERMINATED, 137)),
        ("TERMINATED", "Sandbox was preempted.", End(How.PREEMPTED, 137)),
        ("TERMINATED", "by\n hand", End(How.TERMINATED, 137, "by hand")),
        ("MEMORY_MANAGER_EVICTION", "", End(How.EVICTED, 137)),
        ("MEMORY_THRASHING_EVICTION", "", End(How.OUT_OF_MEMORY, 137)),
        ("KERNEL_OOM_KILL", "", End(How.OUT_OF_MEMORY, 137)),
        ("IDLE_TIMEOUT", "", End(How.IDLE, 137)),
        ("INTERNAL_FAILURE", "a worker was lost", End(How.BACKEND_FAILED, 137, "a worker was lost")),
        ("TIMEOUT", "", End(How.TIMED_OUT, 124)),
    ],
)
def test_an_end_is_told_by_its_status(
    make: SandboxMaker, loopback_server: ServerAddress, status: str, message: str, end: End
) -> None:
    sandbox = ModalSandbox(make("sleep", "infinity"), make.app_name)
    assert sandbox.end() is None
    with answering(loopback_server.state_dir, killed_as=status, killed_because=message):
        sandbox.terminate()
    assert sandbox.end() == end


def test_a_process_that_ended_and_a_time_that_was_over(make: SandboxMaker) -> None:
    ended, late = make("bash", "-c", "exit 137"), make("sleep", "infinity", timeout=1)
    ended.wait(raise_on_termination=False)
    with pytest.raises(SandboxTimeoutError):
        late.wait()
    ends = [ModalSandbox(sandbox, make.app_name).end() for sandbox in (ended, late)]
    assert ends == [End(How.EXITED, 137), End(How.TIMED_OUT, 124)]


@pytest.mark.parametrize("answer", ["not found", "finished", "unavailable"])
def test_three_answers_of_a_dead_sandbox_are_one_error(
    make: SandboxMaker, loopback_server: ServerAddress, answer: str
) -> None:
    sandbox = ModalSandbox(make("sleep", "infinity"), make.app_name)
    sandbox.exec(["true"])
    sandbox.terminate()
    with (
        answering(loopback_server.state_dir, dead_exec=answer),
        pytest.raises(SessionLost, match=r"the container has ended \(it was ended from outside\)"),
    ):
        sandbox.exec(["true"])
