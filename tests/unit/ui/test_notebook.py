from __future__ import annotations

from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.options import Given
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.ui.notebook import Notebook, request_for

SPEC = SessionSpec("local", NO_GPU, "image", "volume", "app", 3600, ray=False)


def test_a_note_is_told_once() -> None:
    notebook = Notebook()
    assert [notebook.once(text) for text in ("a", "b", "a")] == [True, True, False]
    assert Notebook().once("a")


def test_before_the_first_run_there_is_no_last_one() -> None:
    assert Notebook().own_runs == []


def test_a_name_alone_takes_the_session_as_it_is() -> None:
    assert request_for(SPEC, None, 60, "mine", Given()).asked == frozenset()
    assert request_for(SPEC, None, 60, "mine", Given(cpu=3.0)).asked == frozenset({"cpu"})
    assert request_for(SPEC, None, 60, None, Given(cpu=3.0)).asked is None
