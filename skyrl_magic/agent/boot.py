"""Makes the container what the contract says: the volume's second path, the working directory, ``skyrl-gym`` in it."""

from __future__ import annotations

from pathlib import Path

from skyrl_magic.agent.config import Config

_GYM = "skyrl-gym"
_PROJECT_FILE = "pyproject.toml"


def working_directory(config: Config) -> Path:
    """Where runs start, by the contract; the folder need not exist when the configuration names it."""
    checkout = Path(config.checkout_dir)
    if config.workdir:
        return checkout / config.workdir
    # Today's repository still has a folder skyrl-train with a README only: its project file is what counts.
    if config.train_subdir and (checkout / config.train_subdir / _PROJECT_FILE).is_file():
        return checkout / config.train_subdir
    return checkout


def prepare_folders(config: Config) -> None:
    """Make the checkout's and the volume's folders and the volume's link; what is there already stays as it is."""
    Path(config.checkout_dir).mkdir(parents=True, exist_ok=True)
    volume = Path(config.volume_dir)
    volume.mkdir(parents=True, exist_ok=True)
    if config.volume_link:
        link = Path(config.volume_link)
        if not link.is_symlink() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(volume, target_is_directory=True)


def link_gym(workdir: Path) -> None:
    """Make ``skyrl-gym`` available in ``workdir`` when it lies beside it, as upstream's script does.

    ``uv`` resolves the project's editable path to it.
    """
    beside = workdir.parent / _GYM
    inside = workdir / _GYM
    missing = workdir.is_dir() and not inside.is_symlink() and not inside.exists()
    if missing and beside.is_dir() and workdir.name != _GYM:
        inside.symlink_to(Path("..") / _GYM, target_is_directory=True)


def cannot_start(error: OSError) -> str:
    """Why a session ends before it has begun: its disk is full, or is not to be written to."""
    where = f" at {error.filename}" if error.filename else ""
    return f"its agent cannot start ({error.strerror or error}{where}): run the cell again, or choose another --image"
