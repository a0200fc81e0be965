"""The matcher of ``.skyrlignore`` against Git itself."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skyrl_magic.service import ignore
from skyrl_magic.service.ignore import Ignore

Tree = dict[str, "Tree | None"]


def kept(text: str, tree: Tree) -> set[str]:
    """The files and folders that a walk with our matcher comes to."""
    patterns = Ignore(text)

    def walk(folder: Tree, names: tuple[str, ...]) -> set[str]:
        here = patterns.in_folder(names)
        found = set()
        for name, below in folder.items():
            if not here.ignores(name, is_folder=below is not None):
                found.add("/".join((*names, name)))
                found |= walk(below, (*names, name)) if below is not None else set()
        return found

    return walk(tree, ())


def kept_by_git(text: str, tree: Tree, repository: Path) -> set[str]:
    """What Git would not ignore of the files and folders."""
    root, patterns = repository, repository / ".git" / "patterns"
    patterns.write_text(text, encoding="utf-8")
    for path in root.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def make(folder: Tree, prefix: str) -> Iterator[str]:
        for name, below in folder.items():
            yield prefix + name
            (root / prefix / name).touch() if below is None else (root / prefix / name).mkdir()
            yield from make(below or {}, f"{prefix}{name}/")

    paths = list(make(tree, ""))
    asked = "".join(f"{path}\0" for path in paths)
    git = ["git", "-c", f"core.excludesFile={patterns}", "check-ignore", "--no-index", "--stdin", "-z"]
    done = subprocess.run(git, cwd=root, input=asked, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: it ignores nothing
    return set(paths) - set(done.stdout.split("\0"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


names = st.sampled_from(["a", "b", "ab", "abc", "a.bin", "b.bin", "x-1", "x-2", "[a]", "!a", "#a", "a b", "aa", "é"])
trees: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(names, st.none(), max_size=5),
    lambda below: st.dictionaries(names, st.none() | below, max_size=5),
    max_leaves=12,
)
pieces = st.sampled_from([
    "a", "b", "ab", "*", "?", "**", "*.bin", "x-?", "x-[12]", "x-[!1]", "[^a]", "[a-c]", "[]a]", "a*", "*b", "a*c",
    r"\*", r"\[a]", "[[]a]", "a b", "é",
])  # fmt: skip
patterns = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "/", "!", "!/", r"\!", "#", r"\#"]),
    st.lists(pieces, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", " "]),
)
A_TREE: Tree = {"a": {"a": {"b": None, "a.bin": None}, "b": {"a": None}}, "b": None, "x-1": {"x-2": {"ab": None}}}


@given(text=st.lists(patterns, max_size=4).map("\n".join), tree=trees)
@example(text="a/**/b", tree=A_TREE)
@example(text="**/b\n!a/a/b", tree=A_TREE)
@example(text="/a/*\n!/a/b", tree=A_TREE)
@example(text="/a/**\n!/a/b", tree=A_TREE)
@example(text="**", tree=A_TREE)
@example(text="*/\n!x-1/", tree=A_TREE)
@example(text="**/x-2/**/ab", tree=A_TREE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_keeps_what_git_keeps(repository: Path, text: str, tree: Tree) -> None:
    assert kept(text, tree) == kept_by_git(text, tree, repository)


@pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "a*" * 30 + "b", "**/a/" * 30 + "b", "a?*" * 30 + "[!a]"])
def test_no_pattern_takes_long(pattern: str) -> None:
    began = time.process_time()
    patterns = Ignore(pattern)
    assert not patterns.in_folder(("a",) * 60).ignores("a" * 200, is_folder=False)
    assert time.process_time() - began < 1


def test_all_comparisons_of_a_scan_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignore, "MAX_COMPARISONS", 1_000)
    here = Ignore("\n".join(f"{number}*" for number in range(99))).in_folder(())
    with pytest.raises(ValueError, match="take too long for so many files"):
        any(here.ignores("some-name", is_folder=False) for _ in range(100))
    monkeypatch.setattr(ignore, "MAX_COMPARISONS", 500)
    with pytest.raises(ValueError, match="take too long"):  # a long pair counts as several
        Ignore("?" * 4_000 + "\n*b").in_folder(()).ignores("a" * 255, is_folder=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ok\n[z-a]", r"^line 2: z-a in brackets goes backwards$"),
        ("a\\", r"^line 1: a backslash ends the pattern$"),
        ("a" * 5_000, r"^line 1 is longer than 4,096 characters$"),
        ("a\n" * 1_001, r"^it has more than 1,000 patterns$"),
    ],
)
def test_a_wrong_pattern_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ignore(text)
