"""Composition root of the extension: config → backends → services → magics, and their clean-up.

Everything heavy (the modal client, the loopback server) is imported by the first magic that needs it.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING

from skyrl_magic.core.imports import import_whole
from skyrl_magic.ui.magics import SkyRLMagic

if TYPE_CHECKING:
    from pathlib import Path

    from IPython.core.interactiveshell import InteractiveShell

    from skyrl_magic.cloud.sandboxes import ModalBackend
    from skyrl_magic.loopback.daemon import ServerAddress
    from skyrl_magic.ui.notebook import Services

_ATTRIBUTE = "skyrl_magic"


def load(shell: InteractiveShell) -> None:
    """Register the magics and their completions; a second load changes nothing."""
    from skyrl_magic.ui import lone_help, remote_help
    from skyrl_magic.ui.config_magic import ConfigMagic
    from skyrl_magic.ui.matcher import register

    if getattr(shell, _ATTRIBUTE, None) is not None:
        return
    magics = SkyRLMagic(shell, make_services)
    shell.register_magics(magics)
    register(shell, magics)
    remote_help.install(shell, magics)
    lone_help.install(shell)
    magics.config_magic = ConfigMagic(shell, magics)
    magics.config_magic.install()
    setattr(shell, _ATTRIBUTE, magics)
    atexit.register(magics.close)


def unload(shell: InteractiveShell) -> None:
    """Remove the magics and close the channels; sessions and runs go on."""
    from skyrl_magic.ui import lone_help, remote_help
    from skyrl_magic.ui.matcher import unregister

    magics = getattr(shell, _ATTRIBUTE, None)
    if magics is None:
        return
    magics.close()
    atexit.unregister(magics.close)
    unregister(shell, magics)
    remote_help.uninstall(shell)
    lone_help.uninstall(shell)
    if magics.config_magic is not None:
        magics.config_magic.uninstall()
    for kind, names in magics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    if magics in shell.configurables:
        shell.configurables.remove(magics)
    setattr(shell, _ATTRIBUTE, None)


def make_services() -> Services:
    """The services over both backends, each of which is made when it is first asked for."""
    from skyrl_magic.service.pricing import Pricing
    from skyrl_magic.service.runs import RunService
    from skyrl_magic.service.sessions import SessionService
    from skyrl_magic.ui.notebook import Services

    backends: dict[str, ModalBackend] = {}

    def backend(name: str) -> ModalBackend:
        if name not in backends:
            _import_cloud("skyrl_magic.cloud.sandboxes")
            backends[name] = _local_backend() if name == "local" else _modal_backend()
        return backends[name]

    pricing = Pricing(lambda name: backend(name).rates())
    return Services(SessionService(backend, _build_agent, _server, pricing), RunService(), auto_backend)


def auto_backend() -> str:
    """``modal`` where a Modal account is set up, else ``local``. Raises BackendError for a modal that is not known."""
    _import_cloud("skyrl_magic.cloud.client")
    from skyrl_magic.cloud.client import has_account

    return "modal" if has_account() else "local"


def _import_cloud(name: str) -> None:
    """Import a module that imports modal, unless that is one we do not know. Raises BackendError."""
    if name not in sys.modules:
        from skyrl_magic.cloud.version import check_modal

        check_modal()
        import_whole(name)


def _server(backend: str) -> str:
    """Who answers for a backend."""
    if backend == "local":
        return "the local server"
    from skyrl_magic.cloud.client import account_server

    return f"Modal at {account_server()}"


def _modal_backend() -> ModalBackend:
    from skyrl_magic.cloud.client import account_client, account_server, account_token
    from skyrl_magic.cloud.identity import account_key
    from skyrl_magic.cloud.sandboxes import ModalBackend

    return ModalBackend("modal", account_client(), account=account_key(account_server(), account_token()))


def _local_backend() -> ModalBackend:
    """The backend on this machine; its server is started, and started again when it has gone."""
    from skyrl_magic.cloud.client import server_client
    from skyrl_magic.cloud.identity import account_key
    from skyrl_magic.cloud.sandboxes import ModalBackend
    from skyrl_magic.loopback.runtime.spec import MACHINE_LOCK, MAILBOX, PREFIXES_VARIABLE

    server = _ensure_server()
    # Ray gives its node a fixed time to come up: on one machine, sessions take turns at starting it. And the agent asks
    # the sandbox's keeper for commits itself, without a process in between.
    env = {"SKYRL_RAY_START_LOCK": MACHINE_LOCK, "SKYRL_COMMIT_MAILBOX": MAILBOX}
    # The server may have been started from another environment; cells have the Python of this notebook.
    env[PREFIXES_VARIABLE] = os.pathsep.join((sys.prefix, sys.base_prefix))
    client = server_client(server.url, server.token_id, server.token_secret)
    account = account_key("local", server.token_id)  # its address may change

    def ensure() -> ServerAddress:
        from skyrl_magic.core.errors import BackendError

        found = _ensure_server()
        if found.url != server.url:
            raise BackendError(
                "the local server has another port now, as another program took its old one: restart this notebook's "
                "kernel, sessions go on"
            )
        return found

    return ModalBackend("local", client, env, ensure=ensure, account=account)


def _ensure_server() -> ServerAddress:
    """The local server; one that is started again takes its old port and token, so that clients of it stay good."""
    from skyrl_magic.core.errors import BackendUnavailable, reason_of
    from skyrl_magic.loopback.daemon import LoopbackError, ensure_server

    try:
        return ensure_server()
    except (OSError, LoopbackError) as error:
        # The last line of a server's words is its own error; what the operating system refuses has a file.
        file = getattr(error, "filename", None)
        lines = [f"{file}: {reason_of(error)}"] if file else str(error).splitlines()
        raise BackendUnavailable("; ".join(dict.fromkeys((lines[0], lines[-1])))) from error


def _build_agent() -> Path:
    from skyrl_magic.agent.build import build_agent

    return build_agent()
