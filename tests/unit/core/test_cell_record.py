"""What a cell is filled again with."""

from __future__ import annotations

import pytest

from skyrl_magic.core.cell_record import MAX_BYTES, MAX_OUTPUTS, CellRecord, ShownDisplay, ShownText
from skyrl_magic.core.protocol import STDERR, STDOUT, KernelMessage


def message(kind: str, **content: object) -> KernelMessage:
    return KernelMessage("k3f9", msg_type=kind, content=content)


def display(text: str, kind: str = "display_data") -> KernelMessage:
    return message(kind, data={"text/plain": text}, transient={"display_id": "d"})


@pytest.mark.parametrize(
    ("sent", "lines", "left"),
    [
        (["a\nb\n"], "b\n", ["a\n"]),
        (["a\nb\n"], "a\nb\n", []),
        (["a\n", "b\n"], "a\nb\n", []),
        (["a\nb\npart"], "b\npart", ["a\n"]),
        (["a\nst\rstep\rs    \n"], "s\n", ["a\n"]),
        (["a\nb\n"], "c\n", None),
        (["a\nb\n"], "b", None),
        (["b\n"], "a\nb\n", None),
    ],
)
def test_last_lines_of_a_stream_are_left_out(sent: list[str], lines: str, left: list[str] | None) -> None:
    record = CellRecord()
    for text in sent:
        record.write(STDOUT, text)
    assert record.without(STDOUT, lines) == (None if left is None else [ShownText(STDOUT, text) for text in left])


def test_what_stands_among_the_lines_stays() -> None:
    record = CellRecord()
    record.show("note", {"text/plain": "session x …"})
    record.write(STDOUT, "a\n")
    record.write(STDERR, "warning\n")
    record.write(STDOUT, "b\n")
    record.take(display("picture"))
    record.update("note", {"text/plain": "session x is ready"})
    record.take(display("new picture", "update_display_data"))
    left = record.without(STDOUT, "a\nb\n")
    assert left == [
        ShownDisplay("note", {"text/plain": "session x is ready"}),
        ShownText(STDERR, "warning\n"),
        display("new picture"),
    ]
    record.fill(left)
    record.write(STDOUT, "c\n")
    assert record.without(STDOUT, "c\n") == left


def test_a_clear_takes_what_was_shown() -> None:
    record = CellRecord()
    record.write(STDOUT, "old\n")
    record.take(message("clear_output", wait=True))
    assert record.without(STDOUT, "old\n") is None
    record.write(STDOUT, "new\n")
    record.write(STDOUT, "line\n")
    assert record.without(STDOUT, "line\n") == [ShownText(STDOUT, "new\n")]
    record.take(message("clear_output", wait=False))
    assert record.without(STDOUT, "line\n") is None


@pytest.mark.parametrize("case", ["bytes", "outputs", "a widget that takes the outputs", "a question"])
def test_what_cannot_be_shown_again_is_left_alone(case: str) -> None:
    record = CellRecord()
    if case == "bytes":
        record.write(STDOUT, "x" * MAX_BYTES)
    elif case == "outputs":
        for number in range(MAX_OUTPUTS + 1):
            record.show(str(number), {"text/plain": ""})
    elif case == "a question":
        record.lose()
    else:
        record.take(message("comm_msg", data={"method": "update", "state": {"msg_id": "m"}}))
    record.write(STDOUT, "line\n")
    assert record.without(STDOUT, "line\n") is None
