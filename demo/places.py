"""Where the lessons keep things, all of it in build/, and the environment of their kernels."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
#: The lessons' checkout: the kernels' working folder.
CHECKOUT = BUILD / "SkyRL"
#: State of the local backends of `make demo` and `make lab`, volumes included, so these persist. They are two because
#: the lesson of `make demo` ends all sessions at its end.
DEMO_STATE = BUILD / "demo-state"
LAB_STATE = BUILD / "lab-state"
_JUPYTER = BUILD / "jupyter"

#: Loads the extension in every kernel of `make lab`; not by its name, so that `%load_ext` in a notebook has nothing to
#: complain about.
_IPYTHON_CONFIG = """\
c.InteractiveShellApp.exec_lines = ["__import__('skyrl_magic').load_ipython_extension(get_ipython())"]
"""
#: JupyterLab asks at its first start whether it may fetch news.
_NO_NEWS = '{"fetchNews": "false", "checkForUpdates": false}\n'


def jupyter_env(runtime_dir: Path, state_dir: Path) -> dict[str, str]:
    """This process's environment with folders of their own for Jupyter and IPython instead of the user's home.

    Args:
        runtime_dir: for IPython, connection files and kernel sockets; short, as a socket's path has at most 107 bytes.
        state_dir: the local backend's folder.
    """
    return {
        **os.environ,
        "IPYTHONDIR": str(runtime_dir / "ipython"),
        "JUPYTER_CONFIG_DIR": str(_JUPYTER / "config"),
        "JUPYTER_DATA_DIR": str(_JUPYTER / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime_dir),
        "JUPYTER_PLATFORM_DIRS": "1",
        "SKYRL_MAGIC_LOOPBACK_DIR": str(state_dir),
    }


def lab_env(runtime_dir: Path, state_dir: Path) -> dict[str, str]:
    """The environment of `make lab`: every kernel has the extension, and no pop-up asks about news."""
    profile = _JUPYTER / "ipython" / "profile_default"
    news = _JUPYTER / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    for folder in (profile, news):
        folder.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(_IPYTHON_CONFIG, encoding="utf-8")
    (news / "notification.jupyterlab-settings").write_text(_NO_NEWS, encoding="utf-8")
    return jupyter_env(runtime_dir, state_dir) | {"IPYTHONDIR": str(profile.parent)}
