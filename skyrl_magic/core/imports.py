"""Imports that a Stop cannot cut in two."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_whole(name: str) -> ModuleType:
    """Import a module in a thread of its own, where no KeyboardInterrupt is raised.

    A package whose import is interrupted stays half imported until the interpreter ends: its submodules are known and
    it has no attributes of their names. The interrupt comes through once the import is over.

    Raises:
        ImportError: it cannot be imported.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="skyrl-import") as pool:
        return pool.submit(importlib.import_module, name).result()
