"""Whether the modal package that is installed is one that this package knows. Does not import it."""

from __future__ import annotations

import importlib.metadata
import re

from skyrl_magic.core.errors import BackendError

#: As in pyproject.toml; a test compares them.
MODAL_RANGE = "modal>=1.6.4,<1.7"
_LEAST, _BELOW = (1, 6, 4), (1, 7)


def check_modal() -> None:
    """Refuse another modal: its errors would be tracebacks.

    Raises:
        BackendError: there is none, or its version is out of range.
    """
    try:
        installed = importlib.metadata.version("modal")
    except importlib.metadata.PackageNotFoundError:
        raise BackendError(f"the package modal is not installed: {_advice()}") from None
    release = tuple(int(number) for number in re.findall(r"\d+", installed)[:3])
    if not _LEAST <= release < _BELOW:
        raise BackendError(f"modal {installed} is installed, and this package knows {MODAL_RANGE}: {_advice()}")


def _advice() -> str:
    return f"run `pip install '{MODAL_RANGE}'` and restart the kernel"
