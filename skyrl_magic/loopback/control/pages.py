"""Lists in pages, newest first, as Modal's client asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from modal_proto import api_pb2

T = TypeVar("T")


def page(objects: Iterable[T], created_at: Callable[[T], float], pagination: api_pb2.ListPagination) -> list[T]:
    """The newest objects that were created before ``pagination.created_before`` (0: any), at most ``max_objects``."""
    before = pagination.created_before or float("inf")
    older = [item for item in objects if created_at(item) < before]
    older.sort(key=created_at, reverse=True)
    return older[: pagination.max_objects or None]
