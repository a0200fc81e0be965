"""Environment variables of sandboxes and their commands, out of secrets."""

from __future__ import annotations

from collections.abc import Iterable

from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.state import ServerState, UnknownObjectError


def secret_env(
    state: ServerState, secret_ids: Iterable[str], sources: Iterable[api_pb2.SecretSource]
) -> dict[str, str]:
    """The variables of these secrets, by id and inline; a later one wins.

    Raises:
        GRPCError: NOT_FOUND, there is no such secret.
    """
    env: dict[str, str] = {}
    try:
        for secret_id in secret_ids:
            env |= state.secrets.get(secret_id)
        for source in sources:
            env |= state.secrets.get(source.secret_id) if source.secret_id else dict(source.env.contents)
    except UnknownObjectError as error:
        raise GRPCError(Status.NOT_FOUND, str(error)) from None
    return env
