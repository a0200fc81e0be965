"""The checkout's baseline at boot: what a mount lacks is made, and each file is compared with the manifest."""

from __future__ import annotations

from pathlib import Path

from skyrl_magic.agent import paths, procs
from skyrl_magic.agent.checkout import (
    FILE,
    LINK,
    CheckoutRefusal,
    Entry,
    Files,
    place_directory,
    place_link,
    save_baseline,
)

_HASH_BYTES = 1 << 20


def begin_baseline(root: Path, manifest: Path, state_dir: Path) -> int:
    """At boot: :func:`settle_checkout` in a child, which takes OpenSSL's 4 MB and the manifest's memory along.

    Raises:
        OSError: it failed; the child has printed why.
    """
    return procs.in_child(lambda: settle_checkout(root, manifest, state_dir))


def settle_checkout(root: Path, manifest: Path, state_dir: Path) -> int:
    """Make the manifest's symlinks and folders, check its files, and record what is really there.

    A mount has no symlinks and no empty folders. A file that lacks or differs is left out, so that the client sends it.

    Returns:
        How many of the manifest's entries were left out.
    """
    try:
        listed: Files = paths.read_json(manifest) if manifest.is_file() else {}
    except ValueError:
        listed = {}
    files = {path: entry for path, entry in listed.items() if _settle(root / path, entry)}
    save_baseline(state_dir / paths.CHECKOUT_FILE, 1, files)
    return len(listed) - len(files)


def _settle(target: Path, entry: Entry) -> bool:
    """Bring ``target`` to what ``entry`` says, as far as this is possible here; whether it is."""
    try:
        if entry[0] == FILE:
            if target.is_symlink() or target.stat().st_size != entry[3] or _sha256(target) != entry[2]:
                return False
            target.chmod(int(entry[1]))
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry[0] == LINK:
            if not (target.is_symlink() and str(target.readlink()) == entry[1]):
                place_link(target, str(entry[1]))
        else:
            place_directory(target, int(entry[1]))
    except (OSError, CheckoutRefusal):
        return False
    return True


def _sha256(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()
