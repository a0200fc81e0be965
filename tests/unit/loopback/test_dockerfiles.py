from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.loopback.dockerfiles import NotBuildableError, apply_commands
from skyrl_magic.loopback.objects import Image


def image(*commands: str, bases: dict[str, Image] | None = None, args: dict[str, str] | None = None) -> Image:
    made = Image("im-x")
    apply_commands(made, commands, bases or {}, args or {})
    return made


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), st.text()))
def test_env_as_modals_client_quotes_it_comes_back(env: dict[str, str]) -> None:
    # Docker's files have no carriage return or NUL in a value either.
    env = {name: value.replace("\r", "").replace("\0", "") for name, value in env.items()}
    lines = [f"ENV {name}={shlex.quote(value)}" for name, value in env.items()]
    assert image("FROM base", *lines).env == env


@pytest.mark.parametrize(
    ("line", "env"),
    [
        ("ENV A=1 B=2", {"A": "1", "B": "2"}),
        ("ENV A one word after the other", {"A": "one word after the other"}),
        ('ENV A="x y" B=x\\ y', {"A": "x y", "B": "x y"}),
        ("ENV A=1 B=$A", {"A": "1", "B": ""}),
        ("ENV P=/x:$PATH", {"P": "/x:"}),
        ('ENV A="\\$HOME"', {"A": "$HOME"}),
        ("ENV A=a=b", {"A": "a=b"}),
        ("env A=", {"A": ""}),
    ],
)
def test_env_forms(line: str, env: dict[str, str]) -> None:
    assert image(line).env == env


def test_variables_of_earlier_lines_are_replaced() -> None:
    made = image("ENV A=1", "ENV B=${A}2 C='$A'", "WORKDIR /w/$B")
    assert made.env == {"A": "1", "B": "12", "C": "$A"}
    assert made.workdir == "/w/12"


def test_build_arguments() -> None:
    made = image("ARG V=default", "ARG W=other", "ENV A=$V B=$W", args={"V": "given"})
    assert made.env == {"A": "given", "B": "other"}


def test_from_a_base_takes_what_it_has() -> None:
    base = image("FROM some/registry:tag", "ENV A=1", "WORKDIR /x", 'CMD ["a", "b"]', "ENTRYPOINT run it")
    made = image("FROM base", "ENV B=2", "WORKDIR y", bases={"base": base})
    assert made.tag == "some/registry:tag"
    assert made.env == {"A": "1", "B": "2"}
    assert base.env == {"A": "1"}
    assert made.workdir == "/x/y"
    assert made.command == ["a", "b"]
    assert made.entrypoint == ["/bin/sh", "-c", "run it"]


def test_comments_continuations_and_harmless_lines() -> None:
    made = image(
        "# it's a comment", "", "FROM x \\", "  AS stage", "LABEL a=b", "EXPOSE 80", "USER root", "ENV A=1 \\\n  B=2"
    )
    assert made.tag == "x"
    assert made.env == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    "line",
    [
        "RUN echo hi",
        "COPY a b",
        "ADD a b",
        "USER someone",
        "ONBUILD RUN x",
        "HEALTHCHECK CMD x",
        "NONSENSE",
        "VOLUME /x",
    ],
)
def test_what_needs_a_build_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(NotBuildableError, match=line):
        image("FROM x", line)


@pytest.mark.parametrize("line", ["ENV A='open", 'CMD ["open"', 'WORKDIR "open'])
def test_broken_lines_are_refused(line: str) -> None:
    with pytest.raises(NotBuildableError, match="not a Dockerfile line"):
        image(line)


def test_a_broken_base_breaks_what_is_made_from_it() -> None:
    base = Image("im-base", error="cannot do: RUN x")
    with pytest.raises(NotBuildableError, match="cannot do: RUN x"):
        image("FROM base", bases={"base": base})
