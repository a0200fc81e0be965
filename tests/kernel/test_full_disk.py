"""A session on a small disk that a cell fills: it says so, nothing is lost, and the next cell can tidy up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from skyrl_magic.loopback.daemon import ServerAddress, stop_server
from tests.contract.conftest import make_checkout
from tests.kernel.conftest import SETTINGS, Kernel, make_kernel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture(scope="module")
def small_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel whose local server, with all its containers and volumes, lies on a disk of 48 MiB."""
    folder = tmp_path_factory.mktemp("full")
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", disk], check=True)
    try:
        server = ServerAddress("", "", "", 0, disk / "state")  # the first cell starts it
        kernel = make_kernel(make_checkout(folder / "SkyRL", old_layout=False).root, server)
        kernel.run(SETTINGS)
        yield kernel
        kernel.close()
        stop_server(server.state_dir, timeout_s=60)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_cell_that_fills_it_says_so_and_the_next_one_tidies_up(small_kernel: Kernel) -> None:
    cell = small_kernel.run("%%skyrl_modal\necho x > /root/data/kept; head -c 100M /dev/zero > /tmp/big; echo rc $?")
    assert (cell.status, cell.out) == ("ok", "rc 1\n")
    assert "No space left on device" in cell.err
    cell = small_kernel.run("%%skyrl_modal\nrm /tmp/big; cat /root/data/kept")
    assert (cell.out, cell.error) == ("x\n", [])


def test_a_disk_that_stays_full_is_named_and_stop_frees_it(small_kernel: Kernel) -> None:
    # All is taken, the little that the session keeps back too.
    fill = "rm /var/lib/skyrl_magic/reserve; head -c 100M /dev/zero > /tmp/big"
    cell = small_kernel.run(f"%%skyrl_modal\necho y > /root/data/late; {fill}; exit 3")
    assert "exit code 3" in cell.error[-1]
    assert any("bytes of output could not be kept: No space left on device; remove" in note for note in cell.notes)
    refused = small_kernel.run("%skyrl_modal ls")
    assert len(refused.error) == 1
    assert "disk of the session's container is full: %skyrl_stop ends the session" in refused.error[0]
    assert small_kernel.run("%skyrl_stop --all").status == "ok"
    cell = small_kernel.run("%skyrl_modal cat /root/data/kept /root/data/late")
    assert (cell.out, cell.error) == ("x\ny\n", [])


def test_a_volume_that_is_full_is_told_and_committed_later(small_kernel: Kernel) -> None:
    fill = "head -c 30M /dev/urandom > /root/data/big"  # its commit has no room for a second copy
    cell = small_kernel.run(f"%%skyrl_modal\n{fill}; echo z > /root/data/last")
    notes = [note for note in cell.notes if "commit" in note]
    while not notes:  # no cell waits for its commit: the line comes with a later one
        notes = [note for note in small_kernel.run("%skyrl_modal true").notes if "commit" in note]
    assert "could not be committed" in notes[0]
    assert "No space left on device; the next run's end commits again" in notes[0]
    small_kernel.run("%skyrl_modal rm /root/data/big")
    small_kernel.run("%skyrl_modal sync /root/data")  # all that was to be said is said when it ends
    assert not [note for note in small_kernel.run("%skyrl_modal true").notes if "commit" in note]
    small_kernel.run("%skyrl_stop --all")
    assert small_kernel.run("%skyrl_modal ls -I skyrl-logs /root/data").out == "kept\nlast\nlate\n"
    small_kernel.run("%skyrl_stop --all")
