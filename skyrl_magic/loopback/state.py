"""Everything the server knows, behind typed getters. The handlers get one :class:`ServerState`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from skyrl_magic.loopback.answers import AnswerFile
from skyrl_magic.loopback.auth import Auth
from skyrl_magic.loopback.blobs import BlobStore
from skyrl_magic.loopback.documents import Table, new_id
from skyrl_magic.loopback.layout import Layout
from skyrl_magic.loopback.mounts import MountStore
from skyrl_magic.loopback.objects import DEFAULT_ENVIRONMENT, App, Environment, Image, Secret
from skyrl_magic.loopback.pretend import Pretend
from skyrl_magic.loopback.runtime.sandboxes import SandboxRuntime
from skyrl_magic.loopback.volumes import VolumeStore

#: A secret made from a dict is needed while its sandbox is created; afterwards it is forgotten at the next start.
ANONYMOUS_SECRET_EXPIRY_S = 24 * 3600.0

#: How long a stopped app is remembered, in seconds.
APP_EXPIRY_S = 7 * 24 * 3600.0


class UnknownObjectError(KeyError):
    """No object has this id."""

    def __str__(self) -> str:
        """``im-… is not known``."""
        return f"{self.args[0]} is not known to this server"


class ImageStore:
    """The images of one state directory."""

    def __init__(self, path: Path) -> None:
        self.table: Table[Image] = Table(path, Image)

    def get(self, image_id: str) -> Image:
        """The image with this id.

        Raises:
            UnknownObjectError: There is none.
        """
        image = self.table.get(image_id)
        if image is None:
            raise UnknownObjectError(image_id)
        return image


class SecretStore:
    """The secrets of one state directory; the values lie in a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self.table: Table[Secret] = Table(path, Secret)
        deadline = time.time() - ANONYMOUS_SECRET_EXPIRY_S
        for secret in self.table:
            if not secret.name and secret.created_at < deadline:
                self.table.remove(secret.object_id)

    def get(self, secret_id: str) -> dict[str, str]:
        """The variables of this secret; it counts as used.

        Raises:
            UnknownObjectError: There is none.
        """
        secret = self.table.get(secret_id)
        if secret is None:
            raise UnknownObjectError(secret_id)
        secret.last_used_at = time.time()
        self.table.save()
        return dict(secret.values)

    def find(self, environment: str, name: str) -> Secret | None:
        """The secret with this name, or None."""
        return next((s for s in self.table if s.name == name and s.environment == environment), None)


class AppStore:
    """The apps of one state directory."""

    def __init__(self, path: Path) -> None:
        self.table: Table[App] = Table(path, App)
        deadline = time.time() - APP_EXPIRY_S
        for app in self.table:
            if app.stopped_at and app.stopped_at < deadline:
                self.table.remove(app.object_id)

    def get(self, app_id: str) -> App:
        """The app with this id.

        Raises:
            UnknownObjectError: There is none.
        """
        app = self.table.get(app_id)
        if app is None:
            raise UnknownObjectError(app_id)
        return app

    def find(self, environment: str, name: str) -> App | None:
        """The app with this name that was not stopped, or None."""
        for app in self.table:
            if app.name == name and app.environment == environment and not app.stopped_at:
                return app
        return None

    def find_stopped(self, environment: str, name: str) -> App | None:
        """The app with this name that was stopped last, or None."""
        stopped = [a for a in self.table if a.name == name and a.environment == environment and a.stopped_at]
        return max(stopped, key=lambda app: app.stopped_at, default=None)


class EnvironmentStore:
    """The environments of one state directory. The default one is always there."""

    def __init__(self, path: Path) -> None:
        self.table: Table[Environment] = Table(path, Environment)
        if self.find(DEFAULT_ENVIRONMENT) is None:
            self.create(DEFAULT_ENVIRONMENT)

    def find(self, name: str) -> Environment | None:
        """The environment with this name (empty: the default one), or None."""
        name = name or DEFAULT_ENVIRONMENT
        return next((environment for environment in self.table if environment.name == name), None)

    def create(self, name: str) -> Environment:
        """A new environment."""
        environment = Environment(new_id("en"), name)
        self.table.put(environment)
        return environment


@dataclasses.dataclass
class Activity:
    """When the server was last used; an unused one ends itself."""

    last_s: float = dataclasses.field(default_factory=time.monotonic)

    def touch(self) -> None:
        """A request came."""
        self.last_s = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request."""
        return time.monotonic() - self.last_s


class ServerState:
    """The stores of one state directory and the server's own address."""

    def __init__(self, layout: Layout, auth: Auth) -> None:
        layout.create()
        self.layout = layout
        self.auth = auth
        self.activity = Activity()
        self.answers = AnswerFile(layout.root)
        self.blobs = BlobStore(layout.blobs)
        self.volumes = VolumeStore(layout.root)
        self.mounts = MountStore(layout.root / "mounts")
        self.images = ImageStore(layout.table("images"))
        self.secrets = SecretStore(layout.table("secrets"))
        self.apps = AppStore(layout.table("apps"))
        self.environments = EnvironmentStore(layout.table("environments"))
        self.sandboxes = SandboxRuntime(layout.root)
        self.pretend = Pretend(layout.root)
        self.grpc_url = ""
        """Address of the control API and of the command router, set when the server listens."""
        self.blob_url = ""
        """Address of the HTTP blob endpoint, set when the server listens."""
