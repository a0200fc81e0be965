"""Python cells against ``%%px`` of ipyparallel, with one engine, and against a plain cell of the notebook's kernel."""

from __future__ import annotations

import itertools
from functools import partial

from bench.kernels import CellFailed, Kernel
from bench.relay import relay_rows
from bench.rows import MS, Row, Series, amount, at_most, faster, interleaved, reference
from bench.world import LINE_BYTES, OPTIONS, World

_FLOOD_BYTES = 50_000_000
_FIRST_S = 2.5
#: Display updates: so many a second, for so long.
_UPDATES_PER_S, _UPDATES_S = 100, 3
_ENGINE = """\
import ipyparallel, logging, warnings
warnings.simplefilter("ignore")
cluster = ipyparallel.Cluster(n=1, log_level=logging.ERROR, send_engines_connection_env=False)
engines = cluster.start_and_connect_sync(activate=True)
"""
_UPDATES = f"""\
import time
from IPython.display import display
handle = display("begin", display_id=True)
for number in range({_UPDATES_PER_S * _UPDATES_S}):
    handle.update(f"state {{number}}")
    time.sleep({1 / _UPDATES_PER_S})
"""


def rows(world: World) -> list[Row]:
    """The rows of this module."""
    kernel = world.kernel()
    kernel.run(_ENGINE)
    try:
        found = [*_warm(world, kernel), *_flood(world, kernel)]
    finally:
        kernel.run("cluster.stop_cluster_sync()")
    return [*found, *_updates(kernel), *_first(world, kernel), *relay_rows(world)]


def _cell(kernel: Kernel, code: str, expected: str) -> float:
    cell = kernel.run(code)
    shown = cell.text + "".join(text for _, text in cell.displays)
    if expected not in shown:
        raise CellFailed(f"{code!r} showed {shown!r}")
    return cell.took_s


def _warm(world: World, kernel: Kernel) -> list[Row]:
    found = []
    for code, shown in (("1+1", "2"), ("print('hello')", "hello")):
        ways = {"ours": f"%%skyrl_python\n{code}", "px": f"%%px\n{code}", "local": code}
        actions = {name: partial(_cell, kernel, text, shown) for name, text in ways.items()}
        series = interleaved(world.rounds(40), actions, MS)
        ours, px, local = (series[name] for name in ways)
        found += [
            at_most(f"warm Python cell `{code}` ÷ `%%px`", ours, px, 1.0, "≤ 1 ×"),
            reference(f"… `{code}` with `%%px`", px),
            reference(f"… `{code}` in the notebook's own kernel", local),
        ]
    return found


def _flood(world: World, kernel: Kernel) -> list[Row]:
    lines = _FLOOD_BYTES // LINE_BYTES // (50 if world.quick else 1)
    code = f"line = '.' * {LINE_BYTES - 1}\nfor _ in range({lines}): print(line)"
    actions = {
        "ours": lambda: kernel.run(f"%%skyrl_python\n{code}").took_s,
        "px": lambda: kernel.run(f"%%px\n{code}").took_s,
    }
    series = interleaved(world.rounds(3), actions)
    what = f"{lines * LINE_BYTES // 1_000_000} MB"
    return [
        faster(f"Python cell that prints {what} than `%%px`", series["ours"], series["px"], 2, "≥ 2 × faster"),
        reference(f"… `%%px` that prints {what}", series["px"]),
    ]


def _first(world: World, kernel: Kernel) -> list[Row]:
    names = itertools.count()

    def first() -> float:
        session = f"--session first-{next(names)} {OPTIONS}"
        kernel.run(f"%skyrl_start {session}")
        took_s = _cell(kernel, "%%skyrl_python\n1+1", "2")
        kernel.run("%skyrl_stop")
        return took_s

    series = Series(tuple(first() for _ in range(world.rounds(5))))
    name = "first Python cell in a warm session"
    return [Row(name, amount(series.median, "s"), series, f"≤ {_FIRST_S} s", series.median <= _FIRST_S)]


def _updates(kernel: Kernel) -> list[Row]:
    cell = kernel.run(f"%%skyrl_python\n{_UPDATES}")
    last = cell.displays[-1][1]
    if last != f"'state {_UPDATES_PER_S * _UPDATES_S - 1}'":
        raise CellFailed(f"the last update shown is {last}")
    text = f"{cell.messages} messages, {amount(cell.took_s, 's')}"
    return [Row(f"{_UPDATES_PER_S} display updates a second for {_UPDATES_S} s, the last one shown", text)]
