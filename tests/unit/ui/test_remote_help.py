"""Tab and Shift-Tab: which cells ask the session's kernel, what it is asked, and where its answer belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core.errors import SkyRLMagicError
from skyrl_magic.ui import remote_help

OK: dict[str, Any] = {"status": "ok"}


class Kernel:
    """Answers as the session's kernel would, and keeps what it was asked."""

    def __init__(self, reply: dict[str, Any] | None) -> None:
        self.reply = reply
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, options: str, msg_type: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
        self.asked.append((options, msg_type, dict(content)))
        return self.reply


def matches(start: int, end: int) -> dict[str, Any]:
    types = [{"start": start, "end": end, "text": "append", "type": "function"}]
    found = {"matches": ["append"], "cursor_start": start, "cursor_end": end}
    return {**OK, **found, "metadata": {"_jupyter_types_experimental": types}}


def test_offsets_are_those_of_the_whole_cell() -> None:
    first = "%%skyrl_python -s one\n"
    kernel = Kernel(matches(2, 4))
    reply = remote_help.complete(first + "a.ap\nb", len(first) + 4, kernel)
    assert kernel.asked == [("-s one", "complete_request", {"code": "a.ap\nb", "cursor_pos": 4})]
    assert reply is not None
    assert (reply["cursor_start"], reply["cursor_end"]) == (len(first) + 2, len(first) + 4)
    (item,) = reply["metadata"]["_jupyter_types_experimental"]
    assert (item["start"], item["end"]) == (len(first) + 2, len(first) + 4)


@given(st.sampled_from(["", "\n", "  \n"]), st.text(max_size=20), st.integers(0, 20))
def test_what_is_completed_is_what_stands_there(before: str, code: str, at: int) -> None:
    first = f"{before}%%skyrl_python\n"
    at = min(at, len(code))
    reply = remote_help.complete(first + code, len(first) + at, Kernel(matches(0, at)))
    assert reply is not None
    assert (first + code)[reply["cursor_start"] : reply["cursor_end"]] == code[:at]


@pytest.mark.parametrize(
    ("first", "options"),
    [
        ("%%skyrl_python\n", ""),
        ("%%skyrl_python   -s two\n", "-s two"),
        ("\n\n  %%skyrl_python\n", ""),
        ("%%skyrl_modal --python\n", "--python"),
        ("%%skyrl_modal -s x --python --gpu none\n", "-s x --python --gpu none"),
    ],
)
def test_python_cells_ask_the_kernel_that_they_name(first: str, options: str) -> None:
    kernel = Kernel(matches(0, 1))
    assert remote_help.complete(first + "a", len(first) + 1, kernel)
    assert remote_help.inspect(first + "a", len(first) + 1, 0, Kernel({**OK, "found": True}))
    assert kernel.asked == [(options, "complete_request", {"code": "a", "cursor_pos": 1})]


@pytest.mark.parametrize(
    "cell",
    [
        "a.b",
        "%%skyrl_modal\nls",
        "%%skyrl_modal --pythonic\nls",
        "%%skyrl_modal -s python\nls",
        "%%skyrl_pythons\na",
        "%%skyrl_python",
        "%%bash\n%%skyrl_python\na",
        "# %%skyrl_python\na",
        "",
    ],
)
def test_other_cells_ask_nobody(cell: str) -> None:
    kernel = Kernel(matches(0, 1))
    assert remote_help.complete(cell, len(cell), kernel) is None
    assert remote_help.inspect(cell, len(cell), 0, kernel) is None
    assert kernel.asked == []


def test_the_first_line_is_the_notebooks_own() -> None:
    first, kernel = "%%skyrl_python -s o\n", Kernel(matches(0, 1))
    for cursor in range(len(first)):
        assert remote_help.complete(first + "a", cursor, kernel) is None
    assert kernel.asked == []
    assert remote_help.complete(first + "a", len(first), kernel)


@pytest.mark.parametrize("reply", [None, {}, {"status": "error"}, {**OK, "matches": []}, OK])
def test_without_an_answer_there_are_local_words(reply: dict[str, Any] | None) -> None:
    assert remote_help.complete("%%skyrl_python\na", 16, Kernel(reply)) is None


CELL = "%%skyrl_python -s one\nrewards = model.forward(reward_scale)\nmodel.free()\n"


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("rew", ["reward_scale", "rewards"]),
        ("print(m", ["model"]),
        ("other.f", ["forward", "free"]),
        ("other.", ["forward", "free"]),
        ("f", None),
        ("rewards", None),
        ("sk", None),
        ("(", None),
    ],
)
def test_without_an_answer_in_time_there_are_the_cells_names(typed: str, names: list[str] | None) -> None:
    found = remote_help.complete(CELL + typed + "\nlast = 1", len(CELL + typed), Kernel(None))
    assert (found and found["matches"]) == names
    if found is not None:
        begun = re.split(r"\W", typed)[-1]
        assert (found["cursor_start"], found["cursor_end"]) == (len(CELL + typed) - len(begun), len(CELL + typed))


def test_an_inspection_takes_its_level_along() -> None:
    kernel = Kernel({**OK, "found": True, "data": {"text/plain": "doc"}})
    assert remote_help.inspect("%%skyrl_python\nlen", 18, 1, kernel) == kernel.reply
    assert kernel.asked == [("", "inspect_request", {"code": "len", "cursor_pos": 3, "detail_level": 1})]
    for reply in (None, {}, {"status": "error"}):
        assert remote_help.inspect("%%skyrl_python\nlen", 18, 0, Kernel(reply)) is None


# --- in the notebook's kernel ---------------------------------------------------------------------------------------


class OwnKernel:
    """The two methods of ipykernel's."""

    def do_complete(self, code: str, cursor_pos: int | None) -> Any:
        return ("local", code, cursor_pos)

    def do_inspect(self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()) -> Any:
        return ("local", code, cursor_pos, detail_level, omit_sections)


class Magics:
    """Asks the session's kernel."""

    def __init__(self, reply: dict[str, Any] | Exception) -> None:
        self.reply = reply
        self.budgets: list[float] = []

    def ask_kernel(self, options: str, msg_type: str, content: Mapping[str, Any], timeout_s: float) -> Any:
        assert (options, msg_type.endswith("_request"), content["code"]) == ("", True, "a")
        self.budgets.append(timeout_s)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def installed(reply: dict[str, Any] | Exception) -> tuple[Any, Any, Magics]:
    shell, magics = SimpleNamespace(kernel=OwnKernel()), Magics(reply)
    remote_help.install(shell, magics)  # type: ignore[arg-type]
    return shell, shell.kernel, magics


def test_a_python_cell_has_the_sessions_words_and_others_the_notebooks() -> None:
    _, kernel, magics = installed(matches(0, 1))
    assert kernel.do_complete("%%skyrl_python\na", None)["matches"] == ["append"]
    assert kernel.do_inspect("%%skyrl_python\na", 16)["status"] == "ok"
    assert magics.budgets == [remote_help.BUDGET_S] * 2
    assert kernel.do_complete("a", None) == ("local", "a", None)
    assert kernel.do_inspect("a", 1, 1, ("x",)) == ("local", "a", 1, 1, ("x",))


def test_a_session_that_cannot_answer_leaves_what_this_notebook_knows() -> None:
    _, kernel, _ = installed(SkyRLMagicError("the session is gone"))
    cell = "%%skyrl_python\na"
    assert kernel.do_complete(cell, 16) == ("local", cell, 16)
    assert kernel.do_inspect(cell, 16) == ("local", cell, 16, 0, ())


def test_it_is_installed_once_and_taken_away() -> None:
    shell, kernel, magics = installed(matches(0, 1))
    wrapped = kernel.do_complete
    remote_help.install(shell, magics)  # type: ignore[arg-type]
    assert kernel.do_complete is wrapped
    remote_help.uninstall(shell)
    assert kernel.do_complete("%%skyrl_python\na", 16) == ("local", "%%skyrl_python\na", 16)
    remote_help.uninstall(shell)


def test_without_a_kernel_there_is_nothing_to_wrap() -> None:
    shell: Any = SimpleNamespace()
    remote_help.install(shell, Magics({}))  # type: ignore[arg-type]
    remote_help.uninstall(shell)
    assert vars(shell) == {}
