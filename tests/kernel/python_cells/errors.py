"""Tracebacks, and what else ends a cell."""

from __future__ import annotations

from tests.kernel.python_cells.case import Case

CASES = (
    Case("an error", "1 / 0"),
    Case("an error after text", "print('before')\nraise ValueError('why')"),
    Case(
        "an error after clear_output",
        "from IPython.display import clear_output\nprint('gone')\nclear_output(wait=True)\n1 / 0",
    ),
    Case("an error after a display", "display('before')\n{}['k']"),
    Case("a function of an earlier cell", "def fails(n):\n    # a line above\n    return 1 / n\n"),
    Case("called later", "x = 2\nfails(x - 2)"),
    Case(
        "a chained error", "try:\n    fails(0)\nexcept ZeroDivisionError as e:\n    raise RuntimeError('second') from e"
    ),
    Case("an error in a handler", "try:\n    fails(0)\nexcept ZeroDivisionError:\n    int('x')"),
    Case("from None", "try:\n    fails(0)\nexcept ZeroDivisionError:\n    raise KeyError('alone') from None"),
    Case("a note", "e = ValueError('noted')\ne.add_note('a note')\nraise e"),
    Case("a group", "raise ExceptionGroup('several', [ValueError('a'), ExceptionGroup('in', [TypeError('b')])])"),
    Case("SyntaxError", "a = 1\nprint('never')\nb = = 2"),
    Case("SyntaxError at the start", "def f(:"),
    Case("IndentationError", "if True:\npass"),
    Case("an unclosed bracket", "print((1)"),
    Case("NameError with a suggestion", "lenght = 3\nlength"),
    Case("ImportError", "import a_module_that_is_not_there"),
    Case("an assertion", "assert 1 == 2, 'not equal'"),
    Case("recursion", "def again(): again()\ntry:\n    again()\nexcept RecursionError as e:\n    print(e)"),
    Case("a library's frames", "import json\njson.loads('{')"),
    Case("a module of the checkout", "import broken_module\nbroken_module.work()"),
    Case("an error of one's own class", "class Own(Exception):\n    pass\nraise Own('a', 1)"),
    Case("a message of several lines", "raise ValueError('one\\ntwo\\nthree')"),
    Case("an empty message", "raise ValueError"),
    Case("colours in a message", "raise ValueError('\\x1b[31mred\\x1b[0m')"),
    Case(
        "__str__ that raises",
        "class Worse(Exception):\n    def __str__(self): raise RuntimeError('no str')\nraise Worse()",
    ),
    Case(
        "__repr__ that raises",
        "class NoRepr:\n    def __repr__(self): raise RuntimeError('no repr')\nraise ValueError(NoRepr())",
    ),
    Case(
        "a rendering of one's own",
        "class Drawn(Exception):\n    def _render_traceback_(self): return ['drawn', 'by itself']\nraise Drawn()",
    ),
    Case("KeyboardInterrupt that the cell raises", "raise KeyboardInterrupt('by itself')"),
    Case("sys.exit", "import sys\nsys.exit(3)"),
    Case("sys.exit with a text", "sys.exit('goodbye')"),
    Case("SystemExit", "raise SystemExit"),
    Case("UsageError", "%not_a_magic"),
    Case("a cell magic that is not there", "%%not_a_magic\nx"),
    Case("xmode Minimal", "%xmode Minimal\n1 / 0"),
    Case("xmode Verbose", "%xmode Verbose\nfails(0)"),
    Case("xmode Context", "%xmode Context"),
    Case("print_exc", "import traceback\ntry:\n    fails(0)\nexcept ZeroDivisionError:\n    traceback.print_exc()"),
    Case(
        "showtraceback",
        "try:\n    fails(0)\nexcept ZeroDivisionError:\n    get_ipython().showtraceback()\nprint('goes on')",
    ),
    Case(
        "a custom handler",
        """
        def h(self, t, v, tb, tb_offset=None): print('handled', v)
        get_ipython().set_custom_exc((KeyError,), h)
        {}['x']
        """,
    ),
    Case("handlers away", "get_ipython().set_custom_exc((), None)"),
    Case(
        "an error in a thread",
        "import threading\nt = threading.Thread(target=fails, args=(0,), name='T')\nt.start(); t.join()",
    ),
    Case("an error in __del__", "class D:\n    def __del__(self): 1 / 0\nD()\nNone"),
    Case("the next cell runs", "'ok'"),
)
