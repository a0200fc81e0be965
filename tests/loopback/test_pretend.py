"""Machines that are not there yet, and images that are not as they should be: as far as Modal's client can tell."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import modal
import pytest
from modal.exception import ConflictError, NotFoundError, ResourceExhaustedError
from modal_proto import api_pb2

from tests.conftest import Pretended
from tests.loopback.making import DEADLINE_S, SandboxMaker, run, until
from tests.loopback.modal_internals import RawCall

T4 = api_pb2.Resources(gpu_config=api_pb2.GPUConfig(gpu_type="T4", count=1))


@pytest.fixture
def queued(pretend: Pretended, modal_client: modal.Client, raw_call: RawCall) -> Iterator[Queued]:
    """A V1 sandbox that waits for a T4 which is not there."""
    pretend(machines={"T4": {"wait_s": None}})
    waiting = Queued(SandboxMaker(modal_client, "T4"), raw_call)
    yield waiting
    waiting.end()


class Queued:
    """A V1 sandbox in the queue, by raw calls: Modal's client hands none out before it has its machine."""

    def __init__(self, maker: SandboxMaker, raw_call: RawCall) -> None:
        self.maker, self._call = maker, raw_call
        self.name = f"n-{uuid.uuid4().hex[:8]}"
        definition = api_pb2.Sandbox(entrypoint_args=["sleep", "60"], timeout_secs=60, resources=T4, name=self.name)
        tags = [api_pb2.SandboxTag(tag_name="who", tag_value="me")]
        request = api_pb2.SandboxCreateRequest(app_id=maker.app.app_id or "", definition=definition, tags=tags)
        self.id: str = raw_call("SandboxCreate", request).sandbox_id

    def task(self) -> Any:
        """What is known of its task."""
        return self._call("SandboxGetTaskId", api_pb2.SandboxGetTaskIdRequest(sandbox_id=self.id))

    def wait(self) -> Any:
        """How it ended."""
        return self._call("SandboxWait", api_pb2.SandboxWaitRequest(sandbox_id=self.id, timeout=0)).result

    def end(self) -> None:
        """End it."""
        self._call("SandboxTerminate", api_pb2.SandboxTerminateRequest(sandbox_id=self.id))


def test_queued_sandbox_has_a_name_and_tags_and_no_task(queued: Queued, modal_client: modal.Client) -> None:
    assert (queued.task().task_id, queued.task().HasField("task_result")) == ("", False)
    found = modal.Sandbox.from_name(queued.maker.app_name, queued.name, client=modal_client)
    assert (found.object_id, found.poll(), found.get_tags()) == (queued.id, None, {"who": "me"})
    listed = modal.Sandbox.list(app_id=queued.maker.app.app_id, client=modal_client)
    assert [sandbox.object_id for sandbox in listed] == [queued.id]


def test_queued_sandbox_is_no_task(queued: Queued, raw_call: RawCall) -> None:
    tasks = raw_call("TaskList", api_pb2.TaskListRequest(app_id=queued.maker.app.app_id or "")).tasks
    assert list(tasks) == []


def test_queued_sandbox_can_be_ended(queued: Queued, modal_client: modal.Client, pretend: Pretended) -> None:
    queued.end()
    assert queued.wait().status == api_pb2.GenericResult.GENERIC_STATUS_TERMINATED
    assert (queued.task().task_id, queued.task().HasField("task_result")) == ("", True)
    with pytest.raises(NotFoundError):
        modal.Sandbox.from_name(queued.maker.app_name, queued.name, client=modal_client)
    pretend.end()  # the machine comes now, and nothing starts on it
    assert queued.task().task_id == ""


def test_machine_comes(queued: Queued, modal_client: modal.Client, pretend: Pretended) -> None:
    pretend.end()
    assert until(lambda: queued.task().task_id).startswith("ta-")
    assert run(modal.Sandbox.from_id(queued.id, client=modal_client), "echo there")[1] == "there\n"


def test_client_waits_for_the_machine(pretend: Pretended, modal_client: modal.Client) -> None:
    pretend(machines={"T4": {"wait_s": None}, "*": {"wait_s": None}})
    make = SandboxMaker(modal_client, "T4")
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(make, "sleep", "60")
        until(lambda: list(modal.Sandbox.list(app_id=make.app.app_id, client=modal_client)))
        assert not creating.done()
        pretend.end()
        assert run(creating.result(DEADLINE_S), "echo there")[1] == "there\n"
    make.close()


def test_client_is_told_that_the_sandbox_ended_in_the_queue(pretend: Pretended, modal_client: modal.Client) -> None:
    pretend(machines={"T4": {"wait_s": None}})
    make = SandboxMaker(modal_client, "T4")
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(make, "sleep", "60")
        (waiting,) = until(lambda: list(modal.Sandbox.list(app_id=make.app.app_id, client=modal_client)))
        waiting.terminate()
        with pytest.raises(ConflictError):
            creating.result(DEADLINE_S)


def test_v2_creation_waits_in_its_call(pretend: Pretended, modal_client: modal.Client) -> None:
    pretend(machines={"none": {"wait_s": None}})
    make = SandboxMaker(modal_client, None)
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(make, "sleep", "60", name="slow")
        until(lambda: list(modal.Sandbox.list(app_id=make.app.app_id, client=modal_client)))
        assert not creating.done()
        pretend.end()
        assert creating.result(DEADLINE_S).poll() is None
    make.close()


@pytest.mark.parametrize("gpu", ["T4", None])
def test_refusal(pretend: Pretended, modal_client: modal.Client, gpu: str | None) -> None:
    pretend(machines={gpu or "none": {"refuse": "the workspace has 10 GPUs in use"}})
    with pytest.raises(ResourceExhaustedError, match="10 GPUs in use"):
        SandboxMaker(modal_client, gpu)("true")


def test_a_count_has_its_own_machines(pretend: Pretended, modal_client: modal.Client) -> None:
    pretend(machines={"T4:2": {"refuse": "not two"}, "*": {}})
    SandboxMaker(modal_client, "T4")("true").wait()
    with pytest.raises(ResourceExhaustedError):
        SandboxMaker(modal_client, "T4:2")("true")


def test_preempted(pretend: Pretended, modal_client: modal.Client) -> None:
    pretend(machines={"T4": {"preempt_s": 0}})
    sandbox = SandboxMaker(modal_client, "T4")("sleep", "60")
    sandbox.wait(raise_on_termination=False)
    assert sandbox.returncode == 137


def test_entrypoint_comes_before_the_command(create: SandboxMaker, pretend: Pretended) -> None:
    tag = f"example/entry-{uuid.uuid4().hex[:8]}"
    pretend(images={tag: {"entrypoint": ["/bin/echo", "taken over by"]}})
    sandbox = create("mine", image=modal.Image.from_registry(tag))
    sandbox.wait()
    assert sandbox.stdout.read() == "taken over by mine\n"
    off = modal.Image.from_registry(tag, setup_dockerfile_commands=["ENTRYPOINT []"])
    sandbox = create("echo", "mine", image=off)
    sandbox.wait()
    assert sandbox.stdout.read() == "mine\n"


def test_broken_image(create: SandboxMaker, pretend: Pretended) -> None:
    pretend(images={"example/image:1": {"broken": "FetchSpec failed: loading container"}})
    sandbox = create("sleep", "60")
    assert until(sandbox.poll) == 1
    with pytest.raises((NotFoundError, ConflictError)):
        sandbox.exec("true")


def test_image_without_python(create: SandboxMaker, pretend: Pretended) -> None:
    pretend(images={"example/image:1": {"python": False}})
    sandbox = create("sh", "-c", "ls / >/dev/null && python3 -c 1")
    sandbox.wait()
    assert sandbox.returncode == 127
    assert "python3: not found" in sandbox.stderr.read()


def test_image_that_cannot_be_built(pretend: Pretended, modal_client: modal.Client) -> None:
    tag = f"example/unbuildable-{uuid.uuid4().hex[:8]}"
    pretend(images={tag: {"build_error": "manifest unknown"}})
    with pytest.raises(modal.exception.Error, match="manifest unknown"):
        SandboxMaker(modal_client, None)("true", image=modal.Image.from_registry(tag))


def test_commits_are_slow(create: SandboxMaker, pretend: Pretended, modal_client: modal.Client) -> None:
    volume = modal.Volume.from_name(
        f"slow-{uuid.uuid4().hex[:8]}", create_if_missing=True, version=2, client=modal_client
    )
    sandbox = create(volumes={"/root/data": volume})
    pretend(commits={"delay_s": 3600})
    slow = sandbox.exec("bash", "-c", "touch /root/data/f && echo asks && sync /root/data")
    assert next(iter(slow.stdout)) == "asks\n"
    assert slow.poll() is None
    assert volume.listdir("/") == []
    sandbox.terminate()  # its last commit waits for nothing
    assert [entry.path for entry in volume.listdir("/")] == ["f"]
