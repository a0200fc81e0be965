"""Where the time of a warm cell goes, stage by stage: one that says ``echo``, or a Python cell that prints.

Usage: ``python -m bench.breakdown [--python] [CELLS]``. Clocks are the machine's, so that stamps of several processes
compare; the container's part is what its own records say.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from bench import world
from bench.kernels import Kernel

_SET_UP = f"import json, sys; sys.path.insert(0, {str(world.ROOT)!r})\nfrom bench.stamps import stamps, watch\nwatch()"
#: Each prints when its first command was reached.
_SHELL_CELL = '%%skyrl_modal\necho "at $EPOCHREALTIME"'
_PYTHON_CELL = "%%skyrl_python\nimport time; print('at', time.time())"
_READ = "print(json.dumps(stamps))"
#: From one stamp to another, in the order of the cell.
_STAGES = (
    ("front end → kernel → IPython begins the cell", "sent", "kernel"),
    ("IPython finds the magic; the line is parsed", "kernel", "cells"),
    ("settings, checkout's root, session", "session", "session ends"),
    ("checkout: scan", "scan", "scan ends"),
    ("checkout: round trip GetCheckout", "GetCheckout", "GetCheckout ends"),
    ("StartRun: sent → answered", "StartRun", "StartRun ends"),
    ("… the client's write alone, to the server's acknowledgement", "write", "write ends"),
    ("StartRun: sent → the cell's first command", "StartRun", "at"),
    ("the first command → its output is here", "at", "Output"),
    ("bash and its pipes, as the shim measures it", "", "bash and its pipes"),
    ("the output is here → RunEnded is here (exit, commit)", "Output", "RunEnded"),
    ("RunEnded → follow returns", "RunEnded", "follow ends"),
    ("display's close", "close", "close ends"),
    ("the magic returns → IPython ends the cell", "cells ends", "kernel ends"),
    ("IPython ends the cell → the front end has `idle`", "kernel ends", "idle"),
    ("all", "sent", "idle"),
)


_IN_BASH = """\
%%skyrl_modal
for i in {{1..20}}; do a=$EPOCHREALTIME; {command}; b=$EPOCHREALTIME; echo $((10#${{b/./}} - 10#${{a/./}})); done"""
_ROUND_TRIPS = """\
import time
session = next(reversed(get_ipython().skyrl_magic.cells.notebook.runs.values()))
for _ in range(50):
    began = time.perf_counter(); session.ask_status(); print((time.perf_counter() - began) * 1e6)"""
#: Parts measured apart; each prints microseconds.
_APART = {
    "round trip to the supervisor (GetStatus)": _ROUND_TRIPS,
    "`sync /root/data`, nothing to commit": _IN_BASH.format(command="sync /root/data"),
    "`bash -c :` in the container": _IN_BASH.format(command="bash -c :"),
    "`sh -c :` in the container": _IN_BASH.format(command="sh -c :"),
}


def main() -> None:
    """Print the medians of the stages, in milliseconds."""
    parser = argparse.ArgumentParser(prog="python -m bench.breakdown", description="Where a warm cell's time goes.")
    parser.add_argument("--python", action="store_true", help="a Python cell")
    parser.add_argument("cells", type=int, nargs="?", default=40, help="so many; the first quarter does not count")
    options = parser.parse_args()
    count, code = options.cells, _PYTHON_CELL if options.python else _SHELL_CELL
    with world.made(quick=False) as surroundings:
        kernel = surroundings.kernel()
        kernel.run(_SET_UP)
        cells = [_stamped(kernel, code) for _ in range(count)][count // 4 :]
        print(f"{len(cells)} cells, checkout of {world.CHECKOUT_FILES} files; medians in ms")
        for label, begin, end in _STAGES:
            values = [_between(cell, begin, end) for cell in cells if end in cell and (not begin or begin in cell)]
            if values:
                print(f"{statistics.median(values) * 1e3:8.2f}  {label}")
        for label, measure in ({} if options.python else _APART).items():
            took_us = [float(text) for text in kernel.run(measure).text.split()]
            print(f"{statistics.median(took_us) / 1e3:8.2f}  {label}")


def _between(cell: dict[str, float], begin: str, end: str) -> float:
    return cell[end] - cell[begin] if begin else cell[end]


def _stamped(kernel: Kernel, code: str) -> dict[str, float]:
    kernel.run("stamps.clear()")
    sent = time.time()
    cell = kernel.run(code)
    idle = sent + cell.took_s
    stamps: dict[str, float] = {}
    for name, at in json.loads(kernel.run(_READ).text):
        if name.startswith("write") and "StartRun" not in stamps:
            continue  # of something before it
        if at > sent or name == "bash and its pipes":
            stamps.setdefault(name, at)
    return stamps | {"sent": sent, "idle": idle, "at": float(cell.text.split()[1])}


if __name__ == "__main__":
    main()
