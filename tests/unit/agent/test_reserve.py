from __future__ import annotations

import errno
from pathlib import Path

import pytest

from skyrl_magic.agent import reserve


def full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", str(path))


def test_it_is_kept_once_and_given_once(tmp_path: Path) -> None:
    reserve.keep(tmp_path)
    reserve.keep(tmp_path)
    assert (tmp_path / reserve.RESERVE_FILE).stat().st_blocks * 512 >= 4 * 1024 * 1024
    assert reserve.release(tmp_path)
    assert not reserve.release(tmp_path)


def test_what_fails_on_a_full_disk_is_done_again_with_it(tmp_path: Path) -> None:
    reserve.keep(tmp_path)
    tries: list[bool] = []

    def write() -> str:
        tries.append((tmp_path / reserve.RESERVE_FILE).exists())
        if tries[-1]:
            raise full(tmp_path)
        return "written"

    assert reserve.with_reserve(tmp_path, write) == "written"
    assert tries == [True, False]


@pytest.mark.parametrize("error", [full(Path("x")), PermissionError(errno.EACCES, "Permission denied")])
def test_what_it_cannot_help_is_raised(tmp_path: Path, error: OSError) -> None:
    if isinstance(error, PermissionError):
        reserve.keep(tmp_path)

    def fail() -> None:
        raise error

    with pytest.raises(OSError, match=error.strerror) as raised:
        reserve.with_reserve(tmp_path, fail)
    assert raised.value is error


def test_where_there_is_no_room_there_is_none(tmp_path: Path) -> None:
    reserve.keep(tmp_path / "nowhere")
    assert not reserve.release(tmp_path / "nowhere")
