"""Displays, their handles and updates, and what clears a cell."""

from __future__ import annotations

from tests.kernel.python_cells.case import Case

CASES = (
    Case("a value", "6 * 7"),
    Case("the value before", "_ + 1"),
    Case("a value by its number", "Out[max(Out)] == _"),
    Case("no value after a semicolon", "6 * 7;"),
    Case("None is no value", "None"),
    Case("a value after text", "print('first')\n'then'"),
    Case("several values", "from IPython.core.interactiveshell import InteractiveShell\n1\n2"),
    Case("an assignment", "x = 5"),
    Case("state from the cell before", "x"),
    Case("a long value", "list(range(2000))"),
    Case("a pretty value", "{'b' * 30: list(range(30)), 'a' * 30: {'nested': ('x' * 40, 'y' * 40)}}"),
    Case("a value whose repr raises", "class Bad:\n    def __repr__(self): raise ValueError('no repr')\nBad()"),
    Case("display", "display(1, 'two', [3])"),
    Case("display between texts", "print('a')\ndisplay('b')\nprint('c')\ndisplay('d')\nprint('e')"),
    Case("display without a value", "display()"),
    Case("display with an id", "handle = display('one', display_id='mine')\nhandle.update('two')\nprint('after')"),
    Case("an update from a later cell", "handle.update('three')"),
    Case(
        "update_display by id", "from IPython.display import update_display\nupdate_display('four', display_id='mine')"
    ),
    Case("a display of the same id", "display('five', display_id='mine')"),
    Case("a handle of its own", "h = display(display_id=True)\nh.display('x')\nh.update('y')\nh.update('z')"),
    Case("an update of nothing", "update_display('nowhere', display_id='unknown')\nprint('ok')"),
    Case("a display in a loop", "for i in range(30):\n    display(i)"),
    Case(
        "an update in a loop", "h = display('start', display_id=True)\nfor i in range(300):\n    h.update(f'step {i}')"
    ),
    Case(
        "two handles in turns",
        """
        a, b = display('a', display_id=True), display('b', display_id=True)
        for i in range(50):
            a.update(f'a {i}')
            b.update(f'b {i}')
        """,
    ),
    Case("clear_output", "from IPython.display import clear_output\nprint('gone')\nclear_output()\nprint('stays')"),
    Case("clear_output that waits", "print('gone')\nclear_output(wait=True)\nprint('stays')"),
    Case("clear_output that waits for nothing", "print('stays')\nclear_output(wait=True)"),
    Case("clear_output at the end", "print('gone')\ndisplay('gone')\nclear_output()"),
    Case("clear_output behind each display", "for i in range(3):\n    display(i)\n    clear_output(wait=True)"),
    Case("clear_output behind a partial line", "print('half', end='')\nclear_output(wait=True)"),
    Case("clear_output that waits twice", "print('stays')\nclear_output(wait=True)\nclear_output(wait=True)"),
    Case("text, clear_output and a display", "print('gone')\nclear_output(wait=True)\ndisplay('stays')"),
    Case("clear_output that waits, then at once", "print('gone')\nclear_output(wait=True)\nclear_output()"),
    Case(
        "clear_output among both streams",
        "import sys\nprint('gone', file=sys.stderr)\nclear_output(wait=True)\nprint('s', file=sys.stderr)\nprint('x')",
        unordered=True,
    ),
    Case(
        "clear_output and an update, which is no output",
        "h = display('a', display_id=True)\nclear_output(wait=True)\nh.update('stays')",
    ),
    Case("clear_output and a value", "print('gone')\nclear_output(wait=True)\n'stays'"),
    Case(
        "clear_output behind several lines",
        "for i in range(5):\n    print(f'a {i}\\nb {i}\\nc', end='')\n    clear_output(wait=True)",
    ),
    Case(
        "a flood with clear_output behind it",
        "for i in range(30):\n    print('x' * 50_000)\n    clear_output(wait=True)\nprint('end')\nclear_output(True)",
    ),
    Case(
        "a bar and clear_output",
        "print('\\r1/2\\r2/2', end='')\nclear_output(wait=True)",
        differs="redrawn",
        remote=(("stdout", "2/2"),),
    ),
    Case("clear_output before the next cell", "print('stays')\nclear_output(wait=True)"),
    Case("that cell", "print('next')"),
    Case("clear_output of nothing", "clear_output()\nclear_output(wait=True)"),
    Case(
        "clear_output in a loop",
        """
        for i in range(40):
            clear_output(wait=True)
            print('line', i)
            display(i)
        """,
    ),
    Case(
        "clear_output between displays", "display('a')\nclear_output()\ndisplay('b')\nclear_output(True)\ndisplay('c')"
    ),
    Case("clear_output of a partial line", "print('half', end='')\nclear_output()\nprint('whole')"),
    Case(
        "an update after clear_output",
        "h = display('before', display_id=True)\nclear_output()\nh.update('lost')\nprint('end')",
    ),
    Case("a display for later cells", "far = display('far', display_id='far')"),
    Case("an update of it beside clear_output", "far.update('updated')\nclear_output()\nprint('x')"),
    Case("it is displayed again and cleared", "display('again', display_id='far')\nclear_output()\nprint('y')"),
    Case(
        "many displays with ids",
        "hs = [display(i, display_id=True) for i in range(20)]\nfor n, h in enumerate(hs): h.update(-n)",
    ),
    Case(
        "HTML",
        "from IPython.display import HTML, Markdown, Latex, JSON, SVG, Javascript\nHTML('<b>bold</b> &amp; <i>x</i>')",
    ),
    Case("Markdown, LaTeX, JSON", "display(Markdown('# h'), Latex('$x^2$'), JSON({'a': [1, None]}))"),
    Case("SVG and Javascript", "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'), Javascript('1'))"),
    Case("a raw mime bundle", "display({'text/plain': 'p', 'application/x-own+json': {'k': 1}}, raw=True)"),
    Case("metadata", "display({'text/plain': 'p'}, metadata={'text/plain': {'own': True}}, raw=True)"),
    Case(
        "a class with its own bundle",
        """
        class Own:
            def _repr_mimebundle_(self, include=None, exclude=None):
                return {'text/html': '<i>own</i>', 'text/plain': 'own'}, {'text/html': {'isolated': True}}
        Own()
        """,
    ),
    Case(
        "_repr_html_",
        "class Page:\n    def _repr_html_(self): return '<h1>page</h1>'\n    def __repr__(self): return 'page'\nPage()",
    ),
    Case(
        "_repr_html_ that raises",
        "class Page:\n    def _repr_html_(self): raise KeyError('x')\n    def __repr__(self): return 'page'\nPage()",
    ),
    Case(
        "publish_display_data",
        "from IPython.display import publish_display_data\npublish_display_data({'text/plain': 'q'})",
    ),
    Case("a progress bar of IPython", "from IPython.display import ProgressBar\nfor _ in ProgressBar(5): pass"),
    Case("a display hook's comma", "1, 'a', None"),
)
