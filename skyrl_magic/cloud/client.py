"""Modal clients: the account's, and one for the local server. Neither changes the process environment."""

from __future__ import annotations

import contextlib

import modal
import modal.config
from modal_proto import api_pb2

from skyrl_magic.cloud.errors import mapped
from skyrl_magic.cloud.listeners import guard_connections
from skyrl_magic.cloud.throttling import bound_waiting
from skyrl_magic.core.errors import AuthError

NO_ACCOUNT = "there is no Modal token: `modal setup` makes one, --backend local needs none"


def has_account() -> bool:
    """Whether a Modal account is set up, in the environment or in a profile."""
    config = modal.config.config
    return bool((config.get("token_id") and config.get("token_secret")) or config.get("oauth_refresh_token"))


def account_server() -> str:
    """The address of the account's server."""
    return str(modal.config.config["server_url"])


def account_token() -> str:
    """The id of the account's token, which is no secret; empty without one, as with an account that logs in."""
    return str(modal.config.config.get("token_id") or "")


def account_client() -> modal.Client:
    """The client of the user's account. Raises AuthError without a token."""
    if not has_account():
        raise AuthError(NO_ACCOUNT)
    bound_waiting()
    with mapped("Modal"):
        return modal.Client.from_env()


def server_client(url: str, token_id: str, token_secret: str) -> modal.Client:
    """A client for any server that speaks Modal's protocol, at ``url``; ``close()`` ends it."""
    bound_waiting()
    guard_connections()
    with mapped(f"the server at {url}"):
        client: modal.Client = modal.Client(url, api_pb2.CLIENT_TYPE_CLIENT, (token_id, token_secret))
        contextlib.ExitStack().enter_context(client)
        return client
