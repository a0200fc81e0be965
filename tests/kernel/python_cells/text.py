"""What cells print, and how."""

from __future__ import annotations

from tests.kernel.python_cells.case import Case

CASES = (
    Case("print", "print('hello')"),
    Case("print without an end", "print('no end', end='')"),
    Case("print with a flush", "print('a', end='', flush=True)\nprint('b', flush=True)"),
    Case("many lines", "for i in range(5000): print(i)"),
    Case("stderr", "import sys\nprint('err', file=sys.stderr)"),
    Case("stdout and stderr", "print('o')\nprint('e', file=sys.stderr)"),
    Case(
        "in turns with flushes",
        "for i in range(3):\n    print('o', i, flush=True)\n    print('e', i, file=sys.stderr, flush=True)",
    ),
    Case("sys.stdout.write", "sys.stdout.write('written\\n')"),
    Case("writelines", "sys.stdout.writelines(['a\\n', 'b\\n'])"),
    Case(
        "partial lines over time",
        "import time\nfor part in 'abc':\n    print(part, end=' ', flush=True)\n    time.sleep(0.25)\nprint()",
    ),
    Case("blank lines", "print('\\n\\n  indented  \\n\\n')"),
    Case("trailing blanks", "print('x   ')\nprint('   ')\nprint('y')"),
    Case("tabs", "print('a\\tb\\tc')"),
    Case(
        "a carriage return before a newline",
        "print('dos\\r\\nline\\r')",
        differs="terminal",
        remote=(("stdout", "dos\nline\n"),),
    ),
    Case(
        "a redrawn line",
        "for i in range(5): print(f'\\rstep {i}', end='')\nprint()",
        differs="redrawn",
        remote=(("stdout", "step 4\n"),),
    ),
    Case("a backspace", "print('abc\\b\\bX')", differs="redrawn", remote=(("stdout", "aXc\n"),)),
    Case("colours", "print('\\x1b[31mred\\x1b[0m plain \\x1b[1;44mx\\x1b[0m')"),
    Case("what looks like HTML", "print('<script>alert(1)</script> &amp;')"),
    Case("a very long line", "print('x' * 150_000)"),
    Case("no end to a very long line", "print('y' * 50_000, end='')"),
    Case("unicode", "print('naïve 漢字 🎉 e\\u0301 \\u202e')"),
    Case("a surrogate", "print('a\\ud800b')", differs="surrogates", remote=(("stdout", "a\\ud800b\n"),)),
    Case("NUL and other controls", "print('a\\0b\\x07c\\x7fd')", differs="terminal", remote=(("stdout", "abcd\n"),)),
    Case("form feed and vertical tab", "print('a\\x0cb\\x0bc')", differs="terminal", remote=(("stdout", "a\nb\nc\n"),)),
    Case(
        "a private sequence of a terminal",
        "print('\\x1b]0;title\\x07shown\\x1b[?25l')",
        differs="terminal",
        remote=(("stdout", "shown\n"),),
    ),
    Case("warnings", "import warnings\nwarnings.warn('careful')"),
    Case(
        "a deprecation from __main__", "def old():\n    warnings.warn('old', DeprecationWarning, stacklevel=2)\nold()"
    ),
    Case("logging", "import logging\nlogging.warning('logged')\nlogging.getLogger('own').error('more')"),
    Case(
        "logging with basicConfig",
        "logging.basicConfig(level=logging.INFO, force=True, format='%(levelname)s %(message)s')\nlogging.info('info')",
    ),
    Case(
        "sys.stdout replaced",
        """
        import io
        before, sys.stdout = sys.stdout, io.StringIO()
        print('caught')
        kept = sys.stdout.getvalue()
        sys.stdout = before
        kept
        """,
    ),
    Case(
        "redirect_stdout",
        "import contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f:\n    print('caught')\nf.getvalue()",
    ),
    Case("stdout left replaced", "real_stdout, sys.stdout = sys.stdout, io.StringIO()\nprint('nobody sees this')"),
    Case(
        "after it was replaced",
        "print('still nobody')\nsys.stdout = real_stdout\nprint('seen again')",
        differs="replaced",
        remote=(("stdout", "seen again\n"),),
    ),
    Case("isatty and encoding", "sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.writable(), sys.stdout.closed"),
    Case(
        "bytes to stdout",
        "sys.stdout.buffer.write(b'raw\\n')",
        differs="bytes",
        remote=(("stdout", "raw\n"), ("result", "4")),
    ),
    Case(
        "bytes that are no UTF-8",
        """
        for part in (b'\\xe6\\xbc', b'\\xa2 \\xff\\n'):
            sys.stdout.buffer.write(part)
        sys.stderr.buffer.write(b'err\\n');
        """,
        differs="bytes",
        remote=(("stdout", "漢 �\n"), ("stderr", "err\n")),
    ),
    Case("print of bytes", "print(b'\\xff\\x00')"),
    Case(
        "an error inside write",
        "sys.stdout.write(b'x')",
        differs="frames",
        remote=(("error", "write() argument must be str, not <class 'bytes'>"),),
    ),
    Case("write of no string", "try:\n    sys.stdout.write(b'x')\nexcept TypeError as e:\n    print(e)"),
    Case("pprint", "from pprint import pprint\npprint({'k' * 40: ['v' * 40] * 3})"),
    Case(
        "a thread that the cell joins",
        "import threading\nt = threading.Thread(target=print, args=('from a thread',))\nt.start(); t.join()",
    ),
    Case(
        "a pool",
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(print, range(20)))
        """,
        unordered=True,
    ),
    Case(
        "displays from a thread",
        "t = threading.Thread(target=display, args=('shown by a thread',))\nt.start(); t.join()",
    ),
    Case(
        "tqdm",
        "from tqdm import tqdm\nfor _ in tqdm(range(50), bar_format='{n}/{total}'): pass",
        differs="redrawn",
        remote=(("display", "50/50"),),
    ),
    Case(
        "tqdm.write",
        "for i in tqdm(range(3), bar_format='{n}'): tqdm.write(f'at {i}')",
        differs="redrawn",
        remote=(("display", "3"), ("stdout", "at 0\nat 1\nat 2\n")),
    ),
    Case("half a line before a display", "print('half', end='')\ndisplay('shown')\nprint('rest')"),
    Case("os.write", "import os, time\nos.write(1, b'by number\\n'); time.sleep(0.5)"),
)
