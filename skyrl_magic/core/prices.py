"""What a container costs: Modal's public prices, an account's own, or what the user says.

Modal bills by the second: each GPU for as long as the container lives, CPU and memory by what was asked for or what is
used, whichever is more, and sandboxes have prices of their own for these two, three times those of functions
(modal.com/docs/guide/sandbox-resources). Not counted here: volumes; a choice of regions, which this package does not
give (1.5 times all prices for a broad one, 1.75 times for a narrow one); containers that are not preempted; and disk
beyond the free share, which is billed as memory (20:1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from skyrl_magic.core.gpus import NO_GPU
from skyrl_magic.core.spec import SessionSpec

#: When the table below was taken: modal.com/pricing and what `modal billing rates` prints, which agree.
TABLE_DATE = "2026-10"
#: US dollars an hour for one GPU.
GPU_USD_PER_HOUR: dict[str, float] = {
    "T4": 0.59,
    "L4": 0.80,
    "A10": 1.10,
    "L40S": 1.95,
    "A100-40GB": 2.10,
    "A100-80GB": 2.50,
    "RTX-PRO-6000": 3.03,
    "H100": 3.95,
    "H200": 4.54,
    "B200": 6.25,
}
#: US dollars an hour for a physical core (two hardware threads) and for a GiB of memory, in a sandbox.
CORE_USD_PER_HOUR = 0.1419
GIB_USD_PER_HOUR = 0.024
#: What is asked for where nothing is said (modal.com/docs/guide/resources).
DEFAULT_CORES = 0.125
DEFAULT_MEMORY_MIB = 128
#: Types that are billed as another one: a name without a size is the smaller one, "!" only refuses an upgrade, and "+"
#: takes one for nothing.
_BILLED_AS = {"A100": "A100-40GB", "H100!": "H100", "B200+": "B200"}
#: How an account's rates are named (``Workspace.billing.rates()``, compute in US dollars a unit and hour).
_GPU_KEY, _CORE_KEY, _GIB_KEY = "gpu_hour_cost_", "cpu_hour_cost_sandbox", "mem_gib_hour_cost_sandbox"
_ACCOUNT_NAMES = {"A10": "a10g"}
#: What is billed beside GPUs, as a line says it.
_CPU, _MEMORY = "CPU", "memory"


@dataclass(frozen=True)
class Rates:
    """Prices of one source, in US dollars an hour."""

    source: str
    """As a line says it: ``Modal's public prices of 2026-10``."""
    gpus: Mapping[str, float]
    core: float
    gib: float
    public: frozenset[str] = frozenset()
    """GPUs, ``CPU`` and ``memory`` whose price the source did not give: the table's stands there."""


@dataclass(frozen=True)
class Price:
    """What a session costs, in US dollars an hour."""

    source: str
    usd_per_hour: float
    """For being there: GPUs, and the CPU and memory that were asked for."""
    usd_per_core_hour: float = 0.0
    usd_per_gib_hour: float = 0.0
    """What use beyond :attr:`cores` and :attr:`memory_gib` costs; 0 where it is not to be measured."""
    cores: float = 0.0
    memory_gib: float = 0.0

    def __str__(self) -> str:
        """``$0.82/h (Modal's public prices of 2026-10)``."""
        return f"${self.usd_per_hour:.2f}/h ({self.source})"


TABLE = Rates(f"Modal's public prices of {TABLE_DATE}", GPU_USD_PER_HOUR, CORE_USD_PER_HOUR, GIB_USD_PER_HOUR)


def account_rates(found: Mapping[str, float]) -> Rates:
    """An account's rates, by the names that Modal gives them; what is missing has its public price.

    An answer that has none of the known names says nothing: the prices are the table's, and so is their source.
    """
    keys = {name: _GPU_KEY + _account_name(name) for name in GPU_USD_PER_HOUR}
    keys |= {_CPU: _CORE_KEY, _MEMORY: _GIB_KEY}
    public = frozenset(name for name, key in keys.items() if key not in found)
    if len(public) == len(keys):
        return replace(TABLE, source=f"{TABLE.source}; the account names its rates otherwise")
    gpus = {name: found.get(keys[name], usd) for name, usd in GPU_USD_PER_HOUR.items()}
    core, gib = found.get(_CORE_KEY, CORE_USD_PER_HOUR), found.get(_GIB_KEY, GIB_USD_PER_HOUR)
    return Rates("this account's rates", gpus | _others(found, gpus), core, gib, public)


def _account_name(gpu: str) -> str:
    return _ACCOUNT_NAMES.get(gpu, gpu.lower().replace("-", "_"))


def _others(found: Mapping[str, float], known: Mapping[str, float]) -> dict[str, float]:
    """GPUs that the account has a price for and the table has not."""
    names = {_account_name(name) for name in known}
    keys = {key.removeprefix(_GPU_KEY): usd for key, usd in found.items() if key.startswith(_GPU_KEY)}
    return {name.upper().replace("_", "-"): usd for name, usd in keys.items() if name not in names}


def price_of(spec: SessionSpec, rates: Rates) -> Price | None:
    """What a session of this spec costs by these rates; None where they do not know its GPU."""
    billed_as = _BILLED_AS.get(spec.gpu.type, spec.gpu.type)
    usd = 0.0 if spec.gpu == NO_GPU else rates.gpus.get(billed_as)
    if usd is None:
        return None
    cores = DEFAULT_CORES if spec.cpu is None else spec.cpu
    gib = (DEFAULT_MEMORY_MIB if spec.memory_mib is None else spec.memory_mib) / 1024
    public = [name for name in (billed_as, _CPU, _MEMORY) if name in rates.public]
    source = rates.source + (f", {TABLE.source} for {' and '.join(public)}" if public else "")
    return Price(source, usd * spec.gpu.count + cores * rates.core + gib * rates.gib, rates.core, rates.gib, cores, gib)


def said_price(usd_per_hour: float) -> Price:
    """The price that the user says: all of it, whatever is used."""
    return Price("your usd_per_hour", usd_per_hour)
