"""Notebook cells that run SkyRL in a warm container: ``%load_ext skyrl_magic``.

This module stays standard library only and starts nothing: ``%load_ext`` must cost next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "0.1.0"


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics in ``shell``. Imports no client and opens no connection."""
    from skyrl_magic import extension

    extension.load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Remove the magics from ``shell`` and close its channels; sessions go on."""
    from skyrl_magic import extension

    extension.unload(shell)
