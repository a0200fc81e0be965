from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skyrl_magic.core import values
from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.gpus import NO_GPU, Gpu, parse_gpu
from skyrl_magic.core.option_help import EXAMPLES, defaults, help_text
from skyrl_magic.core.options import (
    BY_FLAG,
    HELP,
    LIMITS,
    LIVE,
    OPTIONS,
    SESSION,
    SETTINGS,
    Given,
    Line,
    merge,
    names_of,
    option_line,
    parse_line,
    setting,
    split_words,
    without_comment,
)

#: For each option a text that it takes, and what comes of it.
VALID: dict[str, tuple[str, object]] = {
    "--gpu": ("A100:4", Gpu("A100", 4)),
    "--cpu": ("0.5", 0.5),
    "--memory": ("32GiB", 32768),
    "--image": ("repo/image:tag", "repo/image:tag"),
    "--volume": ("vol-1", "vol-1"),
    "--repo": ("../SkyRL", "../SkyRL"),
    "--app": ("my_app", "my_app"),
    "--secret": ("hf", ("hf",)),
    "--timeout": ("2h", 7200),
    "--no-ray": ("", False),
    "--ray": ("", True),
    "--backend": ("local", "local"),
    "--session": ("mine", "mine"),
    "--wait": ("5m", 300),
    "--idle-timeout": ("90s", 90),
    "--max-usd": ("$2.50", 2.5),
    "--usd-per-hour": ("0.8", 0.8),
    "--env": ("A=b", (("A", "b"),)),
    "--workdir": ("examples", "examples"),
    "--python": ("", True),
    "--uv": ("--extra=fsdp", "--extra=fsdp"),
    "--out": ("text", "text"),
    "--err": ("errors", "errors"),
    "--no-raise-error": ("", False),
    "--errexit": ("", True),
    "--stdin": ("lines", "lines"),
    "--input": ("a,b", ("a", "b")),
    "--output": ("c", ("c",)),
    "--pickle": ("", True),
    "--max-bytes": ("1GiB", 2**30),
    "--bg": ("", True),
    "--dry-run": ("", True),
    "--trust": ("", True),
    "--help": ("", True),
}
#: Texts near to what people write: flags, quotes, spaces, and anything.
fragments = st.sampled_from(
    [*BY_FLAG, "--", "-", "=", " ", "'", '"', "\\", "$VAR", "{}", "echo", "L4", "A=b", "\n", "--x"]
)
lines = st.lists(fragments | st.text(max_size=5), max_size=12).map("".join)
#: A command as it can follow the options: it begins with no dash and no blank.
commands = st.builds(str.__add__, st.sampled_from(["echo", "$X", "'it", '"a', "{}", "cat <<E", "\\"]), st.text()).map(
    str.rstrip
)


def said(given_: Given) -> dict[str, object]:
    return {name: value for name, value in vars(given_).items() if value is not None}


def option_words(flag: str) -> str:
    return f"{flag} {VALID[flag][0]}".strip()


# --- parsing --------------------------------------------------------------------------------------------------------


def test_every_option_has_a_field_and_an_example() -> None:
    assert {option.flag for option in OPTIONS} == set(VALID)
    assert {option.field for option in (*OPTIONS, *SETTINGS)} == {field.name for field in dataclasses.fields(Given)}


@pytest.mark.parametrize("flag", VALID)
def test_option(flag: str) -> None:
    text, value = VALID[flag]
    field = BY_FLAG[flag].field
    assert said(parse_line(f"{flag} {text}").given) == {field: value}
    if text:
        assert said(parse_line(f"{flag}={text}").given) == {field: value}
        assert said(parse_line(f"{flag} '{text}'").given) == {field: value}
        assert said(parse_line(f'{flag}="{text}"').given) == {field: value}
    else:
        with pytest.raises(OptionError, match=f"{flag} takes no value"):
            parse_line(f"{flag}=yes")


@pytest.mark.parametrize("flag", [flag for flag, (text, _) in VALID.items() if text])
def test_a_missing_value_says_what_it_is(flag: str) -> None:
    with pytest.raises(OptionError, match=f"{flag} needs a value: "):
        parse_line(flag)
    with pytest.raises(OptionError):
        parse_line(f"{flag}=")
    with pytest.raises(OptionError):
        parse_line(f"{flag} ''")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--gpus L4", "unknown option --gpus; did you mean --gpu?"),
        ("--noray", "unknown option --noray; did you mean --no-ray?"),
        ("--idle_timeout 5", "unknown option --idle_timeout; did you mean --idle-timeout?"),
        ("--bgg x", "unknown option --bgg; did you mean --bg?"),
        ("--zzzzzz", "unknown option --zzzzzz; -h lists the options"),
        ("--timeou 5", "unknown option --timeou; did you mean --timeout?"),
        ("--detach x", "unknown option --detach"),
        ("--gpu L4 --gpu L4", "--gpu is given twice"),
        ("--env A='b echo", "--env: a quote in its value does not close"),
        ("--gpu L4'x echo", "--gpu: a quote in its value does not close"),
        ("--repo a\\", "--repo: a quote in its value does not close"),
        ("--backend aws", "--backend aws: it is one of auto, modal, local"),
    ],
)
def test_a_wrong_line_is_one_line(line: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_line(line)
    assert str(caught.value).startswith(message)


def test_no_abbreviations() -> None:
    for flag in VALID:
        if flag[:-1] not in VALID:
            with pytest.raises(OptionError, match="unknown option"):
                parse_line(f"{flag[:-1]} {VALID[flag][0]}")


def test_an_unclosed_secret_is_not_repeated() -> None:
    with pytest.raises(OptionError) as caught:
        parse_line("--env HF_TOKEN='hf_abcdefghijklmnopqrstuvwxyz")
    assert "hf_" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'a b'", "a b"),
        ('"a b"', "a b"),
        ("a\\ b", "a b"),
        ("a'b c'd", "ab cd"),
        (r'"a\"b\$c\d"', r'a"b$c\d'),
        (r"'a\b'", r"a\b"),
        ("$HOME/x", "$HOME/x"),
        ("~/SkyRL", "~/SkyRL"),
    ],
)
def test_values_are_quoted_as_for_bash(text: str, value: str) -> None:
    assert parse_line(f"--repo {text} echo").given.repo == value


def test_options_that_repeat() -> None:
    given_ = parse_line("--secret a --env A=1 --secret b --env B='x y'").given
    assert given_.secrets == ("a", "b")
    assert given_.env == (("A", "1"), ("B", "x y"))


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("--gpu L4 nvidia-smi -q --gpu 0", "nvidia-smi -q --gpu 0"),
        ("--gpu L4 -- --gpu 0", "--gpu 0"),
        ("-- -x", "-x"),
        ("-", "-"),
        ("--no-ray echo $HOME {x} 'a  b' \"$(date)\"", "echo $HOME {x} 'a  b' \"$(date)\""),
        ("echo it's", "echo it's"),
        ("'--gpu' L4", "'--gpu' L4"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_options_end_at_the_first_word_that_is_none(line: str, rest: str) -> None:
    assert parse_line(line).rest == rest


def test_options_of_another_magic_are_unknown() -> None:
    with pytest.raises(OptionError, match="unknown option --workdir"):
        parse_line("--workdir x", scopes=(SESSION, LIVE, HELP))


def test_dash_h_is_help() -> None:
    assert parse_line("-h").given.help
    assert parse_line("--gpu L4 -h").given.help


@given(lines)
@example("'")
@example("--gpu")
@example("\\")
def test_any_line_is_a_line_or_an_option_error(text: str) -> None:
    try:
        line = parse_line(text)
    except OptionError:
        return
    assert isinstance(line, Line)
    assert text.strip().endswith(line.rest)


@given(
    st.lists(st.sampled_from(sorted(VALID)), unique_by=lambda flag: BY_FLAG[flag].field),
    commands,
    st.sampled_from(["", "--"]),
)
def test_the_rest_comes_back_as_it_was(flags: list[str], command: str, dashes: str) -> None:
    words = [option_words(flag) for flag in flags]
    line = parse_line(" ".join([*words, dashes, command]))
    assert line.rest == command
    assert said(line.given) == {BY_FLAG[flag].field: VALID[flag][1] for flag in flags}


@given(lines)
def test_words_are_the_line_without_blanks(text: str) -> None:
    words = split_words(text)
    assert all(words)
    position = 0
    for word in words:
        found = text.index(word, position)
        assert not text[position:found].strip()
        position = found + len(word)
    assert not text[position:].strip()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
everything = st.builds(
    Given,
    gpu=st.none() | st.sampled_from([NO_GPU, Gpu("H100!", 1), Gpu("A100-80GB", 8)]),
    cpu=st.none() | st.floats(0.125, 256),
    memory_mib=st.none() | st.integers(128, 10**6),
    image=st.none() | texts.map(lambda text: "".join(text.split())).filter(bool),
    volume=st.none() | st.just("vol-1"),
    repo=st.none() | texts,
    app=st.none() | st.just("my_app"),
    secrets=st.none() | st.lists(st.sampled_from(["a", "b"]), min_size=1).map(tuple),
    timeout_s=st.none() | st.integers(1, 86400),
    ray=st.none() | st.booleans(),
    backend=st.none() | st.sampled_from(["auto", "local"]),
    session=st.none() | st.just("mine"),
    idle_timeout_s=st.none() | st.integers(1, 86400),
    max_usd=st.none() | st.floats(0.01, 1e6),
    usd_per_hour=st.none() | st.floats(0.01, 1e6),
    env=st.none() | st.lists(st.tuples(st.just("A"), texts), min_size=1).map(tuple),
    workdir=st.none() | texts,
    out=st.none() | st.just("x"),
    err=st.none() | st.just("y"),
    raise_error=st.none() | st.just(value=False),
    errexit=st.none() | st.just(value=True),
    input=st.none() | st.just(("a", "b")),
    max_bytes=st.none() | st.integers(1, 2**40),
    dry_run=st.none() | st.just(value=True),
    help=st.none() | st.just(value=True),
)


@given(everything)
def test_a_written_line_reads_back(given_: Given) -> None:
    assert parse_line(option_line(given_)) == Line(given_, "")


def test_a_written_line_is_as_a_person_writes_it() -> None:
    line = "--gpu A100:2 --secret a --secret b --no-ray --timeout 1h30m --idle-timeout 1m30s --env 'A=b c' --errexit"
    assert option_line(parse_line(line).given) == line


def test_names_of_variables_have_a_short_flag() -> None:
    assert said(parse_line("-i a,b -o c ls -i").given) == {"input": ("a", "b"), "output": ("c",)}
    assert parse_line("--input 'a, b,a'").given.input == ("a", "b")
    with pytest.raises(OptionError, match=r"^--input a b: 'a b' is not a variable name$"):
        parse_line("-i 'a b'")
    with pytest.raises(OptionError, match=r"^--output a,: a comma stands between two names, as in --output a,b$"):
        parse_line("-o a,")


@pytest.mark.parametrize(
    ("line", "names", "rest"),
    [
        ("-o a, b", ("a", "b"), ""),
        ("-o a , b -i c", ("a", "b"), ""),
        ("-o a ,b ,c x = 1", ("a", "b", "c"), "x = 1"),
        ("-o a,\tb, c x", ("a", "b", "c"), "x"),
        ("-o=a, b", ("a", "b"), ""),
        ("-o a b, c", ("a",), "b, c"),
        ("--output 'a, b', c", ("a", "b", "c"), ""),
    ],
)
def test_names_of_variables_may_have_a_space_beside_a_comma(line: str, names: tuple[str, ...], rest: str) -> None:
    parsed = parse_line(line)
    assert (parsed.given.output, parsed.rest) == (names, rest)


@pytest.mark.parametrize("line", ["-o a, -i b", "-o a,,b", "-o ,a", "-o a, ,b", "-i a,"])
def test_a_comma_too_many_says_so(line: str) -> None:
    with pytest.raises(OptionError, match="a comma stands between two names"):
        parse_line(line)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("gpu", "A100:2", ("gpu", Gpu("A100", 2))),
        ("idle-timeout", "10m", ("idle_timeout_s", 600)),
        ("idle_timeout", 600, ("idle_timeout_s", 600)),
        ("cpu", 4, ("cpu", 4.0)),
        ("memory", 32768, ("memory_mib", 32768)),
        ("secret", ["a", "b"], ("secrets", ("a", "b"))),
        ("secret", "a", ("secrets", ("a",))),
        ("gpu", ["H100", "L40S:2"], ("gpu", parse_gpu("H100,L40S:2"))),
        ("wait", "5m", ("wait_s", 300)),
        ("ray", False, ("ray", False)),
        ("ray", True, ("ray", True)),
        ("no-ray", True, ("ray", False)),
        ("no-ray", False, ("ray", None)),
    ],
)
def test_setting(name: str, value: object, expected: tuple[str, object]) -> None:
    assert setting(name, value) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gpus", "L4", "unknown option --gpus; did you mean --gpu?"),
        ("out", "x", "unknown option --out"),
        ("env", "A=b", "unknown option --env"),
        ("help", True, "unknown option --help"),
        ("ray", "yes", "ray = 'yes': give true or false"),
        ("ray", 1, "ray = 1: give true or false"),
        ("gpu", 4, "--gpu 4: there is no GPU"),
        ("timeout", True, "--timeout True: give"),
        ("secret", ["a", "b c"], "--secret b c: a name is"),
    ],
)
def test_wrong_setting(name: str, value: object, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        setting(name, value)
    assert str(caught.value).startswith(message)


# --- layers ---------------------------------------------------------------------------------------------------------

layers = st.builds(
    Given,
    gpu=st.none() | st.sampled_from([NO_GPU, Gpu("L4", 1)]),
    timeout_s=st.none() | st.integers(1, 100),
    idle_timeout_s=st.none() | st.integers(1, 100),
    ray=st.none() | st.booleans(),
    session=st.none() | st.sampled_from(["a", "b"]),
    secrets=st.none() | st.sampled_from([(), ("a",), ("b", "c")]),
)


@given(st.lists(layers, max_size=5))
def test_the_first_word_counts_and_limits_take_the_smallest(found: list[Given]) -> None:
    merged = merge(*found)
    for field in dataclasses.fields(Given):
        values = [value for value in (getattr(layer, field.name) for layer in found) if value is not None]
        expected = None if not values else min(values) if field.name in LIMITS else values[0]
        assert getattr(merged, field.name) == expected


@given(layers, layers, layers)
def test_layers_can_be_merged_in_steps(one: Given, two: Given, three: Given) -> None:
    assert merge(merge(one, two), three) == merge(one, merge(two, three)) == merge(one, two, three)


def test_limits() -> None:
    assert {"timeout_s", "idle_timeout_s", "hard_timeout_s", "max_usd"} == LIMITS


def test_help_names_every_option() -> None:
    text = help_text("%%skyrl_modal", "Run the cell.")
    for option in OPTIONS:
        assert option.flag in text
        assert option.help in " ".join(text.split())
    assert "--workdir" not in help_text("%skyrl_start", "Start.", scopes=(SESSION, LIVE, HELP))
    assert max(map(len, text.splitlines())) <= 120


def test_help_has_defaults_and_an_example_of_each_group() -> None:
    text = " ".join(help_text("%%skyrl_modal", "Run the cell.").split())
    assert "GPU type and count, or none; or several, in order (default: L4)" in text
    assert "(default: 256MiB)" in text
    assert set(defaults()) <= set(BY_FLAG)
    for scope in EXAMPLES:
        assert f"for example: {EXAMPLES[scope]}" in text
        assert said(parse_line(EXAMPLES[scope], scopes=(scope,), evaluate=str).given)


# --- names and comments -----------------------------------------------------------------------------------------------


def evaluated(**variables: object) -> Callable[[str], str]:
    return lambda expression: str(eval(expression, {}, variables))  # noqa: S307  (the user's own line)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("one two", ["one", "two"]),
        ("one, two,three", ["one", "two", "three"]),
        ("{a} {b}", ["run", "x1"]),
        ("{a},{b} zzz", ["run", "x1", "zzz"]),
        ("{d['k, l']} two", ["value", "two"]),
        ("", []),
    ],
)
def test_an_expression_is_one_name(text: str, names: list[str]) -> None:
    evaluate = evaluated(a="run", b="x1", d={"k, l": "value"})
    assert names_of("%skyrl_stop", text, evaluate, values.object_name) == names


@pytest.mark.parametrize("value", ["--all", "one two", "one,two", "", " "])
def test_an_expression_is_never_an_option_nor_several_names(value: str) -> None:
    with pytest.raises(OptionError, match="a name is 1 to 64 of"):
        names_of("%skyrl_stop", "{n}", evaluated(n=value), values.object_name)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("scratch  # not train", "scratch"),
        ("      # later, also in a new kernel", ""),
        ("--session a --grep 'x # y'  # z", "--session a --grep 'x # y'"),
        ("run#1 a#", "run#1 a#"),
        ("", ""),
    ],
)
def test_a_comment_is_no_part_of_a_line(text: str, code: str) -> None:
    assert without_comment(text).strip() == code.strip()


def test_a_list_of_gpus_may_have_blanks() -> None:
    line = parse_line("--gpu H100, L4 echo x")
    assert (str(line.given.gpu), line.rest) == ("H100,L4", "echo x")
