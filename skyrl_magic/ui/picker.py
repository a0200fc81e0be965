"""``%skyrl_picker``: a session's resources chosen with widgets, and the magic line that says the same."""

from __future__ import annotations

import contextlib
import dataclasses
import html
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from IPython.core.getipython import get_ipython

from skyrl_magic.core import gpus, spec, values
from skyrl_magic.core.errors import OptionError, SkyRLMagicError
from skyrl_magic.core.gpus import NO_GPU, Gpu
from skyrl_magic.core.options import Given, merge, option_line
from skyrl_magic.service.settings import environment_settings, project_file
from skyrl_magic.service.trust import counting

_TIMEOUTS_S = (900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 12 * 3600, 24 * 3600)
_IDLE_TIMEOUTS_S = (120, 300, 600, 1200, 1800, 3600, 2 * 3600)
_WIDE: dict[str, Any] = {"style": {"description_width": "7em"}, "layout": {"width": "24em"}}
# The theme's colours alone, so that it reads well in a dark one too.
_CODE = "user-select: all; padding: 2px 8px; background: var(--jp-layout-color2)"
_ERROR = "color: var(--jp-error-color1)"
_DEFAULTS = Given(
    volume=spec.DEFAULT_VOLUME,
    timeout_s=spec.DEFAULT_TIMEOUT_S,
    idle_timeout_s=spec.DEFAULT_IDLE_TIMEOUT_S,
    ray=True,
)


class PickerTarget(Protocol):
    """What the picker's buttons call."""

    def current_given(self) -> Given:
        """The notebook's defaults."""
        ...

    def use_defaults(self, given: Given) -> None:
        """Make ``given`` the notebook's defaults."""
        ...

    def start_from_picker(self, line: str) -> str:
        """Start the session of an options line; shows how far it is. Raises SkyRLMagicError."""
        ...


def show_picker(magics: PickerTarget) -> None:
    """Display a picker. Raises OptionError when a settings file or variable is wrong."""
    from IPython.display import display

    display(Picker(magics).box)


class Picker:
    """The widgets, and what their buttons do with the values."""

    def __init__(self, magics: PickerTarget) -> None:
        import ipywidgets as w

        self._magics = magics
        file = project_file(Path.cwd())
        project, _ = counting(file.path, file.settings, magics.current_given(), Given())
        self._outside = merge(project, environment_settings())
        first = merge(magics.current_given(), self._outside)
        gpu, name = first.gpu or spec.DEFAULT_GPU, first.session or ""
        self._first_gpu = gpu
        self.gpu = w.Dropdown(options=[*gpus.MAX_COUNTS, gpus.NONE], value=gpu.type, description="GPU", **_WIDE)
        self.count = w.BoundedIntText(max(1, gpu.count), min=1, max=gpus.MAX_COUNT, description="GPU count", **_WIDE)
        self.timeout = _durations("Timeout", _TIMEOUTS_S, first.timeout_s or spec.DEFAULT_TIMEOUT_S)
        idle_timeout_s = first.idle_timeout_s or spec.DEFAULT_IDLE_TIMEOUT_S
        self.idle_timeout = _durations("Idle timeout", _IDLE_TIMEOUTS_S, idle_timeout_s)
        self.volume = w.Text(first.volume or spec.DEFAULT_VOLUME, description="Volume", **_WIDE)
        self.session = w.Text(name, description="Session", placeholder="automatic", **_WIDE)
        self.ray = w.Checkbox(first.ray is not False, description="Start Ray", **_WIDE)
        self.line, self.report = w.HTML(), w.HTML()
        self.use = w.Button(description="Use", tooltip="Make this the notebook's default")
        self.start = w.Button(description="Start", tooltip="Start this session now", button_style="primary")
        controls = (self.gpu, self.count, self.timeout, self.idle_timeout, self.volume, self.session, self.ray)
        self.box = w.VBox((*controls, self.line, w.HBox((self.use, self.start)), self.report))
        for control in controls:
            control.observe(self._changed, names="value")
        self.use.on_click(self._use)
        self.start.on_click(self._start)
        self._changed()

    def given(self) -> Given:
        """The values of the widgets. Raises OptionError where one is wrong."""
        session = self.session.value.strip()
        gpu = NO_GPU if self.gpu.value == gpus.NONE else Gpu(self.gpu.value, self.count.value)
        return Given(
            gpu=self._first_gpu if gpu == self._first_gpu.choices[0] else gpu,  # with what may stand in for it
            volume=values.object_name("--volume", self.volume.value.strip()),
            timeout_s=self.timeout.value,
            idle_timeout_s=self.idle_timeout.value,
            ray=self.ray.value,
            session=values.object_name("--session", session) if session else None,
        )

    def _line(self) -> str:
        return option_line(without_defaults(self.given(), merge(self._magics.current_given(), self._outside)))

    def _changed(self, _change: object = None) -> None:
        self.count.disabled = self.gpu.value == gpus.NONE
        self.count.max = gpus.MAX_COUNTS.get(self.gpu.value, gpus.MAX_COUNT)
        try:
            line = html.escape(self._line())
        except OptionError as error:
            self.line.value = f'<span role="alert" style="{_ERROR}">{html.escape(str(error))}</span>'
            self._enable(on=False)
        else:
            self.line.value = f'<code style="{_CODE}">%%skyrl_modal {line}</code>'
            self._enable(on=True)

    def _enable(self, *, on: bool) -> None:
        self.use.disabled = self.start.disabled = not on

    def _use(self, _button: object) -> None:
        self._magics.use_defaults(self.given())
        self._changed()
        self._say(["these are this notebook's defaults now"])

    def _start(self, _button: object) -> None:
        self._enable(on=False)
        lines: dict[str, str] = {}
        try:
            with _displays(lines, lambda: self._say(lines.values())):
                self._magics.start_from_picker(self._line())
        except (SkyRLMagicError, KeyboardInterrupt) as error:
            self._say([*lines.values(), str(error) or "interrupted"])
        finally:
            self._changed()

    def _say(self, lines: Iterable[str]) -> None:
        text = html.escape("\n".join(lines))
        self.report.value = f'<pre role="status" style="margin: 0; white-space: pre-wrap">{text}</pre>'


@contextlib.contextmanager
def _displays(lines: dict[str, str], on_change: Callable[[], None]) -> Iterator[None]:
    """Collect by display id what this thread displays as text, instead of sending it.

    ipywidgets' Output would not do: it ignores updates of a display (jupyter-widgets/ipywidgets#1844).
    """
    publisher: Any = getattr(get_ipython(), "display_pub", None)

    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        lines[content["transient"].get("display_id", str(len(lines)))] = content["data"].get("text/plain", "")
        on_change()

    if not hasattr(publisher, "register_hook"):  # no kernel, and so no front end that shows widgets
        yield
        return
    publisher.register_hook(take)
    try:
        yield
    finally:
        publisher.unregister_hook(take)


def without_defaults(given: Given, said: Given) -> Given:
    """``given`` without what holds anyway: it is the default, and ``said`` (the settings) does not say otherwise."""
    held: dict[str, None] = {}
    for name, value in vars(_DEFAULTS).items():
        if value is not None and getattr(given, name) == value and getattr(said, name) in {None, value}:
            held[name] = None
    return dataclasses.replace(given, **held)


def _durations(description: str, steps_s: tuple[int, ...], value_s: int) -> Any:
    """A dropdown of durations; a value that is no step joins them."""
    import ipywidgets

    options = [(values.duration_text(step_s), step_s) for step_s in sorted({*steps_s, value_s})]
    return ipywidgets.Dropdown(options=options, value=value_s, description=description, **_WIDE)
