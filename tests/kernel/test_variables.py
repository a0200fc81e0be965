"""Variables to and from the session's Python kernel, through a real kernel and a real container."""

from __future__ import annotations

import re

import pytest

from skyrl_magic.loopback.daemon import ServerAddress
from tests.kernel.conftest import Cell, Kernel, make_kernel

IMPORTS = "import datetime, math, zoneinfo\nimport numpy as np, pandas as pd, polars as pl, pyarrow as pa"
#: A name, an expression, and what holds of a copy ``b`` of the original ``a``.
ROUND_TRIPS = [
    ("None", "b is None"),
    (
        "[True, 1, -(1 << 80), 1.5, 'text \\ud800', b'bytes', None]",
        "b == a and list(map(type, b)) == list(map(type, a))",
    ),
    ("[math.inf, math.nan]", "b[0] == math.inf and math.isnan(b[1])"),
    ("{(1, 'a'): {1, 2}, 'k': frozenset({3}), 4: [(), {}]}", "b == a and list(b) == list(a)"),
    ("[1j, bytearray(b'x'), datetime.date(2025, 1, 2), datetime.timedelta(3)]", "b == a"),
    ("datetime.datetime(2025, 1, 2, 3, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))", "b == a and b.tzinfo.key"),
    ("np.float32(1.5)", "b == a and type(b) is np.float32"),
    ("np.arange(12.0).reshape(3, 4)", "(b == a).all() and b.dtype == a.dtype and b.flags.writeable"),
    ("np.asfortranarray(np.ones((3, 4), '>i2'))", "(b == a).all() and b.dtype == a.dtype"),
    ("np.arange(500_000)", "(b == a).all() and (b.__setitem__(0, 7) or b[0] == 7)"),
    ("[np.arange(3), {'k': np.zeros((0, 2))}]", "(b[0] == a[0]).all() and b[1]['k'].shape == (0, 2)"),
    ("pd.DataFrame({'a': [1, 2], 'b': ['x', None]}, index=['p', 'q'])", "pd.testing.assert_frame_equal(a, b) is None"),
    ("pd.Series([1.0, 2.0], name='s')", "pd.testing.assert_series_equal(a, b) is None"),
    ("pl.DataFrame({'a': [1, 2], 'b': [['x'], None]})", "b.equals(a)"),
    ("pa.table({'a': [1, None], 'b': ['x', 'y']})", "b.equals(a)"),
]


@pytest.fixture(autouse=True)
def imports(kernel: Kernel) -> None:
    kernel.run(IMPORTS)


def value(kernel: Kernel, expression: str) -> str:
    """What an expression is in the notebook."""
    cell = kernel.run(expression)
    assert cell.status == "ok", cell.error
    return cell.result


def one_line(cell: Cell) -> str:
    """The line of a cell that failed before it showed anything."""
    assert cell.status == "error"
    assert (cell.out, len(cell.error)) == ("", 1), cell.error
    return cell.error[0]


@pytest.mark.parametrize(("expression", "holds"), ROUND_TRIPS)
def test_what_goes_there_and_comes_back_is_the_same(kernel: Kernel, expression: str, holds: str) -> None:
    kernel.run(f"a = {expression}")
    cell = kernel.run(f"%%skyrl_python -i a -o b,there\n{IMPORTS}\nthere = {expression}\nb = a")
    assert cell.status == "ok", cell.error
    assert value(kernel, f"bool({holds})") == "True"
    kernel.run("b = there")
    assert value(kernel, f"type(b) is type(a) and bool({holds})") == "True"


def test_push_and_pull(kernel: Kernel) -> None:
    kernel.run("one, two = [1], {'k': 2}")
    assert kernel.run("%skyrl_push one, two").status == "ok"
    assert kernel.run("%skyrl_python one.append(two['k'])").status == "ok"
    kernel.run("%skyrl_pull one")
    assert value(kernel, "one") == "[1, 2]"


def test_a_session_can_be_started_with_its_kernel(kernel: Kernel) -> None:
    kernel.run("%skyrl_start --session early --python")
    assert "nothing_there" in one_line(kernel.run("%skyrl_pull nothing_there --session early"))
    kernel.run("%skyrl_stop early")


def test_push_starts_a_kernel_and_pull_does_not(kernel: Kernel) -> None:
    kernel.run("a = 1")
    kernel.run("%skyrl_start --session fresh")
    assert "has no Python kernel" in one_line(kernel.run("%skyrl_pull a --session fresh"))
    assert kernel.run("%skyrl_push a --session fresh").status == "ok"
    assert kernel.run("%skyrl_python --session fresh print(a)").out == "1\n"
    kernel.run("%skyrl_stop fresh")


def test_without_a_session_nothing_is_started(kernel: Kernel) -> None:
    kernel.run("a = 1")
    for line in ("%skyrl_push a --session nowhere", "%skyrl_pull a --session nowhere"):
        assert "there is no session nowhere: %skyrl_sessions" in one_line(kernel.run(line))
    assert "nowhere" not in kernel.run("%skyrl_sessions").result


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-i framee", "there is no variable framee here; did you mean frame?"),
        ("-i stranger", "stranger cannot be sent: stranger is of type __main__.Stranger; --pickle sends it"),
        ("-i big --max-bytes 1KiB", "big has 7.81 KiB, over the 1 KiB of --max-bytes"),
        ("-i 'a b'", "'a b' is not a variable name"),
        ("-i class", "'class' is not a variable name"),
        ("-o 3d", "'3d' is not a variable name"),
        ("-o a --out a", "-o and a capture both name a"),
        ("-i a --max-bytes much", "give bytes or a size"),
    ],
)
def test_what_cannot_go_is_an_error_before_anything_runs(kernel: Kernel, line: str, says: str) -> None:
    kernel.run("frame = big = np.zeros(1000)\na = 1\nclass Stranger: pass\nstranger = Stranger()")
    assert says in one_line(kernel.run(f"%%skyrl_python --session unborn {line}\nprint('ran')"))
    assert "unborn" not in kernel.run("%skyrl_sessions").result


def test_nothing_is_half_assigned(kernel: Kernel) -> None:
    kernel.run("c = d = 'before'\nok, bad = 1, lambda: 0")
    kernel.run("%skyrl_python c, d, ok = 'after', object(), 'before'")
    assert "d cannot be sent: d is of type object" in kernel.run("%skyrl_pull c,d").error[0]
    assert (
        "there is no variable okk in the session's kernel; did you mean ok?" in kernel.run("%skyrl_pull c,okk").error[0]
    )
    assert value(kernel, "c, d") == "('before', 'before')"
    assert "bad cannot be sent" in kernel.run("%skyrl_push ok,bad").error[0]
    assert kernel.run("%skyrl_python print(ok)").out == "before\n"


def test_what_the_cell_has_not_made_is_named(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_python -o made,scors\nmade, scores = 1, 2")
    assert "there is no variable scors in the session's kernel; did you mean scores?" in cell.error[0]
    assert "made" not in kernel.run("print(sorted(globals()))").out


def test_a_cell_that_fails_assigns_nothing(kernel: Kernel) -> None:
    kernel.run("left = 'before'")
    for options in ("-o left", "-o left --no-raise-error"):
        assert "ZeroDivisionError" in "".join(kernel.run(f"%%skyrl_python {options}\nleft = 1\n1 / 0").error)
    assert value(kernel, "left") == "'before'"


def test_what_comes_back_is_bounded(kernel: Kernel) -> None:
    kernel.run("%skyrl_python import numpy as np; heavy = np.zeros(1_000_000)")
    assert (
        "heavy has 7.63 MiB, over the 1 MiB of --max-bytes" in kernel.run("%skyrl_pull heavy --max-bytes 1MiB").error[0]
    )


def test_a_pickle_travels_only_when_asked_for_and_with_a_word(kernel: Kernel) -> None:
    kernel.run("double = lambda x: 2 * x")
    cell = kernel.run("%%skyrl_python -i double --pickle\nprint(double(21))")
    assert (cell.out, cell.notes) == ("42\n", ["double travels as a pickle: loading one runs code, in the session"])
    kernel.run("%skyrl_python triple = lambda x: 3 * x")
    assert "triple cannot be sent" in kernel.run("%skyrl_pull triple").error[0]
    cell = kernel.run("%skyrl_pull --pickle triple\nprint(triple(2))")
    assert cell.out == "6\n"
    assert cell.notes == [
        "triple travels as a pickle: loading one runs code, here, and this one comes from the session's container"
    ]
    kernel.run("plain = 1")
    assert kernel.run("%skyrl_push plain --pickle").notes == []


def test_shell_cells_take_strings_and_numbers(kernel: Kernel) -> None:
    kernel.run("text, count, rate, many = \"a 'b' $c\", 3, 0.5, [1]")
    cell = kernel.run('%%skyrl_modal -i text,count,rate\necho "$text" $count $rate')
    assert cell.out == "a 'b' $c 3 0.5\n"
    assert "many is of type list" in one_line(kernel.run("%%skyrl_modal -i many\necho ran"))
    assert "-o is for Python cells" in one_line(kernel.run("%%skyrl_modal -o many\necho ran"))
    assert "--pickle is for Python cells" in one_line(kernel.run("%%skyrl_modal -i text --pickle\necho ran"))
    assert "both name text" in one_line(kernel.run("%%skyrl_modal -i text --env text=x\necho ran"))


def test_100_mb_go_both_ways(kernel: Kernel) -> None:
    kernel.run("large = np.random.default_rng(1).random(12_500_000)")
    cell = kernel.run("%%skyrl_python -i large -o back\nback = large + 1\ndel large")
    assert cell.status == "ok", cell.error
    assert value(kernel, "bool((back == large + 1).all())") == "True"


def test_nothing_is_left_in_the_container(kernel: Kernel) -> None:
    kernel.run("a = np.zeros(1000)\n")
    kernel.run("%%skyrl_python -i a -o a\na += 1")
    kernel.run("%%skyrl_python -i a -o nothing\n")
    assert kernel.run("%skyrl_modal find / -xdev -path '*/blobs/v*' 2>/dev/null; true").out == ""


def test_stop_while_the_kernel_is_busy_sets_nothing_then_or_later(
    kernel: Kernel, loopback_server: ServerAddress
) -> None:
    kernel.run("%skyrl_start --session shared")
    kernel.run("%skyrl_python --session shared kept = 'there'")
    kernel.run("kept = 'here'")
    other = make_kernel(kernel.folder, loopback_server)
    try:
        other.run("%load_ext skyrl_magic\n%config SkyRLMagic.ray = False")
        other.client.execute("%%skyrl_python --session shared\nimport time\nprint('begun')\ntime.sleep(300)")
        seen = ""
        while "begun" not in seen:
            seen += other.client.get_iopub_msg(timeout=60)["content"].get("text", "")
        for magic in ("push", "pull"):
            cell = kernel.run(f"print('asked', flush=True)\n%skyrl_{magic} kept", interrupt_at="asked")
            assert re.search("RunStopped|KeyboardInterrupt", "".join(cell.error))
    finally:
        other.manager.interrupt_kernel()
        while "error" not in seen:  # the signal has reached the session when the cell has ended
            seen = other.client.get_iopub_msg(timeout=60)["msg_type"]
        other.close()
    assert value(kernel, "kept") == "'here'"
    assert kernel.run("%skyrl_python print(kept)").out == "there\n"
    kernel.run("%skyrl_stop shared")


def test_a_kernel_that_dies_under_a_pull_says_so(kernel: Kernel) -> None:
    kernel.run("%%skyrl_python\nimport os\nclass Mine:\n    def __reduce__(self):\n        os._exit(3)\nmine = Mine()")
    assert "exited with code 3" in kernel.run("%skyrl_pull mine --pickle").error[0]
    kernel.run("a = 1")
    assert kernel.run("%%skyrl_python -i a\nprint(a)").out == "1\n"


def test_a_line_magics_value_can_be_assigned(kernel: Kernel) -> None:
    cell = kernel.run(
        "x = %skyrl_python 1 + 1\nname = %skyrl_modal --python --env A=1 {'a': (1, b'2')}\n"
        "%skyrl_python 'shown'\nmissing = %skyrl_python y = 5\n"
    )
    assert cell.status == "ok", cell.error
    assert cell.result == "'shown'"
    assert kernel.run("x, name, missing").result == "(2, {'a': (1, b'2')}, None)"


def test_a_working_directory_that_is_not_there_is_said_in_plain_words(kernel: Kernel) -> None:
    cell = kernel.run("%%skyrl_python --workdir nowhere --env LEFT=1\n1")
    assert "the working directory /root/SkyRL/nowhere does not exist" in cell.err + "".join(cell.error)
    assert "Errno" not in cell.err + "".join(cell.error)
    assert kernel.run("%%skyrl_python\nimport os\nprint(os.environ.get('LEFT'))").out == "None\n"


def test_a_functions_line_magic_gives_its_value_in_a_later_cell(kernel: Kernel) -> None:
    kernel.run("%%skyrl_python\nn = 41")
    kernel.run("def f():\n    r = %skyrl_python n + 1\n    return r\ndef g():\n    %skyrl_python n + 2")
    cell = kernel.run("f()")
    assert (cell.status, cell.result, cell.notes) == ("ok", "42", [])
    assert kernel.run("g()").result == "43"  # as the cell of a statement shows it
    assert kernel.run("[f() for _ in range(2)], f() + 1").result == "([42, 42], 43)"
    assert kernel.run("text = %skyrl_modal echo hello\ntext").result == "['hello']"
    assert kernel.run("x = %time %skyrl_python n\nx").result == "41"


def test_a_value_that_cannot_come_is_told_of(kernel: Kernel) -> None:
    kernel.run("kept = 1")
    cell = kernel.run("kept = %skyrl_python object()")
    assert "the value is of type object" in cell.error[-1]
    assert kernel.run("kept").result == "1"
    assert kernel.run("kept = %skyrl_python --pickle 1j").status == "ok"
    assert kernel.run("kept").result == "1j"
