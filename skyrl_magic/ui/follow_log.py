"""``%skyrl_logs --follow``: a log that goes on until its run ends, which Stop does not touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skyrl_magic.core import protocol
from skyrl_magic.core.errors import RunLeft
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.service.logs import follow
from skyrl_magic.service.run_log import LiveLog, RunLog, last_lines, size_of
from skyrl_magic.ui.display import RunDisplay, note
from skyrl_magic.ui.grep import Grep
from skyrl_magic.ui.replay import ReplayView


def follow_log(log: LiveLog, streams: Sequence[str], found: dict[str, Any]) -> None:
    """Show a log from its beginning, or from its last lines, and what its run still writes.

    Args:
        log: the run's.
        streams: of ``protocol.STREAMS``.
        found: the options, of which ``tail`` and ``grep`` matter here.

    Raises:
        RunLeft: the user stopped it; the run goes on. SessionError: the container ended meanwhile, or does not answer.
    """
    run_id, grep = log.run.run_id, found.get("grep")
    starts = {stream: _start(log, stream, found.get("tail")) for stream in streams}
    display = RunDisplay(run_id, start={} if grep else starts)
    offsets = dict.fromkeys(protocol.STREAMS, 0)

    def show(stream: str, line: bytes) -> None:
        display.feed(protocol.Output(run_id, stream, offsets[stream], len(line), payload=line))
        offsets[stream] += len(line)

    search = Grep(grep, show) if grep else None
    take = ReplayView(run_id, display).feed if search is None else search.feed
    wanted = [*streams, *([protocol.OUTPUTS] if len(streams) > 1 and "tail" not in found else [])]
    policy = protocol.SHOW if search is None else protocol.ALL
    out, err, outputs = (policy if stream in wanted else protocol.NONE for stream in protocol.JOURNAL_STREAMS)
    at_out, at_err = (starts.get(stream, 0) for stream in protocol.STREAMS)
    watch = log.session.channel.begin_watch(protocol.WatchRun(run_id, at_out, at_err, out, err, outputs=outputs))
    try:
        ended = follow(log.session, watch, take, lambda: display.flush_due_s, display.tick)
        if search is not None:
            search.close()
    except KeyboardInterrupt:
        ways = f"%skyrl_attach {run_id} shows it, %skyrl_cancel {run_id} stops it"
        raise RunLeft(f"run {run_id} goes on: {ways}") from None
    finally:
        display.close(None)
    note(_end_line(ended))


def _start(log: RunLog, stream: str, tail: int | None) -> int:
    return 0 if tail is None else size_of(log.run, stream) - len(last_lines(log, stream, tail))


def _end_line(ended: protocol.RunEnded) -> str:
    how = ended.reason or (f"stopped by {ended.cancelled}" if ended.cancelled else f"exit code {ended.exit_code}")
    return f"run {ended.run_id} has ended after {duration_text(ended.duration_s)}: {how}"
