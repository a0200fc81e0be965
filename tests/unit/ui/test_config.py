from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.magic import magics_class
from traitlets import TraitError
from traitlets.config import Config

from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import LIVE, OPTIONS, SESSION, SETTINGS, Given
from skyrl_magic.ui import config
from skyrl_magic.ui.config import _NAMES, as_settings

ALL = Given(
    gpu=Gpu("A100", 4),
    cpu=0.5,
    memory_mib=32768,
    image="some/image:tag",
    volume="v",
    repo="none",
    app="a",
    secrets=("one", "two"),
    timeout_s=7200,
    ray=False,
    backend="local",
    session="s",
    idle_timeout_s=90,
    max_usd=12.5,
    usd_per_hour=0.8,
    keep_runs_days=3.5,
    keep_results=True,
    keep_runs_gb=0.25,
    hard_timeout_s=7200,
    wait_s=300,
)


@magics_class
class Settings(config.Settings):
    """Settings alone, without magics."""


def test_nothing_is_said_at_first() -> None:
    assert Settings().given() == Given()


def test_each_option_of_a_session_is_a_setting() -> None:
    fields = {option.field for option in (*OPTIONS, *SETTINGS) if option.scope in (SESSION, LIVE)}
    said = {field.name for field in dataclasses.fields(Given) if getattr(ALL, field.name) is not None}
    assert said == fields
    assert set(as_settings(ALL)) == set(_NAMES)


def test_settings_and_options_say_the_same() -> None:
    settings = Settings()
    settings.assign(ALL)
    assert settings.given() == ALL


names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
givens = st.builds(
    Given,
    gpu=st.none() | st.sampled_from([NO_GPU, Gpu("L4", 1), Gpu("H100", 8)]),
    cpu=st.none() | st.floats(0.125, 256),
    memory_mib=st.none() | st.integers(128, 1 << 20),
    volume=st.none() | names,
    app=st.none() | names,
    secrets=st.none() | st.lists(names, max_size=3).map(tuple),
    timeout_s=st.none() | st.integers(1, 86400),
    idle_timeout_s=st.none() | st.integers(1, 86400),
    max_usd=st.none() | st.floats(0.01, 1e6),
    usd_per_hour=st.none() | st.floats(0.01, 1e6),
    ray=st.none() | st.booleans(),
    backend=st.none() | st.sampled_from(["auto", "modal", "local"]),
    session=st.none() | names,
)


@given(givens)
def test_round_trip(said: Given) -> None:
    settings = Settings()
    settings.assign(said)
    assert settings.given() == said


def test_what_is_not_said_stays() -> None:
    settings = Settings()
    settings.assign(ALL)
    settings.assign(Given(gpu=NO_GPU))
    assert settings.given() == dataclasses.replace(ALL, gpu=NO_GPU)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("gpu", "a100:4", "gpu", Gpu("A100", 4)),
        ("cpu", 4, "cpu", 4.0),
        ("memory", "32GiB", "memory_mib", 32768),
        ("secret", "one", "secrets", ("one",)),
        ("secret", ["one", "two"], "secrets", ("one", "two")),
        ("timeout", "4h", "timeout_s", 14400),
        ("timeout", 60, "timeout_s", 60),
        ("idle_timeout", "10m", "idle_timeout_s", 600),
        ("max_usd", 5, "max_usd", 5.0),
        ("max_usd", "$2.50", "max_usd", 2.5),
        ("usd_per_hour", 0.8, "usd_per_hour", 0.8),
        ("ray", False, "ray", False),
        ("gpu", None, "gpu", None),
    ],
)
def test_values_are_read_as_on_a_line(name: str, value: object, field: str, expected: object) -> None:
    settings = Settings()
    setattr(settings, name, value)
    assert getattr(settings.given(), field) == expected


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("gpu", "L5", "did you mean L4"),
        ("gpu", "L4:99", "L4"),
        ("cpu", "many", "--cpu many"),
        ("memory", "1", "--memory 1"),
        ("volume", "a b", "--volume a b"),
        ("secret", ["ok", "not ok"], "--secret not ok"),
        ("timeout", "25h", "--timeout 25h"),
        ("timeout", 0, "--timeout 0"),
        ("idle_timeout", "soon", "--idle-timeout soon"),
        ("max_usd", "much", "--max-usd much: give US dollars"),
        ("max_usd", 0, "--max-usd 0"),
        ("usd_per_hour", "nan", "--usd-per-hour nan"),
        ("ray", "yes", "give true or false"),
        ("backend", "aws", "auto, modal, local"),
        ("image", " ", "--image"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_and_not_kept(name: str, value: object, says: str) -> None:
    settings = Settings()
    with pytest.raises(TraitError, match=says) as error:
        setattr(settings, name, value)
    assert len(str(error.value).splitlines()) == 1
    assert settings.given() == Given()


def test_a_configuration_file_sets_them() -> None:
    settings = Settings(config=Config({"Settings": {"gpu": "T4", "ray": False}}))
    assert settings.given() == Given(gpu=Gpu("T4", 1), ray=False)


def test_each_has_a_help_for_config() -> None:
    assert all(Settings.class_traits(config=True)[name].help for name in _NAMES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret", 3),
        ("secret", ["one", 3]),
        ("image", 5),
        ("image", "x y"),
        ("image", " x"),
        ("volume", 7),
        ("session", 1),
        ("hard_timeout", "5s"),
        ("hard_timeout", 59),
        ("repo", "/nonexistent"),
        ("repo", 3),
    ],
)
def test_a_value_that_no_cell_could_use_is_refused_at_once(name: str, value: object) -> None:
    settings = Settings()
    with pytest.raises(TraitError, match=r"give|no such folder|no blank"):
        setattr(settings, name, value)
    assert settings.given() == Given()
