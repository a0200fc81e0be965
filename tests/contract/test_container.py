"""DESIGN §4: what every session finds in its container, on either backend and through both families of calls."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time

from skyrl_magic.core import protocol
from skyrl_magic.core.protocol import CommitVolume, Done
from skyrl_magic.service.runs import new_run_id
from tests.conftest import Pretended
from tests.contract.conftest import Lab, Recorder


def test_phases_are_told_in_their_order(lab: Lab) -> None:
    assert lab.phases == ["image", "checkout", "container"]


def test_environment(lab: Lab) -> None:
    names = "SKYRL_REPO_ROOT RAY_ADDRESS SKYRL_DATA_DIR HF_HOME RAY_RUNTIME_ENV_HOOK HOME"
    ran = lab.run(f"for n in {names}; do echo $n=${{!n}}; done; id -u")
    assert ran.out.splitlines() == [
        "SKYRL_REPO_ROOT=/root/SkyRL",
        "RAY_ADDRESS=",  # there is none
        "SKYRL_DATA_DIR=/root/data",
        "HF_HOME=/root/data/.cache/huggingface",
        "RAY_RUNTIME_ENV_HOOK=ray._private.runtime_env.uv_runtime_env_hook.hook",
        "HOME=/root",
        "0",
    ]


def test_checkout_with_its_symlinks_modes_and_empty_folders(lab: Lab) -> None:
    old = lab.request.checkout is not None and lab.request.checkout.old_layout
    looks = "pwd; python3 examples/link.py; ./examples/run.sh; ls -d /root/SkyRL/empty; ls skyrl-gym/pyproject.toml"
    ran = lab.run(looks)
    workdir = "/root/SkyRL/skyrl-train" if old else "/root/SkyRL"
    assert ran.err == ""
    assert ran.out.splitlines() == [
        workdir,
        "hello from gsm8k",
        f"ran in {workdir}",
        "/root/SkyRL/empty",
        "skyrl-gym/pyproject.toml",
    ]


def test_ignored_files_are_not_there(lab: Lab) -> None:
    ran = lab.run("ls -A /root/SkyRL; test ! -e /root/SkyRL/.git && test ! -e /root/SkyRL/__pycache__")
    assert ran.result.exit_code == 0, ran.out


def test_volume_at_both_paths_and_committed_after_the_runs_end(lab: Lab) -> None:
    name = f"probe-{new_run_id()}"
    assert lab.run(f"echo hello > /root/data/{name}; cat /home/ray/data/{name}").out == "hello\n"
    lab.session.channel.request(CommitVolume, Done)
    assert _committed(lab, name) == b"hello\n"


def test_a_run_does_not_wait_for_a_slow_commit(lab: Lab, pretend: Pretended) -> None:
    name = f"probe-{new_run_id()}"
    pretend(commits={"delay_s": 3600})
    assert lab.run(f"echo hello > /root/data/{name}").result.exit_code == 0
    assert lab.run(f"cat /root/data/{name}").out == "hello\n"
    if lab.session.status.volume_version > 1:
        assert name not in [entry.path for entry in _volume(lab).listdir("/")]


def test_volume_is_committed_while_a_run_goes_on(lab: Lab) -> None:
    name = f"probe-{new_run_id()}"
    sink, seen = Recorder(), threading.Event()
    volume = _volume(lab)

    def look() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(entry.path == name for entry in volume.listdir("/")):
                seen.set()
                return

    looker = threading.Thread(target=look)
    sink.on_event = lambda _: looker.start() if not looker.is_alive() and not seen.is_set() else None
    # The run ends when the commit was seen from outside, through a file that the checkout's sync cannot bring.
    ran = lab.run(f"echo x > /root/data/{name}; echo written; sleep 8", sink=sink)
    looker.join()
    assert seen.is_set()
    assert ran.result.exit_code == 0


def test_streams_are_apart(lab: Lab) -> None:
    ran = lab.run("echo out; echo err >&2")
    assert (ran.out, ran.err, ran.result.exit_code) == ("out\n", "err\n", 0)


def test_cell_text_reaches_bash_unchanged(lab: Lab) -> None:
    ran = lab.run("X='a b'; echo \"$X {x} $(echo sub)\" 'ünï' \\\\; cat <<'END'\n$NOT {expanded}\nEND\n")
    assert ran.out == "a b {x} sub ünï \\\n$NOT {expanded}\n"


def test_large_cell(lab: Lab) -> None:
    text = "x" * 200_000
    ran = lab.run(f"cat <<END | wc -c\n{text}\nEND\n")
    assert ran.out.strip() == str(len(text) + 1)


def test_exit_codes(lab: Lab) -> None:
    assert lab.run("exit 3").result.exit_code == 3
    assert lab.run("false\ntrue").result.exit_code == 0
    assert lab.run("false\ntrue", errexit=True).result.exit_code == 1
    assert lab.run("kill -9 $$").result.exit_code == 128 + signal.SIGKILL
    assert lab.run("if then").result.exit_code == 2


def test_environment_and_workdir_of_a_run(lab: Lab) -> None:
    ran = lab.run('echo "$A"; basename "$PWD"', env=(("A", "x y"),), workdir="examples/gsm8k")
    assert ran.out == "x y\ngsm8k\n"


def test_workdir_that_is_not_there(lab: Lab) -> None:
    ran = lab.run("echo no", workdir="nowhere")
    assert ran.result.exit_code != 0
    assert "nowhere" in ran.err
    assert ran.out == ""


def test_captured_whole(lab: Lab) -> None:
    ran = lab.run("seq 1 200000; echo err >&2", out="x")
    assert bytes(ran.result.captured[protocol.STDOUT]) == b"".join(b"%d\n" % i for i in range(1, 200_001))
    assert ran.err == "err\n"


def test_a_flood_is_thinned_out_and_kept_exactly(lab: Lab) -> None:
    ran = lab.run("seq 1 2000000")
    spans = []
    for event in ran.sink.events:
        if isinstance(event, protocol.Output):
            spans.append((event.offset, event.offset + event.raw_bytes))
        elif isinstance(event, protocol.Gap):
            spans.append((event.start, event.end))
    size = sum(len(str(i)) + 1 for i in range(1, 2_000_001))
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert len(ran.out) < 3_000_000
    assert ran.out.endswith("2000000\n")


def test_edits_between_cells(lab: Lab) -> None:
    checkout = lab.request.checkout
    assert checkout is not None
    below = "skyrl-train/" if checkout.old_layout else ""
    hello = checkout.root / f"{below}examples/gsm8k/hello.py"
    hello.write_text("print('edited')\n")
    added = checkout.root / f"{below}examples/new.sh"
    added.write_text("echo new\n")
    added.chmod(0o700)
    ran = lab.run("python3 examples/gsm8k/hello.py; ./examples/new.sh; stat -c %a examples/new.sh")
    assert ran.out == "edited\nnew\n700\n"
    added.unlink()
    (checkout.root / f"{below}examples/link.py").unlink()
    (checkout.root / f"{below}examples/link.py").symlink_to("run.sh")
    ran = lab.run("test ! -e examples/new.sh && readlink examples/link.py")
    assert ran.out == "run.sh\n"


def test_what_a_run_wrote_into_the_checkout_is_kept_until_the_user_changes_it(lab: Lab) -> None:
    checkout = lab.request.checkout
    assert checkout is not None
    lab.run("echo result > /root/SkyRL/result.txt; echo changed > /root/SkyRL/skyrl-gym/pyproject.toml")
    (checkout.root / "other.txt").write_text("other\n")
    kept = lab.run("cat /root/SkyRL/result.txt /root/SkyRL/other.txt /root/SkyRL/skyrl-gym/pyproject.toml")
    assert kept.out == "result\nother\nchanged\n"
    (checkout.root / "skyrl-gym" / "pyproject.toml").write_text("mine\n")
    assert lab.run("cat /root/SkyRL/skyrl-gym/pyproject.toml").out == "mine\n"


def test_stop_reaches_the_whole_tree(lab: Lab) -> None:
    sink = Recorder()
    cell = "setsid sleep 311 & (setsid bash -c 'sleep 312 & wait' &) ; echo started; sleep 313"

    def stop(_: protocol.Message) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    sink.on_event = stop
    ran = lab.run(cell, sink=sink)
    assert ran.result.stopped == "SIGTERM"  # bash starts background jobs with SIGINT ignored
    left = lab.run("pgrep -af 'sleep 31[123]' | grep -v pgrep | grep -v bash; true")
    assert left.out == ""


def test_stop_escalates_where_sigint_is_ignored(lab: Lab) -> None:
    sink = Recorder()
    sink.on_event = lambda _: os.kill(os.getpid(), signal.SIGINT)
    ran = lab.run("trap '' INT TERM; echo started; while :; do sleep 0.1; done", sink=sink)
    assert ran.result.stopped == "SIGKILL"
    assert ran.result.exit_code == 128 + signal.SIGKILL


def test_a_cut_channel_loses_and_repeats_nothing(lab: Lab) -> None:
    sink = Recorder()
    cut = threading.Event()

    def kill_attach(_: protocol.Message) -> None:
        if not cut.is_set():
            cut.set()
            lab.session.sandbox.exec(["bash", "-c", "pkill -9 -f agent.pyz.attach"])

    sink.on_event = kill_attach
    ran = lab.run("for i in $(seq 1 60); do echo line $i; sleep 0.05; done", sink=sink)
    assert ran.out.splitlines() == [f"line {i}" for i in range(1, 61)]
    assert cut.is_set()


def test_the_same_spec_is_the_same_session(lab: Lab) -> None:
    again, created = lab.service.ensure(lab.request, Recorder())
    assert again is lab.session
    assert not created


def _committed(lab: Lab, name: str) -> bytes:
    """What is read from outside, as soon as it is there: on a volume of version 1 that is a matter of seconds."""
    volume, deadline = _volume(lab), time.monotonic() + 60
    while True:
        try:
            return b"".join(volume.read_file(name))
        except FileNotFoundError:
            assert time.monotonic() < deadline


def _volume(lab: Lab):  # type: ignore[no-untyped-def]  # noqa: ANN202
    import modal

    backend = lab.service._backend(lab.request.spec.backend)
    return modal.Volume.from_name(lab.request.spec.volume, client=backend.client)  # type: ignore[attr-defined]
