"""What a notebook is told when it comes to a session: what it is, and which runs are there that it has not seen."""

from __future__ import annotations

from dataclasses import fields

from skyrl_magic.core import protocol
from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.prices import Price
from skyrl_magic.core.protocol.dollars import usd_text
from skyrl_magic.core.protocol.durations import duration_text
from skyrl_magic.core.spec import SessionSpec
from skyrl_magic.service.checkout import LARGE_BYTES, MANY_FILES, CheckoutReader, fullest_folders, largest_folders
from skyrl_magic.service.commits import IN_BACKGROUND
from skyrl_magic.service.contradictions import contradictions
from skyrl_magic.service.logs import ENDED, all_runs
from skyrl_magic.service.run_list import STOPPED, stands
from skyrl_magic.service.run_names import ways_to
from skyrl_magic.service.session import Session
from skyrl_magic.ui.display import note
from skyrl_magic.ui.notebook import Notebook
from skyrl_magic.ui.tables import checkout_text, size_text

#: So many runs that have ended meanwhile get a line each, the newest ones.
_SAID_ONE_BY_ONE = 3


def note_runs(session: Session, notebook: Notebook) -> None:
    """Say it of the runs that this kernel has not seen: of a kernel before it, or of another notebook.

    Args:
        session: where they are.
        notebook: this kernel's.

    Raises:
        SessionError: the session cannot be asked.
    """
    key = notebook.key
    new = [run for run in all_runs(session) if run.run_id not in notebook.runs]
    if any(run.notebook not in ("", key) for run in new):
        note(f"session {session.name} runs already: other notebooks of yours use it too")
    _note_going_on([run.run_id for run in new if run.state != ENDED and run.notebook == key], "of this notebook")
    _note_going_on([run.run_id for run in new if run.state != ENDED and run.notebook != key], "of another notebook")
    ended = [run for run in new if run.state == ENDED and run.notebook == key]
    ended = [run for run in ended if not shown_whole(run, shown_by(run, key))]
    for run in ended[-_SAID_ONE_BY_ONE:]:
        word, detail = stands(run)
        how = run.reason or (f"stopped by {detail}" if word == STOPPED else f"exit code {detail}")
        rest = f"%skyrl_attach {run.run_id} shows the rest of its output"
        note(f"run {run.run_id} of this notebook ended meanwhile ({how}): {rest}")
    if len(ended) > _SAID_ONE_BY_ONE:
        more = len(ended) - _SAID_ONE_BY_ONE
        note(f"and {more} run{'s' * (more > 1)} of this notebook before it: %skyrl_runs lists them")


def note_another(session: Session, notebook: Notebook, lost: str) -> None:
    """Say that a session is not the one of this name that the notebook had, and in what it differs.

    Args:
        session: it, found where it runs.
        notebook: who comes to it.
        lost: why the earlier one has ended; empty where that is not known.
    """
    place = (session.spec.backend, session.spec.app, session.name)
    had = notebook.containers.get(place, session.sandbox.id)
    if had == session.sandbox.id or not notebook.once(f"another container {session.sandbox.id}"):
        return
    note("an earlier session of this name had ended" + (f": {lost}" if lost else ""))
    known = [field.name for field in fields(SessionSpec)]
    differing = [new.instead_of() for new in contradictions(notebook.used[place].spec, session.spec, known)]
    has = f", with {', '.join(differing)}" if differing else ""
    note(f"session {session.name} is another one now, started elsewhere{has}: its Python kernel is new")


def _note_going_on(run_ids: list[str], whose: str) -> None:
    if len(run_ids) == 1:
        note(f"run {run_ids[0]} {whose} goes on in this session: {ways_to(run_ids[0])}")
    elif run_ids:
        note(f"{len(run_ids)} runs {whose} go on in this session: {', '.join(run_ids)}; %skyrl_attach RUN shows one")


def shown_by(run: protocol.RunSummary, key: str) -> tuple[int, int, int]:
    """How far a notebook has shown a run, as it has told the agent."""
    try:
        out, err, outputs = map(int, run.seen.get(key) or (0, 0, 0))
    except (TypeError, ValueError):  # what a container sends is not trusted
        return 0, 0, 0
    return out, err, outputs


def shown_whole(run: protocol.RunSummary, shown: tuple[int, int, int]) -> bool:
    """Whether nothing of the run's output so far is left to be shown."""
    sizes = (run.stdout_bytes, run.stderr_bytes, run.outputs_bytes)
    return all(reached >= size for reached, size in zip(shown, sizes, strict=True))


def note_volume(session: Session) -> None:
    """Say when others see what the session writes, where its volume cannot be committed on demand."""
    if session.status.volume_version <= IN_BACKGROUND:
        note(late_volume_text(session.spec.volume))


def late_volume_text(volume: str) -> str:
    """When others see what a session writes to a volume that cannot be committed on demand."""
    return f"volume {volume} is version 1: Modal shows changes to others some seconds later, and at the session's end"


def note_large(reader: CheckoutReader) -> None:
    """Say that a checkout has much or many files, and in which folders."""
    scan = reader.scan()
    if scan.size_bytes > LARGE_BYTES:
        folders = ", ".join(f"{name} {size_text(size)}" for name, size in largest_folders(scan.manifest))
        note(f"the checkout has {size_text(scan.size_bytes)} ({folders}): .skyrlignore leaves folders out")
    if len(scan.manifest) > MANY_FILES:
        folders = ", ".join(f"{name} {files:,}" for name, files in fullest_folders(scan.manifest))
        note(f"the checkout has {len(scan.manifest):,} files ({folders}): .skyrlignore leaves folders out")


def ready_line(session: Session, status: protocol.Status, price: Price | None, *, own_timeout: bool = False) -> str:
    """What the session that a cell has started is.

    Args:
        session: it runs.
        status: its state.
        price: what an hour costs; None where nobody knows.
        own_timeout: its timeout is neither what this line says nor what the settings do, and so is to be named.
    """
    ray = ""
    if status.ray == "starting":
        ray = "; Ray is still starting: runs wait for it"
    checkout = f", checkout {checkout_text(session.spec.repo)}" if session.spec.repo else ""
    gpu = "no GPU" if session.spec.gpu == NO_GPU else str(session.spec.gpu)
    cost = "" if price is None else f", {price}"
    cost += f", ends at {usd_text(status.max_usd)}" if status.max_usd else ""
    cost += f", ends after {duration_text(status.timeout_s)} (--timeout)" if own_timeout else ""
    return f"session {session.name}: {gpu}{cost}, volume {session.spec.volume}{checkout}{ray}"
