"""In processes of their own: modal reads its configuration when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_magic.cloud.client import server_client
from skyrl_magic.cloud.sandboxes import ModalBackend
from skyrl_magic.core.errors import AuthError
from skyrl_magic.loopback.daemon import ServerAddress

PROFILE = "[default]\ntoken_id = 'ak-x'\ntoken_secret = 'as-x'\nactive = true\n"
HAS = "from skyrl_magic.cloud.client import has_account; print(has_account())"
OPEN = (
    "from skyrl_magic.cloud.client import account_client\n"
    "from skyrl_magic.core.errors import AuthError\n"
    "try: account_client()\n"
    "except AuthError as error: print(error)\n"
)


def ask(home: Path, code: str, **env: str) -> str:
    """What ``code`` prints for a user with this home and environment."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**plain, "HOME": str(home), **env}, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_a_new_user_has_no_account(tmp_path: Path) -> None:
    assert ask(tmp_path, HAS) == "False"


def test_a_token_in_the_environment(tmp_path: Path) -> None:
    token = {"MODAL_TOKEN_ID": "ak-x", "MODAL_TOKEN_SECRET": "as-x"}
    assert ask(tmp_path, HAS, **token) == "True"
    del token["MODAL_TOKEN_SECRET"]
    assert ask(tmp_path, HAS, **token) == "False"


def test_a_profile(tmp_path: Path) -> None:
    (tmp_path / ".modal.toml").write_text(PROFILE)
    assert ask(tmp_path, HAS) == "True"


def test_without_a_token_there_is_no_client(tmp_path: Path) -> None:
    said = ask(tmp_path, OPEN)
    assert said == "there is no Modal token: `modal setup` makes one, --backend local needs none"


def test_a_client_of_a_server_and_a_refused_token(loopback_server: ServerAddress) -> None:
    client = server_client(loopback_server.url, loopback_server.token_id, loopback_server.token_secret)
    assert list(ModalBackend("local", client).list({"nobody": "has"})) == []
    client.close()
    stranger = server_client(loopback_server.url, loopback_server.token_id, "wrong")
    with pytest.raises(AuthError, match="modal setup"):
        ModalBackend("local", stranger).list({"nobody": "has"})
    stranger.close()
