"""What the pages for people say is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

from skyrl_magic.extension import make_services
from skyrl_magic.ui.magics import SkyRLMagic

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
_WORDS = ("session", "run", "app", "volume", "commit", "secret", "image", "preempted", "token", "backend")


def test_the_readme_has_a_line_for_every_magic() -> None:
    magics = SkyRLMagic(InteractiveShell(), make_services)
    rows = [row for row in README.partition("## The magics")[2].splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`%%?(skyrl_\w+)`", row)}
    assert named == {*magics.magics["line"], *magics.magics["cell"]}


def test_the_glossary_explains_ten_words() -> None:
    assert [word.lower() for word in re.findall(r"^\*\*(\w+)\.\*\*", GLOSSARY, re.MULTILINE)] == list(_WORDS)
    assert "docs/glossary.md" in README
