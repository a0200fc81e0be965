"""Variables to the session's Python kernel and back, against a raw exec that streams as many bytes."""

from __future__ import annotations

from functools import partial

from bench.kernels import Kernel
from bench.rows import Row, Series, interleaved, reference
from bench.world import World

_ARRAY_BYTES = 100_000_000
_FRAME_ROWS = 1_000_000
_LEAST = 0.5
_MAKE = """\
import numpy as np, pandas as pd
array = np.random.default_rng(0).random({array})
frame = pd.DataFrame({{"n": np.arange({rows}), "x": np.random.default_rng(1).random({rows})}})
frame["text"] = [f"row {{n}}" for n in range({rows})]
from skyrl_magic.core.variables import pack
sizes = {{name: pack({{name: value}}).size_bytes for name, value in (("array", array), ("frame", frame))}}
data = bytes(2**20)
def raw_up(size):
    process = raw.exec("sh", "-c", f"head -c {{size}} | wc -c", text=False)
    for at in range(0, size, len(data)):
        process.stdin.write(data[: size - at])
        process.stdin.drain()
    assert int(process.stdout.read()) == size
def raw_down(size):
    assert sum(map(len, raw.exec("head", "-c", str(size), "/dev/zero", text=False).stdout)) == size
"""


def rows(world: World) -> list[Row]:
    """The rows of this module."""
    kernel = world.kernel()
    scale = 50 if world.quick else 1
    kernel.run(_MAKE.format(array=_ARRAY_BYTES // 8 // scale, rows=_FRAME_ROWS // scale))
    what = {
        "array": f"a {_ARRAY_BYTES // scale / 1e6:.0f} MB float64 array",
        "frame": f"a frame of {_FRAME_ROWS // scale:,} rows",
    }
    return [row for name, text in what.items() for row in _both_ways(world, kernel, name, text)]


def _both_ways(world: World, kernel: Kernel, name: str, text: str) -> list[Row]:
    cells = {
        "push": f"%skyrl_push {name}",
        "raw push": f"raw_up(sizes[{name!r}])",
        "pull": f"%skyrl_pull {name}",
        "raw pull": f"raw_down(sizes[{name!r}])",
    }
    actions = {way: partial(_took, kernel, code) for way, code in cells.items()}
    series = interleaved(world.rounds(7), actions)
    asked = name == "array"
    found = []
    for way in ("push", "pull"):
        found += [_compared(f"{way} of {text}", series[way], series[f"raw {way}"], asked=asked)]
        found += [reference(f"… the raw exec, as many bytes {'in' if way == 'push' else 'out'}", series[f"raw {way}"])]
    return found


def _took(kernel: Kernel, code: str) -> float:
    return kernel.run(code).took_s


def _compared(name: str, ours: Series, raw: Series, *, asked: bool) -> Row:
    speed = raw.median / ours.median
    measured = f"{speed:.3g} × as fast as the raw exec"
    return Row(name, measured, ours, f"≥ {_LEAST} ×" if asked else "", speed >= _LEAST if asked else None)
