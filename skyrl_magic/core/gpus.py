"""The GPUs that can be asked for, as Modal names them."""

from __future__ import annotations

from dataclasses import dataclass

from skyrl_magic.core.errors import OptionError

#: Modal's GPU types and how many of one fit a container (modal.com/docs/guide/gpu, read 2026-11).
MAX_COUNTS: dict[str, int] = {
    "T4": 8,
    "L4": 8,
    "A10": 4,
    "L40S": 8,
    "A100": 8,
    "A100-40GB": 8,
    "A100-80GB": 8,
    "RTX-PRO-6000": 8,
    "H100": 8,
    "H100!": 8,
    "H200": 8,
    "B200": 8,
    "B200+": 8,
}
MAX_COUNT = max(MAX_COUNTS.values())
_ALIASES = {"A10G": "A10"}
#: What Modal has only under another name, and what that is.
_ONLY_AS = {"B300": "B200+, which is a B200 or a B300, at the price of a B200"}
NONE = "none"
#: Letters whose names begin with a vowel.
_SPOKEN_WITH_VOWEL = "AEFHILMNORSX"


@dataclass(frozen=True)
class Gpu:
    """A GPU type and a count; ``Gpu("none", 0)`` is a container without one."""

    type: str
    count: int

    def __str__(self) -> str:
        """As it is written after ``--gpu``."""
        return self.type if self.count <= 1 else f"{self.type}:{self.count}"

    @property
    def noun(self) -> str:
        """As one speaks of it: ``an L4``, ``4 A100``, ``a machine`` where there is no GPU."""
        if self.count <= 1:
            article = "an" if self.type[0] in _SPOKEN_WITH_VOWEL else "a"
            return f"{article} {self.type}" if self.count else "a machine"
        return f"{self.count} {self.type}"

    @property
    def modal(self) -> str | None:
        """The value for Modal's ``gpu=``."""
        return None if self.count == 0 else f"{self.type}:{self.count}"


NO_GPU = Gpu(NONE, 0)


def parse_gpu(text: str) -> Gpu:
    """``L4``, ``A100:4``, ``none`` (names without regard to case). Raises OptionError with the nearest valid value."""
    name, colon, count_text = text.strip().partition(":")
    if name.lower() == NONE and not colon:
        return NO_GPU
    known = {k.upper(): k for k in MAX_COUNTS} | _ALIASES
    gpu_type = known.get(name.upper())
    if gpu_type is None:
        import difflib

        if only_as := _ONLY_AS.get(name.upper()):
            raise OptionError(f"--gpu {text}: {name.upper()} cannot be asked for alone; there is {only_as}")
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.4)
        hint = f"did you mean {known[near[0]]}?" if near else "types: " + ", ".join(MAX_COUNTS)
        raise OptionError(f"--gpu {text}: there is no GPU {name!r}; {hint}")
    if not colon:
        return Gpu(gpu_type, 1)
    most = MAX_COUNTS[gpu_type]
    if count_text not in {str(count) for count in range(1, most + 1)}:
        raise OptionError(f"--gpu {text}: the count of {gpu_type} is 1 to {most}, as in {gpu_type}:{min(2, most)}")
    return Gpu(gpu_type, int(count_text))
