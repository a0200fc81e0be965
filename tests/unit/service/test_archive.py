"""What the agent's passes leave on a volume, as the client reads it there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyrl_magic.agent.archive_pass import PACKED_BYTES, ArchivePass, Job
from skyrl_magic.agent.journal import JournalWriter
from skyrl_magic.core import protocol
from skyrl_magic.service.archive import ArchivedRun, ArchivedSession
from skyrl_magic.service.run_log import HEAD_BYTES, TAIL_BYTES, VolumeLog, last_lines
from skyrl_magic.service.watch import payload_bytes
from tests.unit.service.folder_volume import FolderVolume

KEY = "test-1"
NO_BOUND = 1 << 40
#: Writes of a run: the stream and the bytes; a pass between them where there are none.
WRITES = st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=300))), max_size=40)


class Archived:
    """A journal that is written here, and its copy on a volume."""

    def __init__(self, folder: Path, max_bytes: int = NO_BOUND) -> None:
        self.source, self.volume = folder / "run-1", FolderVolume(folder / "data")
        self.source.mkdir(parents=True)
        self.volume.folder.mkdir()
        self.writer = JournalWriter(self.source, protocol.JOURNAL_STREAMS)
        self.max_bytes = max_bytes
        self.written: list[tuple[str, bytes]] = []
        self.ended = False
        self.work = self._new_pass()

    def _new_pass(self) -> ArchivePass:
        return ArchivePass(self.volume.folder, KEY, self.max_bytes)

    def write(self, stream: int, data: bytes) -> None:
        self.writer.write(stream, memoryview(data))
        self.written.append((protocol.JOURNAL_STREAMS[stream], data))

    def copy(self) -> ArchivePass:
        packed = self.work.packed
        self.work = self._new_pass()
        self.work.packed = packed
        self.work.copy(Job("run-1", self.source, self.ended))
        return self.work

    def end(self) -> None:
        self.writer.close()
        self.ended = True

    def log(self) -> VolumeLog:
        packed = self.work.packed.get("run-1")
        session = ArchivedSession("test", "me", 0.0, 60.0, None, "", 0.0)
        summary = protocol.RunSummary("run-1", "ended" if self.ended else "running", "")
        place = None if packed is None else (packed.file, packed.start, tuple(packed.sizes))
        return VolumeLog(self.volume, ArchivedRun(summary, session, "", place))

    def replayed(self, policy: str = protocol.ALL) -> list[protocol.Output | protocol.Gap]:
        """What the archive has of it, in its order."""
        events: list[protocol.Output | protocol.Gap] = []

        def take(event: protocol.Message) -> None:
            assert isinstance(event, (protocol.Output, protocol.Gap))
            events.append(event)

        with closing(self.log()) as log:
            log.replay(protocol.JOURNAL_STREAMS, policy, take)
        return events


def merged(parts: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Neighbours of one stream as one, and nothing that is empty."""
    found: list[tuple[str, bytes]] = []
    for stream, data in parts:
        if found and found[-1][0] == stream:
            found[-1] = (stream, found[-1][1] + data)
        elif data:
            found.append((stream, data))
    return found


def texts(events: list[protocol.Output | protocol.Gap]) -> list[tuple[str, bytes]]:
    return merged([(event.stream, payload_bytes(event)) for event in events if isinstance(event, protocol.Output)])


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four records, and packs for the smallest journals alone."""
    monkeypatch.setattr(protocol, "SEGMENT_BYTES", 64)
    monkeypatch.setattr("skyrl_magic.agent.archive_pass.PACKED_BYTES", 256)
    monkeypatch.setattr("skyrl_magic.service.run_log._CHUNK_BYTES", 64)


@pytest.mark.usefixtures("small_segments")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES)
def test_after_any_pass_the_archive_is_what_was_written_so_far_in_its_order(
    writes: list[tuple[int, bytes] | None], tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    shutil.rmtree(folder, ignore_errors=True)
    journal = Archived(folder)
    try:
        for write in writes:
            if write is not None:
                journal.write(*write)
            else:
                journal.copy()
                assert not journal.written or texts(journal.replayed()) == merged(journal.written)
    finally:
        journal.end()
    work = journal.copy()
    if journal.written:
        assert texts(journal.replayed()) == merged(journal.written)
    assert not work.problems
    assert not work.failure
    sizes = [path.stat().st_size for path in (journal.volume.folder / protocol.ARCHIVED_RUNS).glob("*/*")]
    assert all(size <= 64 or (size % 64 == 0 and size <= 64 * protocol.LARGE_SEGMENT) for size in sizes)


@pytest.mark.usefixtures("small_segments")
def test_a_full_segment_is_never_touched_again(tmp_path: Path) -> None:
    journal = Archived(tmp_path)
    journal.write(0, b"x" * 100)
    journal.copy()
    first = journal.volume.folder / protocol.ARCHIVED_RUNS / "run-1" / "stdout-000000000000"
    before = first.stat()
    journal.write(0, b"y" * 100)
    journal.copy()
    after = first.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(path.name for path in first.parent.iterdir()) == [f"stdout-{start:012d}" for start in (0, 64, 192)]
    journal.end()


@pytest.mark.usefixtures("small_segments")
def test_a_flood_leaves_few_files(tmp_path: Path) -> None:
    journal = Archived(tmp_path)
    journal.write(0, b"x" * (64 * protocol.LARGE_SEGMENT * 10 + 1))
    journal.end()
    journal.copy()
    names = [path.name for path in (journal.volume.folder / protocol.ARCHIVED_RUNS / "run-1").iterdir()]
    assert len([name for name in names if name.startswith("stdout-")]) == 11


def test_a_pass_without_news_writes_nothing(tmp_path: Path) -> None:
    journal = Archived(tmp_path)
    journal.write(0, b"x" * 100)
    assert journal.copy().wrote
    assert not journal.copy().wrote
    journal.end()


def test_small_runs_share_a_file(tmp_path: Path) -> None:
    work = ArchivePass(tmp_path / "data", KEY, NO_BOUND)
    (tmp_path / "data").mkdir()
    for number in range(30):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        writer = JournalWriter(folder)
        writer.write(0, memoryview(bytes([65 + number]) * 60_000))
        writer.close()
        work.copy(Job(folder.name, folder, ended=True))
    packs = sorted((tmp_path / "data" / protocol.PACKS).iterdir())
    assert [pack.name for pack in packs] == [f"{KEY}-000000", f"{KEY}-000001"][: len(packs)]
    assert protocol.SEGMENT_BYTES <= packs[0].stat().st_size < protocol.SEGMENT_BYTES + PACKED_BYTES
    session = ArchivedSession("test", "me", 0.0, 60.0, None, "", 0.0)
    for number in range(30):
        place = work.packed[f"run-{number}"]
        run = ArchivedRun(
            protocol.RunSummary(f"run-{number}", "ended", ""),
            session,
            "",
            (place.file, place.start, tuple(place.sizes)),
        )
        with closing(VolumeLog(FolderVolume(tmp_path / "data"), run)) as log:
            assert log.read(protocol.STDOUT, 0, -1) == bytes([65 + number]) * 60_000


def test_of_a_long_log_beginning_and_end_are_fetched(tmp_path: Path) -> None:
    journal = Archived(tmp_path)
    text = "".join(f"línea {number}\n" for number in range(700_000)).encode()
    for start in range(0, len(text), 1 << 16):
        journal.write(0, text[start : start + (1 << 16)])
        journal.write(1, b"err\n" * 20)
    journal.end()
    journal.copy()
    journal.volume.reads = 0
    events = journal.replayed(protocol.SHOW)
    assert journal.volume.reads <= 6
    gaps = {event.stream: event for event in events if isinstance(event, protocol.Gap)}
    assert set(gaps) == {protocol.STDOUT, protocol.STDERR}
    out = [event for event in events if isinstance(event, protocol.Output) and event.stream == protocol.STDOUT]
    gap = gaps[protocol.STDOUT]
    head = b"".join(payload_bytes(event) for event in out if event.offset < gap.start)
    tail = b"".join(payload_bytes(event) for event in out if event.offset >= gap.end)
    assert head == text[: gap.start]
    assert tail == text[gap.end :]
    assert head.endswith(b"\n")
    assert text[: gap.end].endswith(b"\n")
    assert HEAD_BYTES * 0.9 < len(head) < HEAD_BYTES + 5000
    assert TAIL_BYTES * 0.9 < len(tail) <= TAIL_BYTES
    with closing(journal.log()) as log:
        assert last_lines(log, protocol.STDOUT, 2) == "línea 699998\nlínea 699999\n".encode()
        assert log.read(protocol.STDOUT, (1 << 20) - 3, (1 << 20) + 3) == text[(1 << 20) - 3 : (1 << 20) + 3]


def test_more_than_may_be_kept_of_a_stream_is_not(tmp_path: Path) -> None:
    journal = Archived(tmp_path, max_bytes=100_000)
    journal.write(0, b"x" * 150_000)
    journal.end()
    work = journal.copy()
    (problem,) = work.problems.values()
    assert "keep_runs_gb" in problem
    assert problem.endswith("the log of run run-1 is not kept there beyond byte 100000 of stdout")
    with closing(journal.log()) as log:
        assert log.run.stdout_bytes == 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_volume_is_said_and_nothing_half_written_stays(small_disk: Path, tmp_path: Path) -> None:
    journal = Archived(tmp_path)
    journal.volume.folder = small_disk
    journal.write(0, b"x" * 1_500_000)
    journal.copy()
    journal.write(0, b"y" * 1_500_000)
    work = journal.copy()
    assert work.failure == "the volume is full"
    (line,) = work.problems.values()
    with closing(journal.log()) as log:
        kept = log.run.stdout_bytes
        assert line == f"the volume is full: the log of run run-1 is not kept there beyond byte {kept} of stdout"
        assert log.read(protocol.STDOUT, 0, -1) == (b"x" * 1_500_000 + b"y" * 1_500_000)[:kept]
    assert not list(small_disk.rglob("*.new"))
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    work = journal.copy()
    assert not work.problems
    assert texts(journal.replayed()) == merged(journal.written)
    journal.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_pack_that_has_no_room_is_cut_back(small_disk: Path, tmp_path: Path) -> None:
    work = ArchivePass(small_disk, KEY, NO_BOUND)
    for number in range(40):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        writer = JournalWriter(folder)
        writer.write(0, memoryview(bytes([65 + number]) * 60_000))
        writer.close()
        work.copy(Job(folder.name, folder, ended=True))
    assert len(work.packed) + len(work.problems) == 40
    assert 0 < len(work.problems) < 20
    session = ArchivedSession("test", "me", 0.0, 60.0, None, "", 0.0)
    for run_id, place in work.packed.items():
        run = ArchivedRun(
            protocol.RunSummary(run_id, "ended", ""), session, "", (place.file, place.start, tuple(place.sizes))
        )
        with closing(VolumeLog(FolderVolume(small_disk), run)) as log:
            assert log.read(protocol.STDOUT, 0, -1) == bytes([65 + int(run_id[4:])]) * 60_000


def test_a_catalog_is_written_where_it_changed(tmp_path: Path) -> None:
    work = ArchivePass(tmp_path, KEY, NO_BOUND)
    data = json.dumps({"runs": []}).encode()
    work.write_catalog(data)
    assert work.wrote
    again = ArchivePass(tmp_path, KEY, NO_BOUND)
    again.write_catalog(data)
    assert not again.wrote
