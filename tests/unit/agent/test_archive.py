"""The supervisor's archive: when passes come, what the catalog says, and what they do not touch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from skyrl_magic.agent.prune import Keep, Pruning
from skyrl_magic.agent.volume_tree import VolumeTree
from skyrl_magic.core import protocol
from tests.unit.agent.harness import Attached, Gate, Session, until

DAY_S = 24 * 3600.0
NOW = 1_000_000_000.0
OWNER = "ann (us-1)"


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def session(request: pytest.FixtureRequest, make_session: Callable[..., Session]) -> Session:
    """A session without Ray, on a volume of either version."""
    return make_session(volume_version=request.param)


def catalogs(volume: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (volume / protocol.CATALOGS).glob("*.json")]


def runs(session: Session) -> dict[str, dict[str, Any]]:
    """The runs of the session's catalog."""
    return {run["run_id"]: run for catalog in catalogs(session.volume) for run in catalog["runs"]}


def archived(session: Session, run_id: str, name: str = protocol.STDOUT) -> bytes:
    """A file of a journal as it is on the volume."""
    packed = runs(session)[run_id]["packed"]
    if packed is not None:
        pack, start, sizes = packed
        place = protocol.JOURNAL_FILES.index(name)
        start += sum(sizes[:place])
        data: bytes = (session.volume / protocol.PACKS / pack).read_bytes()
        return data[int(start) : int(start) + int(sizes[place])]
    folder = session.volume / protocol.ARCHIVED_RUNS / run_id
    return b"".join(path.read_bytes() for path in sorted(folder.glob(f"{name}-*")))


def test_a_run_is_archived_soon_after_its_end(session: Session, channel: Attached) -> None:
    channel.run("echo hi; echo err >&2; exit 3")
    until(lambda: "run-1" in runs(session))
    run = runs(session)["run-1"]
    assert (run["state"], run["exit_code"], run["command"]) == ("ended", 3, "echo hi; echo err >&2; exit 3")
    assert (run["stdout_bytes"], run["stderr_bytes"], run["archive_error"]) == (3, 4, "")
    assert (archived(session, "run-1"), archived(session, "run-1", protocol.STDERR)) == (b"hi\n", b"err\n")


def test_no_variable_of_a_run_is_archived(session: Session, channel: Attached) -> None:
    channel.run("true", env={"SOME_KEY": "k3y-of-somebody"})
    until(lambda: "run-1" in runs(session))
    for path in session.volume.rglob("*"):
        assert path.is_dir() or b"k3y-of-somebody" not in path.read_bytes()


def test_what_a_run_has_written_is_there_while_it_goes_on(session: Session, channel: Attached, gate: Gate) -> None:
    channel.start(f"echo begun; read _ <{gate}; seq 200000; read _ <{gate}")
    until(lambda: "run-1" in runs(session) and archived(session, "run-1") == b"begun\n")
    assert runs(session)["run-1"]["state"] == "running"
    gate.say()
    whole = b"begun\n" + b"".join(b"%d\n" % number for number in range(1, 200_001))
    until(lambda: archived(session, "run-1") == whole)
    gate.say()
    channel.send(protocol.WatchRun("run-1"))
    channel.ended()
    until(lambda: runs(session)["run-1"]["state"] == "ended")
    assert archived(session, "run-1") == whole


def test_the_end_of_a_session_archives_and_says_why(session: Session, channel: Attached) -> None:
    channel.run("echo first")
    channel.start("echo second; sleep 600", "run-2")
    channel.send(protocol.WatchRun("run-2"))
    channel.wait_for_output(b"second\n", run_id="run-2")
    session.process.send_signal(signal.SIGTERM)
    session.wait()
    (catalog,) = catalogs(session.volume)
    assert catalog["reason"] == "the backend ended its container (it was preempted, or stopped there)"
    assert catalog["ended_at"] >= catalog["started_at"]
    assert runs(session)["run-2"]["reason"] == catalog["reason"]
    assert archived(session, "run-1") == b"first\n"
    assert archived(session, "run-2") == b"second\n"


def test_a_session_that_ran_nothing_leaves_nothing(session: Session, channel: Attached) -> None:
    channel.ask(protocol.StopSession(), protocol.Done)
    session.wait()
    assert not list(session.volume.rglob("*"))


def test_a_killed_pass_is_made_again(session: Session, channel: Attached, gate: Gate) -> None:
    channel.start(f"head -c 60000000 /dev/urandom | base64; read _ <{gate}")
    supervisor = psutil.Process(session.pid)

    def kill() -> bool:
        passes = [child for child in supervisor.children() if child.nice() == 10]
        for child in passes:
            child.kill()
        return bool(passes)

    until(kill)
    gate.say()
    channel.send(protocol.WatchRun("run-1", stdout=protocol.NONE, stderr=protocol.NONE))
    ended = channel.ended()
    until(lambda: runs(session).get("run-1", {}).get("state") == "ended")
    assert archived(session, "run-1") == (session.config.state / "runs" / "run-1" / "stdout").read_bytes()
    assert len(archived(session, "run-1")) == ended.stdout_bytes


def test_quick_successions_share_a_pass(session: Session, channel: Attached) -> None:
    for number in range(20):
        channel.run(f"echo {number}", f"run-{number}")
    until(lambda: len(runs(session)) == 20)
    assert len(list((session.volume / protocol.PACKS).iterdir())) == 1
    assert [archived(session, f"run-{number}") for number in range(20)] == [b"%d\n" % n for n in range(20)]


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """The place of a session's volume, on a disk of 1 MiB."""
    volume = tmp_path / "s0" / "data"
    volume.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", volume], check=True)
    yield volume
    subprocess.run(["umount", "--lazy", volume], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_run_whose_log_does_not_fit_says_so(
    small_volume: Path, make_session: Callable[..., Session], gate: Gate
) -> None:
    session = make_session()
    channel = session.attach()
    channel.start(f"head -c 3000000 /dev/zero; read _ <{gate}; echo end >&2")

    def problem() -> str:
        answer = channel.ask(protocol.ListRuns(), protocol.RunList)
        assert isinstance(answer, protocol.RunList)
        return str(answer.runs[0]["archive_error"])

    until(lambda: bool(problem()))
    kept = sum(path.stat().st_size for path in small_volume.rglob("stdout-*"))
    line = f"the volume is full: the log of run run-1 is not kept there beyond byte {kept} of stdout"
    assert problem() == line
    gate.say()
    channel.send(protocol.WatchRun("run-1"))
    ended = channel.ended()
    assert (ended.exit_code, ended.archive_error) == (0, line)
    assert (
        "the volume is full: the log of run run-2 may not be kept there" in channel.run("true", "run-2").archive_error
    )
    assert not list(small_volume.rglob("*.new"))


# --- pruning --------------------------------------------------------------------------------------------------------


class Archive:
    """Catalogs and folders of runs that somebody left."""

    def __init__(self, volume: Path) -> None:
        self.volume = volume

    def session(
        self, key: str, *ages_days: float, ended: bool = True, size_bytes: int = 1000, owner: str = OWNER
    ) -> None:
        """A session with a run of each age; the first is in a pack."""
        oldest_s = max(ages_days) * DAY_S
        listed = []
        for number, days in enumerate(ages_days):
            run_id = f"{key}-run{number}"
            packed = None if number else [f"{key}-000000", 0, [0, size_bytes, 0, 0]]
            if packed is None:
                self.put(f"{protocol.ARCHIVED_RUNS}/{run_id}/stdout-000000000000", days)
            else:
                self.put(f"{protocol.PACKS}/{packed[0]}", days)
            sizes = {"stdout_bytes": size_bytes, "stderr_bytes": 0, "outputs_bytes": 0}
            at = {"started_at": NOW - days * DAY_S, "duration_s": 0.0}
            listed.append({"run_id": run_id, "state": "ended", "packed": packed, **at, **sizes})
        times = {"started_at": NOW - oldest_s, "timeout_s": 3600.0, "ended_at": NOW if ended else None}
        catalog = self.volume / protocol.CATALOGS / f"{key}.json"
        catalog.parent.mkdir(parents=True, exist_ok=True)
        values = {"session": key, "owner": owner, "reason": "", "runs": listed, **times}
        catalog.write_text(json.dumps(values))

    def put(self, path: str, age_days: float) -> None:
        file = self.volume / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        for touched in (file, file.parent):
            os.utime(touched, (NOW - age_days * DAY_S,) * 2)

    def prune(self, days: float = 14, size_bytes: int = 10**9, own: dict[str, Any] | None = None) -> Pruning:
        own = own or {"started_at": NOW, "timeout_s": 0.0, "ended_at": None, "runs": []}

        def replace(folder: str, name: str, data: bytes) -> None:
            (self.volume / folder / name).write_bytes(data)

        own = {"reason": "", "owner": OWNER, **own}
        with closing(VolumeTree(self.volume)) as tree:
            pruning = Pruning(tree, "own-1", own, NOW, replace)
            pruning.prune(Keep(days * DAY_S, size_bytes))
        return pruning

    def left(self) -> list[str]:
        return sorted(
            run["run_id"]
            for path in (self.volume / protocol.CATALOGS).glob("*.json")
            for run in json.loads(path.read_text())["runs"]
        )

    def files(self) -> set[str]:
        return {
            str(path.relative_to(self.volume / protocol.ARCHIVE)) for path in self.volume.rglob("*") if path.is_file()
        }


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def test_old_runs_go_and_catalogs_without_runs(archive: Archive) -> None:
    archive.session("a-1", 20, 20)
    archive.session("b-1", 20, 3)
    assert archive.prune().changed
    assert archive.left() == ["b-1-run1"]
    assert archive.files() == {"sessions/b-1.json", "runs/b-1-run1/stdout-000000000000"}
    assert not archive.prune().changed


def test_the_oldest_of_too_much_goes(archive: Archive) -> None:
    archive.session("a-1", 3, 1)
    archive.session("b-1", 4, 2)
    archive.prune(size_bytes=2500)
    assert archive.left() == ["a-1-run1", "b-1-run1"]


def test_runs_of_sessions_that_may_live_stay(archive: Archive) -> None:
    archive.session("a-1", 0.01, ended=False)
    archive.session("b-1", 2, ended=False)
    archive.prune(days=0.001, size_bytes=1)
    assert archive.left() == ["a-1-run0"]
    assert archive.files() == {"sessions/a-1.json", "packs/a-1-000000"}


def test_own_runs_go_when_they_have_ended(archive: Archive) -> None:
    sizes = {"stdout_bytes": 1000, "stderr_bytes": 0, "outputs_bytes": 0, "duration_s": 1.0, "packed": None}
    own_runs = [
        {"run_id": "one", "state": "ended", "started_at": NOW - 100, **sizes},
        {"run_id": "two", "state": "running", "started_at": NOW - 200, **sizes},
    ]
    archive.put(f"{protocol.ARCHIVED_RUNS}/one/stdout-000000000000", 0)
    archive.put(f"{protocol.ARCHIVED_RUNS}/two/stdout-000000000000", 0)
    own = {"started_at": NOW - 300, "timeout_s": 0.0, "ended_at": None, "runs": own_runs}
    assert archive.prune(size_bytes=1, own=own).removed == {"one"}
    assert archive.files() == {"runs/two/stdout-000000000000"}


def test_what_no_catalog_knows_goes_when_it_is_old(archive: Archive) -> None:
    archive.put(f"{protocol.ARCHIVED_RUNS}/old/stdout-000000000000", 20)
    archive.put(f"{protocol.ARCHIVED_RUNS}/new/stdout-000000000000", 1)
    archive.put(f"{protocol.PACKS}/old-1-000000", 20)
    archive.put(f"{protocol.PACKS}/new-1-000000", 1)
    archive.prune()
    assert archive.files() == {"runs/new/stdout-000000000000", "packs/new-1-000000"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": 3}', '{"ended_at": 1, "runs": [{"run_id": 5}]}', "\x00"])
def test_what_is_no_catalog_of_ours_is_left_alone(archive: Archive, text: str) -> None:
    archive.session("a-1", 3)
    (archive.volume / protocol.CATALOGS / "odd.json").write_text(text)
    archive.prune()
    assert archive.files() == {"sessions/a-1.json", "sessions/odd.json", "packs/a-1-000000"}


def test_pruning_comes_soon_after_the_boot(make_session: Callable[..., Session], tmp_path: Path) -> None:
    left = Archive(tmp_path / "s0" / "data")
    left.session("a-1", 3, 3)
    session = make_session(keep_runs_days=1.0, about={"owner": OWNER})
    until(lambda: not left.files())
    assert session.process.poll() is None
