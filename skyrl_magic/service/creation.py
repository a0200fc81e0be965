"""The creation of a session's container: what is mounted, what its agent is told, how its phases are followed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from pathlib import Path

from skyrl_magic.core import contract
from skyrl_magic.core.cancel import Cancel, Cancelled
from skyrl_magic.core.errors import AlreadyExists, BackendError, CheckoutError, NoCapacity, RunStopped
from skyrl_magic.core.ports import Backend, MountedVolume, Sandbox, SandboxRequest, Upload
from skyrl_magic.core.prices import Price
from skyrl_magic.core.session_tags import session_tags, spec_json
from skyrl_magic.service.attempt import Attempt, Said
from skyrl_magic.service.checkout import Checkout, CheckoutReader, Scan
from skyrl_magic.service.owners import owner
from skyrl_magic.service.pricing import LOCAL, Pricing
from skyrl_magic.service.session import Progress, Session
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sync import CheckoutSync, secrets_text

#: How often an upload is tried whose files change under its hands.
_TRIES = 5
#: A container to which nobody comes so soon after its start ends itself: who asked for it has died while it waited for
#: its machine. A creation is answered within moments of the start. In seconds.
FIRST_CLIENT_S = 120.0


class Creation:
    """Creates sessions.

    Args:
        build_agent: writes the agent's zipapp and returns its path.
        pool: where the backend is asked; the one who waits can be interrupted.
        pricing: says what a session costs, for its supervisor to count with.
    """

    def __init__(self, build_agent: Callable[[], Path], pool: Executor, pricing: Pricing) -> None:
        self._pricing = pricing
        self._build_agent = build_agent
        self._pool = pool
        self._under_way: set[Cancel] = set()

    def close(self) -> None:
        """Give up what is being created."""
        for cancel in list(self._under_way):
            cancel.set()

    def create(self, backend: Backend, request: SessionRequest, progress: Progress) -> Session:
        """A session with a new container; the checkout may change meanwhile.

        Modal refuses to upload a file that changed under its hands. What did is left out of the next try, and comes
        with the first run.

        Raises:
            AlreadyExists: another notebook was faster. BackendError: it cannot be created.
            CheckoutError: the checkout changes all the time. RunStopped: interrupted; its container is ended.
        """
        name = request.place[2]
        if request.checkout is None:
            return Session(name, request.spec, self._sandbox(backend, request, None, progress), None)
        sync = CheckoutSync(CheckoutReader(request.checkout))
        scan, moving = sync.reader.scan(), set[str]()
        for _ in range(_TRIES):
            try:
                upload = _make_upload(request.checkout, scan, moving)
                if request.spec.backend != LOCAL and (secrets := sync.new_secrets(upload.paths)):
                    progress.note(secrets_text(secrets))
                sandbox = self._sandbox(backend, request, upload, progress)
            except AlreadyExists:
                raise
            except BackendError:
                again = sync.reader.scan()
                changed = {path for path in upload.paths if again.manifest.get(path) != scan.manifest[path]}
                if not changed:
                    raise
                scan, moving = again, moving | changed
            else:
                return Session(name, request.spec, sandbox, sync)
        raise CheckoutError(f"{min(moving)} and others change all the time: list them in .skyrlignore")

    def _sandbox(self, backend: Backend, request: SessionRequest, upload: Upload | None, progress: Progress) -> Sandbox:
        spec, name = request.spec, request.place[2]
        tags = session_tags(spec, name, owner(spec.backend).text, time.time())
        price = self._pricing.of(spec, request.usd_per_hour)
        said = Said()

        def command(volume: MountedVolume) -> Sequence[str]:
            if volume.is_new:
                said.put(lambda: progress.note(new_volume_text(spec.volume, volume.near)))
            return [*contract.START_COMMAND, "supervise", "--config", _supervisor_config(request, price, volume)]

        wanted = SandboxRequest(
            name=name,
            spec=spec,
            timeout_s=request.hard_timeout_s,
            tags=tags,
            command=command,
            agent=self._build_agent(),
            upload=upload,
        )
        attempt = Attempt(self._pool, backend, wanted, progress, said)
        self._under_way.add(attempt.cancel)
        try:
            sandbox = attempt.follow(None)
        except KeyboardInterrupt:
            was = f"waited for {spec.gpu.noun}" if attempt.is_queued else "was starting"
            raise RunStopped(f"stopped while session {name} {was}; {attempt.stop()}") from None
        except Cancelled:
            raise RunStopped(f"the notebook was left while session {name} was starting") from None
        finally:
            self._under_way.discard(attempt.cancel)
        if sandbox is None:
            raise NoCapacity(name)
        return sandbox


def new_volume_text(name: str, near: str) -> str:
    """What is said of a volume that was made now; ``near`` is one of nearly the same name."""
    return f"volume {name} is new" + (f": did you mean {near}? (--volume {near})" if near else "")


def _make_upload(checkout: Checkout, scan: Scan, moving: Collection[str]) -> Upload:
    """What is mounted: regular files with plain names, but for those that ``moving`` says are being written."""
    paths = {p for p, entry in scan.manifest.items() if entry[0] == "f" and p.isprintable() and p not in moving}
    manifest = {path: entry for path, entry in scan.manifest.items() if entry[0] != "f" or path in paths}
    return Upload(checkout.root, paths, json.dumps(manifest).encode())


def _supervisor_config(request: SessionRequest, price: Price | None, volume: MountedVolume) -> str:
    """The agent's configuration (``agent.config``), as JSON."""
    spec, whose = request.spec, owner(request.spec.backend).text
    prices = {} if price is None else {**dataclasses.asdict(price)}
    prices.pop("source", None)
    return json.dumps(
        {
            **prices,
            "session": request.place[2],
            "spec": spec_json(spec),
            "about": {"app": spec.app, "owner": whose, "backend": spec.backend, "gpu": str(spec.gpu)},
            "state_dir": contract.STATE_DIR,
            "checkout_dir": contract.CHECKOUT_DIR,
            "volume_dir": contract.VOLUME_DIR,
            "volume_version": volume.version,
            "volume_link": contract.VOLUME_LINK,
            "home_dir": contract.CONTAINER_HOME,
            "train_subdir": contract.TRAIN_SUBDIR,
            "manifest_path": contract.MANIFEST_PATH,
            "timeout_s": request.timeout_s,
            "hard_timeout_s": request.hard_timeout_s,
            "first_client_s": FIRST_CLIENT_S,
            "idle_timeout_s": request.idle_timeout_s,
            "max_usd": request.max_usd or 0.0,
            "keep_runs_days": request.keep.days,
            "keep_runs_gb": request.keep.gb,
            "keep_results": request.keep.results,
            "infra_log_dir": contract.INFRA_LOG_DIR,
            "ray": spec.ray,
        }
    )
