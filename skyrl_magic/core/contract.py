"""The container contract: what every session finds, on either backend (ARCHITECTURE.md has the whole of it)."""

from __future__ import annotations

from skyrl_magic.core.protocol import SESSION_ENDS

#: Where the checkout lies, as in SkyRL's own Modal script.
CHECKOUT_DIR = "/root/SkyRL"
#: The old layout's project below it.
TRAIN_SUBDIR = "skyrl-train"
#: The persistent volume, and the second path under which SkyRL's documents know it.
VOLUME_DIR = "/root/data"
VOLUME_LINK = "/home/ray/data"
#: The home folder of every process, which ends with the container.
CONTAINER_HOME = "/root"
#: Where SkyRL writes the logs of vLLM and its workers when nothing says otherwise (``trainer.log_path``, read 2026-12).
INFRA_LOG_DIR = "/tmp/skyrl-logs"  # noqa: S108  (a path in the container)
#: The agent's zipapp, how it is run, and the manifest of the checkout that was mounted with it.
AGENT_PATH = "/opt/skyrl_magic/agent.pyz"
#: Isolated, so that nothing of ours meets the user's Python, and without site-packages: what ``.pth`` files import
#: costs time and memory for nothing.
AGENT_COMMAND = ("python3", "-IS", AGENT_PATH)
#: Becomes the agent's Python, or says in one line that the image has none, by the shell's own means.
_START_SCRIPT = (
    'command -v "$1" >/dev/null 2>&1 || { echo "skyrl_magic: '
    f"{SESSION_ENDS}there is no python3 on the PATH of its image: choose an --image with Python 3.8 or newer"
    '" >&2; exit 127; }; exec "$@"'
)
#: The container's command.
START_COMMAND = ("/bin/sh", "-c", _START_SCRIPT, "sh", *AGENT_COMMAND)
#: Modal puts an image's ENTRYPOINT before the command, which it would take over.
NO_ENTRYPOINT = "ENTRYPOINT []"
MANIFEST_PATH = "/opt/skyrl_magic/checkout.json"
#: The agent's state: journals, run records, sockets. On the container's own disk.
STATE_DIR = "/var/lib/skyrl_magic"

#: What upstream leaves out of the upload, at any depth.
IGNORED_NAMES = (".venv", "__pycache__", ".git", ".pytest_cache", "node_modules", ".DS_Store")
IGNORED_SUFFIXES = (".pyc", ".egg-info")
IGNORE_FILE = ".skyrlignore"

#: The images of the two layouts (FACTS: the source document's, and its successor).
IMAGE_OLD_LAYOUT = "novaskyai/skyrl-train-ray-2.48.0-py3.12-cu12.8"
IMAGE_NEW_LAYOUT = "novaskyai/skyrl-train-ray-2.57.0-py3.12-cu13.0"

#: Ray's hook that gives workers the environment of ``uv run``; the image exports it in a file that root shells skip.
UV_RUNTIME_ENV_HOOK = "ray._private.runtime_env.uv_runtime_env_hook.hook"


def image_env() -> dict[str, str]:
    """The environment of every process in a session, set on the image.

    What depends on the session is the agent's to set, for runs and kernels: where Ray is (``agent.ray_start``).
    """
    return {
        "SKYRL_REPO_ROOT": CHECKOUT_DIR,
        "RAY_RUNTIME_ENV_HOOK": UV_RUNTIME_ENV_HOOK,
        "SKYRL_DATA_DIR": VOLUME_DIR,
        "HF_HOME": f"{VOLUME_DIR}/.cache/huggingface",
        "PYTHONUNBUFFERED": "1",
    }
