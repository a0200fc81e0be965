"""The settings of ``%config SkyRLMagic``: the session options as traitlets, with the same readers and errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.magic import Magics
from traitlets import Any as AnyTrait
from traitlets import Enum, Float, Int, TraitError, validate

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.options import Given, setting

if TYPE_CHECKING:
    from traitlets.config import Config

    from skyrl_magic.core.spec import RunRules
    from skyrl_magic.ui.config_magic import ConfigMagic

T = TypeVar("T")
_NAMES = (
    "gpu", "cpu", "memory", "image", "volume", "repo", "app", "secret", "timeout", "ray", "backend", "session",
    "idle_timeout", "max_usd", "usd_per_hour", "keep_runs_days", "keep_runs_gb",
    "keep_results", "hard_timeout", "wait",
)  # fmt: skip


def _trait(text: str) -> Any:
    return AnyTrait(None, allow_none=True, help=text).tag(config=True)


class Settings(Magics):
    """Defaults of this notebook's sessions; None leaves a value to the project file, the environment or the default."""

    gpu = _trait("GPU type and count, as in A100:4, or none; several in order, as in H100,A100-80GB")
    cpu = _trait("CPU cores")
    memory = _trait("memory in MiB, or as in 32GiB")
    image = _trait("container image")
    volume = _trait("the volume at /root/data")
    repo = _trait("path of the SkyRL checkout, or none")
    app = _trait("Modal app")
    secret = _trait("Modal secrets: a name or a list of names")
    timeout = _trait("end the container so long after its start, in seconds or as in 4h; it can be changed later")
    ray = _trait("whether Ray is started: True or False")
    backend = _trait("auto, modal or local")
    session = _trait("name of the session")
    idle_timeout = _trait("end the container when nothing has run for so long, in seconds or as in 10m")
    max_usd = _trait("end the container when it has cost so many US dollars")
    usd_per_hour = _trait("what an hour of the container costs you, where your rate is another than Modal's")
    keep_runs_days = _trait("how many days the logs of runs stay on the volume (14), for sessions started from now on")
    keep_runs_gb = _trait("how many GB of runs' logs stay on the volume (2), for sessions started from now on")
    wait = _trait("how long each GPU is waited for (2m where another one is named, else without end)")
    keep_results = _trait(
        "whether results that environment variables place (TensorBoard, MLflow, SwanLab) and SkyRL's logs of vLLM and "
        "workers go to the volume (True), for sessions started from now on"
    )
    hard_timeout = _trait(
        "what --timeout can be raised to while a container runs: Modal itself ends it then (24h), for sessions started "
        "from now on"
    )

    on_interrupt = Enum(
        ("stop", "detach"), "stop", help="what Stop does to a cell's run: stop it, or detach, that is stop watching it"
    ).tag(config=True)
    on_kernel_exit = Enum(
        ("leave", "stop"),
        "leave",
        help="what happens to a cell's run when this notebook's kernel ends: leave or stop it",
    ).tag(config=True)
    grace = Float(
        5.0, min=0.0, help="seconds that a stopped run gets after SIGINT, and after SIGTERM, before the next signal"
    ).tag(config=True)
    max_runs = Int(16, min=1, help="how many runs may go on in a session at once").tag(config=True)

    config_magic: ConfigMagic | None = None
    """What stands before IPython's ``%config``, where the extension is loaded."""
    _refusals_wanted = False

    @validate(*_NAMES)
    def _check(self, proposal: dict[str, Any]) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if value is not None:
            try:
                setting(name, value)
                if name == "repo":
                    _check_repo(value)
            except OptionError as error:
                raise TraitError(str(error)) from None
        return value

    def check_name(self, name: str) -> None:
        """Refuse a setting that there is none of. Raises OptionError, with the nearest one."""
        known = [*self.trait_names(config=True)]
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            advice = f"did you mean {near[0]}?" if near else "%config SkyRLMagic lists them"
            raise OptionError(f"SkyRLMagic has no setting {name}; {advice}")

    def update_config(self, config: Config) -> None:
        """Take over the settings of ``%config``; nothing of them where one is wrong. Raises OptionError."""
        try:
            super().update_config(config)
        except TraitError as error:
            refusal = _refusal(error, self.traits())
            if not self._refusals_wanted:
                raise refusal from None
            self._refusals.append(refusal)

    def refusing(self, change: Callable[[], T]) -> T:
        """What ``change`` returns. It may swallow what :meth:`update_config` raises; this raises that OptionError."""
        self._refusals: list[OptionError] = []
        self._refusals_wanted = True
        try:
            result = change()
        finally:
            self._refusals_wanted = False
        if self._refusals:
            raise self._refusals[0]
        return result

    def given(self) -> Given:
        """The settings as a layer of options."""
        values = {name: getattr(self, name) for name in _NAMES}
        return Given(**dict(setting(name, value) for name, value in values.items() if value is not None))

    def rules(self) -> RunRules:
        """The settings that concern runs."""
        from skyrl_magic.core.spec import RunRules

        return RunRules(
            detach=self.on_interrupt == "detach",
            stop_on_exit=self.on_kernel_exit == "stop",
            grace_s=self.grace,
            max_runs=self.max_runs,
        )

    def assign(self, given: Given) -> None:
        """Take over the values of ``given``; what it does not say stays."""
        for name, value in as_settings(given).items():
            setattr(self, name, value)


def _check_repo(text: str) -> None:
    """Raises OptionError where there is no such folder; what is in it is for the cell to see."""
    if text != "none" and not os.path.isdir(os.path.expanduser(text)):  # noqa: PTH111, PTH112  (no pathlib at load)
        raise OptionError(f"repo = {text!r}: there is no such folder; give the path of a SkyRL checkout, or none")


def _refusal(error: TraitError, traits: Mapping[str, Any]) -> OptionError:
    """The error in our words: traitlets speaks of instances of classes."""
    named = re.search(r"'(\w+)' trait of", str(error))
    trait = None if named is None else traits.get(named[1])
    if isinstance(trait, Enum):
        return OptionError(f"{trait.name}: it is one of {', '.join(map(str, trait.values or ()))}")
    if isinstance(trait, (Float, Int)):
        kind = "a whole number" if isinstance(trait, Int) else "a number"
        return OptionError(f"{trait.name}: give {kind} from {trait.min:g} up")
    return OptionError(str(error))


def as_settings(given: Given) -> dict[str, object]:
    """The values of ``given`` as :class:`Settings` takes them, without those that are not said."""
    values: dict[str, object | None] = {
        "gpu": None if given.gpu is None else str(given.gpu),
        "cpu": given.cpu,
        "memory": given.memory_mib,
        "image": given.image,
        "volume": given.volume,
        "repo": given.repo,
        "app": given.app,
        "secret": None if given.secrets is None else list(given.secrets),
        "timeout": given.timeout_s,
        "ray": given.ray,
        "backend": given.backend,
        "session": given.session,
        "idle_timeout": given.idle_timeout_s,
        "max_usd": given.max_usd,
        "usd_per_hour": given.usd_per_hour,
        "keep_runs_days": given.keep_runs_days,
        "keep_runs_gb": given.keep_runs_gb,
        "keep_results": given.keep_results,
        "hard_timeout": given.hard_timeout_s,
        "wait": given.wait_s,
    }
    return {name: value for name, value in values.items() if value is not None}
