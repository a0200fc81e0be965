"""What somebody else has put on the volume, where the archive lies: read, written and pruned without harm."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skyrl_magic.agent.archive_pass import ArchivePass, Job
from skyrl_magic.agent.config import Config
from skyrl_magic.agent.earlier import Earlier, find_earlier
from skyrl_magic.agent.journal import JournalWriter
from skyrl_magic.agent.prune import Keep, Pruning
from skyrl_magic.core import protocol
from skyrl_magic.core.errors import SessionError
from skyrl_magic.service.archive import ArchivedRun, ArchivedSession, archived_runs
from skyrl_magic.service.run_log import VolumeLog
from tests.unit.agent.harness import Session, until
from tests.unit.service.folder_volume import FolderVolume

DAY_S = 24 * 3600.0
OWNER, OTHER = "ann (us-1)", "eve (us-2)"
SIZES = {"stdout_bytes": 1000, "stderr_bytes": 0, "outputs_bytes": 0}
#: An archive that takes everything that may go.
NOTHING = Keep(0.0, 0)


def run_entry(run_id: Any = "run", **values: Any) -> dict[str, Any]:
    """A run of a catalog, long over."""
    at = {"started_at": 1e9, "duration_s": 1.0, "exit_code": 0, "kind": "shell", "command": "true"}
    return {"run_id": run_id, "state": "ended", "packed": None, **at, **SIZES, **values}


def catalog(*runs: dict[str, Any], owner: str = OWNER, **values: Any) -> dict[str, Any]:
    ended = {"session": "s", "started_at": 1e9, "timeout_s": 60.0, "ended_at": 1e9 + 60, "reason": ""}
    return {**ended, "owner": owner, "runs": list(runs), **values}


class Volume:
    """A volume with an archive, and something beside it that is none of the archive's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.treasure = folder / "checkpoints" / "stdout-000000000000"
        self.treasure.parent.mkdir(parents=True)
        self.treasure.write_text("three days of training")
        self.old(self.treasure.parent)
        for name in (protocol.CATALOGS, protocol.ARCHIVED_RUNS, protocol.PACKS):
            (folder / name).mkdir(parents=True)

    def old(self, path: Path) -> None:
        os.utime(path, (1e9, 1e9), follow_symlinks=False)

    def put(self, name: str, values: Any) -> None:
        text = values if isinstance(values, str) else json.dumps(values)
        (self.folder / protocol.CATALOGS / f"{name}.json").write_text(text)

    def run(self, run_id: str) -> Path:
        segment = self.folder / protocol.ARCHIVED_RUNS / run_id / "stdout-000000000000"
        segment.parent.mkdir()
        segment.write_text("said")
        self.old(segment.parent)
        return segment

    def prune(self, **own: Any) -> None:
        work = ArchivePass(self.folder, "own-1", 1 << 30)
        with closing(work.tree) as tree:
            Pruning(tree, "own-1", catalog(ended_at=None, **own), time.time(), work.replace).prune(NOTHING)

    def listed(self) -> list[ArchivedRun]:
        return archived_runs(FolderVolume(self.folder))


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    found = Volume(tmp_path / "data")
    yield found
    assert found.treasure.read_text() == "three days of training"


# --- pruned -----------------------------------------------------------------------------------------------------------


def test_a_runs_folder_that_is_a_link_is_not_emptied(volume: Volume) -> None:
    link = volume.folder / protocol.ARCHIVED_RUNS / "evil"
    link.symlink_to("../../checkpoints")
    volume.old(link)
    volume.put("s-1", catalog(run_entry("evil")))
    volume.prune()
    assert link.is_symlink()


@pytest.mark.parametrize("name", [protocol.ARCHIVE, protocol.ARCHIVED_RUNS])
def test_an_archive_that_is_a_link_is_not_emptied(volume: Volume, name: str) -> None:
    elsewhere = volume.folder / "elsewhere"
    (volume.folder / name).rename(elsewhere)
    (volume.folder / name).symlink_to(elsewhere)
    kept = elsewhere / ("runs/run" if name == protocol.ARCHIVE else "run") / "stdout-000000000000"
    kept.parent.mkdir(parents=True)
    kept.write_text("said")
    volume.old(kept.parent)
    volume.prune()
    assert kept.read_text() == "said"


def test_names_that_lead_elsewhere_are_none(volume: Volume) -> None:
    volume.put("s-1", catalog(run_entry("../../checkpoints"), run_entry(".."), run_entry(["x"]), run_entry("")))
    volume.prune()
    assert volume.listed() == []


def test_what_is_no_segment_stays_in_a_runs_folder(volume: Volume) -> None:
    segment = volume.run("run")
    other = segment.with_name("model.pt")
    other.write_text("weights")
    volume.put("s-1", catalog(run_entry()))
    volume.prune()
    assert not segment.exists()
    assert other.read_text() == "weights"


def test_a_catalog_of_another_owner_makes_nothing_go(volume: Volume) -> None:
    mine, theirs = volume.run("mine"), volume.run("theirs")
    volume.put("theirs-1", catalog(run_entry("theirs", stdout_bytes=1 << 50), owner=OTHER))
    volume.put("forged-1", catalog(run_entry("mine"), owner=OTHER))
    volume.put("living-1", catalog(run_entry("mine"), ended_at=None, started_at=time.time()))
    work = ArchivePass(volume.folder, "own-1", 1 << 30)
    with closing(work.tree) as tree:
        keep = Keep(1e10, 1 << 40)
        Pruning(tree, "own-1", catalog(ended_at=None), time.time(), work.replace).prune(keep)
    volume.prune()
    assert (mine.exists(), theirs.exists()) == (True, True)
    assert {path.stem for path in (volume.folder / protocol.CATALOGS).iterdir()} == {"theirs-1", "forged-1", "living-1"}


# --- read in the container --------------------------------------------------------------------------------------------


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def waiting(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ODD: list[Callable[[Path], object]] = [endless, waiting, listening, sparse, Path.mkdir]


@pytest.mark.parametrize("odd", ODD)
def test_a_catalog_that_is_no_file_of_ours(volume: Volume, odd: Callable[[Path], object]) -> None:
    odd(volume.folder / protocol.CATALOGS / "s-900.json")
    volume.prune()
    assert find_earlier(Config("s", "/state", "/checkout", str(volume.folder))) == Earlier()


@pytest.mark.parametrize("odd", ODD)
def test_a_session_boots_archives_and_ends_beside_it(
    make_session: Callable[..., Session], tmp_path: Path, odd: Callable[[Path], object]
) -> None:
    volume = Volume(tmp_path / "s0" / "data")
    odd(volume.folder / protocol.CATALOGS / "test-900.json")
    session = make_session(about={"owner": OWNER})
    session.attach().run("echo hi")
    until(lambda: archived(volume))
    session.process.terminate()
    assert session.wait() == 0


def archived(volume: Volume) -> bool:
    found = (volume.folder / protocol.CATALOGS).glob("test-*.json")
    return any("run-1" in path.read_text() for path in found if path.name != "test-900.json")


# --- written ----------------------------------------------------------------------------------------------------------


def journal(folder: Path, data: bytes) -> Job:
    folder.mkdir()
    writer = JournalWriter(folder)
    writer.write(0, memoryview(data))
    writer.close()
    return Job(folder.name, folder, ended=True)


@pytest.mark.parametrize("size_bytes", [100, 200_000], ids=["in a pack", "in a folder"])
@pytest.mark.parametrize("name", [".skyrl_magic", "packs", "runs", "runs/run", "packs/own-1-000000", "own-1.new"])
def test_nothing_is_written_through_a_link(volume: Volume, tmp_path: Path, name: str, size_bytes: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = outside / "file"
    target.write_text("mine")
    at = volume.folder / protocol.ARCHIVE / name if name != protocol.ARCHIVE else volume.folder / name
    if at.exists():
        at.rename(tmp_path / "away")
    at.symlink_to(target if name in ("packs/own-1-000000", "own-1.new") else outside)
    work = ArchivePass(volume.folder, "own-1", 1 << 30)
    work.copy(journal(tmp_path / "run", b"x" * size_bytes))
    work.write_catalog(b"{}")
    work.tree.close()
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert target.read_text() == "mine"


# --- read from outside ------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000
WRONG: dict[str, Any] = {
    "an infinite run": catalog(run_entry(started_at=float("inf"))),
    "a run of 21 digits": catalog(run_entry(stdout_bytes=10**20)),
    "infinite": catalog(run_entry(), started_at=float("inf")),
    "no number": catalog(run_entry(), ended_at=float("nan")),
    "huge": '{"ended_at": null, "reason": "", "started_at": 1' + "0" * 1_000_000 + "}",
    "past all calendars": catalog(run_entry(), started_at=1e300),
    "deep": DEEP,
    "deep in a field": f'{{"ended_at": null, "reason": {DEEP}',
    "not a list": catalog(runs={"a": 1}),
    "not text": catalog(run_entry(), reason=5),
    "not utf-8": "\udcff",
    "truth for a number": catalog(run_entry(), started_at=True),
}
WRONG_RUNS: dict[str, dict[str, Any]] = {
    "past all calendars": run_entry(started_at=1e300),
    "negative": run_entry(duration_s=-1.0),
    "huge": run_entry(stdout_bytes=1 << 60),
    "a negative size": run_entry(stderr_bytes=-1),
    "a float for a size": run_entry(stdout_bytes=1.5),
    "a code of a billion digits": run_entry(exit_code=1 << 40),
    "a pack elsewhere": run_entry(packed=["../../checkpoints/stdout-000000000000", 0, [0, 1, 0, 0]]),
    "a pack of many": run_entry(packed=["own-1-000000", 0, [0] * 1000]),
    "not text": run_entry(command=["a"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_catalog_is_passed_over(volume: Volume, name: str) -> None:
    values = WRONG[name]
    text = values if isinstance(values, str) else json.dumps(values)
    (volume.folder / protocol.CATALOGS / "odd-1.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    volume.put("s-1", catalog(run_entry("good")))
    assert [run.run_id for run in volume.listed()] == ["good"]
    volume.prune()


@pytest.mark.parametrize("name", WRONG_RUNS)
def test_a_wrong_run_is_passed_over(volume: Volume, name: str) -> None:
    volume.put("s-1", catalog(run_entry("good"), WRONG_RUNS[name], run_entry("fine")))
    assert [run.run_id for run in volume.listed()] == ["good", "fine"]


def test_a_catalog_that_is_too_large_is_not_read(volume: Volume) -> None:
    sparse(volume.folder / protocol.CATALOGS / "odd-1.json")
    volume.put("s-1", catalog(run_entry("good")))
    assert [run.run_id for run in volume.listed()] == ["good"]


def test_a_pack_and_an_index_that_are_too_large_are_one_line(volume: Volume) -> None:
    sparse(volume.folder / protocol.PACKS / "own-1-000000")
    session = ArchivedSession("s", OWNER, 0.0, 60.0, None, "", 0.0)
    summary = protocol.RunSummary("run", "ended", "")
    run = ArchivedRun(summary, session, "", ("own-1-000000", 0, (0, 1, 0, 0)))
    with pytest.raises(SessionError, match=r"packs/own-1-000000 on the volume is damaged"):
        VolumeLog(FolderVolume(volume.folder), run)
    folder = volume.folder / protocol.ARCHIVED_RUNS / "run"
    folder.mkdir()
    part = protocol.SEGMENT_BYTES * protocol.LARGE_SEGMENT
    for number in range(10):
        with (folder / protocol.segment_name(protocol.INDEX, number * part)).open("wb") as file:
            file.truncate(part)
    with (
        closing(VolumeLog(FolderVolume(volume.folder), ArchivedRun(summary, session, "", None))) as log,
        pytest.raises(SessionError, match=r"runs/run on the volume is damaged: its index is too large"),
    ):
        log.replay((protocol.STDOUT,), protocol.ALL, lambda _: None)
