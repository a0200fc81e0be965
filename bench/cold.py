"""Cold sessions phase by phase, uploads, and sessions against one container for each command."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bench.kernels import Cell, Kernel
from bench.rows import Row, Series, at_most, faster, reference
from bench.world import APP, OPTIONS, SESSION, World

_PHASE = re.compile(r"([A-Za-z]+)(?: [0-9hms]+)? …$")
_TEN = 10
#: A volume of their own, empty as the one-shot sandboxes' is: a local sandbox begins with a copy of its volume, and the
#: warm session's has the logs of what the other groups printed.
_VOLUME = f"--volume {APP}-cold"
_UPSTREAM = """\
app = modal.App.lookup({app!r}, create_if_missing=True, client=client)
ignored = [".venv", "**/*.pyc", "**/__pycache__", ".git", "**/*.egg-info", "**/.pytest_cache", "**/node_modules"]
def one_shot(command):
    image = modal.Image.from_registry("novaskyai/skyrl-train-ray-2.57.0-py3.12-cu13.0")
    image = image.env({{"SKYRL_REPO_ROOT": "/root/SkyRL"}}).add_local_dir({checkout!r}, "/root/SkyRL", ignore=ignored)
    volume = modal.Volume.from_name("{app}-upstream", create_if_missing=True, version=2, client=client)
    sandbox = modal.Sandbox.create("bash", "-c", command, app=app, image=image, volumes={{"/root/data": volume}},
                                   timeout=600, client=client)
    sandbox.wait()
    print(sandbox.stdout.read(), end="")
    assert sandbox.returncode == 0, sandbox.stderr.read()
    sandbox.terminate()
"""
_RAYS_OWN = "print(next(reversed(get_ipython().skyrl_magic.cells.notebook.runs.values())).status.ray_seconds)"


def rows(world: World) -> list[Row]:
    """The rows of this module."""
    found = _without_ray(world)
    return found if world.quick else [*found, *_one_shots(world), *_with_ray(world)]


def phases(cell: Cell) -> dict[str, float]:
    """Seconds of each phase that the cell's line named, by when the line changed; the last one ends with the cell."""
    begun: dict[str, float] = {}
    for at_s, text in cell.displays:
        match = _PHASE.search(text)
        if match:
            begun.setdefault(match[1], at_s)
    ends = [*list(begun.values())[1:], cell.took_s]
    first = next(iter(begun.values()), cell.took_s)
    return {"before": first, **{name: end - at_s for (name, at_s), end in zip(begun.items(), ends, strict=True)}}


def _start(kernel: Kernel, name: str, options: str) -> Cell:
    cell = kernel.run(f"%skyrl_start --session {name} {options}")
    kernel.run(f"%skyrl_stop {name}")
    return cell


def _without_ray(world: World) -> list[Row]:
    """Checkouts that the server has never seen, each started twice: the second finds all files uploaded."""
    cold: list[Cell] = []
    warm: list[Cell] = []
    for _ in range(world.rounds(4)):
        kernel = world.new_kernel(world.new_checkout())
        kernel.run("import modal, skyrl_magic.cloud.sandboxes")  # that import has a row of its own
        cold.append(_start(kernel, "cold", f"{OPTIONS} {_VOLUME}"))
        warm.append(_start(kernel, "warm", f"{OPTIONS} {_VOLUME}"))
        kernel.close()
        world.kernels.remove(kernel)
    return [
        reference("cold session without Ray, checkout never seen", Series(tuple(c.took_s for c in cold))),
        *_phase_rows(cold),
        reference("cold session without Ray, checkout uploaded before", Series(tuple(c.took_s for c in warm))),
        *_phase_rows(warm),
    ]


def _phase_rows(cells: list[Cell]) -> list[Row]:
    """The phases; ``checkout`` is the upload."""
    times = [phases(cell) for cell in cells]
    names = {"before": "before the first phase (server, names, scan)", "checkout": "checkout (the upload)"}
    return [
        reference(f"… {names.get(name, name)}", Series(tuple(t[name] for t in times if name in t))) for name in times[0]
    ]


def _upstream(world: World, checkout: Path) -> Kernel:
    kernel = world.kernel()
    kernel.run(_UPSTREAM.format(app=APP, checkout=str(checkout)))
    return kernel


def _one_shots(world: World) -> list[Row]:
    kernel = _upstream(world, world.checkout)

    def ten(code: Callable[[int], str]) -> float:
        return sum(kernel.run(code(number)).took_s for number in range(_TEN))

    kernel.run('one_shot("echo 0")')
    ours: list[float] = []
    whole: list[float] = []
    theirs: list[float] = []
    for _ in range(world.rounds(3)):
        start = kernel.run(f"%skyrl_start --session ten {OPTIONS} {_VOLUME}")
        warm_s = ten(lambda n: f"%%skyrl_modal\necho {n}")
        kernel.run("%skyrl_stop ten")
        ours.append(warm_s)
        whole.append(start.took_s + warm_s)
        theirs.append(ten(lambda n: f'one_shot("echo {n}")'))
    kernel.run(f"%skyrl_start --session {SESSION}")
    one_shots = Series(tuple(theirs))
    return [
        faster("10 cells in a session than 10 one-shot sandboxes", Series(tuple(ours)), one_shots, 1, "faster"),
        faster("… with the session's start", Series(tuple(whole)), one_shots, 1, "faster"),
        reference("10 one-shot sandboxes as upstream, one after the other", one_shots),
    ]


def _with_ray(world: World) -> list[Row]:
    """Ray's own start varies by seconds: what counts is the rest, against a container that only says ``echo``."""
    kernel = _upstream(world, world.checkout)
    cells: list[Cell] = []
    rays: list[float] = []
    echoes: list[float] = []
    for _ in range(world.rounds(3)):
        cells.append(kernel.run(f"%skyrl_start --session ray --gpu none --ray {_VOLUME}"))
        kernel.run("%%skyrl_modal\necho up")
        rays.append(float(kernel.run(_RAYS_OWN).text))
        kernel.run("%skyrl_stop ray")
        echoes.append(kernel.run('one_shot("echo 0")').took_s)
    kernel.run(f"%skyrl_start --session {SESSION}")
    beside = Series(tuple(cell.took_s - ray_s for cell, ray_s in zip(cells, rays, strict=True)))
    echo = Series(tuple(echoes))
    return [
        reference("cold session with Ray", Series(tuple(cell.took_s for cell in cells))),
        *_phase_rows(cells),
        reference("… Ray's own start, in the container", Series(tuple(rays))),
        at_most("… what Ray's start does not hide ÷ a one-shot sandbox that says `echo`", beside, echo, 1.0,
                "≤ 1 ×: all but Ray hidden"),
        reference("a one-shot sandbox that says `echo`", echo),
    ]  # fmt: skip
