"""Variables on their way to the session's Python kernel and back: a file in the session, which the kernel loads."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import VariableError, reason_of
from skyrl_magic.core.values import MAX_TIMEOUT_S
from skyrl_magic.core.variables import Packed, VariableProblem, find, pack, unpack
from skyrl_magic.service.blobs import blob, put
from skyrl_magic.service.connection import Refused
from skyrl_magic.service.kernel import ensure_kernel
from skyrl_magic.service.session import Session

#: A kernel that is busy answers when its cell is over, and the user can stop the wait. In seconds.
_ANSWER_TIMEOUT_S = float(MAX_TIMEOUT_S)
#: What a file of variables has beside them, for each of them and in all, in bytes: names, padding, the head.
_OVERHEAD_BYTES = 1024 * 1024
_HELPER = "__import__('_skyrl_kernel')"

T = TypeVar("T")


def pack_variables(
    namespace: Mapping[str, Any], names: Sequence[str], max_bytes: int, *, as_pickle: bool, where: str = "here"
) -> Packed:
    """The variables of these names, ready to be pushed.

    Raises:
        VariableError: one is missing, cannot be sent, or has more than ``max_bytes``.
    """
    with _named():
        return pack(find(namespace, names, where), max_bytes, as_pickle=as_pickle)


def push(session: Session, packed: Packed, uv: str = "") -> None:
    """Set variables in the session's kernel, all or none; one is started where there is none.

    Raises:
        VariableError: one cannot be loaded there. SessionError: the session is gone, or its kernel.
    """

    def send() -> None:
        with blob(session.channel) as name:
            put(session.channel, name, packed.pieces)
            _ask(session, f"receive({name!r}, {list(packed.pickled)!r})")

    ensure_kernel(session, uv)
    session.channel.patiently(send)


def pull(
    session: Session, names: Sequence[str], max_bytes: int, *, as_pickle: bool, warn: Callable[[Sequence[str]], object]
) -> dict[str, Any]:
    """Variables of the session's kernel, all or none.

    Args:
        session: the session.
        names: the variables.
        max_bytes: bound on each of them.
        as_pickle: what has no open format may come as a pickle.
        warn: hears which ones do, before they are loaded.

    Raises:
        VariableError: one is missing, cannot be sent or loaded, or is too large; or there is no kernel.
        SessionError: the session is gone, or its kernel.
    """
    most_bytes = (max_bytes + _OVERHEAD_BYTES) * (len(names) + 1)

    def fetch(file: BinaryIO) -> list[str]:
        file.truncate(0)
        file.seek(0)
        with blob(session.channel) as name:
            session.channel.request(lambda number: protocol.PutBlob(number, name), protocol.Done)
            answer = _ask(session, f"send({name!r}, {list(names)!r}, {max_bytes}, {as_pickle})")
            session.channel.read_blob(name, _bounded(file, most_bytes))
        pickled = answer.get("pickled")
        return [name for name in names if isinstance(pickled, list) and name in pickled] if as_pickle else []

    try:
        with tempfile.TemporaryFile() as file:
            pickled = session.channel.patiently(lambda: fetch(file))
            if pickled:
                warn(pickled)
            file.flush()
            with _named():
                values = unpack(file, pickled)
    except OSError as error:
        raise VariableError(f"the variables find no place here: {reason_of(error)}") from None
    if set(values) != set(names):
        raise VariableError("the session sent other variables than it was asked for")
    return {name: values[name] for name in names}


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except VariableProblem as problem:
        raise VariableError(str(problem)) from None


def _ask(session: Session, call: str) -> Mapping[str, Any]:
    """What a function of the kernel's helper answers. Raises VariableError for its error."""
    content = {
        "code": "",
        "silent": True,
        "store_history": False,
        "user_expressions": {"answer": f"{_HELPER}.{call}"},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    try:
        reply = session.channel.request(
            lambda number: protocol.KernelRequest(number, "execute_request", content),
            protocol.KernelReply,
            _ANSWER_TIMEOUT_S,
        )
    except Refused as refused:
        if refused.code == "no_kernel":
            text = f"session {session.name} has no Python kernel, and so no variables: a %%skyrl_python cell starts one"
        else:
            text = f"the Python kernel of session {session.name} ended meanwhile ({refused}): its variables are gone"
        raise VariableError(text) from None
    answer = _expression(reply.content)
    if "error" in answer:
        raise VariableError(str(answer["error"]))
    return answer


def _expression(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The value of the one expression of a kernel's reply, which is untrusted."""
    try:
        shown = reply["user_expressions"]["answer"]
        if shown["status"] == "ok":
            answer = shown["data"]["application/json"]
            if isinstance(answer, dict):
                return answer
        return {"error": f"the kernel answered {shown.get('ename')}: {shown.get('evalue')}"}
    except (KeyError, TypeError, AttributeError):
        said = f"{reply.get('ename', 'nothing')}: {reply.get('evalue', '')}"
        return {"error": f"the kernel could not move the variables ({said})"}


def _bounded(file: BinaryIO, most_bytes: int) -> Callable[[bytes], None]:
    """A writer for what the session sends, which is untrusted."""
    left = most_bytes

    def write(data: bytes) -> None:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise VariableError("the session sends more than it may: nothing was assigned")
        file.write(data)

    return write
