from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrl_magic.core.errors import OptionError
from skyrl_magic.service.command import MAX_COMMAND_BYTES, check_command, unix_lines


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "nothing to run"),
        (" \n\t\n", "nothing to run"),
        ("x" * (MAX_COMMAND_BYTES + 1), "has 34 MB, at most 34 MB are sent: put its data into a file"),
        ("true\necho a\0b", "line 2 of the command has a zero byte"),
        ("echo \ud800", r"character 6 of the command is no text: '\\ud800'"),
        ("echo 'abc", "the quote ' in line 1 of the command does not close"),
        ('true\necho "abc\nfoo', 'the quote " in line 2 of the command does not close'),
        ("echo `date", "the quote ` in line 1"),
        ("echo $(date 'x)", "the quote ' in line 1"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(command: str, says: str) -> None:
    with pytest.raises(OptionError, match=says.replace("(", r"\(")) as error:
        check_command(command)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "echo 'a' \"b\" `c`",
        "echo 1  # don't",
        "cat <<E\ndon't\nE",
        'echo "$(echo \'"\')"',
        r"echo it\'s",
        "echo done\nexit 0\nthis isn't read",
        "if true; then",  # whatever else is wrong bash says itself
        "echo caf\xe9 \udcff",
    ],
)
def test_what_bash_can_read_passes(command: str) -> None:
    check_command(command)


def test_without_a_bash_here_the_sessions_own_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    check_command("echo 'abc")


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.text(alphabet="ab '\"`\\\n#$()<", max_size=20))
def test_what_bash_would_run_to_its_end_is_never_refused(command: str) -> None:
    try:
        check_command(command)
    except OptionError as error:
        if "does not close" in str(error):
            ran = subprocess.run(["bash", "-n", "-c", command], check=False, capture_output=True, timeout=60)
            assert ran.returncode != 0


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("echo x > o.txt\r\necho y\r\n", "echo x > o.txt\necho y\n"),
        ("cat <<E\r\na\r\nE\r\n", "cat <<E\na\nE\n"),
        ("echo x\r", "echo x"),
        ("printf 'a\rb'\n", "printf 'a\rb'\n"),
    ],
)
def test_a_cells_lines_end_as_bash_reads_them(text: str, lines: str) -> None:
    assert unix_lines(text) == lines
