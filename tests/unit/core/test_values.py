from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrl_magic.core import values
from skyrl_magic.core.errors import OptionError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3600", 3600), ("1", 1), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("24h", 86400), (" 4h ", 4 * 3600)],
)
def test_duration(text: str, seconds: int) -> None:
    assert values.duration_s("--timeout", text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0.5", "-1", "25h", "86401", "2d", "4 h", "4H", "h", "inf", "nan", "9" * 400]
)
def test_wrong_duration(text: str) -> None:
    with pytest.raises(OptionError, match=r"^--timeout .*give 1s to 24h"):
        values.duration_s("--timeout", text)


@pytest.mark.parametrize(
    ("text", "mib"),
    [("16384", 16384), ("16GiB", 16384), ("16g", 16384), ("512M", 512), ("512mb", 512), ("0.5GB", 512), ("128", 128)],
)
def test_memory(text: str, mib: int) -> None:
    assert values.memory_mib("--memory", text) == mib


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("300000", 300_000), ("256MiB", 2**28), ("1g", 2**30), ("1.5KB", 1536), ("7B", 7), ("1mb", 2**20)],
)
def test_size(text: str, size_bytes: int) -> None:
    assert values.size_bytes("--max-bytes", text) == size_bytes


@pytest.mark.parametrize("text", ["", "0", "-1", "1TiB", "1 MiB", "MiB", "nan", "inf", "9" * 30, "0.5"])
def test_wrong_size(text: str) -> None:
    with pytest.raises(OptionError, match=r"^--max-bytes .*give bytes or a size, as in 300000 or 256MiB"):
        values.size_bytes("--max-bytes", text)


def test_variable_names() -> None:
    assert values.variable_names("-i", "a, _b,a") == ("a", "_b")
    for text in ("", "a b", "1x", "class", "a.b", "a;b"):
        with pytest.raises(OptionError, match="is not a variable name"):
            values.variable_names("-i", text)


@pytest.mark.parametrize("text", ["", "127", "5000000000", "16TiB", "16 GiB", "-1", "GiB", "nan"])
def test_wrong_memory(text: str) -> None:
    with pytest.raises(OptionError, match="as in 32768 or 32GiB"):
        values.memory_mib("--memory", text)


@pytest.mark.parametrize(("text", "cores"), [("4", 4.0), ("0.5", 0.5), ("0.125", 0.125), ("256", 256.0)])
def test_cpu(text: str, cores: float) -> None:
    assert values.cpu_cores("--cpu", text) == cores


@pytest.mark.parametrize("text", ["", "0", "257", "four", "nan", "inf", "-inf"])
def test_wrong_cpu(text: str) -> None:
    with pytest.raises(OptionError, match="give cores"):
        values.cpu_cores("--cpu", text)


@pytest.mark.parametrize("text", ["skyrl-data", "a", "A.b_c-9", "x" * 64])
def test_name(text: str) -> None:
    assert values.object_name("--volume", text) == text


@pytest.mark.parametrize("text", ["", "-a", ".a", "a b", "a/b", "x" * 65, "ä", "a\n", "$(id)", "a;b", "<b>"])
def test_wrong_name(text: str) -> None:
    with pytest.raises(OptionError, match="a name is"):
        values.object_name("--volume", text)


@pytest.mark.parametrize("text", ["", "1a", "a-b", "a.b", "class", "None", "a b"])
def test_wrong_variable(text: str) -> None:
    with pytest.raises(OptionError, match="is not a variable name"):
        values.variable_name("--out", text)


def test_variable() -> None:
    assert values.variable_name("--out", "losses_2") == "losses_2"


@pytest.mark.parametrize(
    ("text", "pair"),
    [("A=b", ("A", "b")), ("_x=", ("_x", "")), ("A=b=c", ("A", "b=c")), ("MAX_TOKENS=5", ("MAX_TOKENS", "5"))],
)
def test_env(text: str, pair: tuple[str, str]) -> None:
    assert values.env_pair("--env", text) == pair


@pytest.mark.parametrize("text", ["A", "=b", "1A=b", "A-B=c", ""])
def test_wrong_env(text: str) -> None:
    with pytest.raises(OptionError, match="give NAME=VALUE"):
        values.env_pair("--env", text)


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=abc",
        "WANDB_API_KEY=abc",
        "OPENAI_APIKEY=abc",
        "AWS_SECRET_ACCESS_KEY=abc",
        "password=abc",
        "DB_PASSWORD=abc",
        "PRIVATE_KEY=abc",
        "CREDENTIALS=abc",
        "X=hf_abcdefghijklmnopqrstuv",
        "X=sk-abcdefghijklmnopqrstuv",
        "X=AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_a_secret_is_refused_and_not_repeated(text: str) -> None:
    name, _, value = text.partition("=")
    with pytest.raises(OptionError, match=r"modal secret create .* --secret NAME") as caught:
        values.env_pair("--env", text)
    assert value not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "read",
    [values.duration_s, values.memory_mib, values.cpu_cores, values.object_name, values.variable_name, values.env_pair],
)
@given(text=st.text())
def test_any_text_is_a_value_or_an_option_error(read: object, text: str) -> None:
    assert callable(read)
    with contextlib.suppress(OptionError):
        assert read("--flag", text) is not None


def test_bounds_are_written_as_numbers_that_people_write() -> None:
    with pytest.raises(OptionError, match=r"from 0.000001 up"):
        values.usd("--max-usd", "0")
