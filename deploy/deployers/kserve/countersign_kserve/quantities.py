"""Kubernetes' quantities: what a pod may ask for, as ``500m`` or ``2Gi``."""

from __future__ import annotations

import re
from decimal import Decimal

_FORM = re.compile(r"(?P<number>\d{1,12}(\.\d{1,6})?)(?P<unit>m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", re.ASCII)
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** (power + 1) for power, unit in enumerate("kMGTP")},
    **{f"{unit}i": Decimal(1024) ** (power + 1) for power, unit in enumerate("KMGTP")},
}


def is_quantity(text: str) -> bool:
    """Whether it is one, in the forms that people write."""
    return _FORM.fullmatch(text) is not None


def amount(text: str) -> Decimal:
    """How much it is: ``1Gi`` and ``1024Mi`` are the same.

    Raises:
        ValueError: it is no quantity.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"not a quantity: {text}")
    return Decimal(found["number"]) * _UNITS[found["unit"] or ""]
