"""Errors of writing to a process's stdin, in Modal's terms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from grpclib import GRPCError, Status

from skyrl_magic.loopback.runtime.input import StdinClosedError, StdinGapError


@contextlib.contextmanager
def stdin_errors() -> Iterator[None]:
    """Turn them into the errors that the client knows.

    Raises:
        GRPCError: OUT_OF_RANGE or FAILED_PRECONDITION.
    """
    try:
        yield
    except StdinGapError as error:
        raise GRPCError(Status.OUT_OF_RANGE, str(error)) from None
    except StdinClosedError as error:
        raise GRPCError(Status.FAILED_PRECONDITION, str(error)) from None
