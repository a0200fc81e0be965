"""A warm cell, and one after an edit, against ``%%bash`` and a raw exec; several runs at once."""

from __future__ import annotations

import itertools
from functools import partial

from bench.kernels import CellFailed
from bench.rows import MS, Row, Series, at_most, interleaved, reference
from bench.world import ROOT, World
from skyrl_magic.loopback.documents import write_json
from skyrl_magic.loopback.pretend import FILE_NAME

_TEXT = "hello"
OURS = f"%%skyrl_modal\necho {_TEXT}"
BASH = f"%%bash\necho {_TEXT}"
RAW = f"print(raw.exec('bash', '-c', 'echo {_TEXT}').stdout.read(), end='')"
#: A one-file edit may add so much, in seconds.
_EDIT_S = 0.100
#: What a commit takes on a slow service, in seconds, and how much more a cell may take there.
_COMMIT_S = 1.0
_SLOW_COMMIT_RATIO = 1.2


def rows(world: World) -> list[Row]:
    """The rows of this module."""
    return [*_warm(world), *_slow_commit(world), *_edited(world), *_concurrent(world)]


def _cell(world: World, code: str) -> float:
    cell = world.kernel().run(code)
    if cell.text.strip() != _TEXT:
        raise CellFailed(f"{code!r} printed {cell.text!r}")
    return cell.took_s


def _warm(world: World) -> list[Row]:
    actions = {code: partial(_cell, world, code) for code in (OURS, BASH, RAW)}
    series = interleaved(world.rounds(40), actions, MS)
    ours, bash, raw = series[OURS], series[BASH], series[RAW]
    return [
        at_most("warm `echo` cell ÷ `%%bash`", ours, bash, 1.0, "≤ 1 ×"),
        at_most("warm `echo` cell ÷ a fresh raw exec in a cell", ours, raw, 0.8, "≤ 0.8 ×"),
        reference("`%%bash` echo", bash),
        reference("raw exec echo", raw),
    ]


def _slow_commit(world: World) -> list[Row]:
    """The same cells where the server takes so long to commit the volume, and where it does not."""
    kernel, pretend = world.kernel(), world.server.state_dir / FILE_NAME
    python = "%%skyrl_python\nprint('hello')"
    kernel.run(python)

    def cell(code: str, *, slow: bool) -> float:
        write_json(pretend, {"commits": {"delay_s": _COMMIT_S}} if slow else {})
        return _cell(world, code)

    found = []
    for name, code in (("`echo`", OURS), ("Python", python)):
        actions = {"fast": partial(cell, code, slow=False), "slow": partial(cell, code, slow=True)}
        series = interleaved(world.rounds(20), actions, MS)
        title = f"warm {name} cell with a `sync` of {_COMMIT_S:g} s ÷ with a fast one"
        found.append(at_most(title, series["slow"], series["fast"], _SLOW_COMMIT_RATIO, f"≤ {_SLOW_COMMIT_RATIO:g} ×"))
        found.append(reference(f"warm {name} cell with a fast commit", series["fast"]))
    pretend.unlink()
    return found


def _edited(world: World) -> list[Row]:
    edits = itertools.count()
    path = world.checkout / "skyrl" / "part_000" / "file_0.py"
    text = path.read_text(encoding="utf-8")

    def edited() -> float:
        path.write_text(f"# edit {next(edits)}\n{text}", encoding="utf-8")
        return _cell(world, OURS)

    series = interleaved(world.rounds(20), {"plain": partial(_cell, world, OURS), "edited": edited}, MS)
    plain, after = series["plain"], series["edited"]
    added = Series(tuple(a - plain.median for a in after.samples), MS)
    name = "one edited file adds"
    return [
        Row(name, f"{added.median * 1e3:.3g} ms", added, asked="≤ 100 ms", reached=added.median <= _EDIT_S),
        reference("warm `echo` cell between edits", plain),
    ]


def _concurrent(world: World) -> list[Row]:
    kernel = world.kernel()
    kernel.run(f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom bench.in_kernel import run_at_once")

    def at_once(count: int) -> float:
        return float(kernel.run(f"print(run_at_once(get_ipython().skyrl_magic, {count}))").text)

    counts = (1, 4, 16)
    series = interleaved(world.rounds(8), {str(n): partial(at_once, n) for n in counts}, MS)
    return [reference(f"{n} `echo` run{'s' * (n > 1)} at once in one session, to the last end", series[str(n)])
            for n in counts]  # fmt: skip
