from __future__ import annotations

from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.options import Given
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.session_request import SessionRequest
from skyrl_magic.ui.notebook import Notebook

SPEC = SessionSpec("local", NO_GPU, "image", "volume", "app", ray=False)


def test_a_note_is_told_once() -> None:
    notebook = Notebook()
    assert [notebook.once(text) for text in ("a", "b", "a")] == [True, True, False]
    assert Notebook().once("a")


def test_before_the_first_run_there_is_no_last_one() -> None:
    assert Notebook().own_runs == []


def test_the_current_session_is_the_one_that_was_entered_last() -> None:
    assert Notebook().current is None
    notebook = Notebook()
    for name in ("a", "b", "a"):
        notebook.enter(SessionRequest(SPEC, None, 60, name), Given(), name)
    assert notebook.current is not None
    assert notebook.current.name == "a"
    assert [place[2] for place in notebook.used] == ["b", "a"]
