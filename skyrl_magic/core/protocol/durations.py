"""How long something takes, as options take it and all lines say it: ``45s``, ``30m``, ``1h30m``."""

from __future__ import annotations

_MINUTE_S, _HOUR_S = 60, 3600


def duration_text(seconds: float, *, exact: bool = False) -> str:
    """``4.2s``, ``45s``, ``3m5s``, ``2h10m``: to a tenth, from a minute on to a second, from an hour on to a minute.

    Args:
        seconds: how long.
        exact: of whole seconds nothing is left out.
    """
    if round(seconds, 1) < _MINUTE_S:
        return f"{max(seconds, 0.0):.1f}".replace(".0", "") + "s"
    whole = round(seconds)
    if whole >= _HOUR_S and not exact:
        whole = round(whole / _MINUTE_S) * _MINUTE_S
    parts = ((whole // _HOUR_S, "h"), (whole % _HOUR_S // _MINUTE_S, "m"), (whole % _MINUTE_S, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)
