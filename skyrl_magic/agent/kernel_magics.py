"""The notebook's magics inside a Python cell: each says where it belongs, where IPython would know of none."""

from __future__ import annotations

from typing import Any, Callable, Optional

from IPython.core.error import UsageError

#: The magics of ``ui.magics``.
NAMES = (
    "skyrl_attach",
    "skyrl_cancel",
    "skyrl_logs",
    "skyrl_modal",
    "skyrl_picker",
    "skyrl_pull",
    "skyrl_push",
    "skyrl_python",
    "skyrl_restart",
    "skyrl_runs",
    "skyrl_sessions",
    "skyrl_start",
    "skyrl_stop",
    "skyrl_trust",
    "skyrl_use",
)


def register(shell: Any) -> None:
    """Register them in the session's shell."""
    for name in NAMES:
        shell.magics_manager.register_function(_refusal(name), "line_cell", name)


def _refusal(name: str) -> Callable[..., None]:
    def refuse(_: str, cell: Optional[str] = None) -> None:
        sign = "%" if cell is None else "%%"
        raise UsageError(
            f"{sign}{name} is the notebook's, and this cell runs in the session's Python kernel: "
            "give it a cell of its own"
        )

    refuse.__doc__ = f"Of the notebook: ``%{name}`` belongs in a cell of its own."
    return refuse
