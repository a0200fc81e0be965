"""How an amount of money is written, by the client and by the agent alike."""

from __future__ import annotations

#: From here on whole cents say enough, and below this ``g`` would write ``1e-05``. In US dollars.
_CENTS_USD = 0.1
_EXPONENT_USD = 1e-4


def usd_text(usd: float) -> str:
    """``$5``, ``$12.40`` or ``$0.0004``: cents, and more where it takes them."""
    if usd >= _CENTS_USD or usd == 0:
        text = f"${usd:.2f}"
        return text[:-3] if text.endswith(".00") else text
    return f"${usd:.2g}" if usd >= _EXPONENT_USD else f"${usd:.6f}"
