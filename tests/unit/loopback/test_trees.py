from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.loopback.trees import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Base,
    Baseline,
    Entry,
    Manifest,
    PathMissingError,
    Stamp,
    TreeError,
    normalize,
    parents,
)

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from([FILE, DIRECTORY, SYMLINK])
operations = st.one_of(
    st.tuples(st.just("put"), paths, kinds),
    st.tuples(st.just("discard"), st.lists(paths, max_size=4), st.none()),
    st.tuples(st.just("remove"), paths, st.booleans()),
    st.tuples(st.just("copy"), st.tuples(paths, paths), st.booleans()),
)


def file(text: str = "") -> Entry:
    return Entry(FILE, 0o644, 0, len(text), (text,))


def apply(manifest: Manifest, kind: str, argument: object, option: object) -> None:
    if kind == "put":
        manifest.put(str(argument), Entry(str(option), 0o755, 0, target="a" if option == SYMLINK else ""))
    elif kind == "discard":
        assert isinstance(argument, list)
        manifest.discard(argument)
    elif kind == "remove":
        manifest.remove(str(argument), recursive=bool(option))
    else:
        assert isinstance(argument, tuple)
        manifest.copy_path(argument[0], argument[1], recursive=bool(option))


@given(st.lists(operations, max_size=12))
def test_every_ancestor_is_always_a_directory(steps: list[tuple[str, object, object]]) -> None:
    manifest = Manifest()
    for step in steps:
        before = dict(manifest.entries)
        try:
            apply(manifest, *step)
        except TreeError:
            assert manifest.entries == before
        for path in manifest.entries:
            assert all(manifest.entries[parent].kind == DIRECTORY for parent in parents(path))


@given(paths, kinds, st.lists(operations, max_size=8))
def test_what_is_put_is_there(path: str, kind: str, steps: list[tuple[str, object, object]]) -> None:
    manifest = Manifest()
    for step in steps:
        try:
            apply(manifest, *step)
        except TreeError:
            continue
    entry = Entry(kind, 0o700, 7)
    manifest.put(path, entry)
    assert manifest.entries[path] is entry


@given(st.lists(operations, max_size=8))
def test_json_and_back(steps: list[tuple[str, object, object]]) -> None:
    manifest = Manifest()
    for step in steps:
        try:
            apply(manifest, *step)
        except TreeError:
            continue
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))).entries == manifest.entries


@given(st.text("ab./", max_size=20))
def test_normalize_is_what_the_file_system_would_say(path: str) -> None:
    try:
        name = normalize(path)
    except TreeError:
        assert ".." in path
        return
    assert not {"", ".", ".."} & set(name.split("/")) or name == ""
    assert normalize(name) == name


def test_normalize() -> None:
    assert normalize("/a//b/./c/") == "a/b/c"
    assert normalize("a/../b") == "b"
    assert normalize("/") == ""
    with pytest.raises(TreeError, match="leaves the volume"):
        normalize("a/../../b")


def test_discard_keeps_directories_in_which_something_is_left() -> None:
    manifest = Manifest()
    for path in ("d/mine", "d/theirs", "e/mine"):
        manifest.put(path, file())
    manifest.discard(["d", "d/mine", "e", "e/mine", "not/there"])
    assert sorted(manifest.entries) == ["d", "d/theirs"]


def test_copy_as_cp_does() -> None:
    manifest = Manifest()
    manifest.put("d/x", file("x"))
    manifest.put("e", Entry(DIRECTORY, 0o755, 0))
    manifest.put("f", file("f"))
    manifest.copy_path("f", "e", recursive=False)
    manifest.copy_path("f", "g", recursive=False)
    manifest.copy_path("d", "e", recursive=True)
    manifest.copy_path("d", "new", recursive=True)
    assert {"e/f", "g", "e/d/x", "new/x"} <= set(manifest.entries)
    with pytest.raises(TreeError, match="recursive"):
        manifest.copy_path("d", "z", recursive=False)
    with pytest.raises(TreeError, match="into itself"):
        manifest.copy_path("d", "d/inside", recursive=True)
    with pytest.raises(PathMissingError):
        manifest.copy_path("none", "z", recursive=False)


def test_symlinks_are_followed_inside_the_volume_only() -> None:
    manifest = Manifest()
    manifest.put("data/v2/file", file())
    links = {
        "current": "data/v2",
        "data/latest": "v2",
        "data/up": "../current/file",
        "out": "/etc/passwd",
        "up": "../x",
        "loop": "loop",
    }
    for path, target in links.items():
        manifest.put(path, Entry(SYMLINK, 0o777, 0, target=target))
    for path in ("current/file", "data/latest/file", "data/up", "data/v2/file"):
        assert manifest.resolve(path) == "data/v2/file"
    assert manifest.resolve("") == ""
    for path in ("out", "up", "loop", "current/none", "out/x"):
        with pytest.raises(PathMissingError):
            manifest.resolve(path)


def test_a_directorys_time_is_no_change() -> None:
    assert Entry(DIRECTORY, 0o755, 1).fingerprint == Entry(DIRECTORY, 0o755, 2).fingerprint
    assert Entry(FILE, 0o755, 1).fingerprint != Entry(FILE, 0o755, 2).fingerprint


def test_baseline_json_and_back() -> None:
    stamp = Stamp(FILE, 0o644, 5, 1, 2, 3)
    baseline = Baseline({"a\udce9": Base(stamp, "ff")})
    back = Baseline.from_json(json.loads(json.dumps(baseline.to_json())))
    assert back == baseline
    assert back.is_unchanged("a\udce9", stamp)
    assert not back.is_unchanged("a\udce9", stamp._replace(inode=4))
    assert not back.is_unchanged("other", stamp)
