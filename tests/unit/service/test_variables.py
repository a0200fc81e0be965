"""Variables between this process and a real kernel of a session on ordinary processes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrl_magic.core.errors import SessionError, VariableError
from skyrl_magic.core.variables import DEFAULT_MAX_BYTES, Buffer
from skyrl_magic.service import variables
from skyrl_magic.service.session import Session
from tests.unit.service.conftest import World, sandbox_of


@pytest.fixture
def session(world: World, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session whose kernel runs in this interpreter."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return world.start()


def push(session: Session, *, as_pickle: bool = False, **values: Any) -> None:
    variables.push(session, variables.pack_variables(values, [*values], DEFAULT_MAX_BYTES, as_pickle=as_pickle))


def pull(session: Session, *names: str, max_bytes: int = DEFAULT_MAX_BYTES, as_pickle: bool = False) -> dict[str, Any]:
    return variables.pull(session, names, max_bytes, as_pickle=as_pickle, warn=lambda _: None)


def blobs(session: Session) -> list[Path]:
    return list((sandbox_of(session).folder / "state" / "blobs").iterdir())


class Cut(Sequence[Buffer]):
    """Pieces in whose midst the channel breaks, once."""

    def __init__(self, pieces: Sequence[Buffer], session: Session) -> None:
        self._pieces, self._session = pieces, session
        self.cuts = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: Any) -> Any:
        return self._pieces[index]

    def __iter__(self) -> Iterator[Buffer]:
        for index, piece in enumerate(self._pieces):
            yield piece
            if index == len(self._pieces) // 2 and not self.cuts:
                self.cuts += 1
                sandbox_of(self._session).streams[-1].process.kill()


def test_a_broken_channel_is_not_noticed_and_leaves_nothing(session: Session) -> None:
    arrays = {f"a{index}": np.full(300_000, index) for index in range(6)}
    packed = variables.pack_variables(arrays, [*arrays], DEFAULT_MAX_BYTES, as_pickle=False)
    cut = Cut(packed.pieces, session)
    variables.push(session, replace(packed, pieces=cut))
    assert cut.cuts == 1
    found = pull(session, *arrays)
    assert all((found[name] == array).all() for name, array in arrays.items())
    session.ask_status()  # behind the last DropBlob
    assert blobs(session) == []


def test_what_the_kernel_refuses_is_one_line_and_sets_nothing(session: Session) -> None:
    push(session, a="before")
    with pytest.raises(VariableError, match="there is no variable b in the session's kernel"):
        pull(session, "a", "b")
    with pytest.raises(VariableError, match="a has 7 bytes, over the 3 bytes of --max-bytes"):
        pull(session, "a", max_bytes=3)
    with pytest.raises(VariableError, match="the pickle of bad cannot be loaded: ZeroDivisionError"):
        push(session, as_pickle=True, a="after", bad=Bad())
    assert pull(session, "a") == {"a": "before"}
    session.ask_status()
    assert blobs(session) == []


class Bad:
    """Its pickle raises when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1 / 0",)


def test_a_kernel_of_another_making_is_kept(session: Session) -> None:
    push(session, a=1)
    packed = variables.pack_variables({"a": 2}, ["a"], DEFAULT_MAX_BYTES, as_pickle=False)
    with pytest.raises(SessionError, match="the Python kernel runs in the cluster's Python"):
        variables.push(session, packed, uv="--extra fsdp")
    assert pull(session, "a") == {"a": 1}


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"user_expressions": None},
        {"user_expressions": {"answer": {"status": "error", "ename": "NameError", "evalue": "x"}}},
        {"user_expressions": {"answer": {"status": "ok", "data": {"application/json": "text"}}}},
        {"user_expressions": {"answer": {"status": "ok", "data": {}}}},
        {"status": "error", "ename": "KeyboardInterrupt", "evalue": ""},
    ],
)
def test_an_answer_that_is_none_is_an_error(reply: dict[str, Any]) -> None:
    assert "\n" not in variables._expression(reply)["error"]


def test_a_session_cannot_send_more_than_was_asked_for() -> None:
    file = io.BytesIO()
    write = variables._bounded(file, 10)
    write(b"12345")
    write(b"67890")
    with pytest.raises(VariableError, match="sends more than it may"):
        write(b"x")
    assert file.getvalue() == b"1234567890"
