"""Where a value stands on a plot, which values are marked there, and how they are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Axis", "label", "power_of_ten"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to places: logarithmic in size on both sides of a linear stretch about 0."""

    low: float
    high: float
    begin: float
    end: float
    linear: float  # inside +-linear the scale is linear; inf is linear throughout

    def _warp(self, value: float) -> float:
        if math.isinf(self.linear):
            return value
        size = abs(value) / self.linear
        return math.copysign(size if size <= 1 else 1 + math.log10(size), value)

    def __call__(self, value: float) -> float:
        low, high = self._warp(self.low), self._warp(self.high)
        share = (self._warp(min(max(value, self.low), self.high)) - low) / ((high - low) or 1.0)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> list[float]:
        """Round values inside, at most about seven."""
        if math.isinf(self.linear):
            raw = (self.high - self.low) / 5 or 1.0
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if raw <= step * 1.0001)
            return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]
        first, last = round(math.log10(self.linear)), math.ceil(math.log10(max(self.high, -self.low, self.linear * 10)))
        decades = range(first, last + 1, max(1, (last - first) // 4))
        values = sorted({0.0, *(10.0**k for k in decades), *(-(10.0**k) for k in decades)})
        return [value for value in values if self.low <= value <= self.high]


def label(value: float) -> str:
    """A tick's value as it is written at an axis.

    Example:
        >>> label(0.5), label(-20.0), label(1e5), label(1.5e6), label(-1e-5), label(-2e-5)
        ('0.5', '−20', '10⁵', '1.5·10⁶', '−10⁻⁵', '−2·10⁻⁵')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    mantissa, exponent = f"{value:.5e}".split("e")
    mantissa, power = mantissa.rstrip("0").rstrip(".").replace("-", "\N{MINUS SIGN}"), power_of_ten(int(exponent))
    return f"{mantissa}·{power}" if mantissa.lstrip("\N{MINUS SIGN}") != "1" else mantissa.replace("1", power)


def power_of_ten(exponent: int) -> str:
    """10 to a whole power, which may be beyond what a float holds.

    Example:
        >>> power_of_ten(400)
        '10⁴⁰⁰'
    """
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
