"""What ``-h`` prints: the options by what they concern, with their defaults, and an example of each group."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from skyrl_magic.core import spec, values
from skyrl_magic.core.options import ALL_SCOPES, HELP, KERNEL, LIVE, OPTIONS, RUN, SESSION, TRUST, VARIABLES
from skyrl_magic.core.variables import DEFAULT_MAX_BYTES

_TITLES = {
    SESSION: "the session's spec (other values: another container)",
    LIVE: "the session's name and what can change while it runs",
    RUN: "this run",
    KERNEL: "the Python kernel",
    VARIABLES: "variables that travel",
    TRUST: "the project file",
    HELP: "help",
}
EXAMPLES: Mapping[str, str] = {
    SESSION: "--gpu A100:4 --memory 64GiB --secret wandb",
    LIVE: "--session train --idle-timeout 30m --max-usd 5",
    RUN: "--env LR={lr} --workdir examples --out text",
    KERNEL: "--python --uv '--extra fsdp'",
    VARIABLES: "--pickle --max-bytes 1GiB",
}
_FLAG_COLUMNS = 36
_COLUMNS = 118


def defaults() -> dict[str, str]:
    """What holds where neither the line nor a setting says something, by flag; flags without one are left out."""
    return {
        "--gpu": str(spec.DEFAULT_GPU),
        "--cpu": f"{values.MIN_CORES:g}, and more where they are free",
        "--memory": "what the machine has",
        "--image": "the one of the checkout's SkyRL",
        "--volume": spec.DEFAULT_VOLUME,
        "--repo": "the one around the notebook",
        "--app": spec.DEFAULT_APP,
        "--timeout": values.duration_text(spec.DEFAULT_TIMEOUT_S),
        "--backend": "auto: modal where an account is set up, else local",
        "--session": "the current one",
        "--wait": f"{values.duration_text(spec.DEFAULT_WAIT_S)} where --gpu has several, else without end",
        "--idle-timeout": values.duration_text(spec.DEFAULT_IDLE_TIMEOUT_S),
        "--max-usd": "no bound",
        "--workdir": "the checkout's",
        "--stdin": "empty",
        "--max-bytes": f"{DEFAULT_MAX_BYTES >> 20}MiB",
    }


def help_text(magic: str, summary: str, *, scopes: Iterable[str] = ALL_SCOPES) -> str:
    """What ``-h`` prints for a magic with the options of these scopes."""
    known = defaults()
    lines = [f"usage: {magic} [options]", "", textwrap.fill(summary, 100), ""]
    for scope in scopes:
        lines.append(f"{_TITLES[scope]}:")
        for option in (o for o in OPTIONS if o.scope == scope):
            names = f"{option.short}, {option.flag}" if option.short else option.flag
            ending = f" (default: {known[option.flag]})" if option.flag in known else ""
            flag = f"  {names} {option.metavar or ''}"
            lines += textwrap.wrap(
                f"{option.help}{ending}",
                _COLUMNS,
                initial_indent=f"{flag:<{_FLAG_COLUMNS}}",
                subsequent_indent=" " * _FLAG_COLUMNS,
                break_on_hyphens=False,
            )
        if scope in EXAMPLES:
            lines.append(f"  for example: {EXAMPLES[scope]}")
    return "\n".join(lines)
