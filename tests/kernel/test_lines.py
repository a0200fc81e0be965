"""Lines and cells as a notebook sends them: interpreters, stdin, braces, values, magics around ours."""

from __future__ import annotations

from tests.kernel.conftest import Kernel


def test_a_cell_of_another_interpreter_with_a_magic_around_it(kernel: Kernel) -> None:
    cell = kernel.run("%%time\n%%skyrl_modal\n#!/usr/bin/env python3\nimport os\nprint('it\\'s', os.getcwd())")
    assert cell.status == "ok", cell.error
    assert cell.out.startswith("it's /root/SkyRL\n")
    assert "Wall time" in cell.out
    cell = kernel.run("%%skyrl_modal\n%%time\nls")
    assert "put %%time above the line %%skyrl_modal" in cell.error[0]
    cell = kernel.run("%%skyrl_modal\n#!/no/such\nls")
    assert cell.err.startswith("skyrl_magic: there is no /no/such in the container")
    assert "exit code 127" in cell.error[0]


def test_stdin_is_the_variables_text_however_long(kernel: Kernel) -> None:
    kernel.run("lines = ['b', 'a']\nlong = 'x' * 20_000_000")
    assert kernel.run("x = %skyrl_modal --stdin lines sort\nx").result == "['a', 'b']"
    assert kernel.run("x = %skyrl_modal --stdin long wc -c\nx.n").result == "'20000000'"
    assert kernel.run("%skyrl_modal cat; echo over").out == "over\n"


def test_a_functions_variables_are_those_of_its_line(kernel: Kernel) -> None:
    kernel.run(
        "def train(lr, steps):\n"
        "    text = %skyrl_modal --env LR={lr:.0e} --env 'J={{\"steps\": {2 * steps}}}' -i steps echo $LR $J $steps\n"
        "    return text.s\n"
    )
    assert kernel.run("[train(lr, 3) for lr in (1e-3, 0.02)]").result == (
        "['1e-03 {\"steps\": 6} 3', '2e-02 {\"steps\": 6} 3']"
    )
