from __future__ import annotations

import os
from dataclasses import replace

import pytest

from skyrl_magic.core import protocol
from skyrl_magic.core.protocol import PYTHON
from skyrl_magic.core.spec import KeepRuns, RunRequest
from skyrl_magic.service.checkout import Checkout
from skyrl_magic.service.results import lost_text, unkept_text
from skyrl_magic.service.session import Session
from tests.unit.service.conftest import World, sandbox_of

TRAIN = (
    "python -m skyrl.train.entrypoints.main_base trainer.ckpt_path=$HOME/ckpts/x trainer.export_path=/root/data/e $@\n"
)
LINE = (
    "checkpoints go to /root/ckpts/x: not on the volume, gone with the container; "
    "add trainer.ckpt_path=/root/data/ckpts/x"
)


def text(world: World, checkout: Checkout, cell: str, **options: str) -> str:
    session = world.start(world.request(checkout))
    return lost_text(session, RunRequest(cell, **options), keep_results=True)  # type: ignore[arg-type]


def test_a_script_of_the_checkout_is_read_from_the_runs_folder(world: World, checkout: Checkout) -> None:
    (checkout.root / "examples").mkdir()
    (checkout.root / "examples" / "run.sh").write_text(TRAIN)
    assert text(world, checkout, "bash examples/run.sh") == LINE
    assert text(world, checkout, "bash run.sh", workdir="examples") == LINE
    assert text(world, checkout, "bash /root/SkyRL/examples/run.sh") == LINE
    assert text(world, checkout, "bash examples/run.sh trainer.ckpt_path=/root/data/c") == ""
    assert text(world, checkout, "bash examples/run.sh", kind=PYTHON) == ""
    assert text(world, checkout, "x = 1\n!bash examples/run.sh", kind=PYTHON) == LINE
    assert text(world, checkout, "%%bash\ncd examples\nbash run.sh", kind=PYTHON) == LINE


@pytest.mark.timeout(60)
def test_a_strangers_checkout_shows_nothing_of_this_machine_and_does_not_hang(world: World, checkout: Checkout) -> None:
    outside = checkout.root.parent / "secret.sh"
    outside.write_text(TRAIN)
    (checkout.root / "link.sh").symlink_to(outside)
    (checkout.root / "loop.sh").symlink_to("loop.sh")
    os.mkfifo(checkout.root / "fifo.sh")
    (checkout.root / "folder.sh").mkdir()
    for name in ("link.sh", "loop.sh", "fifo.sh", "folder.sh", "../secret.sh", f"{outside}", "missing.sh"):
        assert text(world, checkout, f"bash {name}") == ""


def test_what_a_session_has_written_beside_the_volume_is_said_when_it_is_stopped(
    world: World, checkout: Checkout
) -> None:
    session = world.start(world.request(checkout))
    home = sandbox_of(session).folder / "home"
    world.run(session, f"mkdir -p {home}/ckpts; head -c 3000000 /dev/zero > {home}/ckpts/model.pt; head -c 9 a > b")
    said: list[str] = []
    key = ("local", "app", session.name)
    world.service.stop(*key, lambda session: said.append(unkept_text(session, lambda size: f"{size} bytes")))
    assert said[0] == (
        f"session {session.name} had written {home}/ckpts (3000000 bytes): not on the volume, gone with the container; "
        f"next time `cp -r {home}/ckpts /root/data/` in a cell before %skyrl_stop keeps it"
    )


@pytest.mark.parametrize("found", [5, [5], None, [["/x", "y"]], [["/x", float("inf")]], [["/x"]], "abc", {"a": 1}])
def test_what_a_replaced_agent_sends_keeps_no_session_from_being_stopped(
    session: Session, found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = protocol.Unkept(1, found)  # type: ignore[arg-type]
    monkeypatch.setattr(session.channel, "request", lambda *_, **__: answer)
    assert unkept_text(session, str) == ""


def test_an_agent_of_an_earlier_version_is_not_asked(world: World) -> None:
    session = world.start()
    home = sandbox_of(session).folder / "home"
    world.run(session, f"mkdir -p {home}; head -c 3000000 /dev/zero > {home}/model.pt")
    session.status = replace(session.status, timeout_s=0.0)
    assert unkept_text(session, str) == ""


def test_a_session_that_wrote_to_the_volume_alone_says_nothing(world: World, checkout: Checkout) -> None:
    session = world.start(world.request(checkout))
    world.run(session, f"head -c 3000000 /dev/zero > {sandbox_of(session).volume}/model.pt")
    assert unkept_text(session, str) == ""


def test_tensorboard_and_the_logs_of_workers_go_to_the_volume(world: World, checkout: Checkout) -> None:
    request = world.request(checkout)
    session = world.start(request)
    volume = sandbox_of(session).volume
    cell = 'echo "$TENSORBOARD_DIR"; echo "$MLFLOW_TRACKING_URI"; echo "$SWANLAB_LOG_DIR"'
    shown = world.run(session, cell)[1].text().splitlines()
    assert shown[0].startswith(f"{volume}/tensorboard_log/{session.name}-")
    assert shown[1:] == [f"file://{volume}/mlruns", f"{volume}/swanlog"]


def test_unless_the_user_does_not_want_that(world: World, checkout: Checkout) -> None:
    from dataclasses import replace

    request = replace(world.request(checkout), keep=KeepRuns(results=False))
    session = world.start(request)
    assert world.run(session, 'echo "${TENSORBOARD_DIR-not set}"')[1].text() == "not set\n"
