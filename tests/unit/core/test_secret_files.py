from __future__ import annotations

import pytest

from skyrl_magic.core.secret_files import looks_secret, secret_files


@pytest.mark.parametrize(
    "path",
    [
        ".env", "notebooks/.env", ".env.local", "prod.env", ".envrc", "server.pem", "a/b/tls.KEY", "id_rsa",
        "id_ed25519", "id_work", ".netrc", ".pypirc", ".npmrc", "kubeconfig", "credentials.json", ".aws/credentials",
        "hf_token", "hf_token.txt", "wandb-api-key.txt", "secrets.yaml", "client_secret_123.json",
        "service-account.json", ".docker/config.json", "kaggle.json", "modal/.modal.toml", "password.txt",
        "run-hf_abcdefghijklmnopqrstu.log", "AWS_SECRET", "wallet.kdbx",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret(path: str) -> None:
    assert looks_secret(path)


@pytest.mark.parametrize(
    "path",
    [
        "env.py", "environment.yml", ".env.example", ".env.template", "cacert.pem", "public.pem", "id_rsa.pub",
        "id_mapping.json", "identity.py", "tokenizer.json", "added_tokens.json", "special_tokens_map.json",
        "token_counts.json", "tokens.bin", "token.py", "secret_files.py", "config.json", "model/config.json",
        "monkey.txt", "keys.py", "password_reset.html", "skyrl_gym/envs/gsm8k/env.py", "README.md",
    ],
)  # fmt: skip
def test_what_does_not(path: str) -> None:
    assert not looks_secret(path)


def test_they_are_named_in_order() -> None:
    assert secret_files(["b/.env", "main.py", "a.pem"]) == ["a.pem", "b/.env"]
