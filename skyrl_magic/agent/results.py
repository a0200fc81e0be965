"""Results that go to the volume without a word in any script: what variables and one folder of logs decide.

SkyRL's loggers for TensorBoard, MLflow and SwanLab write below the folder of a Ray task unless a variable names another
place, and vLLM and its workers write to one folder in ``/tmp`` (``trainer.log_path``, which no variable changes).
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Dict

from skyrl_magic.agent.config import Config

#: Of the logs of vLLM and the workers, on the volume; their names have the time, so sessions share it.
INFRA_LOGS = "skyrl-logs"


def variables(config: Config, now: float) -> Dict[str, str]:
    """The variables and their values; TensorBoard shows the files of one folder as one run, so each session has one.

    Args:
        config: the session.
        now: Unix time, in seconds.
    """
    volume, began = config.volume_dir, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return {
        "TENSORBOARD_DIR": f"{volume}/tensorboard_log/{config.session}-{began}",
        "MLFLOW_TRACKING_URI": f"file://{volume}/mlruns",
        "SWANLAB_LOG_DIR": f"{volume}/swanlog",
    }


def keep(config: Config) -> None:
    """Set what the image and its secrets do not, and lead SkyRL's folder of logs to the volume."""
    if not config.keep_results:
        return
    for name, value in variables(config, time.time()).items():
        os.environ.setdefault(name, value)
    link = Path(config.infra_log_dir) if config.infra_log_dir else None
    if link is None or link.is_symlink() or link.exists():
        return
    with contextlib.suppress(OSError):  # a full or missing volume: the logs stay in the container, as without this
        folder = Path(config.volume_dir) / INFRA_LOGS
        folder.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder, target_is_directory=True)
