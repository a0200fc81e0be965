import pytest

from skyrl_magic.core.errors import UnknownRun
from skyrl_magic.service.run_names import resolve

NEWEST_FIRST = ["bcd234", "bce567", "xyz789"]


@pytest.mark.parametrize(
    ("text", "run_id"), [("xyz789", "xyz789"), ("bcd", "bcd234"), ("x", "xyz789"), ("-1", "bcd234"), ("-3", "xyz789")]
)
def test_an_id_a_beginning_and_a_place(text: str, run_id: str) -> None:
    assert resolve(text, NEWEST_FIRST) == run_id


def test_an_id_that_begins_another_one_is_meant_itself() -> None:
    assert resolve("abc", ["abcd", "abc"]) == "abc"


def test_one_run_in_two_lists_is_one() -> None:
    assert resolve("ab", ["abcd", "abcd"]) == "abcd"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bc", "2 runs begin with bc: bcd234, bce567; write more of the id"),
        ("xyz788", "there is no run xyz788: did you mean xyz789?"),
        ("qqqqqq", "there is no run qqqqqq: %skyrl_runs lists them"),
        ("", "there is no run : %skyrl_runs lists them"),
        ("-4", "there is no run -4: there are 3 runs, and -1 is the last one; %skyrl_runs lists them"),
        ("-0", "there is no run -0: -1 is the last one"),
    ],
)
def test_what_names_no_run_says_which_are_near(text: str, line: str) -> None:
    with pytest.raises(UnknownRun) as raised:
        resolve(text, NEWEST_FIRST)
    assert str(raised.value) == line


def test_many_of_one_beginning_are_not_all_named() -> None:
    with pytest.raises(UnknownRun, match=r"9 runs begin with a: a0, a1, a2, a3 …; write more of the id"):
        resolve("a", [f"a{number}" for number in range(9)])


def test_without_any_run_there_is_no_last_one() -> None:
    with pytest.raises(UnknownRun, match="there are no runs yet"):
        resolve("-1", [])


def test_one_run_is_counted_as_one() -> None:
    with pytest.raises(UnknownRun, match="there is no run -2: there is one run, and -1 is the last one"):
        resolve("-2", ["abc123"])
