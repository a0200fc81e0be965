"""Lines that Ray prints about itself: what a cell shows of them. The run's journal keeps them all.

Two kinds are folded, and only where the line is surely Ray's own: what a driver prints while it joins a cluster, which
becomes one line, and the lines of Ray's C++ processes, of which a cell shows each once; the rest is counted.
"""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: ``2026-11-25 01:30:29,739	INFO worker.py:1841 -- …``: the format of Ray's own Python logger.
_LOGGER = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\tINFO (?:worker|packaging)\.py:\d+ -- (.*)")
_JOINING = re.compile(r"Connecting to existing Ray cluster at address: (.+?)\.\.\.$")
_UPLOADING = re.compile(r"Pushing file package '.*' \((.*)\) to Ray cluster\.\.\.$")
_SILENT = re.compile(
    r"Using address .* set in the environment variable RAY_ADDRESS$"
    r"|Connected to Ray cluster\."
    r"|Creating a file package for local module '.*'\.$"
    r"|Successfully pushed file package '.*'\.$"
)
#: ``(raylet) [2026-11-25 01:30:29,774 E 410 410] (raylet) node_manager.cc:3219: …``, and the same as JSON.
_NATIVE = re.compile(
    r"(?:\([^()]*\) )?"
    r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [IWEC] \d+ \d+\] (?:\([a-z_]+\) )?([a-z_0-9]+\.cc):\d+: "
    r'|\{"asctime":.*"filename":"([a-z_0-9]+\.cc)","lineno":\d+\}$)'
)
_VARYING = re.compile(r"\S*\d\S*")
_MAX_KNOWN = 1000


class RayNoise:
    """Decides line by line; one for each run."""

    def __init__(self) -> None:
        self._joining = False
        self._known: set[str] = set()
        self._repeated: dict[str, int] = {}

    def fold(self, line: str) -> str | None:
        """What to show of a finished line, colours included: the line, a shorter one, or None for nothing."""
        if " -- " not in line and ".cc" not in line:
            return line
        plain = _COLOUR.sub("", line)
        said = _LOGGER.match(plain)
        if said is not None:
            return self._of_driver(said[1], line)
        native = _NATIVE.match(plain)
        return line if native is None else self._of_process(native[1] or native[2], plain, line)

    def rest(self) -> str:
        """The last line: what was not shown; empty for nothing."""
        if not self._repeated:
            return ""
        total = sum(self._repeated.values())
        sources = ", ".join(self._repeated)
        self._repeated = {}
        return f"… {total:,} more such lines of Ray's own ({sources}) are in the run's log"

    def _of_driver(self, said: str, line: str) -> str | None:
        joining, uploading = _JOINING.match(said), _UPLOADING.match(said)
        if joining is not None:
            self._joining = True
            return f"Ray: joining the cluster at {joining[1]}"
        if uploading is not None:
            return f"Ray: sending {uploading[1]} of files to the cluster"
        if said.startswith("Connected") and not self._joining:
            return line
        return None if _SILENT.match(said) else line

    def _of_process(self, source: str, plain: str, line: str) -> str | None:
        pattern = _VARYING.sub("", plain)
        if pattern in self._known:
            self._repeated[source] = self._repeated.get(source, 0) + 1
            return None
        if len(self._known) < _MAX_KNOWN:
            self._known.add(pattern)
        return line
