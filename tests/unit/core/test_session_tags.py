from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core.session_tags import SPEC_CHARS, read_spec, read_tags, says, session_tags, spec_json
from skyrl_magic.core.spec import SessionSpec
from tests.unit.core.test_spec import SPEC, specs

MODAL_TAGS = 10
secrets = st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,60}", fullmatch=True), max_size=50, unique=True)


@given(specs, secrets, st.text(min_size=1, max_size=60))
def test_tags_read_back(spec: SessionSpec, names: list[str], repo: str) -> None:
    spec = dataclasses.replace(spec, secrets=tuple(sorted(names)), repo=repo)
    tags = session_tags(spec, "one", "me", 17.4)
    assert len(tags) <= MODAL_TAGS
    assert all(value and value.isascii() and len(value) <= SPEC_CHARS for value in tags.values())
    found = read_tags(tags, spec.backend, spec.app)
    assert (found.name, found.owner, found.started_at) == ("one", "me", 17.0)
    assert found.spec in (spec, None)
    assert (found.spec is None) == (len(spec_json(spec)) > SPEC_CHARS)
    assert read_spec(spec_json(spec), spec.backend, spec.app) == spec
    assert says(tags, spec)
    assert not says(tags, dataclasses.replace(spec, volume=spec.volume + "2"))


def test_an_ordinary_spec_is_readable_in_its_tag() -> None:
    spec = dataclasses.replace(
        SPEC, image="novaskyai/skyrl-train-ray-2.57.0-py3.12-cu13.0", repo="/home/ann/work/SkyRL"
    )
    assert '"gpu":"L4"' in session_tags(spec, "one", "me", 0.0)["spec"]


def test_tags_of_an_earlier_version_are_read() -> None:
    texts = {**SPEC.texts(), "timeout_s": "3600"}
    tags = {"skyrl_magic": "session", "owner": "ann@laptop", "session": "one", "started_at": "17", **texts}
    assert read_tags(tags, SPEC.backend, SPEC.app).spec == SPEC


@pytest.mark.parametrize(
    "change",
    [
        {"skyrl_magic": "other"},
        {"session": ""},
        {"spec": ""},
        {"spec": "[]"},
        {"spec": '{"gpu":1}'},
        {"spec": "{}"},
        {"spec": '{"gpu":"toaster","image":"i","volume":"v","ray":"no"}'},
    ],
)
def test_tags_of_something_else_are_refused(change: dict[str, str]) -> None:
    tags = session_tags(SPEC, "one", "me", 0.0) | change
    with pytest.raises(ValueError, match=r".+"):
        read_tags(tags, "local", "app")


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    tags = session_tags(SPEC, "one", "me", 0.0)
    tags["spec"] = tags["spec"].replace("{", '{"colour":"red",', 1)
    assert read_tags(tags, SPEC.backend, SPEC.app).spec == SPEC


def test_a_spec_that_is_nested_too_deep_is_refused() -> None:
    with pytest.raises(ValueError, match="not a session's spec"):
        read_spec("[" * 100_000, "local", "a")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "soon"])
def test_a_start_that_is_no_time_is_not_known(text: str) -> None:
    tags = {**session_tags(SPEC, "one", "me", 1.0), "started_at": text}
    assert read_tags(tags, "local", "a").started_at == 0.0
