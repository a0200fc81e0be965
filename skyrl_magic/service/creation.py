"""The pieces of a container's creation: what is mounted, what its agent is told, how its phases are followed."""

from __future__ import annotations

import json
import queue
from collections.abc import Collection
from concurrent.futures import Future

from skyrl_magic.core import contract
from skyrl_magic.core.ports import Sandbox, Upload
from skyrl_magic.service.checkout import Checkout, Scan
from skyrl_magic.service.session import TICK_S, Progress


def follow_phases(phases: queue.SimpleQueue[str | None], progress: Progress) -> None:
    """Tell ``progress`` of each phase until None comes."""
    while True:
        try:
            phase = phases.get(timeout=TICK_S)
        except queue.Empty:
            progress.tick()
            continue
        if phase is None:
            return
        progress.begin(phase)


def abandon(future: Future[Sandbox]) -> None:
    """End the container that nobody waits for any more."""
    if not future.cancelled() and future.exception() is None:
        future.result().terminate()


def make_upload(checkout: Checkout, scan: Scan, moving: Collection[str]) -> Upload:
    """What is mounted: regular files with plain names, but for those that ``moving`` says are being written."""
    paths = {p for p, entry in scan.manifest.items() if entry[0] == "f" and p.isprintable() and p not in moving}
    manifest = {path: entry for path, entry in scan.manifest.items() if entry[0] != "f" or path in paths}
    return Upload(checkout.root, paths, json.dumps(manifest).encode())


def supervisor_config(name: str, *, timeout_s: int, idle_timeout_s: int, ray: bool) -> str:
    """The agent's configuration (``agent.config``), as JSON."""
    return json.dumps(
        {
            "session": name,
            "state_dir": contract.STATE_DIR,
            "checkout_dir": contract.CHECKOUT_DIR,
            "volume_dir": contract.VOLUME_DIR,
            "volume_link": contract.VOLUME_LINK,
            "train_subdir": contract.TRAIN_SUBDIR,
            "manifest_path": contract.MANIFEST_PATH,
            "timeout_s": timeout_s,
            "idle_timeout_s": idle_timeout_s,
            "ray": ray,
        }
    )
