"""Numbers as people read them: to the digits that mean something, however small the number is."""

from __future__ import annotations

import math
import re

__all__ = ["percent", "significant", "to_the_digits_of", "with_error"]

MOST_DIGITS = 7  # of a number; as many as float32 has


def significant(value: float, digits: int = 3) -> str:
    """A number to as many significant digits, whole numbers whole.

    Example:
        >>> significant(0.0000123456), significant(0.5), significant(123456.7), significant(0.0), significant(1e30)
        ('1.23e-5', '0.5', '123457', '0', '1e30')
    """
    rounded, whole = f"{value:.{digits}g}", f"{value:.0f}"
    # As rounded: 999.6 to three digits is a thousand.
    if abs(float(rounded)) >= 10**digits and abs(float(whole)) < 1e9:
        return whole
    return re.sub(r"e([+-])0*(\d)", lambda match: f"e{match[1].replace('+', '')}{match[2]}", rounded)


def with_error(value: float, standard_error: float) -> str:
    """A number as far as its error lets it be known, two digits of which are given.

    Example:
        >>> with_error(0.0371234, 0.0021987), with_error(1.0000123, 0.0000031), with_error(0.0, 0.0)
        ('0.0371 ± 0.0022', '1.000012 ± 3.1e-6', '0 ± 0')
    """
    return f"{to_the_digits_of(value, standard_error)} ± {significant(standard_error, 2)}"


def to_the_digits_of(value: float, standard_error: float) -> str:
    """A number without the digits that its error makes meaningless.

    Example:
        >>> to_the_digits_of(0.0371234, 0.0021987), to_the_digits_of(0.0371234, 0.0)
        ('0.0371', '0.03712')
    """
    if not value or not standard_error or not math.isfinite(standard_error) or not math.isfinite(value):
        return significant(value, 4)
    digits = math.floor(math.log10(abs(value))) - math.floor(math.log10(standard_error)) + 2
    return significant(value, min(max(digits, 2), MOST_DIGITS))


def percent(share: float, digits: int = 3) -> str:
    """A share in percent.

    Example:
        >>> percent(0.99972, 4), percent(0.0000025)
        ('99.97 %', '0.00025 %')
    """
    return f"{significant(100 * share, digits)} %"
