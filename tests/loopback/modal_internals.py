"""Below Modal's public API: raw calls on the event loop of its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from modal._utils.async_utils import synchronizer

RawCall = Callable[[str, Any], Any]


def on_modal_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the event loop that Modal's client lives on; its objects work nowhere else."""
    return asyncio.run_coroutine_threadsafe(coroutine, synchronizer._get_loop(start=True)).result(60)


def inner(wrapped: Any) -> Any:
    """The asynchronous object behind one of Modal's blocking ones."""
    translate: Callable[[Any], Any] = synchronizer._translate_in
    return translate(wrapped)
