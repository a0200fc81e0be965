"""await, magics, shell commands, processes, help and questions."""

from __future__ import annotations

from tests.kernel.python_cells.case import Case

CASES = (
    Case("await", "import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')"),
    Case("the value of await", "async def f(): return 7\nawait f()"),
    Case("async for", "async def g():\n    for i in range(3): yield i\nasync for i in g(): print(i)"),
    Case("a task's output", "t = asyncio.create_task(asyncio.sleep(0.01, 'done'))\nprint(await t)"),
    Case("an error in await", "async def bad(): raise ValueError('async')\nawait bad()"),
    Case("%timeit", "%timeit -n 10 -r 2 sum(range(10))", timings=True),
    Case("%time", "%time sum(range(10))", timings=True),
    Case("%%time below the magic", "%%time\nprint('timed')\n1 + 1", timings=True),
    Case("%%timeit below the magic", "%%timeit -n 10 -r 2\npass", timings=True),
    Case("!echo", "!echo from the shell", differs="terminal", remote=(("stdout", "from the shell\n"),)),
    Case(
        "! with a variable",
        "word = 'sent'\n!echo {word} $word",
        differs="terminal",
        remote=(("stdout", "sent sent\n"),),
    ),
    Case("! that fails", "!exit 3"),
    Case("the exit code of !", "_exit_code"),
    Case("! to stderr", "!echo oops >&2", differs="terminal", remote=(("stdout", "oops\n"),)),
    Case("!! and its value", "!!printf 'a\\nb\\n'"),
    Case("! in an assignment", "files = !printf 'x\\ny\\n'\nfiles"),
    Case("%%bash below the magic", "%%bash\necho in bash\necho err >&2", unordered=True),
    Case("%%bash that fails", "%%bash\nexit 4"),
    Case("%%sh with --out", "%%bash --out kept\necho kept text"),
    Case("what --out kept", "kept"),
    Case("%%capture below the magic", "%%capture cap\nprint('hidden')\ndisplay('hidden too')\n3"),
    Case("what %%capture kept", "print(cap.stdout)\ncap.show()"),
    Case("%%writefile", "%%writefile compared.txt\nwritten text"),
    Case("%%html below the magic", "%%html\n<b>html</b>"),
    Case("%%markdown below the magic", "%%markdown\n# title"),
    Case("%%javascript below the magic", "%%javascript\n1"),
    Case("%%python below the magic", "%%python3\nprint('another Python')"),
    Case("%who", "%who_ls str"),
    Case("%precision", "%precision 2\n3.14159"),
    Case("%precision back", "%precision %r"),
    Case(
        "%env",
        "%env SKYRL_COMPARE=1\n!echo $SKYRL_COMPARE",
        differs="terminal",
        remote=(("stdout", "env: SKYRL_COMPARE=1\n1\n"),),
    ),
    Case("%lsmagic is there", "'timeit' in get_ipython().magics_manager.lsmagic()['line']"),
    Case("%load_ext", "%load_ext autoreload\n%autoreload 0"),
    Case("%alias", "%alias hi echo hi %s\n%hi there", differs="terminal", remote=(("stdout", "hi there\n"),)),
    Case(
        "%pdef",
        "def documented(a, b=2):\n    '''What it does.'''\n%pdef documented",
        differs="colours",
        remote=(("stdout", " documented(a, b=\x1b[32m2\x1b[0m)\n "),),
    ),
    Case("help()", "help(documented)"),
    Case("a question mark", "documented?"),
    Case("two question marks", "documented??"),
    Case("a question mark for nothing", "nothing_here?"),
    Case("a wildcard", "doc*?"),
    Case("%pinfo", "%pinfo documented"),
    Case("set_next_input", "get_ipython().set_next_input('next = 1')"),
    Case("%load", "%load -n documented"),
    Case(
        "a subprocess that inherits stdout",
        "import subprocess, time\nsubprocess.run(['echo', 'inherited']); time.sleep(0.5)",
    ),
    Case("a subprocess that is captured", "subprocess.run(['echo', 'x'], capture_output=True, text=True).stdout"),
    Case("os.system", "import os\nos.system('echo system'); time.sleep(0.5)"),
    Case(
        "os.fork",
        """
        import os, sys, time
        pid = os.fork()
        if not pid:
            print('from the child', flush=True)
            os._exit(0)
        os.waitpid(pid, 0); time.sleep(0.5); print('parent')
        """,
        unordered=True,
    ),
    Case(
        "a subprocess that is given sys.stdout",
        "subprocess.run(['echo', 'given'], stdout=sys.stdout).returncode",
        differs="descriptor",
        remote=(("stdout", "given\n"), ("result", "0")),
    ),
    Case(
        "text that waits at a fork",
        """
        print('once')
        pid = os.fork()
        if not pid:
            print('child', flush=True)
            os._exit(0)
        os.waitpid(pid, 0);
        """,
        differs="fork",
        remote=(("stdout", "once\nchild\n"),),
    ),
    Case(
        "multiprocessing",
        """
        import multiprocessing as mp
        p = mp.get_context('fork').Process(target=print, args=('worker',))
        p.start(); p.join(); time.sleep(0.5)
        """,
    ),
    Case("input", "name = input('Name? ')\nprint(name.upper())", answers=("ada",)),
    Case("input after text", "print('first', end='')\ninput()", answers=("reply",)),
    Case("two inputs", "[input('a: '), input('b: ')]", answers=("1", "ü 🎉")),
    Case("getpass", "import getpass\nlen(getpass.getpass('Secret: '))", answers=("hidden",)),
    Case("the cell's own In", "In[-1]"),
    Case("__name__ and __file__", "__name__, '__file__' in globals()"),
    Case("pickle of a class of __main__", "import pickle\nclass P: pass\ntype(pickle.loads(pickle.dumps(P()))) is P"),
    Case("inspect.getsource", "import inspect\ndef sourced(): return 1\nprint(inspect.getsource(sourced))"),
    Case("a docstring cell", "'''only a docstring'''"),
    Case("a comment", "# nothing"),
    Case("blank lines around", "\n\n1\n\n"),
    Case("tabs for indents", "if True:\n\tprint('tab')"),
    Case("continued lines", "x = 1 + \\\n    2\nx"),
    Case("unicode names", "größe = 3\ngröße"),
    Case(
        "a decorator and a class", "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\nPoint(1)"
    ),
)
