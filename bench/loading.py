"""``%load_ext skyrl_magic`` against ``import modal``, each in a fresh interpreter with an IPython shell."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from typing import Any

from bench.rows import MS, Row, Series, at_most, interleaved, reference
from bench.world import ROOT, World

#: What is loaded of modal's and its wire format's weight, if anything.
_HEAVY = ("modal", "modal_proto", "grpclib", "aiohttp")
_PROBE = """\
import json, os, sys, threading, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def sockets():
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    return sum(link.startswith("socket:") for link in links)
before = set(sys.modules), threading.active_count(), sockets()
began = time.perf_counter()
shell.run_line_magic("load_ext", "skyrl_magic") if sys.argv[1] == "load_ext" else shell.run_cell("import modal")
took_s = time.perf_counter() - began
print(json.dumps({"took_s": took_s, "modules": sorted(set(sys.modules) - before[0]),
                  "threads": threading.active_count() - before[1], "sockets": sockets() - before[2]}))
"""


def rows(world: World) -> list[Row]:
    """The rows of this module."""
    seen: dict[str, dict[str, Any]] = {}

    def probe(what: str) -> float:
        with tempfile.TemporaryDirectory(dir=world.folder) as ipython:
            command = [sys.executable, "-c", _PROBE, what]
            env = {"PATH": "/usr/bin:/bin", "IPYTHONDIR": ipython, "HOME": ipython}
            done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
        seen[what] = json.loads(done.stdout.splitlines()[-1])
        return float(seen[what]["took_s"])

    names = ("load_ext", "import modal")
    series = interleaved(world.rounds(9), {name: partial(probe, name) for name in names}, MS)
    loaded, modal = series["load_ext"], series["import modal"]
    found = seen["load_ext"]
    heavy = [name for name in _HEAVY if name in found["modules"]]
    opened = f"{found['threads']} threads, {found['sockets']} sockets, {', '.join(heavy) or 'no modal'}"
    return [
        at_most("`%load_ext skyrl_magic` ÷ `import modal`", loaded, modal, 0.03, "≤ 0.03 ×"),
        _modules("modules that `%load_ext` imports", found["modules"]),
        Row(
            "what `%load_ext` opens and imports",
            opened,
            asked="no thread, socket or modal",
            reached=not (found["threads"] or found["sockets"] or heavy),
        ),
        reference("`import modal`", Series(modal.samples, MS)),
        _modules("modules that `import modal` imports", seen["import modal"]["modules"]),
    ]


def _modules(name: str, modules: list[str]) -> Row:
    ours = sum(module.split(".")[0] == "skyrl_magic" for module in modules)
    return Row(name, f"{len(modules)}" + (f", {ours} of them ours" if ours else ""))
