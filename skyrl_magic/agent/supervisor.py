"""The session's supervisor: boots its sandbox, starts runs, commits the volume, and ends when nobody needs it any more.

One thread and one selector. Nothing in it waits for a client, a disk full of output or Ray: output goes from the shims
to the journals and from there to ``attach``; the supervisor sees starts, ends and signals only.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

from skyrl_magic.agent import boot, commits, paths, procs, reserve, watchdog
from skyrl_magic.agent.archive import Archiver
from skyrl_magic.agent.baseline import begin_baseline
from skyrl_magic.agent.cgroup import Cgroup
from skyrl_magic.agent.clients import Client
from skyrl_magic.agent.config import Config
from skyrl_magic.agent.earlier import Earlier, find_earlier
from skyrl_magic.agent.endings import Endings
from skyrl_magic.agent.idle import Idle
from skyrl_magic.agent.kernels import OFF, RELAY_S, KernelHost
from skyrl_magic.agent.limits import Limits
from skyrl_magic.agent.nvidia import NvidiaSmi, difference
from skyrl_magic.agent.ray_start import STARTING, RayStart
from skyrl_magic.agent.run import ENDED, RUNNING, Run
from skyrl_magic.agent.runs import RunTable, kill_everything
from skyrl_magic.agent.wire import dispatch, listen_unix, wakeup_pair
from skyrl_magic.core import protocol
from skyrl_magic.core.protocol.durations import duration_text

#: When the container ends: how long runs get from SIGTERM, and Python cells from KeyboardInterrupt, to SIGKILL; how
#: long the Python kernel gets after that to shut down (``atexit``), and its relay after that (``kernels.RELAY_S``).
#: What is still there then is waited for no longer than the slack. How long the last archive pass and frames may take.
#: In seconds.
STOP_GRACE_S = 5.0
KERNEL_EXIT_S = 5.0
STOP_SLACK_S = 2.0
FLUSH_S = 10.0
#: The archive pass has so much less: the journals that are not on the volume by then are left, in seconds.
HURRY_S = 5.0
#: How long all of this may take from the end of the runs, in seconds: the archive pass, a commit that is under way, and
#: the last commit.
COMMIT_S = 24.0
#: A container that is asked to end so shortly before its timeout has come to it, in seconds.
TIMEOUT_SLACK_S = 60.0
#: How long after a run's start or end the shim of the next one is forked, in seconds: out of that run's way, and before
#: the next cell of a notebook that runs them all.
SPARE_DELAY_S = 0.02
SPARE_AFTER_END_S = 0.004
_SPARE_RETRY_S = 5.0


def log(line: str) -> None:
    """One line to the sandbox's own output."""
    sys.stderr.write(f"skyrl_magic: {line}\n")
    sys.stderr.flush()


class Supervisor:
    """A session's supervisor.

    Args:
        config: the session.
        agent_hash: SHA-256 of the zipapp that runs.
        ray: its start, which has begun if the session has one.
    """

    def __init__(self, config: Config, agent_hash: str, ray: RayStart) -> None:
        self._began = time.monotonic()
        self.config = config
        self.agent_hash = agent_hash
        self.limits = Limits(config, self._began)
        self.workdir = boot.working_directory(config)
        self.clients: List[Client] = []
        self.ray = ray
        self._selector = selectors.DefaultSelector()
        self.committer = commits.Committer(
            Path(config.volume_dir), self._selector, self._commit_failed, on_demand=config.volume_version > 1
        )
        self.kernel = KernelHost(
            self._selector, config.state, Path(config.checkout_dir), lambda: self.workdir, lambda: [*self.clients]
        )
        self.runs = RunTable(self._selector, config.state, self._run_changed, self.kernel)
        self.idle = Idle(self._selector, config.idle_timeout_s, lambda: self.kernel.pid, time.monotonic)
        self.standing: Dict[str, str] = {}
        """What who comes later is told too, by what it is about."""
        self._gpus = NvidiaSmi(self._selector, "name", self._gpus_seen, time.monotonic)
        self._cgroup = Cgroup()
        self._oom_kills = self._cgroup.oom_kills()
        self.archiver = Archiver(config, lambda: self.runs.all, self._commit)
        self.endings = Endings(self.runs.send_signal)
        self._earlier = Earlier()
        self.boot_seconds = 0.0
        self._next_commit = self._began
        self._next_shim = self._began
        self._stopping = False
        self._had_client = False
        self._end_reason = ""
        self._kill_at: Optional[float] = None
        self._ends_by: Optional[float] = None
        """When the end begins whatever is left, by the monotonic clock."""

    def run(self) -> int:
        """Boot and serve until the end; returns the exit code."""
        wakeup = self._take_over_signals()
        try:
            self._boot()
        except OSError as error:
            log(f"{protocol.SESSION_ENDS}{boot.cannot_start(error)}")
            return 1
        listener = listen_unix(self.config.state / paths.SUPERVISOR_SOCKET)
        self._selector.register(listener, selectors.EVENT_READ, lambda _: self._accept(listener))
        self.boot_seconds = time.monotonic() - self._began
        self.asked()
        log(f"session {self.config.session} is up after {self.boot_seconds:.2f} s")
        if self.config.about.get("backend") == "modal" and self.config.about.get("gpu", "none") != "none":
            self._gpus.ask()
        # What ended while the boot could not look is reaped now.
        self._reap()
        while not self._stopped:
            self._turn()
        listener.close()
        self._finish(wakeup)
        return 0

    def asked(self) -> None:
        """Somebody used the session: the idle time begins again."""
        self.idle.use()

    def tell(self, about: str, text: str) -> None:
        """One line to everybody who is attached, and to the sandbox's own output."""
        log(text)
        for client in list(self.clients):
            client.push(protocol.Notice(about, text))

    def stop(self, reason: str) -> None:
        """End the session: runs, then what is left of the Python kernel, then flush, commit and exit.

        Runs get SIGTERM, and Python cells KeyboardInterrupt; SIGKILL follows after :data:`STOP_GRACE_S`.

        Args:
            reason: what the runs' watchers are told, and the sandbox's own output.
        """
        if self._stopping:
            return
        self._stopping = True
        self._end_reason = reason
        grace_s, exit_s = self.limits.grace_s(STOP_GRACE_S), self.limits.grace_s(KERNEL_EXIT_S)
        self._kill_at = time.monotonic() + grace_s
        self._ends_by = self._kill_at + exit_s + RELAY_S + STOP_SLACK_S
        log(f"{protocol.SESSION_ENDS}{reason}")  # clients read it there when the container is gone
        self.runs.end(reason)
        self.kernel.finish(reason, grace_s, exit_s)

    @property
    def _stopped(self) -> bool:
        """Whether nothing of the session goes on that could still do something for the last commit, or it had its time.

        Whatever does not end must not keep the container, which is paid for.
        """
        if self._ends_by is None:
            return False
        return time.monotonic() >= self._ends_by or (not self.runs.active and self.kernel.state == OFF)

    @property
    def stopping(self) -> bool:
        """Whether the session is about to end."""
        return self._stopping

    def status(self, request: int = 0) -> protocol.Status:
        """The session's state as a frame."""
        now, limits = time.monotonic(), self.limits
        return protocol.Status(
            request,
            ray=self.ray.state,
            ray_seconds=self.ray.seconds,
            ray_detail=self.ray.detail,
            ray_problem=self.ray.problem,
            boot_seconds=self.boot_seconds,
            active_runs=[run.run_id for run in self.runs.active],
            idle_s=0.0 if self.runs.active else self.idle.idle_s,
            idle_timeout_s=self.idle.timeout_s,
            clients=sum(client.greeted for client in self.clients),
            kernel=self.kernel.state,
            busy_with=self.idle.busy_with,
            timeout_in_s=limits.timeout_in_s(now),
            timeout_s=limits.timeout_s,
            usd_per_hour=limits.spending.usd_per_hour,
            spent_usd=limits.spending.spent_usd(now),
            max_usd=limits.max_usd,
            earlier=self._earlier.reason,
            earlier_s=self._earlier.ago_s,
            volume_version=self.config.volume_version,
            uncommitted=self.committer.outstanding,
        )

    def gone(self, client: Client) -> None:
        """A client's channel ended."""
        self.clients.remove(client)

    def _boot(self) -> None:
        config = self.config
        boot.prepare_folders(config)
        self._earlier = find_earlier(config)
        left_out = begin_baseline(Path(config.checkout_dir), Path(config.manifest_path or os.devnull), config.state)
        if left_out:
            log(f"{left_out} entries of the checkout differ from their manifest; the client sends them again")
        self.workdir = boot.working_directory(config)
        boot.link_gym(self.workdir)
        (config.state / paths.SESSION_FILE).write_text(config.to_json(), encoding="utf-8")
        reserve.keep(config.state)

    def _take_over_signals(self) -> socket.socket:
        wakeup, theirs = wakeup_pair()
        self._wakeup_end = theirs  # kept open: signals write to it
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._selector.register(wakeup, selectors.EVENT_READ, lambda _: self._take_signals(wakeup))
        return wakeup

    def _take_signals(self, wakeup: socket.socket) -> None:
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            numbers = wakeup.recv(4096)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.stop(self._why_asked())
        if signal.SIGCHLD in numbers:
            self._reap()

    def _why_asked(self) -> str:
        """What the backend's SIGTERM means."""
        timeout_s = self.config.hard_timeout_s
        # The backend's clock started before this process did.
        if timeout_s and time.monotonic() - self._began >= timeout_s - min(TIMEOUT_SLACK_S, timeout_s / 2):
            return f"its hard timeout was over ({duration_text(timeout_s)})"
        return "the backend ended its container (it was preempted, or stopped there)"

    def _turn(self) -> None:
        watchdog.beat()
        now = time.monotonic()
        idle = not self.runs.active
        dispatch(self._selector, max(self._next_deadline() - now, 0.0))
        now = time.monotonic()
        if idle:  # a run that begins now is not in the way of a commit, nor of a pass, so soon
            self._next_commit = now + commits.INTERVAL_S
        if self.runs.active and now >= self._next_commit and not self.committer.busy:
            self._next_commit = now + commits.INTERVAL_S
            if not self.archiver.begin(lambda _: self._commit()):
                self._commit()
            self._look_for_kills()
        if not self._stopping:
            self._keep_limits(now)
        if not self.runs.has_spare and now >= self._spare_due_at and not self._stopping:
            self._next_shim = now + _SPARE_RETRY_S
            with contextlib.suppress(OSError):  # no process is left: the run's own start will say so
                self.runs.prepare()
        self.committer.turn(now)
        self._gpus.turn()
        self.archiver.turn(now)
        self.endings.tick()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self.runs.kill()
        self.kernel.tick()

    def _keep_limits(self, now: float) -> None:
        """Say what comes, and end the session when a limit is reached, or nobody needs it any more."""
        self.limits.spending.sample(now)
        for warned in self.limits.news(now):
            self.tell(warned.about, warned.text)
        self.idle.turn(needed=bool(self.runs.active) or self.kernel.busy or self.ray.state == STARTING)
        reason = self.limits.reason(now) or self._orphaned(now)
        if not reason and self.idle.over and not self.committer.keeps(now):
            reason = f"nothing ran for {duration_text(self.idle.timeout_s)} (--idle-timeout)"
        if reason:
            self.stop(reason)

    def _orphaned(self, now: float) -> str:
        """Why the session ends for which nobody came; empty where it does not.

        It may have waited long for its machine, and the notebook that asked for it may have died meanwhile.
        """
        patience_s = self.config.first_client_s
        if self._had_client or not patience_s or now < self._began + patience_s:
            return ""
        return f"nobody came within {duration_text(patience_s)} of its start: the notebook that asked for it has gone"

    def _gpus_seen(self, names: List[str]) -> None:
        """Say that other GPUs came than were asked for: Modal may give an H200 for an H100."""
        said = difference(self.config.about.get("gpu", ""), names)
        if said:
            self.standing["gpu"] = said
            self.tell("gpu", said)

    def _look_for_kills(self) -> None:
        """Say that the kernel has killed processes for want of memory: their own end says SIGKILL and nothing more."""
        kills = self._cgroup.oom_kills()
        if kills > self._oom_kills:
            self._oom_kills = kills
            self.tell(f"memory {kills}", f"{protocol.OUT_OF_MEMORY}: the kernel killed a process of the session")

    def _next_deadline(self) -> float:
        deadlines = [time.monotonic() + watchdog.beat_s(), self.archiver.next_at, self.committer.next_at]
        if self.runs.active:
            deadlines.append(self._next_commit)
        if not self._stopping:
            now = time.monotonic()
            # The end of a commit wakes us.
            idle_at = self.committer.hangs_at if self.committer.keeps(now) else self.idle.next_at
            deadlines += [idle_at, self.limits.next_at(now)]
            if self.config.first_client_s and not self._had_client:
                deadlines.append(self._began + self.config.first_client_s)
            if not self.runs.has_spare:
                deadlines.append(self._spare_due_at)
        if self.endings.due_at is not None:
            deadlines.append(self.endings.due_at)
        deadlines += [at for at in (self._kill_at, self._ends_by, self.kernel.kill_at) if at is not None]
        return min(deadlines)

    @property
    def _spare_due_at(self) -> float:
        used_at = self.runs.spare_used_at
        return self._next_shim if self._next_shim > used_at else used_at + SPARE_DELAY_S

    def _commit(self) -> None:
        self.committer.request(lambda _: None)

    def _commit_failed(self, about: str, line: str) -> None:
        self.tell(about, commits.failure_text(line))

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            self.clients.append(Client(self, self._selector, connection))
            self._had_client = True

    def _reap(self) -> None:
        for pid, status in procs.reap():
            if self.ray.reaped(pid, status):
                self._ray_settled()
            elif lost := self.ray.lost(pid, status):
                self._ray_lost(lost)
            elif not any(part.reaped(pid) for part in (self.kernel, self.idle, self._gpus, self.archiver)):
                self.committer.reaped(pid, status)  # else a shim or a run's orphan: it is reaped, and that is all

    def restart_ray(self) -> None:
        """Start Ray again, unless it is starting; runs that come meanwhile wait for it."""
        if self.ray.state != STARTING:
            self.ray.start()
            if self.ray.settled:
                self._ray_settled()
            else:
                self._set_ray_address()

    def _ray_lost(self, problem: str) -> None:
        """What asks a cluster that is not there waits for a minute: say so before."""
        if not self._stopping:
            self.tell(self.ray.about, problem)

    def _set_ray_address(self) -> None:
        self.ray.set_address()
        self.runs.forget_spare()  # its environment is what ours was

    def _ray_settled(self) -> None:
        if self.ray.problem:
            self._set_ray_address()
        if self.ray.problem:
            self.tell(self.ray.about, self.ray.problem)
        log(f"ray is {self.ray.state} after {duration_text(self.ray.seconds)} {self.ray.detail}".rstrip())
        for client in list(self.clients):
            client.push(self.status())
        self.runs.start_waiting()

    def _run_changed(self, run: Run) -> None:
        self.asked()
        if run.state == ENDED and run.exit_code:
            self._look_for_kills()
        now = time.monotonic()
        self._next_shim = now + (SPARE_DELAY_S if run.state == RUNNING else SPARE_AFTER_END_S)
        if run.state == RUNNING:
            self._next_commit = now + commits.INTERVAL_S
        self.archiver.changed(run)
        for client in list(self.clients):
            client.run_changed(run)
        if run.state == ENDED:
            self.committer.soon(now)
            reserve.keep(self.config.state)

    def _finish(self, wakeup: socket.socket) -> None:
        """Everything is stopped: archive and commit, let every client take its last frames, leave nothing alive."""
        committed: Dict[str, str] = {}
        self.archiver.finish(
            self._end_reason, lambda _: self.committer.request(lambda error: committed.update(error=error))
        )
        for client in list(self.clients):
            client.finish()
        now = time.monotonic()
        hurry_at, flushed_at, commit_by = now + FLUSH_S - HURRY_S, now + FLUSH_S, now + COMMIT_S
        while True:
            watchdog.beat()
            now = time.monotonic()
            ends_at = max(flushed_at if self.clients else now, now if committed else commit_by)
            if now >= ends_at:
                break
            dispatch(self._selector, max(min(hurry_at, ends_at) - now, 0.0))
            if time.monotonic() >= hurry_at:
                self.archiver.give_up()
                hurry_at = math.inf
        if not committed:
            log(f"the last commit of the volume did not end in {duration_text(COMMIT_S)}")
        kill_everything()
        with contextlib.suppress(OSError):
            (self.config.state / paths.SUPERVISOR_SOCKET).unlink()
        self._selector.close()
        wakeup.close()
        log(f"session {self.config.session} is over")
