"""``python -m skyrl_magic.loopback``: start the local server and print the variables that lead a Modal client to it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from skyrl_magic.loopback.daemon import (
    IDLE_EXIT_S,
    READY,
    LoopbackError,
    ensure_server,
    find_server,
    hold_lock,
    stop_server,
)
from skyrl_magic.loopback.layout import STATE_DIR_VARIABLE, Layout, default_root

_STDOUT = Path("-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m skyrl_magic.loopback", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--status", action="store_true", help="say whether the server runs; exit 1 if not")
    action.add_argument("--stop", action="store_true", help="end the server and its sandboxes")
    action.add_argument("--foreground", action="store_true", help="run the server here, until Ctrl-C")
    action.add_argument(
        "--coverage",
        nargs="?",
        const=_STDOUT,
        type=Path,
        metavar="PAGE",
        help="print which of Modal's calls are covered, or write it into the page",
    )
    action.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--state-dir", type=Path, help=f"where its files lie (also ${STATE_DIR_VARIABLE})")
    parser.add_argument(
        "--idle-exit-s", type=float, default=IDLE_EXIT_S, help="end when unused for so many seconds (%(default)s)"
    )
    return parser


def _serve(root: Path, idle_exit_s: float, on_ready: Callable[[], None]) -> None:
    from skyrl_magic.loopback.server import LoopbackServer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    layout = Layout(root)
    layout.create()
    hold_lock(layout)

    async def run() -> None:
        await LoopbackServer(layout, idle_exit_s).serve(on_ready)

    asyncio.run(run())


def _serve_detached(root: Path, idle_exit_s: float) -> None:
    """Be the server that ``ensure_server`` starts: nobody's child, and its stdout says when it is ready."""
    if os.fork():
        os._exit(0)

    def on_ready() -> None:
        os.write(1, READY)
        os.dup2(2, 1)

    try:
        _serve(root, idle_exit_s, on_ready)
    except LoopbackError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - one line is enough


def _coverage(page: Path) -> int:
    from skyrl_magic.loopback import coverage

    if page == _STDOUT:
        sys.stdout.write(coverage.table())
        return 0
    try:
        coverage.write_page(page)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _status(root: Path) -> int:
    address = find_server(root)
    if address is None:
        sys.stdout.write(f"no local server runs on {root}\n")
        return 1
    sys.stdout.write(f"a local server runs at {address.url} (pid {address.pid}) on {root}\n")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    root = (options.state_dir or default_root()).absolute()
    try:
        if options.serve:
            _serve_detached(root, options.idle_exit_s)
        elif options.foreground:
            _serve(root, options.idle_exit_s, lambda: None)
        elif options.coverage:
            return _coverage(options.coverage)
        elif options.status:
            return _status(root)
        elif options.stop:
            did = "stopped the" if stop_server(root) else "there was no"
            sys.stdout.write(f"{did} local server on {root}\n")
        else:
            address = ensure_server(root, idle_exit_s=options.idle_exit_s)
            for name, value in address.environment().items():
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    except LoopbackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
