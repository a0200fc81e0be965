"""The one place where modal's errors become ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from contextlib import contextmanager

import grpclib.exceptions
import modal.exception
from modal_proto import api_pb2

from skyrl_magic.cloud.listeners import StrangerError
from skyrl_magic.core import errors

#: Modal's exception, ours, and what to do next. The first match counts.
_MAPPING: tuple[tuple[type[BaseException], type[errors.SkyRLMagicError], str], ...] = (
    (StrangerError, errors.BackendError, "restart this notebook's kernel, sessions go on"),
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

#: Words of an error about money: a spend cap that was reached, a payment method that is missing.
_MONEY = ("spend", "budget", "billing", "payment")


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _exhausted(what: str, error: modal.exception.ResourceExhaustedError) -> errors.BackendError:
    """Ours for a limit that was met: of calls in a time, of money, or another one of the account."""
    text = _text(error)
    details = getattr(error, "_grpc_details", None) or ()
    if any(isinstance(detail, api_pb2.RPCRetryPolicy) for detail in details):
        advice = (
            "Modal throttled it for as long as it is waited for (MODAL_MAX_THROTTLE_WAIT): run it again in a moment"
        )
        return errors.BackendUnavailable(f"{what}: {text}; {advice}")
    # The status is that of every other limit, so the text has to tell it.
    if any(word in text.lower() for word in _MONEY):
        return errors.BackendError(
            f"{what}: {text}; nothing was started: raise the workspace's limit at modal.com/settings"
        )
    return errors.NoCapacity(f"{what}: {text}; it is a limit of the account or of Modal: ask for less, or wait")


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """Turn modal's errors in the block into ours; ``what`` says in a few words what was being done."""
    try:
        yield
    except errors.SkyRLMagicError:
        raise
    except modal.exception.ResourceExhaustedError as error:
        raise _exhausted(what, error) from error
    except BaseException as error:
        for theirs, ours, advice in _MAPPING:
            if isinstance(error, theirs):
                raise ours(f"{what}: {_text(error)}; {advice}") from error
        raise
