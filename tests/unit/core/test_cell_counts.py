from __future__ import annotations

import pytest

from skyrl_magic.core.cell_counts import CellCounts
from skyrl_magic.core.protocol import KernelMessage


def renumbered(counts: CellCounts, *entries: str) -> list[str]:
    error = KernelMessage("k3f9", msg_type="error", content={"traceback": [*entries]})
    found: list[str] = counts.renumbered("s", error).content["traceback"]
    return found


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ("Cell In[3], line 1\n----> 1 1 / 0", "Cell In[7], line 1\n----> 1 1 / 0"),
        ("\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[3]\x1b[39m, line 1", None),
        ("  \x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[3]\x1b[39m\x1b[32m, line 3\x1b[39m\n    b = = 2", None),
        ("Cell \x1b[0;32mIn[3]\x1b[0m, line 1", None),
        ("Cell In[4], line 1", "Cell In[4], line 1"),
        ("File x.py:1\nCell In[3]", "File x.py:1\nCell In[3]"),
    ],
)
def test_a_frame_has_the_notebooks_number(entry: str, shown: str | None) -> None:
    counts = CellCounts()
    counts.learn("s", 3, 7)
    counts.learn("other", 4, 9)
    assert renumbered(counts, entry) == [entry.replace("In[3]", "In[7]") if shown is None else shown]


@pytest.mark.parametrize("entry", ["\x1b[m" * 100_000 + "x", " " * 100_000, "Cell In" + "\x1b[m" * 100_000])
def test_an_entry_of_the_container_takes_no_time_that_grows_with_its_square(entry: str) -> None:
    assert renumbered(CellCounts(), entry) == [entry]


def test_a_restarted_kernel_is_another_one() -> None:
    counts = CellCounts()
    counts.learn("s", 3, 7)
    counts.forget("s")
    assert renumbered(counts, "Cell In[3], line 1") == ["Cell In[3], line 1"]


def test_a_kernel_that_begins_anew_is_another_one() -> None:
    counts = CellCounts()
    counts.learn("s", 1, 5)
    counts.learn("s", 2, 6)
    counts.learn("s", 1, 9)
    assert renumbered(counts, "Cell In[1], line 1", "Cell In[2], line 1") == [
        "Cell In[9], line 1",
        "Cell In[2], line 1",
    ]
