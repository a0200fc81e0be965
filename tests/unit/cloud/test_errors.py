from __future__ import annotations

import asyncio
import concurrent.futures

import grpclib
import grpclib.exceptions
import modal.exception
import pytest

from skyrl_magic.cloud.errors import mapped
from skyrl_magic.core import errors


def caught(error: BaseException) -> errors.SkyRLMagicError:
    """What a user meets in its place."""
    with pytest.raises(errors.SkyRLMagicError) as raised, mapped("doing something"):
        raise error
    assert raised.value.__cause__ is error
    return raised.value


@pytest.mark.parametrize(
    ("theirs", "ours", "advice"),
    [
        (modal.exception.AuthError("x"), errors.AuthError, "`modal setup`"),
        (modal.exception.PermissionDeniedError("x"), errors.AuthError, "--app"),
        (modal.exception.AlreadyExistsError("x"), errors.AlreadyExists, "another name"),
        (modal.exception.NotFoundError("x"), errors.NotFound, "check the name"),
        (modal.exception.SandboxTerminatedError("x"), errors.SessionLost, "run the cell again"),
        (modal.exception.SandboxTimeoutError("x"), errors.SessionLost, "--timeout"),
        (modal.exception.TimeoutError("x"), errors.BackendUnavailable, "does not answer"),
        (modal.exception.VersionError("x"), errors.BackendError, "pip install"),
        (modal.exception.ConnectionError("x"), errors.BackendUnavailable, "network"),
        (modal.exception.ResourceExhaustedError("workspace spend limit"), errors.BackendError, "modal.com/settings"),
        (modal.exception.ResourceExhaustedError("too many GPUs"), errors.NoCapacity, "a limit of the account"),
        (modal.exception.ServiceError("x"), errors.BackendUnavailable, "in a moment"),
        (modal.exception.InvalidError("x"), errors.BackendError, "--dry-run"),
        (modal.exception.Error("x"), errors.BackendError, "--dry-run"),
        (grpclib.exceptions.StreamTerminatedError("x"), errors.BackendUnavailable, "run the cell again"),
        (grpclib.GRPCError(grpclib.Status.INTERNAL, "x"), errors.BackendError, "in a moment"),
        (asyncio.TimeoutError(), errors.BackendUnavailable, "does not answer"),
        (TimeoutError(), errors.BackendUnavailable, "does not answer"),
        (asyncio.CancelledError(), errors.BackendUnavailable, "closed"),
        (concurrent.futures.CancelledError(), errors.BackendUnavailable, "closed"),
        (ConnectionResetError("x"), errors.BackendUnavailable, "network"),
        (OSError(28, "No space left on device"), errors.BackendError, "run the cell again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_becomes_one_of_ours_in_one_line(
    theirs: BaseException, ours: type[errors.SkyRLMagicError], advice: str
) -> None:
    error = caught(theirs)
    assert type(error) is ours
    assert str(error).startswith("doing something: ")
    assert advice in str(error).rpartition(";")[2]


def test_many_lines_become_one() -> None:
    error = caught(modal.exception.Error("first\n  second\n\nthird"))
    assert str(error).startswith("doing something: first second third; ")
    assert error._render_traceback_()[1:] == []


def test_its_full_stop_is_not_ours() -> None:
    assert str(caught(modal.exception.Error("Try again."))).startswith("doing something: Try again; ")


def test_an_error_without_words_has_its_name() -> None:
    assert "doing something: ServiceError; " in str(caught(modal.exception.ServiceError("")))


@pytest.mark.parametrize("error", [errors.NotFound("ours"), KeyboardInterrupt(), SystemExit(1), RuntimeError("a bug")])
def test_ours_and_what_is_no_error_of_the_backend_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, mapped("doing something"):
        raise error
    assert raised.value is error


def test_nothing_happens_without_an_error() -> None:
    with mapped("doing something"):
        value = 1
    assert value == 1
