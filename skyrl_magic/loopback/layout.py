"""Where the server keeps what it must not forget. Standard library only: sandbox keepers import it."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

#: Environment variable that overrides the state directory.
STATE_DIR_VARIABLE = "SKYRL_MAGIC_LOOPBACK_DIR"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files below one state directory; one server at a time owns it."""

    root: Path

    @property
    def server_file(self) -> Path:
        """Address and token of the live server, mode 0600."""
        return self.root / "server.json"

    @property
    def lock_file(self) -> Path:
        """Locked for as long as the server lives."""
        return self.root / "server.lock"

    @property
    def log_file(self) -> Path:
        """Standard output and error of the server."""
        return self.root / "server.log"

    @property
    def blobs(self) -> Path:
        """Contents by SHA-256."""
        return self.root / "blobs"

    @property
    def volumes(self) -> Path:
        """One folder for each volume."""
        return self.root / "volumes"

    @property
    def sandboxes(self) -> Path:
        """One folder for each sandbox, kept by the runtime."""
        return self.root / "sandboxes"

    @property
    def etc(self) -> Path:
        """What sandboxes see as /etc, one folder for each state of the machine's own."""
        return self.root / "etc"

    def table(self, name: str) -> Path:
        """The JSON document that holds all objects of one kind."""
        return self.root / f"{name}.json"

    def create(self) -> None:
        """Make the folders, readable by their owner only.

        Raises:
            OSError: The state directory cannot be made, or is another user's.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.root.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"another user's folder; {STATE_DIR_VARIABLE} names one", str(self.root))
        self.root.chmod(0o700)
        for folder in (self.blobs, self.volumes, self.sandboxes):
            folder.mkdir(mode=0o700, exist_ok=True)


def default_root() -> Path:
    """The state directory of this user: ``SKYRL_MAGIC_LOOPBACK_DIR``, else the user's data directory."""
    override = os.environ.get(STATE_DIR_VARIABLE)
    if override:
        return Path(override).absolute()
    import platformdirs

    return platformdirs.user_data_path("skyrl_magic") / "loopback"
