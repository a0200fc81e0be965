"""``%skyrl_attach`` and ``%skyrl_cancel``: back to a run that goes on, or an end to it."""

from __future__ import annotations

from skyrl_magic.core.errors import OptionError
from skyrl_magic.core.options import RUN, Option, read_options

FROM_START = "start"


def _from(flag: str, text: str) -> str:
    if text != FROM_START:
        raise OptionError(f"{flag} {text}: it is {FROM_START}")
    return text


ATTACH_OPTIONS = (
    Option("--from", "start", RUN, "show all of its output, not only what this notebook has not shown", "start", _from),
    Option("--help", "help", RUN, "this text", short="-h"),
)
