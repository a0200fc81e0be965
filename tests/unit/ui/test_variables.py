"""What a cell takes along and leaves, before there is a session."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from skyrl_magic.core.errors import OptionError, VariableError
from skyrl_magic.core.options import TRAVEL_SCOPES, Given
from skyrl_magic.ui.variables import Variables, names_and_options, of_cell, of_pull, of_push

NAMESPACE = {"text": "a 'b'\n", "count": 3, "rate": np.float32(0.5), "many": [1], "yes": True, "gone": None}


@pytest.mark.parametrize(
    ("line", "names", "given"),
    [
        ("a", ("a",), Given()),
        ("a,b", ("a", "b"), Given()),
        ("a, b --pickle", ("a", "b"), Given(pickle=True)),
        ("--max-bytes 1k --session x a , b", ("a", "b"), Given(max_bytes=1024, session="x")),
        ("a --uv '--extra fsdp'", ("a",), Given(uv="--extra fsdp")),
        ("-h", (), Given(help=True)),
    ],
)
def test_names_stand_before_or_after_the_options(line: str, names: tuple[str, ...], given: Given) -> None:
    assert names_and_options("%skyrl_push", line, TRAVEL_SCOPES) == (names, given)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "%skyrl_push needs the names of variables, as in %skyrl_push a,b"),
        ("--pickle", "needs the names"),
        ("a b", "'a b' is not a variable name"),
        ("a,", "%skyrl_push a,: a comma stands between two names"),
        ("a --env X=1", "unknown option --env"),
        ("a -i b", "unknown option -i"),
    ],
)
def test_wrong_lines(line: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        names_and_options("%skyrl_push", line, TRAVEL_SCOPES)
    assert says in str(caught.value)


def test_a_python_cells_variables_are_made_ready() -> None:
    made = of_cell(Given(python=True, input=("count", "many"), output=("x",), max_bytes=99), NAMESPACE)
    assert (made.packed is not None, made.env, made.output, made.max_bytes) == (True, (), ("x",), 99)
    assert of_cell(Given(python=True), NAMESPACE) == Variables()
    assert of_cell(Given(), NAMESPACE) == Variables()
    assert of_push(Given(), ["count"], NAMESPACE).packed is not None
    assert of_pull(Given(pickle=True), ["x"]) == Variables(output=("x",), as_pickle=True)


def test_a_shell_cells_variables_are_its_environment() -> None:
    made = of_cell(Given(input=("text", "count", "rate")), NAMESPACE | {"part": Fraction(1, 3)})
    assert made == Variables(env=(("text", "a 'b'\n"), ("count", "3"), ("rate", "0.5")))


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (Given(output=("x",)), OptionError, "-o is for Python cells"),
        (Given(pickle=True), OptionError, "--pickle is for Python cells"),
        (Given(python=True, output=("x",), out="x"), OptionError, "both name x"),
        (Given(python=True, output=("x",), err="x"), OptionError, "both name x"),
        (Given(input=("text",), env=(("text", "1"),)), OptionError, "-i and --env both name text"),
        (Given(input=("many",)), VariableError, "many is of type list: a shell cell takes strings and numbers"),
        (Given(input=("yes",)), VariableError, "yes is of type bool"),
        (Given(input=("gone",)), VariableError, "gone is of type NoneType"),
        (Given(input=("zero",)), VariableError, "zero cannot be an environment variable"),
        (Given(input=("long",)), VariableError, "long cannot be an environment variable"),
        (Given(input=("texxt",)), VariableError, "there is no variable texxt here; did you mean text?"),
        (Given(python=True, input=("texxt",)), VariableError, "did you mean text?"),
        (Given(python=True, input=("code",)), VariableError, "code cannot be sent: code is of type"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(given: Given, error: type[Exception], says: str) -> None:
    namespace: dict[str, Any] = NAMESPACE | {"zero": "a\0b", "long": "x" * 200_000, "code": print}
    with pytest.raises(error) as caught:
        of_cell(given, namespace)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
