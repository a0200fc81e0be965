"""Which files of a checkout look like secrets, by their names alone: what is uploaded is said before it leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable

from skyrl_magic.core.values import looks_like_token

#: Files that programs keep passwords, keys and tokens in, without regard to case.
_NAMES = frozenset({
    ".boto", ".dockercfg", ".envrc", ".git-credentials", ".htpasswd", ".modal.toml", ".my.cnf", ".netrc", ".npmrc",
    ".pgpass", ".pypirc", ".s3cfg", ".vault-token", "_netrc", "credentials", "kaggle.json", "kubeconfig",
})  # fmt: skip
_KEY_SUFFIXES = (".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk")
#: Of the files with such an ending, those that everybody may have.
_PUBLIC = r"(^|[._-])(pub|public|cert|certs|cacert|cacerts|ca-bundle|fullchain|chain)([._-]|$)"
_ENV = r"\.env(\..+)?|.+\.env"
_ENV_SAMPLES = (".example", ".sample", ".template", ".dist", ".default", ".defaults")
#: ``ssh-keygen`` writes ``id_rsa`` and ``id_rsa.pub``; a name of one's own has no ending either.
_SSH_KEY = r"id_[a-z0-9_-]+"
#: A word that ends the name of a file for data: ``hf_token``, ``wandb-api-key.txt``; ``added_tokens.json`` is a
#: tokenizer's, ``token_counts.json`` is data.
_WORD = r"(.*[._-])?(token|secrets?|passwords?|passwd|api[_-]?keys?|access[_-]?keys?|private[_-]?key|credentials?)"
_SECRET_DATA = rf"{_WORD}(\.(txt|json|ya?ml|toml|ini|cfg|conf))?"
_JSON_KEYS = r"(client_secret|service[_-]account)[^/]*\.json"


def looks_secret(path: str) -> bool:
    """Whether a file of this relative path (with ``/``) is likely to hold a key, a password or a token."""
    folder, _, name = path.rpartition("/")
    lower = name.lower()
    if re.fullmatch(_ENV, lower):
        return not lower.endswith(_ENV_SAMPLES)
    if lower.endswith(_KEY_SUFFIXES):
        return re.search(_PUBLIC, lower) is None
    if lower == "config.json":
        return folder.rpartition("/")[2] == ".docker"
    patterns = (_SSH_KEY, _SECRET_DATA, _JSON_KEYS)
    return lower in _NAMES or any(re.fullmatch(p, lower) for p in patterns) or looks_like_token(name)


def secret_files(paths: Iterable[str]) -> list[str]:
    """Those of the ``paths`` that look like secrets, sorted."""
    return sorted(path for path in paths if looks_secret(path))
