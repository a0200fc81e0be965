from __future__ import annotations

import pytest

from skyrl_magic.core.errors import OptionError
from skyrl_magic.service.command import check_command, names_interpreter, script_of


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%%time\nls\n", "%%time in the cell is IPython's, .* put %%time above the line %%skyrl_modal"),
        ("\n# a comment\n  %%timeit -n1\nls\n", "put %%timeit above"),
        ("%%capture out\nls", "put %%capture above"),
        ("%%bash\nls", "leave it out, the cell is bash's already"),
        ("%%skyrl_python\n1", "%%skyrl_python is the one for Python"),
        ("%%writefile x\n1", "give it a cell of its own"),
        ("%cd notebooks\nls", "%cd in the cell is IPython's"),
        ("!nvidia-smi -L", "!nvidia-smi in the cell: leave the exclamation mark out"),
    ],
)
def test_a_magic_in_a_shell_cell_is_an_error_that_says_how(cell: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        check_command(cell)
    check_command(cell, shell=False)


@pytest.mark.parametrize(
    "cell", ["ls\n%%time", "echo %%time", "%1", "fg %%", "#%%time\nls", "kill %%", "! grep x y", "!(a|b)"]
)
def test_other_percent_signs_are_bashs(cell: str) -> None:
    check_command(cell)


def test_a_cell_for_another_interpreter_has_its_own_quotes() -> None:
    cell = "\n#!/usr/bin/env python3\nprint('it')  # it's\n"
    check_command(cell)
    assert names_interpreter(cell)
    assert script_of(cell) == "#!/usr/bin/env python3\nprint('it')  # it's\n"
    assert script_of("\n\nls # !") == "\n\nls # !"


@pytest.mark.parametrize(
    "cell", [" \n" * 500_000 + "ls", "# x\n" * 300_000 + "ls", " " * 1_000_000 + "ls", "\n" * 2_000_000]
)
def test_a_long_beginning_takes_no_time(cell: str) -> None:
    """What is quadratic in this takes minutes, and the suite's own timeout ends that."""
    assert not names_interpreter(cell)
    if cell.strip():
        check_command(cell)
