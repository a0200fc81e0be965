"""Readers for the values of options and settings: text in, a checked value out, OptionError otherwise."""

from __future__ import annotations

import keyword
import math
import re

from skyrl_magic.core.errors import OptionError

#: Modal's bound on a sandbox's life (FACTS: at most 24 h).
MAX_TIMEOUT_S = 24 * 3600
#: Half of it is left for runs, the kernel and the last commit where a session's own end takes longest.
MIN_HARD_TIMEOUT_S = 60
#: What Modal gives a container that asks for nothing, and more than any of its machines has.
MIN_CORES, MAX_CORES = 0.125, 256
MIN_MEMORY_MIB, MAX_MEMORY_MIB = 128, 4 * 1024 * 1024
#: No variable is larger than the memory of those.
MAX_SIZE_BYTES = MAX_MEMORY_MIB * 2**20
#: A budget or a price below this is a slip.
MIN_USD, MAX_USD = 1e-6, 1e6
# Patterns are texts, compiled when first used (``re`` keeps them): ``%load_ext`` need not wait for that.
_NUMBER = r"\d+(?:\.\d+)?"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_MEMORY = r"(?P<number>\d+(?:\.\d+)?)(?P<unit>mib|mb|m|gib|gb|g)?"
_SIZE = r"(?P<number>\d+(?:\.\d+)?)(?P<unit>k|m|g)?(?:i?b)?"
_POWERS = {None: 0, "k": 1, "m": 2, "g": 3}
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_SENSITIVE_NAME = (
    r"(^|_)(secret|token|password|passwd|passphrase|api_?key|access_?key|secret_?key|private_?key|credentials?)(_|$)"
)
_SENSITIVE_VALUE = r"(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|ghp_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})"
_ENV_NAME = r"[A-Za-z_][A-Za-z0-9_]*"


def text(flag: str, text: str) -> str:
    """Any text that is not blank, without zero bytes: no path and no variable can have one."""
    if not text.strip():
        raise OptionError(f"{flag}: the value is empty")
    if "\0" in text:
        raise OptionError(f"{flag}: the value has a zero byte")
    return text


def image_reference(flag: str, text_: str) -> str:
    """The name of an image, as in ``novaskyai/skyrl:latest``."""
    if len(text(flag, text_).split()) > 1 or text_ != text_.strip():
        raise OptionError(f"{flag} {text_!r}: an image's name has no blank, as in registry/name:tag")
    return text_


def seconds_of(text: str) -> float | None:
    """``90s``, ``2h``, ``1h30m`` or ``3d`` in seconds; None for what is none of these."""
    part = f"({_NUMBER})([smhd])"
    if not re.fullmatch(f"(?:{part})+", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(part, text))


def duration_s(flag: str, text: str) -> int:
    """``3600``, ``90s``, ``30m``, ``4h``, ``1h30m`` or ``1d`` as seconds, from 1 s to 24 h."""
    written = text.strip()
    seconds = float(written) if re.fullmatch(_NUMBER, written) else seconds_of(written) or 0.0
    if not 1 <= seconds <= MAX_TIMEOUT_S:
        raise OptionError(f"{flag} {text}: give 1s to 24h, as in 3600, 90s, 30m or 4h")
    return int(seconds)


def hard_timeout_s(flag: str, text: str) -> int:
    """A duration in which something can be done: a container comes up, and has time to save and commit at its end."""
    seconds = duration_s(flag, text)
    if seconds < MIN_HARD_TIMEOUT_S:
        raise OptionError(f"{flag} {text}: give {MIN_HARD_TIMEOUT_S}s or more; --timeout can be shorter")
    return seconds


def duration_text(duration_s: int) -> str:
    """What :func:`duration_s` reads as this: ``90s``, ``30m`` or ``1h30m``."""
    from skyrl_magic.core.protocol import durations  # late: ``%load_ext`` need not wait for the protocol

    return durations.duration_text(duration_s, exact=True)


def memory_mib(flag: str, text: str) -> int:
    """``16384`` (MiB, as for Modal), ``16GiB`` or ``512M`` as MiB."""
    match = re.fullmatch(_MEMORY, text.strip(), re.IGNORECASE)
    size = float(match["number"]) * (1024 if (match["unit"] or "m")[0].lower() == "g" else 1) if match else 0.0
    if not MIN_MEMORY_MIB <= size <= MAX_MEMORY_MIB:
        raise OptionError(
            f"{flag} {text}: give MiB or a size, from {MIN_MEMORY_MIB} MiB to {MAX_MEMORY_MIB >> 20} TiB, as in 32768 "
            "or 32GiB"
        )
    return int(size)


def size_bytes(flag: str, text: str) -> int:
    """``268435456``, ``256MiB`` or ``1g`` as bytes; the units are powers of 1024, as for memory."""
    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    size = int(float(match["number"]) * 1024 ** _POWERS[match["unit"] and match["unit"].lower()]) if match else 0
    if not 1 <= size <= MAX_SIZE_BYTES:
        raise OptionError(f"{flag} {text}: give bytes or a size, as in 300000 or 256MiB")
    return size


def amount(flag: str, text: str) -> float:
    """A number above 0: days, GB."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise OptionError(f"{flag.lstrip('-').replace('-', '_')} {text}: give a number above 0, as in 14 or 0.5")
    return number


def cpu_cores(flag: str, text: str) -> float:
    """Cores, fractions allowed (Modal's unit)."""
    try:
        cores = float(text)
    except ValueError:
        cores = 0.0
    if not MIN_CORES <= cores <= MAX_CORES:
        raise OptionError(f"{flag} {text}: give cores from {MIN_CORES} to {MAX_CORES}, as in 4 or 0.5")
    return cores


def usd(flag: str, text: str) -> float:
    """``5``, ``0.25`` or ``$12.50`` as US dollars."""
    try:
        amount = float(text.strip().removeprefix("$"))
    except ValueError:
        amount = 0.0
    if not MIN_USD <= amount <= MAX_USD:
        raise OptionError(f"{flag} {text}: give US dollars from {MIN_USD:f} up, as in 5 or 0.25")
    return amount


def object_name(flag: str, text: str) -> str:
    """A name that Modal takes for an app, a volume, a secret or a sandbox."""
    if not re.fullmatch(_NAME, text):
        raise OptionError(
            f"{flag} {text or repr(text)}: a name is 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-', and begins with one of "
            "the first three"
        )
    return text


def variable_name(flag: str, text: str) -> str:
    """A Python variable."""
    if not text.isidentifier() or keyword.iskeyword(text):
        raise OptionError(f"{flag} {text}: {text!r} is not a variable name")
    return text


def variable_names(flag: str, text: str) -> tuple[str, ...]:
    """Python variables, separated by commas; each counts once."""
    if text.strip() and any(not name.strip() for name in text.split(",")):
        raise OptionError(f"{flag} {text}: a comma stands between two names, as in {flag} a,b")
    return tuple(dict.fromkeys(variable_name(flag, name.strip()) for name in text.split(",")))


def env_pair(flag: str, text: str) -> tuple[str, str]:
    """``NAME=VALUE``; refuses what looks like a secret, which would be stored in the notebook."""
    name, equals, value = text.partition("=")
    if "\0" in text:
        raise OptionError(f"{flag}: the value has a zero byte")
    if not equals or not re.fullmatch(_ENV_NAME, name):
        raise OptionError(f"{flag} {name!r}: give NAME=VALUE, with a name of the letters A to Z, digits and _")
    if re.search(_SENSITIVE_NAME, name, re.IGNORECASE) or looks_like_token(value):
        raise OptionError(
            f"{flag} {name}=…: this looks like a secret and would stay in the notebook; "
            f"keep it with `modal secret create NAME {name}=…` and use --secret NAME"
        )
    return name, value


def looks_like_token(text: str) -> bool:
    """Whether a key of a well-known service stands in the text."""
    return re.search(_SENSITIVE_VALUE, text) is not None
