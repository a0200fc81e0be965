from __future__ import annotations

from modal_proto import api_pb2

from skyrl_magic.loopback.control.pages import page


def test_newest_first_in_pages() -> None:
    times = [3.0, 1.0, 2.0, 4.0]
    assert page(times, float, api_pb2.ListPagination()) == [4.0, 3.0, 2.0, 1.0]
    first = page(times, float, api_pb2.ListPagination(max_objects=3))
    assert first == [4.0, 3.0, 2.0]
    assert page(times, float, api_pb2.ListPagination(max_objects=3, created_before=first[-1])) == [1.0]
