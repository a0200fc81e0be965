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
#: Memory of those that can stand in for another, in GB (the vendors' data sheets); A100 is either of two.
_MEMORY_GB = {
    "T4": 16, "L4": 24, "A10": 24, "A100-40GB": 40, "L40S": 48, "A100-80GB": 80, "H100": 80, "RTX-PRO-6000": 96,
    "H200": 141, "B200": 180,
}  # fmt: skip
#: The least memory of those that stand for several types.
_ALSO_GB = {"A100": 40, "H100!": 80, "B200+": 180}
#: How many of them are named.
_MORE = 2
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
    others: tuple[Gpu, ...] = ()
    """What does as well, in order, where this one is not to be had. A session that runs has the one that came."""

    def __str__(self) -> str:
        """As it is written after ``--gpu``."""
        own = self.type if self.count <= 1 else f"{self.type}:{self.count}"
        return ",".join((own, *map(str, self.others)))

    @property
    def choices(self) -> tuple[Gpu, ...]:
        """Each GPU that will do, the one that is wanted most first."""
        return (Gpu(self.type, self.count), *self.others)

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
    """``L4``, ``A100:4``, ``none``, or several in the order in which they are wanted: ``H100,A100-80GB``.

    Names have no regard to case; one that is named again does not count.

    Raises:
        OptionError: with the nearest valid value.
    """
    first, *others = dict.fromkeys(_parse_one(part) for part in text.split(","))
    return Gpu(first.type, first.count, tuple(others))


def instead_of(gpu: Gpu) -> str:
    """What could be asked for where this is not to be had, as options; no type is left out that is asked for."""
    wanted = gpu.choices[-1]
    enough_gb = (_MEMORY_GB | _ALSO_GB).get(wanted.type, 0)
    larger = sorted((size, name) for name, size in _MEMORY_GB.items() if size >= enough_gb)
    asked = {choice.type for choice in gpu.choices}
    new = [name for _, name in larger if asked.isdisjoint((name, name.partition("-")[0]))]  # A100 is any A100-…
    more = [Gpu(name, min(wanted.count, MAX_COUNTS[name])) for name in new[:_MORE]]
    ways = []
    if wanted.count and more:
        ways.append(f"others too (--gpu {Gpu(gpu.type, gpu.count, (*gpu.others, *more))})")
    if wanted.count > 1:
        ways.append(f"fewer (--gpu {Gpu(wanted.type, wanted.count // 2)})")
    return ", ".join([*ways, "more patience (--wait 30m)", *(["--gpu none"] if wanted.count else [])])


def _parse_one(text: str) -> Gpu:
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
