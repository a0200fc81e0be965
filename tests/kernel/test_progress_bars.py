"""Progress bars through a real kernel and a real container: they stay in place and end at their last state."""

from __future__ import annotations

import re

import pytest

from tests.kernel.conftest import Kernel
from tests.kernel.test_display_kernel import outputs_of

#: What a cell runs, and the outputs that it leaves.
BARS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "a wide bar in steps": (
        """
        import sys, time
        for i in range(1300):
            sys.stdout.write('\\r%05d ' % i + '#' * 990)
            sys.stdout.flush()
            time.sleep(.004)
        print()
        print('done')
        """,
        [("display", "01299 " + "#" * 990), ("stdout", "done\n")],
    ),
    "as fast as it goes": (
        """
        import sys
        sys.stdout.write('\\r0')
        for i in range(1_500_000):
            sys.stdout.write('\\r%d' % i)
        print('\\ndone')
        """,
        [("display", "1499999"), ("stdout", "done\n")],
    ),
    "lines on the other stream": (
        """
        import sys, time
        for i in range(14001):
            sys.stderr.write('\\r%05d/14000 ' % i + '#' * 80)
            if i % 1000 == 0:
                print('step', i, flush=True)
            if i % 20 == 0:
                time.sleep(.004)
        sys.stderr.write('\\n')
        """,
        [
            ("display", "14000/14000 " + "#" * 80),
            ("stdout", "".join(f"step {step}\n" for step in range(0, 14001, 1000))),
        ],
    ),
    "nested": (
        """
        import sys, time
        for outer in range(40):
            sys.stderr.write('\\router %d ' % outer + '#' * 80)
            for inner in range(200):
                sys.stderr.write('\\n\\rinner %3d ' % inner + '-' * 80 + '\\x1b[A')
                if inner % 20 == 0:
                    time.sleep(.004)
        sys.stderr.write('\\n\\nend\\n')
        """,
        [("display", "outer 39 " + "#" * 80 + "\ninner 199 " + "-" * 80), ("stderr", "end\n")],
    ),
}


@pytest.mark.parametrize("bar", BARS)
def test_a_bar_ends_in_place(kernel: Kernel, bar: str) -> None:
    script, expected = BARS[bar]
    kernel.run(f"import textwrap; script = textwrap.dedent({script!r})")
    kernel.run("import pathlib; pathlib.Path('bar.py').write_text(script)")
    cell = kernel.run("%skyrl_modal python3 bar.py")
    assert cell.status == "ok", cell.error
    about_the_session = re.compile("session |local backend|image |volume ")
    shown = [(kind, text) for kind, text in outputs_of(cell.messages) if not about_the_session.match(text)]
    assert sorted(shown) == sorted(expected)


def test_bash_that_redraws_long_ends_at_the_last_number(kernel: Kernel) -> None:
    cell = kernel.run(
        "%skyrl_modal i=0; while [ $i -lt 300000 ]; do printf '\\r%d' $i; i=$((i+1)); done; echo; echo done"
    )
    shown = [text for _, text in outputs_of(cell.messages)]
    assert shown[-2:] == ["299999", "done\n"]
    assert not [text for text in shown if "left out" in text]
    logs = kernel.run("%skyrl_logs")
    assert "\n".join(text for _, text in outputs_of(logs.messages)).split() == ["299999", "done"]
