"""Whom an account says that asks: the user, or the service user, of the token."""

from __future__ import annotations

import hashlib
from typing import Any

import modal
from modal._utils.async_utils import synchronizer
from modal_proto import api_pb2

from skyrl_magic.cloud.errors import mapped


def account_key(server_url: str, token_id: str) -> str:
    """Stands for an account; what it says of its user need not be asked twice. Empty without a token."""
    return hashlib.sha256(f"{server_url}\n{token_id}".encode()).hexdigest()[:16] if token_id else ""


async def _token_info(client: Any) -> api_pb2.TokenInfoGetResponse:
    # As `modal token info` asks; modal has no public function for it.
    info: api_pb2.TokenInfoGetResponse = await client._stub.TokenInfoGet(api_pb2.TokenInfoGetRequest())  # noqa: SLF001
    return info


_ask = synchronizer.create_blocking(_token_info, "token_info", __name__)


def account_user(client: modal.Client) -> str | None:
    """``NAME (ID)`` of the account's user; None where the account does not say it.

    Raises:
        BackendError: it does not answer.
    """
    with mapped("the account's user"):
        try:
            info = _ask(client)
        except (modal.exception.PermissionDeniedError, modal.exception.UnimplementedError):
            return None
    if info.HasField("user_identity"):
        user = info.user_identity
        return _text(user.username, user.user_id)
    if info.HasField("service_user_identity"):
        service = info.service_user_identity
        return _text(service.service_user_name, service.service_user_id)
    return None


def _text(name: str, user_id: str) -> str | None:
    return f"{name} ({user_id})" if name and user_id else user_id or name or None
