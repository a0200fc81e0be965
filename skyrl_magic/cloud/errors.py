"""The one place where modal's errors become ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from contextlib import contextmanager

import grpclib.exceptions
import modal.exception

from skyrl_magic.core import errors

#: Modal's exception, ours, and what to do next. The first match counts.
_MAPPING: tuple[tuple[type[BaseException], type[errors.SkyRLMagicError], str], ...] = (
    (modal.exception.AuthError, errors.AuthError, "`modal setup` makes a token, --backend local needs none"),
    (modal.exception.PermissionDeniedError, errors.AuthError, "ask the workspace's owner, or use another --app"),
    (modal.exception.AlreadyExistsError, errors.AlreadyExists, "choose another name"),
    (modal.exception.NotFoundError, errors.NotFound, "check the name"),
    (modal.exception.SandboxTerminatedError, errors.SessionLost, "run the cell again to start a new session"),
    (modal.exception.SandboxTimeoutError, errors.SessionLost, "a longer --timeout gives it more time"),
    (modal.exception.TimeoutError, errors.BackendUnavailable, "it does not answer: run the cell again in a moment"),
    (modal.exception.VersionError, errors.BackendError, "`pip install -U modal`"),
    (modal.exception.ConnectionError, errors.BackendUnavailable, "check the network, then run the cell again"),
    (modal.exception.ServiceError, errors.BackendUnavailable, "run the cell again in a moment"),
    (modal.exception.Error, errors.BackendError, "%%skyrl_modal --dry-run shows what was asked for"),
    (grpclib.exceptions.StreamTerminatedError, errors.BackendUnavailable, "run the cell again"),
    (grpclib.exceptions.GRPCError, errors.BackendError, "run the cell again in a moment"),
    (asyncio.TimeoutError, errors.BackendUnavailable, "it does not answer: run the cell again in a moment"),
    (asyncio.CancelledError, errors.BackendUnavailable, "the client was closed"),
    (concurrent.futures.CancelledError, errors.BackendUnavailable, "the client was closed"),
    (ConnectionError, errors.BackendUnavailable, "check the network, then run the cell again"),
    (OSError, errors.BackendError, "run the cell again"),
)


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """Turn modal's errors in the block into ours; ``what`` says in a few words what was being done."""
    try:
        yield
    except errors.SkyRLMagicError:
        raise
    except BaseException as error:
        for theirs, ours, advice in _MAPPING:
            if isinstance(error, theirs):
                text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
                raise ours(f"{what}: {text}; {advice}") from error
        raise
