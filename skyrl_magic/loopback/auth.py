"""Who may call: the token pair on every control call, a signed short-lived token on every router call and blob URL."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from grpclib import GRPCError, Status

#: Lifetime of the tokens that the server hands out, in seconds. The client fetches new ones by itself.
TOKEN_LIFETIME_S = 3600.0


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _payload(token: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(_decode(token.split(".")[1]))
    return payload


@dataclasses.dataclass(frozen=True)
class Grant:
    """What the token of a router call opens."""

    task_id: str
    expires_at: float
    """Unix time in seconds."""


class Auth:
    """Checks and issues tokens. Issued ones are JWTs (HS256) signed with the token secret."""

    def __init__(self, token_id: str, token_secret: str) -> None:
        self.token_id = token_id
        self.token_secret = token_secret
        self._key = hashlib.sha256(b"skyrl_magic.loopback\0" + token_secret.encode()).digest()

    @property
    def user_id(self) -> str:
        """Of the one user of this server: as lasting as its token, and the same under any hostname."""
        return f"us-{hashlib.sha256(self.token_id.encode()).hexdigest()[:22]}"

    def check_client(self, metadata: Mapping[str, object]) -> None:
        """Accept a control call.

        Raises:
            GRPCError: UNAUTHENTICATED, the token pair is missing or wrong.
        """
        given = f"{metadata.get('x-modal-token-id')}:{metadata.get('x-modal-token-secret')}"
        if not hmac.compare_digest(given.encode(), f"{self.token_id}:{self.token_secret}".encode()):
            raise GRPCError(Status.UNAUTHENTICATED, "the token is missing or not the one of this loopback server")

    def issue(self, subject: str, lifetime_s: float = TOKEN_LIFETIME_S) -> str:
        """A JWT for ``subject`` (a task id, ``client``, or a blob operation)."""
        header = _encode(b'{"alg":"HS256","typ":"JWT"}')
        payload = _encode(json.dumps({"sub": subject, "exp": int(time.time() + lifetime_s)}).encode())
        return f"{header}.{payload}.{self._sign(f'{header}.{payload}')}"

    def subject(self, token: str) -> str | None:
        """Whom a token of :meth:`issue` is for, or None if it is forged or has expired."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(signed).encode()):
            return None
        payload = _payload(token)
        return str(payload["sub"]) if payload["exp"] > time.time() else None

    def router_grant(self, metadata: Mapping[str, object]) -> Grant:
        """What a router call may act on, and until when.

        Raises:
            GRPCError: UNAUTHENTICATED, the bearer token is missing, forged or has expired.
        """
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        subject = self.subject(token) if scheme == "Bearer" else None
        if subject is None or not subject.startswith("ta-"):
            raise GRPCError(Status.UNAUTHENTICATED, "the router token is missing, wrong or has expired")
        return Grant(subject, float(_payload(token)["exp"]))

    def _sign(self, text: str) -> str:
        return _encode(hmac.new(self._key, text.encode(), hashlib.sha256).digest())
