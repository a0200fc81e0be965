from __future__ import annotations

import pytest

from skyrl_magic.ui.tables import Table, checkout_text, size_text


def test_text_has_columns_of_one_width() -> None:
    table = Table(("name", "state"), [("a", "idle 3 s"), ("longer name", "-")])
    assert repr(table) == "name         state\na            idle 3 s\nlonger name  -"


def test_html_has_a_row_for_each() -> None:
    shown = Table(("name",), [("a",), ("b",)])._repr_html_()
    assert shown.count("<tr>") == 3
    assert [f">{cell}</td>" in shown for cell in "ab"] == [True, True]


@pytest.mark.parametrize("where", ["column", "cell", "empty"])
def test_everything_is_escaped(where: str) -> None:
    bad = "<script>alert('x')</script> & \"y\""
    rows = [] if where == "empty" else [(bad if where == "cell" else "x",)]
    shown = Table((bad if where == "column" else "name",), rows, empty=bad)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;y&quot;" in shown


def test_without_rows_it_says_so() -> None:
    table = Table(("name",), [], empty="no sessions run")
    assert repr(table) == "no sessions run"
    assert "<em>no sessions run</em>" in table._repr_html_()


def test_dollar_signs_are_no_mathematics() -> None:
    assert table_class(Table(("command",), [("for i in $(seq 3); do echo $i; done",)])) == {
        "tex2jax_ignore",
        "mathjax_ignore",
    }


def table_class(table: Table) -> set[str]:
    """The classes of the element around it."""
    return set(table._repr_html_().split("'")[1].split())


def test_rows_of_another_length_are_a_mistake() -> None:
    with pytest.raises((IndexError, ValueError)):
        repr(Table(("a", "b"), [("1",)]))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (48_340_000, "48.3 MB"),
        (3.2e9, "3.2 GB"),
        (5e12, "5.0 TB"),
        (7e15, "7000.0 TB"),
    ],
)
def test_sizes(size_bytes: float, text: str) -> None:
    assert size_text(size_bytes) == text


def test_a_checkout_is_named_by_as_much_of_its_path_as_it_takes() -> None:
    assert checkout_text("/home/ada/SkyRL") == "SkyRL"
    assert checkout_text("/home/ada/SkyRL", "/home/ada/other", "/home/ada/SkyRL", "") == "SkyRL"
    assert checkout_text("/home/ada/SkyRL", "/home/bob/SkyRL") == "ada/SkyRL"
    assert checkout_text("/home/ada/SkyRL", "/home/ada/OldSkyRL") == "SkyRL"
    assert checkout_text("/SkyRL", "/home/SkyRL") == "/SkyRL"
    assert checkout_text("") == "none"
