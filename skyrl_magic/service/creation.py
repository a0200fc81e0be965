"""The creation of a session's container: what is mounted, what its agent is told, how its phases are followed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from skyrl_magic.core import contract
from skyrl_magic.core.cancel import Cancel, Cancelled
from skyrl_magic.core.errors import (
    AlreadyExists,
    BackendError,
    BackendUnavailable,
    CheckoutError,
    NoCapacity,
    RunStopped,
)
from skyrl_magic.core.gpus import NO_GPU, instead_of
from skyrl_magic.core.ports import Backend, MountedVolume, Sandbox, SandboxRequest, Upload
from skyrl_magic.core.prices import Price
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.session_tags import session_tags, spec_json
from skyrl_magic.core.spec import DEFAULT_WAIT_S, SessionSpec
from skyrl_magic.service.attempt import Attempt, Said
from skyrl_magic.service.checkout import Checkout, CheckoutReader, Scan
from skyrl_magic.service.owners import owner
from skyrl_magic.service.pricing import LOCAL, Pricing
from skyrl_magic.service.session import Progress, Session
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.service.sync import CheckoutSync, secrets_text

#: How often an upload is tried whose files change under its hands.
_TRIES = 5
#: Modal's client itself gives a creation up that waited for 21 minutes; one that waited less was refused. In seconds.
CLIENT_WAITS_S = 20 * 60.0
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
            sandbox, spec = self._first_to_come(backend, request, None, progress)
            return Session(name, spec, sandbox, None)
        sync = CheckoutSync(CheckoutReader(request.checkout))
        scan, moving = sync.reader.scan(), set[str]()
        for _ in range(_TRIES):
            try:
                upload = _make_upload(request.checkout, scan, moving)
                if request.spec.backend != LOCAL and (secrets := sync.new_secrets(upload.paths)):
                    progress.note(secrets_text(secrets))
                sandbox, spec = self._first_to_come(backend, request, upload, progress)
            except (AlreadyExists, NoCapacity):
                raise
            except BackendError:
                again = sync.reader.scan()
                changed = {path for path in upload.paths if again.manifest.get(path) != scan.manifest[path]}
                if not changed:
                    raise
                scan, moving = again, moving | changed
            else:
                return Session(name, spec, sandbox, sync)
        raise CheckoutError(f"{min(moving)} and others change all the time: list them in .skyrlignore")

    def _first_to_come(
        self, backend: Backend, request: SessionRequest, upload: Upload | None, progress: Progress
    ) -> tuple[Sandbox, SessionSpec]:
        """The container with the first GPU that is to be had, and its spec; an attempt before it is cancelled.

        Raises:
            NoCapacity: none of them is. As :meth:`create`.
        """
        choices = request.spec.gpu.choices
        wait_s = request.wait_s or (DEFAULT_WAIT_S if len(choices) > 1 else None)
        for gpu, following in zip(choices, (*choices[1:], None), strict=True):
            one = replace(request, spec=replace(request.spec, gpu=gpu), name=request.place[2])
            try:
                # A machine without a GPU is always to be had: what takes its time there is the start.
                bound_s = None if gpu == NO_GPU else wait_s
                return self._sandbox(backend, one, upload, progress, bound_s), one.spec
            except NoCapacity as error:
                if following is None:
                    instead = instead_of(request.spec.gpu)
                    raise NoCapacity(f"{error}; what could be asked for instead: {instead}") from None
                progress.note(f"{error}: trying {following.noun}")
        raise NoCapacity(str(request.spec.gpu))

    def _sandbox(
        self,
        backend: Backend,
        request: SessionRequest,
        upload: Upload | None,
        progress: Progress,
        wait_s: int | None,
    ) -> Sandbox:
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
            sandbox = attempt.follow(wait_s) or attempt.give_up()
        except KeyboardInterrupt:
            was = f"waited for {spec.gpu.noun}" if attempt.is_queued else "was starting"
            raise RunStopped(f"stopped while session {name} {was}; {attempt.stop()}") from None
        except Cancelled:
            if not attempt.gave_up:
                raise RunStopped(f"the notebook was left while session {name} was starting") from None
            raise NoCapacity(f"{spec.gpu.noun} was not free within {duration_text(wait_s or 0)}") from None
        except NoCapacity:
            left_s = None if wait_s is None else wait_s - int(attempt.waited_s)
            if attempt.waited_s < CLIENT_WAITS_S or (left_s is not None and left_s <= 0):
                raise
            return self._sandbox(backend, request, upload, progress, left_s)
        except TimeoutError:
            raise BackendUnavailable(
                f"{spec.gpu.noun} was not free, and whether its creation is cancelled is not confirmed: "
                f"%skyrl_sessions shows whether session {name} starts all the same"
            ) from None
        finally:
            self._under_way.discard(attempt.cancel)
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
            "cpus": spec.cpu or 0.0,
            "memory_mib": spec.memory_mib or 0,
            "gpus": spec.gpu.count,
        }
    )
