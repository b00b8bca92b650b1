"""Amounts of money as a reader sees them."""

from decimal import Decimal

MICRO = 1_000_000


def dollars(microusd: int | Decimal) -> str:
    """Micro-dollars as text: cents from a dollar on, below that as many decimals as leave something to see.

    `$3.10`, `$0.0421`, `$0.000012`, `$0.00`.
    """
    amount = Decimal(microusd) / MICRO
    size = abs(amount)
    decimals = 2 if size >= 1 or not size else 4 if size >= Decimal("0.001") else 6
    sign = "−" if amount < 0 else ""
    return f"{sign}${size:,.{decimals}f}"
