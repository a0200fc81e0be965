"""What names a notebook; ``tests/kernel/test_which_run.py`` has it with real kernels and a terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from skyrl_magic.ui.this_notebook import _name, notebook_key

JUPYTER = {"JPY_SESSION_NAME": "/work/train.ipynb"}


class Colab:
    """A kernel of Colab, told by its module."""


Colab.__module__ = "google.colab._kernel"


def shell(kernel: object | None = None, **variables: str) -> Any:
    return SimpleNamespace(kernel=kernel, user_ns=variables)


KERNEL = SimpleNamespace()


@pytest.mark.parametrize(
    ("where", "environ", "parents", "named"),
    [
        (None, JUPYTER, {}, ""),
        (shell(), JUPYTER, {}, ""),  # a terminal within a notebook
        (shell(KERNEL), {}, {}, ""),  # papermill, nbclient
        (shell(KERNEL), JUPYTER, {}, "/work/train.ipynb"),
        (shell(KERNEL), JUPYTER, {"JPY_SESSION_NAME": "/work/other.ipynb"}, "/work/train.ipynb"),
        (shell(KERNEL), JUPYTER, JUPYTER, ""),  # !papermill in a cell
        (shell(KERNEL, __vsc_ipynb_file__="/work/a.ipynb"), {}, {}, "/work/a.ipynb"),
        (shell(KERNEL, __vsc_ipynb_file__="/work/a.ipynb"), JUPYTER, {}, "/work/a.ipynb"),
        (shell(KERNEL, __vsc_ipynb_file__=""), JUPYTER, {}, "/work/train.ipynb"),
        (shell(__vsc_ipynb_file__="/work/a.ipynb"), {}, {}, ""),
        (shell(Colab()), {"COLAB_NOTEBOOK_ID": "1abc"}, {"COLAB_NOTEBOOK_ID": "1abc"}, "1abc"),
        (shell(KERNEL), {"COLAB_NOTEBOOK_ID": "1abc"}, {}, ""),
        (shell(Colab()), JUPYTER, {}, "/work/train.ipynb"),
    ],
)
def test_what_names_a_notebook(where: Any, environ: dict[str, str], parents: dict[str, str], named: str) -> None:
    assert _name(where, environ, lambda: parents) == named


def test_a_process_that_nobody_names_stands_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    key = notebook_key()
    monkeypatch.setenv("JPY_SESSION_NAME", "/work/train.ipynb")
    assert notebook_key() == key
    assert len(key) == 16
