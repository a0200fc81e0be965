"""Execute a lesson on the local backend and leave it, with its outputs, in build/ as a notebook and as a page.

Usage: ``python -m demo.run_lesson notebooks/01_first_cell.ipynb``. Exit code 1 when a cell fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from demo import lesson, places


def main() -> int:
    """Execute and render the lesson on the command line."""
    parser = argparse.ArgumentParser(description="Execute a lesson on the local backend.")
    parser.add_argument("notebook", type=Path)
    source: Path = parser.parse_args().notebook
    notebook = nbformat.read(source, as_version=4)
    began = time.monotonic()

    def on_cell(index: int, cell: nbformat.NotebookNode) -> None:
        first_line = cell.source.partition("\n")[0]
        print(f"{time.monotonic() - began:6.1f} s  cell {index + 1}/{len(notebook.cells)}  {first_line}", flush=True)

    failure = None
    # The kernel's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="skyrl-", ignore_cleanup_errors=True) as runtime_dir:
        sockets = Path(runtime_dir)
        env = places.jupyter_env(sockets, places.DEMO_STATE) | {"SKYRL_MAGIC_BACKEND": "local"}
        try:
            lesson.execute(notebook, places.CHECKOUT, env, sockets, on_cell)
        except (CellExecutionError, CellTimeoutError) as error:
            failure = error
        finally:
            stop = [sys.executable, "-m", "skyrl_magic.loopback", "--stop"]
            subprocess.run(stop, env=env, check=False, stdout=subprocess.DEVNULL)

    target = places.BUILD / source.name
    nbformat.write(notebook, target)
    page = target.with_suffix(".html")
    page.write_text(lesson.render(notebook, source.stem), encoding="utf-8")
    if failure is not None:
        print(failure, file=sys.stderr)
    print(f"the executed lesson: {target}\nas a page:           {page}")
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
