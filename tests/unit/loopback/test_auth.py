from __future__ import annotations

import base64
import json

import pytest
from grpclib import GRPCError, Status

from skyrl_magic.loopback.auth import Auth


@pytest.fixture
def auth() -> Auth:
    return Auth("ak-id", "as-secret")


def test_the_token_pair_opens(auth: Auth) -> None:
    auth.check_client({"x-modal-token-id": "ak-id", "x-modal-token-secret": "as-secret"})


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"x-modal-token-id": "ak-id"},
        {"x-modal-token-id": "ak-id", "x-modal-token-secret": "as-secre"},
        {"x-modal-token-id": "ak-id:as", "x-modal-token-secret": "secret"},
        {"x-modal-token-id": "", "x-modal-token-secret": ""},
    ],
)
def test_nothing_else_does(auth: Auth, metadata: dict[str, str]) -> None:
    with pytest.raises(GRPCError) as caught:
        auth.check_client(metadata)
    assert caught.value.status is Status.UNAUTHENTICATED
    assert "as-secret" not in str(caught.value)


def test_issued_tokens(auth: Auth) -> None:
    token = auth.issue("ta-1")
    assert auth.subject(token) == "ta-1"
    payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert payload["exp"] > 0
    assert auth.router_grant({"authorization": f"Bearer {token}"}).task_id == "ta-1"


def test_forged_and_old_tokens(auth: Auth) -> None:
    header, payload, signature = auth.issue("ta-1").split(".")
    other = base64.urlsafe_b64encode(b'{"sub":"ta-2","exp":9999999999}').rstrip(b"=").decode()
    flipped = signature[:-4] + ("AAAA" if signature[-4:] != "AAAA" else "BBBB")
    forged = [
        f"{header}.{other}.{signature}",
        f"{header}.{payload}.{flipped}",
        f"{header}.{payload}.",
        "",
        "..",
        "x",
        "é",
    ]
    assert [auth.subject(token) for token in forged] == [None] * len(forged)
    assert auth.subject(auth.issue("ta-1", lifetime_s=-1)) is None
    assert Auth("ak-id", "as-other").subject(auth.issue("ta-1")) is None


@pytest.mark.parametrize("subject", ["client", "put:abc", "get:abc:0:1"])
def test_other_tokens_do_not_open_the_router(auth: Auth, subject: str) -> None:
    for scheme in ("Bearer", "Basic"):
        with pytest.raises(GRPCError) as caught:
            auth.router_grant({"authorization": f"{scheme} {auth.issue(subject)}"})
        assert caught.value.status is Status.UNAUTHENTICATED
    with pytest.raises(GRPCError):
        auth.router_grant({})
