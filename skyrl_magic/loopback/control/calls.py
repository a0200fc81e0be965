"""What the handlers of the control API share: the unary decorator, the base class, the answer of a missing method."""

from __future__ import annotations

import errno
import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from grpclib import GRPCError, Status
from grpclib.server import Stream

from skyrl_magic.loopback.control.missing import why_missing
from skyrl_magic.loopback.state import ServerState

Request = TypeVar("Request")
Response = TypeVar("Response")
C = TypeVar("C")
M = TypeVar("M", bound=Callable[..., Any])
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Calls:
    """Base of the handler classes. Each answers one kind of object; :mod:`server` joins them into one servicer."""

    def __init__(self, state: ServerState) -> None:
        self.state = state

    def environment(self, name: str) -> str:
        """The environment that a request names; the empty name is the default one.

        Raises:
            GRPCError: NOT_FOUND, there is no such environment.
        """
        environment = self.state.environments.find(name)
        if environment is None:
            raise not_found("Environment", name)
        return environment.name


def unary(
    method: Callable[[C, Request], Awaitable[Response]],
) -> Callable[[C, Stream[Request, Response]], Awaitable[None]]:
    """Turn ``async def Method(self, request) -> response`` into a grpclib handler."""

    @functools.wraps(method)
    async def handler(self: C, stream: Stream[Request, Response]) -> None:
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is empty")
        try:
            response = await method(self, request)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # Not INTERNAL: the client would try it again and again.
            message = f"the local server's disk is full ({error.strerror}): make room in its folder"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, message) from None
        await stream.send_message(response)

    return handler


def partly(missing: str) -> Callable[[M], M]:
    """Note at a method what of it the server does not do; the table of covered methods shows it."""

    def mark(method: M) -> M:
        method.partly = missing  # type: ignore[attr-defined]
        return method

    return mark


def not_found(what: str, name: str) -> GRPCError:
    """The error that Modal's client turns into ``NotFoundError``."""
    return GRPCError(Status.NOT_FOUND, f"{what} '{name}' not found")


def unimplemented(name: str) -> Callable[..., Awaitable[None]]:
    """A handler that says that the loopback server does not have this method, and why."""
    reason = why_missing(name)
    message = f"{name} is not implemented by skyrl_magic.loopback" + (f": {reason}" if reason else "")

    async def handler(self: Any, stream: Any) -> NoReturn:  # noqa: ARG001
        # The request is taken first, so that the refusal does not cross it on its way and reset the stream.
        await stream.recv_message()
        raise GRPCError(Status.UNIMPLEMENTED, message)

    handler.__name__ = name
    return handler
