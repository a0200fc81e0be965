from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.options import parse_line


def marked(field: str) -> str:
    return f"<{field}>"


@pytest.mark.parametrize(
    ("line", "value", "rest"),
    [
        ("--workdir {lr}", "<lr>", ""),
        ("--workdir={run.id} ls", "<run.id>", "ls"),
        ("--workdir a{x}b{y:.2f}c", "a<x>b<y:.2f>c", ""),
        ("--workdir {a + b} ls", "<a + b>", "ls"),
        ("--workdir {', '.join(names)}/x ls {y}", "<', '.join(names)>/x", "ls {y}"),
        ("--workdir \"{d['k']} x\" ls", "<d['k']> x", "ls"),
        ('--workdir "{d[\\"k\\"]}" ls', '<d["k"]>', "ls"),
        ('--workdir {d["k"]} ls', '<d["k"]>', "ls"),
        ("--workdir '{x}' ls", "<x>", "ls"),
        ("--workdir {x!r:>5}", "<x!r:>5>", ""),
        ("--workdir {x[1:2]}", "<x[1:2]>", ""),
        ('--workdir {"a":1} ls', '{"a":1}', "ls"),
        ('--workdir {"a": {"b": true}} ls', '{"a": {"b": true}}', "ls"),
        ("--workdir '{\"a\": 1}' ls", '{"a": 1}', "ls"),
        ('--workdir "{\\"a\\": 1}" ls', '{"a": 1}', "ls"),
        ("--workdir '{{\"lr\": {lr}}}' ls", '{"lr": <lr>}', "ls"),
        ("--workdir {{x}} ls", "{x}", "ls"),
        ("--workdir a}}b ls", "a}}b", "ls"),
        ("--workdir {} ls", "{}", "ls"),
        ("--workdir x{3} ls", "x{3}", "ls"),
        ("--workdir {1,2} ls", "{1,2}", "ls"),
        ("--workdir {a ls", "{a", "ls"),
        ("--workdir $x/${y}", "$x/$<y>", ""),
        ("--workdir \ue000{x}", "\ue000<x>", ""),
        ("--workdir a {x}", "a", "{x}"),
        ("--workdir a awk '{print $1}' {lr", "a", "awk '{print $1}' {lr"),
    ],
)
def test_braces_in_a_value(line: str, value: str, rest: str) -> None:
    parsed = parse_line(line, evaluate=marked)
    assert (parsed.given.workdir, parsed.rest) == (value, rest)


def test_what_an_expression_gives_is_one_value() -> None:
    parsed = parse_line("--env A={x} --env B={y} ls", evaluate={"x": "1 --bg 'q", "y": "{x}"}.__getitem__)
    assert parsed.given.env == (("A", "1 --bg 'q"), ("B", "{x}"))
    assert parsed.given.bg is None


def test_an_error_names_the_option() -> None:
    def refuse(field: str) -> str:
        raise OptionError(f"{{{field}}}: there is no {field}")

    with pytest.raises(OptionError, match=r"^--env \{x\}: there is no x$"):
        parse_line("--env A={x}", evaluate=refuse)
    with pytest.raises(OptionError, match=r"^--env: a quote"):
        parse_line("--env 'A={x}", evaluate=marked)


@given(st.text(alphabet="{}a1\"' \\:$.", max_size=12))
def test_any_braces_give_a_value_or_an_option_error(text: str) -> None:
    try:
        parse_line(f"--workdir x{text}", evaluate=marked)
    except OptionError:
        return


@given(st.text(alphabet="a1\"' \\:$.-", max_size=12))
def test_without_braces_nothing_is_different(text: str) -> None:
    def read(**how: object) -> object:
        try:
            return parse_line(f"--workdir x{text}", **how)  # type: ignore[arg-type]
        except OptionError as error:
            return str(error)

    assert read(evaluate=marked) == read()
