"""Stamps at the entry and the return of what a warm cell passes through; runs inside the kernel."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from IPython.core.getipython import get_ipython

from skyrl_magic.core import protocol
from skyrl_magic.service.channel import Channel
from skyrl_magic.service.checkout import CheckoutReader
from skyrl_magic.service.connection import Connection
from skyrl_magic.service.runs import RunService
from skyrl_magic.service.watch import Watch
from skyrl_magic.ui.cell_sink import CellSink
from skyrl_magic.ui.cells import Cells

#: Names and Unix times, in order.
stamps: list[tuple[str, float]] = []
_STAGES = (
    (Cells, "run", "cells"),
    (Cells, "_session", "session"),
    (CheckoutReader, "scan", "scan"),
    (Connection, "write", "write"),
    (RunService, "start", "start"),
    (RunService, "follow", "follow"),
    (CellSink, "close", "close"),
)


def watch() -> None:
    """Begin to stamp."""
    for owner, name, label in _STAGES:
        setattr(owner, name, _around(getattr(owner, name), lambda *_, label=label: label))
    setattr(Channel, "request", _around(Channel.request, lambda _, make, *__: type(make(0)).__name__))  # noqa: B010
    setattr(Watch, "put", _heard(Watch.put))  # noqa: B010  # mypy forbids to assign a method
    shell = get_ipython()
    if shell is not None:
        shell.events.register("pre_run_cell", lambda _: _stamp("kernel"))
        shell.events.register("post_run_cell", lambda _: _stamp("kernel ends"))


def _stamp(name: str) -> None:
    stamps.append((name, time.time()))


def _around(inner: Callable[..., Any], label_of: Callable[..., str]) -> Callable[..., Any]:
    @functools.wraps(inner)
    def wrapper(*args: Any, **options: Any) -> Any:
        label = label_of(*args)
        _stamp(label)
        try:
            return inner(*args, **options)
        finally:
            _stamp(f"{label} ends")

    return wrapper


def _heard(inner: Callable[[Watch, protocol.Message], None]) -> Callable[[Watch, protocol.Message], None]:
    def put(watch: Watch, message: protocol.Message) -> None:
        _stamp(type(message).__name__)
        if isinstance(message, protocol.RunEnded):
            stamps.append(("bash and its pipes", message.duration_s))
        inner(watch, message)

    return put
