"""Widgets of packages that only the container has: their front end is missing where the notebook is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skyrl_magic.core.protocol import KernelMessage

#: Part of every widget manager.
_CORE = "@jupyter-widgets/"
#: JupyterLab's; where this environment has not even that, Jupyter runs in another one, of which nothing is known.
_MANAGER = "@jupyter-widgets/jupyterlab-manager"


class WidgetFrontEnds:
    """Says once of each package that its widgets will not be seen."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def missing(self, message: KernelMessage) -> str:
        """The line for a message that makes the first widget of such a package; else empty."""
        data: Any = message.content.get("data")
        state = data.get("state") if message.msg_type == "comm_open" and isinstance(data, dict) else None
        module = state.get("_model_module") if isinstance(state, dict) else None
        if not isinstance(module, str) or module.startswith(_CORE) or module in self._seen:
            return ""
        self._seen.add(module)
        if _is_installed(module) or not _is_installed(_MANAGER):
            return ""
        return (
            f"widgets of {module[:100]!r} need their front end, which this notebook's environment has not: where they "
            "are not shown, install the package here too and load the page anew"
        )


def _is_installed(name: str) -> bool:
    """Whether JupyterLab finds an extension of this name."""
    from jupyter_core.paths import jupyter_path  # with ipykernel it is there

    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        return False
    return any(Path(folder, *parts, "package.json").is_file() for folder in jupyter_path("labextensions"))
