"""``%config`` with a wrong value ends its cell, in a shell with the extension."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell

from skyrl_magic import extension
from skyrl_magic.core.errors import OptionError


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell with the extension, and a profile of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", folder)
        found = InteractiveShell()
        extension.load(found)
        yield found
        extension.unload(found)
        assert found.history_manager is not None
        found.history_manager.end_session()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("gpu = 'RTX4090'", "there is no GPU 'RTX4090'"),
        ("gpuu = 1", "SkyRLMagic has no setting gpuu; did you mean gpu?"),
        ("zebra = 1", "SkyRLMagic has no setting zebra; %config SkyRLMagic lists them"),
        ("gpuu", "did you mean gpu?"),
        ("gpu = L4", "the value is Python, and a text has quotes: 'L4'"),
        ("timeout = 4h", "a text has quotes: '4h'"),
        ("timeout = '25h'", "--timeout 25h"),
        ("gpu == 'L4'", "one = sets gpu"),
        ("on_interrupt = 'stopp'", "on_interrupt: it is one of stop, detach"),
        ("on_kernel_exit = None", "on_kernel_exit: it is one of leave, stop"),
        ("grace = 'a'", "grace: give a number from 0 up"),
        ("grace = -1", "grace: give a number from 0 up"),
        ("max_runs = 0", "max_runs: give a whole number from 1 up"),
        ("max_runs = 2.5", "max_runs: give a whole number from 1 up"),
        ("ray = 'yes'", "give true or false"),
        ("secret = ['a', 'b c']", "--secret b c"),
    ],
)
def test_a_wrong_setting_ends_its_cell(shell: InteractiveShell, setting: str, says: str) -> None:
    shell.run_cell("%config SkyRLMagic.gpu = 'T4'")
    result = shell.run_cell(f"%config SkyRLMagic.{setting}\nafter = 1")
    assert isinstance(result.error_in_exec, OptionError)
    assert says in str(result.error_in_exec)
    assert len(str(result.error_in_exec).splitlines()) == 1
    assert "after" not in shell.user_ns
    assert shell.run_cell("x = %config SkyRLMagic.gpu\nx").result == "T4"  # and nothing else was changed


def test_another_spelling_of_the_class_is_told_of(shell: InteractiveShell) -> None:
    result = shell.run_cell("%config skyrlmagic.gpu = 'L4'")
    assert "the name is SkyRLMagic" in str(result.error_in_exec)


def test_right_ones_and_other_classes_go_on(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("mine = '2h'\n%config SkyRLMagic.timeout = mine\n%config HistoryManager.db_cache_size = 2")
    assert shell.run_cell("x = %config SkyRLMagic.timeout\nx").result == "2h"
    assert shell.history_manager is not None
    assert shell.history_manager.db_cache_size == 2
    shell.run_cell("%config SkyRLMagic")
    assert "SkyRLMagic.gpu" in capsys.readouterr().out


def test_without_the_extension_it_is_ipythons_again(shell: InteractiveShell) -> None:
    magics = shell.magics_manager.magics["line"]
    ours = magics["config"]
    extension.unload(shell)
    original = magics["config"]
    assert original is not ours
    extension.load(shell)
    shell.run_cell("%config SkyRLMagic.gpu = 'T4'")
    extension.unload(shell)
    assert "ConfigMagic." not in repr(magics["config"])
