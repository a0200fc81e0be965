"""Where a cell in a session leaves something else than in a local kernel, on purpose.

``docs/python_cells.md`` has these sentences too, and a test compares the two.
"""

from __future__ import annotations

DIFFERENCES = {
    "redrawn": (
        "A line that is redrawn with `\\r` or `\\b` (a progress bar) is one display that is updated in place, or its "
        "last state where it was redrawn at once: nothing of the redrawing stays in a saved notebook."
    ),
    "terminal": (
        "Text is shown as a terminal leaves it, as that of shell cells is: `\\r\\n` is a line's end, and control "
        "characters and sequences other than colours are left out, because what comes from a container is not trusted."
    ),
    "colours": "Colours are written anew: a sequence that ends one may be another one of the same look.",
    "surrogates": (
        "A character that cannot be encoded (half a surrogate pair) is shown as `\\ud800`; a local ipykernel loses the "
        "text around it and prints an error of its own."
    ),
    "bytes": (
        "`sys.stdout.buffer` is there, as in a script: bytes are decoded as UTF-8, what cannot be is shown as `�`. A "
        "local ipykernel has none and raises."
    ),
    "replaced": (
        "What is printed in a cell belongs to that cell also where an earlier one has put something else in the place "
        "of `sys.stdout`; in a local ipykernel it may appear under that earlier cell."
    ),
    "frames": "A traceback that passes through `print` itself has one frame more: the session's stdout is ours.",
    "descriptor": (
        "`sys.stdout.fileno()` is descriptor 1, and what is written there is shown: also what a process writes that "
        "was given `stdout=sys.stdout`. A local ipykernel sends that to the terminal of the Jupyter server."
    ),
    "fork": (
        "Text that waits to be sent when a cell forks is shown once; the child of a local ipykernel may send it again."
    ),
}
