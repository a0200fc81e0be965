from __future__ import annotations

import getpass

import modal
import pytest
from modal_proto import api_pb2

from skyrl_magic.cloud import identity
from skyrl_magic.cloud.identity import account_key, account_user
from skyrl_magic.core.errors import BackendError

USER = api_pb2.TokenInfoGetResponse(user_identity=api_pb2.UserIdentity(user_id="us-1", username="ann"))
SERVICE = api_pb2.ServiceUserIdentity(service_user_id="su-1", service_user_name="ci")


def test_the_local_server_says_who_asks(modal_client: modal.Client) -> None:
    said = account_user(modal_client)
    assert said is not None
    assert said.startswith(f"{getpass.getuser()} (us-")
    assert account_user(modal_client) == said


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (USER, "ann (us-1)"),
        (api_pb2.TokenInfoGetResponse(user_identity=api_pb2.UserIdentity(user_id="us-1")), "us-1"),
        (api_pb2.TokenInfoGetResponse(service_user_identity=SERVICE), "ci (su-1)"),
        (api_pb2.TokenInfoGetResponse(workspace_name="team"), None),
    ],
)
def test_a_user_or_a_service_user(
    monkeypatch: pytest.MonkeyPatch, modal_client: modal.Client, info: api_pb2.TokenInfoGetResponse, text: str | None
) -> None:
    monkeypatch.setattr(identity, "_ask", lambda _: info)
    assert account_user(modal_client) == text


@pytest.mark.parametrize("error", [modal.exception.PermissionDeniedError, modal.exception.UnimplementedError])
def test_an_account_that_does_not_say(
    monkeypatch: pytest.MonkeyPatch, modal_client: modal.Client, error: type[Exception]
) -> None:
    def refuse(_: object) -> None:
        raise error("no")

    monkeypatch.setattr(identity, "_ask", refuse)
    assert account_user(modal_client) is None


def test_an_account_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, modal_client: modal.Client) -> None:
    def refuse(_: object) -> None:
        raise modal.exception.ConnectionError("no route")

    monkeypatch.setattr(identity, "_ask", refuse)
    with pytest.raises(BackendError, match="the account's user: no route"):
        account_user(modal_client)


def test_an_account_has_a_key_that_tells_nothing() -> None:
    key = account_key("https://api.modal.com", "ak-1")
    assert key == account_key("https://api.modal.com", "ak-1") != account_key("https://api.modal.com", "ak-2")
    assert "ak-1" not in key
    assert account_key("https://api.modal.com", "") == ""
