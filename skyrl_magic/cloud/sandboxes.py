"""Sandboxes through modal's client, behind ``core.ports``. The same code for the cloud and for the local server."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import modal

from skyrl_magic.cloud.creating import create_sandbox, end_late, has_task, result_of
from skyrl_magic.cloud.ends import end_of
from skyrl_magic.cloud.errors import mapped
from skyrl_magic.cloud.identity import account_user
from skyrl_magic.cloud.streams import ModalStream
from skyrl_magic.cloud.throttling import told_when_throttled
from skyrl_magic.cloud.volumes import ModalVolume, mounted_volume
from skyrl_magic.core import contract
from skyrl_magic.core.cancel import Cancel, Cancelled
from skyrl_magic.core.ends import End, end_reason
from skyrl_magic.core.errors import BackendError, BackendUnavailable, NotFound, SessionLost
from skyrl_magic.core.ports import ByteStream, MountedVolume, SandboxRequest, Upload
from skyrl_magic.core.ports import Sandbox as SandboxPort
from skyrl_magic.core.ports import Volume as VolumePort

#: How many apps are asked at once for their sandboxes.
_LISTED_AT_ONCE = 16


class ModalSandbox:
    """A running sandbox.

    Args:
        sandbox: modal's object.
        app: the name of its app.
        tags: its tags, where they are known.
        ensure: as in :class:`ModalBackend`.
    """

    def __init__(
        self,
        sandbox: modal.Sandbox,
        app: str,
        tags: Mapping[str, str] | None = None,
        ensure: Callable[[], object] = lambda: None,
    ) -> None:
        self._sandbox = sandbox
        self.app = app
        self._tags = tags
        self._ensure = ensure
        self._server: object = None
        """What served the last exec."""
        self._output: str | None = None
        self._is_queued = True  # until it is known that it is not

    @property
    def id(self) -> str:
        """Modal's id."""
        return str(self._sandbox.object_id)

    def exec(self, args: Sequence[str]) -> ByteStream:
        """Start a process in it."""
        self._server = self._ensure()
        try:
            if self.is_queued():  # modal's own exec would wait for the machine, without an end
                raise BackendUnavailable("the session's container waits for its machine: try again when that has come")
            with mapped("the session's container"):
                return ModalStream(self._sandbox.exec(*args, text=False))
        except (BackendError, SessionLost) as error:
            # A container that has ended answers in several ways; what a poll knows is late at times.
            gone = isinstance(error, NotFound) or isinstance(error.__cause__, modal.exception.ConflictError)
            end = self.end()
            if gone or end is not None:
                why = "it is gone" if end is None else end_reason(end, "")
                raise SessionLost(f"the container has ended ({why})") from None
            raise

    def revive(self) -> bool:
        """Whether the server is another one than at the last exec; it is started where it has gone."""
        return self._ensure() != self._server

    def end(self) -> End | None:
        """How it ended, or None while it runs."""
        code = self.poll()
        return None if code is None else end_of(self._sandbox, code)

    def is_queued(self) -> bool:
        """Whether it still waits for its machine."""
        if self._is_queued:
            with mapped("the session's container"):
                self._is_queued = not has_task(self._sandbox)
        return self._is_queued

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        with mapped("the session's container"):
            return self._sandbox.poll()

    def tags(self) -> Mapping[str, str]:
        """Its tags."""
        if self._tags is None:
            with mapped("the session's tags"):
                self._tags = dict(self._sandbox.get_tags())
        return self._tags

    def last_output(self) -> str:
        """The end of what the main process printed, once it has ended."""
        if self.poll() is None:
            return ""
        if self._output is None:  # a stream is read once
            with mapped("the session's output"):
                self._output = str(self._sandbox.stderr.read() or self._sandbox.stdout.read())
        return self._output

    def terminate(self) -> None:
        """End it and wait until it has ended."""
        with contextlib.suppress(NotFound, SessionLost), mapped("ending the session's container"):
            self._sandbox.terminate()
            self._sandbox.wait(raise_on_termination=False)


def _has_tags(sandbox: ModalSandbox, tags: Mapping[str, str]) -> bool:
    with contextlib.suppress(NotFound, SessionLost):  # it ended meanwhile
        return tags.items() <= sandbox.tags().items()
    return False


class ModalBackend:
    """Sandboxes of one client.

    Args:
        name: ``modal`` or ``local``, as users name it.
        client: a client of the account or of the local server.
        env: environment variables of every container, beside the contract's.
        ensure: called before the server is asked for something; starts it where it is ours and has gone.
        account: stands for the account (``cloud.identity.account_key``).
    """

    def __init__(
        self,
        name: str,
        client: modal.Client,
        env: Mapping[str, str] | None = None,
        ensure: Callable[[], object] = lambda: None,
        account: str = "",
    ) -> None:
        self.name = name
        self.account = account
        self.client = client
        self._env = dict(env or {})
        self._ensure = ensure
        self._apps: dict[str, modal.App] = {}

    def create(self, request: SandboxRequest, on_phase: Callable[[str], None], cancel: Cancel) -> SandboxPort:
        """Create a container (see ``core.ports.Backend.create``)."""
        self._ensure()
        spec = request.spec
        app = self._app(spec.app)
        on_phase("image")
        image = modal.Image.from_registry(spec.image, setup_dockerfile_commands=[contract.NO_ENTRYPOINT])
        image = image.env(contract.image_env())
        with mapped(f"image {spec.image}"):
            result_of(cancel, image.build, app)
        on_phase("checkout")
        with tempfile.TemporaryDirectory(prefix="skyrl_magic_") as folder:
            image = _with_files(image, request, Path(folder))
            with mapped("uploading the checkout"):
                result_of(cancel, image.build, app)
            on_phase("container")
            cancel.check()
            volume = mounted_volume(spec.volume, self.client)
            try:
                with told_when_throttled(on_phase), mapped(f"starting session {request.name}"):
                    sandbox = self._create(app, image, volume, request, cancel)
            except Cancelled:
                end_late(lambda: self.find(spec.app, request.name), request.tags)
                raise
        return ModalSandbox(sandbox, spec.app, request.tags, self._ensure)

    def _create(
        self,
        app: modal.App,
        image: modal.Image,
        mount: tuple[modal.Volume, MountedVolume],
        request: SandboxRequest,
        cancel: Cancel,
    ) -> modal.Sandbox:
        """Raises Cancelled, and what ``mapped`` makes of modal's errors."""
        spec, (volume, mounted) = request.spec, mount
        return create_sandbox(
            cancel,
            *request.command(mounted),
            app=app,
            name=request.name,
            tags=dict(request.tags),
            image=image,
            env={**self._env} or None,
            secrets=[modal.Secret.from_name(name, client=self.client) for name in spec.secrets],
            timeout=request.timeout_s,
            gpu=spec.gpu.modal,
            cpu=spec.cpu,
            # A request alone limits nothing: the container would see all of its machine's memory.
            memory=None if spec.memory_mib is None else (spec.memory_mib, spec.memory_mib),
            volumes={contract.VOLUME_DIR: volume},
            client=self.client,
        )

    def find(self, app: str, name: str) -> SandboxPort | None:
        """The running sandbox of this name, or None."""
        self._ensure()
        try:
            with mapped(f"looking for session {name}"):
                sandbox = modal.Sandbox.from_name(app, name, client=self.client)
                return ModalSandbox(sandbox, app, None, self._ensure) if sandbox.poll() is None else None
        except (NotFound, SessionLost):
            return None

    def list(self, tags: Mapping[str, str]) -> Sequence[SandboxPort]:
        """The running sandboxes, of whichever app, that have all of these tags.

        Modal lists them app by app (a listing without an app is deprecated), so the apps are asked at the same time.
        Its index of tags lags, so what it finds is looked at again.
        """
        self._ensure()

        def of_app(app: modal.App) -> Sequence[ModalSandbox]:
            with contextlib.suppress(NotFound), mapped("listing sessions"):  # the app was stopped meanwhile
                found = modal.Sandbox.list(app_id=app.app_id, tags=dict(tags), client=self.client)
                return [ModalSandbox(sandbox, app.name or "", None, self._ensure) for sandbox in found]
            return []

        with mapped("listing sessions"):
            apps = modal.Environment.from_context(client=self.client).apps.list()
        with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="skyrl-list") as pool:
            found = [sandbox for sandboxes in pool.map(of_app, apps) for sandbox in sandboxes]
            has_all = pool.map(lambda sandbox: _has_tags(sandbox, tags), found)
            return [sandbox for sandbox, has in zip(found, has_all, strict=True) if has]

    def owner(self) -> str | None:
        """Whom the account says that asks (see ``core.ports.Backend.owner``)."""
        self._ensure()
        return account_user(self.client)

    def rates(self) -> Mapping[str, float]:
        """The account's own prices by Modal's names for them (``core.prices``), in US dollars a unit and hour."""
        self._ensure()
        with mapped("the account's rates"):
            found = modal.Workspace.from_context(client=self.client).billing.rates()
            return {name: float(usd) for name, usd in found.items()}

    def volume(self, name: str) -> VolumePort:
        """A volume, read without a container."""
        return ModalVolume(name, self.client, self._ensure)

    def _app(self, name: str) -> modal.App:
        if name not in self._apps:
            with mapped(f"app {name}"):
                self._apps[name] = modal.App.lookup(name, create_if_missing=True, client=self.client)
        return self._apps[name]


def _with_files(image: modal.Image, request: SandboxRequest, folder: Path) -> modal.Image:
    """Mount the agent, the checkout and its manifest; mounts are the image's last steps and are not built."""
    image = image.add_local_file(request.agent, contract.AGENT_PATH)
    upload = request.upload
    if upload is None:
        return image
    manifest = folder / "checkout.json"
    manifest.write_bytes(upload.manifest)
    image = image.add_local_file(manifest, contract.MANIFEST_PATH)
    if upload.paths:
        image = image.add_local_dir(upload.root, contract.CHECKOUT_DIR, ignore=_ignore_others(upload))
    return image


def _ignore_others(upload: Upload) -> Callable[[Path], bool]:
    """Leaves out what is not in the upload; modal asks with paths relative to the folder."""
    folders = {str(parent) for path in upload.paths for parent in PurePosixPath(path).parents}

    def ignore(path: Path) -> bool:
        relative = path.relative_to(upload.root) if path.is_absolute() else path
        text = relative.as_posix()
        return text not in upload.paths and text not in folders

    return ignore
