"""The sandbox's first process: it forks the supervisor, hands signals on to it, and ends when that ends, or hangs.

The first process's end is the container's end, so a supervisor that hangs would be billed until the hard timeout. The
kernel ignores a SIGKILL that comes from inside for a namespace's first process: so the supervisor is not that, but a
child of this small one, which was forked before the supervisor grew.

Time is counted in this process's own ticks, of which one that comes late does not count: a machine that was suspended,
frozen or starved of CPU has kept the supervisor from moving too.
"""

from __future__ import annotations

import mmap
import os
import signal
import time

#: A supervisor that has not moved for so long hangs, in seconds; the variable is for tests.
HANG_S = 60.0
HANG_VARIABLE = "SKYRL_HANG_S"
#: So many times longer may it take to boot: it reads the whole checkout then.
_BOOT_SHARE = 10
#: Ticks in that time. The supervisor moves in each, as long as it lives.
_TICKS = 12
#: This process's last words, and its end, take no longer, in seconds: what the supervisor hangs at may stop it too.
_END_S = 5
#: The exit code after a hang, EX_SOFTWARE of sysexits.h.
EXIT_HUNG = 70
_HANDED_ON = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*_HANDED_ON, signal.SIGCHLD, signal.SIGALRM)
#: Both processes have it: the supervisor writes a 1 when it moves, and this one a 0 when it has seen that.
_moved = mmap.mmap(-1, mmap.PAGESIZE)


def hang_s() -> float:
    """How long a supervisor may not move, in seconds."""
    return float(os.environ.get(HANG_VARIABLE, HANG_S))


def beat_s() -> float:
    """How often it must say that it does, in seconds."""
    return hang_s() / _TICKS


def beat() -> None:
    """Say that the supervisor moves."""
    _moved[0] = 1


def guard() -> None:
    """Go on in a child, which calls :func:`beat` whenever it moves; this process watches it, and never returns.

    The caller must be single-threaded.

    Raises:
        OSError: there can be no further process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    pid = os.fork()
    if pid:
        for number in _HEARD:  # a first process gets only what it has a handler for
            signal.signal(number, lambda *_: None)
        os._exit(_watch(pid))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    from skyrl_magic.agent import procs  # here, as the other process can do without

    procs.die_with_parent()


def _watch(supervisor: int) -> int:
    """Watch over process ``supervisor``; its exit code, or :data:`EXIT_HUNG`."""
    tick_s, silent, most = beat_s(), 0, _TICKS * _BOOT_SHARE
    signal.setitimer(signal.ITIMER_REAL, tick_s, tick_s)
    ticked_at = time.monotonic()
    while True:
        # Not sigtimedwait: CPython's fails (EINVAL) when its time went by while this process was stopped.
        number = signal.sigwait(_HEARD)
        if number in _HANDED_ON:
            os.kill(supervisor, number)
        elif number == signal.SIGCHLD:
            code = _reap(supervisor)
            if code is not None:
                return code
        else:
            now = time.monotonic()
            on_time, ticked_at = now - ticked_at < 2 * tick_s, now
            silent += on_time
            if _moved[0]:
                _moved[0], silent, most = 0, 0, _TICKS
            if silent >= most:
                _end(supervisor, silent * tick_s)
                return EXIT_HUNG


def _reap(supervisor: int) -> "int | None":
    """Take the children that have ended, among them who lost their parents in an exec; the supervisor's exit code."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)  # there is one: the supervisor, until it is taken
        if pid == 0:
            return None
        if pid == supervisor:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _end(supervisor: int, silent_s: float) -> None:
    """Kill what the supervisor has started, which it can end no more, and say why; the supervisor ends with us."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(EXIT_HUNG))
    signal.setitimer(signal.ITIMER_REAL, _END_S)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    from skyrl_magic.agent import procs
    from skyrl_magic.core.protocol import SESSION_ENDS
    from skyrl_magic.core.protocol.durations import duration_text

    reason = f"its supervisor hung (it had not moved for {duration_text(silent_s)}), so its watchdog ended it"
    os.write(2, f"skyrl_magic: {SESSION_ENDS}{reason}\n".encode())
    procs.kill_tree(supervisor)
