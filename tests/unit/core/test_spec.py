from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core.gpus import MAX_COUNTS, NO_GPU, Gpu
from skyrl_magic.core.options import SESSION, parse_line
from skyrl_magic.core.spec import DEFAULT_GPU, SessionSpec

SPEC = SessionSpec(
    backend="local",
    gpu=DEFAULT_GPU,
    image="some/image",
    volume="skyrl-data",
    app="my_skyrl_app",
    ray=True,
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
specs = st.builds(
    SessionSpec,
    backend=st.sampled_from(["modal", "local"]),
    gpu=st.just(NO_GPU) | st.builds(Gpu, st.sampled_from(sorted(MAX_COUNTS)), st.integers(1, 4)),
    image=names,
    volume=names,
    app=names,
    ray=st.booleans(),
    cpu=st.none() | st.floats(0.125, 256),
    memory_mib=st.none() | st.integers(128, 10**6),
    secrets=st.lists(names, max_size=3, unique=True).map(lambda found: tuple(sorted(found))),
    repo=st.just("") | st.from_regex(r"/[a-z/ ,=]{1,30}", fullmatch=True),
)


@given(specs)
def test_texts_read_back(spec: SessionSpec) -> None:
    texts = spec.texts()
    assert all(isinstance(value, str) and value for value in texts.values())
    assert SessionSpec.from_texts(texts) == spec


@pytest.mark.parametrize("change", [{"gpu": "no such"}, {"cpu": "many"}, {"memory_mib": ""}])
def test_foreign_texts_are_a_value_error(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        SessionSpec.from_texts(SPEC.texts() | change)


def test_missing_texts_are_a_key_error() -> None:
    with pytest.raises(KeyError):
        SessionSpec.from_texts({"gpu": "L4"})


@given(specs, specs)
def test_a_key_stands_for_one_spec_and_owner(one: SessionSpec, other: SessionSpec) -> None:
    assert one.key("me") == dataclasses.replace(one).key("me")
    assert one.key("me") != one.key("you")
    assert (one.key("me") == other.key("me")) == (one == other)


@given(specs)
def test_the_default_name_can_be_given_as_a_name(spec: SessionSpec) -> None:
    name = spec.default_name("me")
    assert parse_line(f"--session {name}").given.session == name


def test_the_key_is_that_of_earlier_versions_which_had_the_timeout_in_it() -> None:
    assert SPEC.key("ann@laptop") == "22d143d4afa749bc"


def test_the_default_name_says_the_gpu() -> None:
    assert SPEC.default_name("me").startswith("l4-")
    assert dataclasses.replace(SPEC, gpu=Gpu("A100-80GB", 4)).default_name("me").startswith("a100-80gbx4-")
    assert dataclasses.replace(SPEC, gpu=Gpu("B200+", 2)).default_name("me").startswith("b200plusx2-")
    assert dataclasses.replace(SPEC, gpu=NO_GPU).default_name("me").startswith("none-")


@given(specs)
def test_options_say_the_spec(spec: SessionSpec) -> None:
    line = parse_line(spec.options(), scopes=(SESSION,))
    given_ = line.given
    assert line.rest == ""
    assert given_.gpu == spec.gpu
    assert (given_.volume or "skyrl-data") == spec.volume
    assert (given_.secrets or ()) == spec.secrets
    assert (given_.ray is not False) == spec.ray
