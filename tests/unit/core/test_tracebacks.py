"""What a notebook gets of an error: all of it, or its beginning and its end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core.protocol import KernelMessage
from skyrl_magic.core.tracebacks import bounded_error

#: What a notebook gets at most, with the lines about what was left out.
MAX_CHARS = 201_000


def error(traceback: Any, ename: Any = "ValueError", evalue: Any = "wrong") -> KernelMessage:
    content = {"ename": ename, "evalue": evalue, "traceback": traceback}
    return KernelMessage("k3f9", msg_type="error", content=content, metadata={"m": 1})


def test_a_usual_error_is_shown_as_it_is() -> None:
    usual = error(["-----", "\x1b[31mValueError\x1b[0m  Traceback", "line 1", "ValueError: wrong"])
    assert bounded_error(usual, "k3f9") == usual


def test_an_entry_of_megabytes_keeps_its_beginning_and_its_end() -> None:
    bounded = bounded_error(error(["first", "begin" + "x" * 5_000_000 + "end", "last"]), "k3f9").content["traceback"]
    assert (bounded[0], bounded[2], len(bounded)) == ("first", "last", 3)
    assert bounded[1].startswith("beginx")
    assert bounded[1].endswith("xend")
    assert (
        "… 4,950,008 characters of the traceback left out; %skyrl_logs k3f9 --save FILE writes all of it" in bounded[1]
    )
    assert len(bounded[1]) < 51_000


def test_a_deep_traceback_keeps_its_first_and_its_last_entries() -> None:
    entries = [f"frame {number} " + "x" * 990 for number in range(1000)]
    bounded = bounded_error(error(entries), "k3f9").content["traceback"]
    at = next(number for number, entry in enumerate(bounded) if entry.startswith("…"))
    assert bounded[:at] == entries[:at]
    assert bounded[at + 1 :] == entries[at + 1 - len(bounded) :]
    assert 0 < at < len(bounded) - at, "more of the end than of the beginning"
    left_out = sum(map(len, entries)) - sum(map(len, bounded)) + len(bounded[at])
    assert bounded[at].startswith(f"… {left_out:,} characters")


def test_the_message_of_an_error_is_bounded_too() -> None:
    content = bounded_error(error([], "N" * 5000, "v" * 5_000_000), "k3f9").content
    assert content["ename"] == "N" * 1000
    assert len(content["evalue"]) < 51_000


@given(st.lists(st.integers(0, 120_000), max_size=12))
def test_no_traceback_is_larger_than_a_notebook_holds(sizes: list[int]) -> None:
    entries = [chr(ord("a") + number) * size for number, size in enumerate(sizes)]
    bounded = bounded_error(error(entries), "k3f9").content["traceback"]
    assert sum(map(len, bounded)) < MAX_CHARS
    if entries:
        assert bounded[-1][-100:] == entries[-1][-100:], "the error itself is there"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, {"ename": "", "evalue": "", "traceback": []}),
        ({"ename": None, "evalue": 3, "traceback": "text"}, {"ename": "", "evalue": "3", "traceback": []}),
        ({"ename": ["a"], "traceback": [1, None]}, {"ename": "['a']", "evalue": "", "traceback": ["1", "None"]}),
        ({"traceback": {"a": 1}, "more": 1}, {"ename": "", "evalue": "", "traceback": [], "more": 1}),
    ],
)
def test_fields_of_a_container_may_be_anything(content: dict[str, Any], expected: dict[str, Any]) -> None:
    assert bounded_error(KernelMessage(content=content), "k3f9").content == expected


def test_the_message_itself_is_not_changed() -> None:
    large = error(["x" * 300_000] * 3)
    bounded = bounded_error(large, "k3f9")
    assert [len(entry) for entry in large.content["traceback"]] == [300_000] * 3
    assert (bounded.run_id, bounded.msg_type, bounded.metadata) == ("k3f9", "error", {"m": 1})
