"""Much output: shown, captured, and what it leaves in the client's memory."""

from __future__ import annotations

from pathlib import Path

from bench.kernels import Cell
from bench.rows import MB, Row, Series, amount, at_most, faster, interleaved, reference
from bench.world import World, flood

_FLOOD_BYTES = 50_000_000
_MEMORY_BYTES = 1_000_000_000
#: ``%%bash`` takes minutes for all of it: it gets one part in so many, and its time is multiplied.
_BASH_PART = 10
#: What the cell may take beside three times the command into a file, in seconds.
_ALLOWANCE_S = 0.5
_MAX_MESSAGES = 100
_FLAT_BYTES = 30_000_000


def rows(world: World) -> list[Row]:
    """What is shown and what is captured."""
    size_bytes = _FLOOD_BYTES // (50 if world.quick else 1)
    command = flood(size_bytes)
    kernel = world.kernel()
    last: dict[str, Cell] = {}

    def cell(name: str, code: str) -> float:
        last[name] = kernel.run(code)
        return last[name].took_s

    actions = {
        "shown": lambda: cell("shown", f"%%skyrl_modal\n{command}"),
        "file": lambda: cell("file", f"%%skyrl_modal\n{command} > /tmp/flood"),
        "out": lambda: cell("out", f"%%skyrl_modal --out captured\n{command}"),
        "raw": lambda: cell("raw", f"text = raw.exec('bash', '-c', {command!r}).stdout.read()"),
    }
    series = interleaved(world.rounds(5), actions)
    kernel.run(f"assert len(captured) == len(text) == {size_bytes}, (len(captured), len(text))\ndel captured, text")
    bash_cell = kernel.run(f"%%bash\n{flood(size_bytes // _BASH_PART)}")
    shown, file, out, raw = (series[name] for name in actions)
    bash = Series((bash_cell.took_s * _BASH_PART,))
    messages = last["shown"].messages
    limit_s = 3 * file.median + _ALLOWANCE_S
    what = f"{size_bytes // 1_000_000} MB of lines"
    return [
        Row(f"cell that prints {what}", f"{shown.median / file.median:.3g} × the file, {amount(shown.median, 's')}",
            shown, f"≤ 3 × into a file + 0.5 s = {amount(limit_s, 's')}", shown.median <= limit_s),
        faster(f"… than the raw exec that reads {what}", shown, raw, 5, "≥ 5 × faster"),
        faster(f"… than `%%bash` (measured on {1}/{_BASH_PART} of the data, × {_BASH_PART})", shown, bash, 100,
               "≥ 100 × faster"),
        Row("… its messages and what it shows", f"{messages} messages, {amount(last['shown'].shown_bytes, 'MB')}",
            asked=f"≤ {_MAX_MESSAGES} messages", reached=messages <= _MAX_MESSAGES),
        at_most(f"{what} captured with `--out` ÷ the raw exec", out, raw, 1.0, "≤ 1 × (≤ 0.33 × is the aim)"),
        reference("… into a file, as a cell", file),
        reference("… raw exec", raw),
        Row("… `%%bash`, scaled", amount(bash.median, "s"), bash),
        Row("… `%%bash`, its messages and what it shows, scaled",
            f"{bash_cell.messages * _BASH_PART} messages, {amount(bash_cell.shown_bytes * _BASH_PART, 'MB')}"),
    ]  # fmt: skip


def memory_rows(world: World) -> list[Row]:
    """What a gigabyte leaves in the client."""
    if world.quick:
        return []
    kernel = world.kernel()
    kernel.run(f"%%skyrl_modal\n{flood(_FLOOD_BYTES)}")  # so that what is made once is made
    before = kernel.rss_bytes()
    Path(f"/proc/{kernel.pid}/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    cell = kernel.run(f"%%skyrl_modal\n{flood(_MEMORY_BYTES)}")
    status = Path(f"/proc/{kernel.pid}/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    change = Series((float(kernel.rss_bytes() - before),), MB)
    peak_change = Series((float(peak - before),), MB)
    return [
        Row("client memory after 1 GB of output, against before", f"{change.median / 1e6:+.3g} MB", change,
            "± 30 MB", abs(change.median) <= _FLAT_BYTES),
        Row("… at its peak meanwhile", f"{peak_change.median / 1e6:+.3g} MB", peak_change,
            "± 30 MB", abs(peak_change.median) <= _FLAT_BYTES),
        reference("1 GB of output in a cell", Series((cell.took_s,))),
    ]  # fmt: skip
