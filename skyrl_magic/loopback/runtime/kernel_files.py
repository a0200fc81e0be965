"""Files of the kernel below /proc and /sys that a sandbox cannot change, and those that it does not see.

Root in a sandbox is the machine's root to these files where that is who started the server, as many of them ask for the
user's number and for no right of his. The lists are Docker's (``defaultReadonlyPaths`` and ``defaultMaskedPaths`` of
moby's ``oci/defaults.go``), and what else was found to be root's alone.
"""

from __future__ import annotations

from pathlib import Path

#: Shown as they are, and read-only.
READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs", "mtrr", "tty", "driver", "sysvipc", "pressure")
#: Folders that are empty in a sandbox.
EMPTY = (
    *("/proc/acpi", "/proc/asound", "/proc/scsi", "/proc/dynamic_debug"),
    *("/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/kernel/config"),
    *("/sys/fs/bpf", "/sys/fs/pstore", "/sys/fs/fuse", "/sys/devices/virtual/powercap"),
)
#: Files that cannot be opened in a sandbox.
HIDDEN = (
    *("kcore", "keys", "key-users", "kmsg", "latency_stats", "timer_list", "timer_stats", "sched_debug", "slabinfo"),
    *("kpagecount", "kpageflags", "kpagecgroup", "vmallocinfo", "vmcore", "config.gz", "lockdep", "page_owner"),
)


def options() -> list[str]:
    """Bubblewrap's arguments, to come behind its ``--proc``, ``--dev`` and the bind of /sys."""
    words: list[str] = []
    for name in READ_ONLY:
        words += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for path in EMPTY:
        if Path(path).is_dir():
            words += ["--tmpfs", path, "--remount-ro", path]
    for name in HIDDEN:
        if Path("/proc", name).exists():
            words += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    return words
