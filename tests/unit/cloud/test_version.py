from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from skyrl_magic.cloud.version import MODAL_RANGE, check_modal
from skyrl_magic.core.errors import BackendError

ROOT = Path(__file__).parents[3]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let a modal of this version be the first that is found."""
    info = folder / f"modal-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: modal\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


def test_the_installed_one_is_known() -> None:
    check_modal()


@pytest.mark.parametrize("version", ["1.6.4", "1.6.5.dev12", "1.6.10"])
def test_others_of_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(tmp_path, monkeypatch, version)
    check_modal()


@pytest.mark.parametrize("version", ["0.73.1", "1.6.3", "1.6", "1.7.0", "2.0"])
def test_another_one_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install(tmp_path, monkeypatch, version)
    with pytest.raises(BackendError) as error:
        check_modal()
    assert str(error.value) == (
        f"modal {version} is installed, and this package knows {MODAL_RANGE}: "
        f"run `pip install '{MODAL_RANGE}'` and restart the kernel"
    )


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("modal")
    with pytest.raises(BackendError, match="the package modal is not installed: run `pip install"):
        check_modal()


def test_the_range_is_the_projects() -> None:
    assert f'"{MODAL_RANGE}"' in (ROOT / "pyproject.toml").read_text()
