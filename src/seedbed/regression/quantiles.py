"""The few distribution functions that verdicts need, in plain Python: a statistics library would be ten times all of seedbed."""

from __future__ import annotations

import math
from functools import lru_cache

__all__ = ["beta_cdf", "clopper_pearson", "normal_cdf", "t_quantile"]


def normal_cdf(z: float) -> float:
    """P(Z <= z) of a standard normal variable.

    Example:
        >>> normal_cdf(0.0), round(normal_cdf(1.959964), 6)
        (0.5, 0.975)
    """
    return math.erfc(-z / math.sqrt(2)) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for a, b > 0.

    Example:
        >>> beta_cdf(0.25, 1.0, 1.0), round(beta_cdf(0.5, 2.0, 3.0), 12)
        (0.25, 0.6875)

    Source: DLMF 8.17.22, by Lentz's method as modified by Thompson and Barnett 1986.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d or 1e-300)
    fraction = d
    for m in range(1, 10_000):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / ((1 + term * d) or 1e-300)
            c = (1 + term / c) or 1e-300
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


@lru_cache(1024)  # a report asks for the same few again and again
def t_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t, 0 < p < 1, by bisection of its distribution function.

    Example:
        >>> round(t_quantile(0.975, 10), 6), round(t_quantile(0.95, 1_000_000), 4)
        (2.228139, 1.6449)

    Source: Abramowitz and Stegun 26.7.1.
    """
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1 - p, degrees)
    tail = 2 * (1 - p)  # P(|T| > t) = I_{df / (df + t^2)}(df / 2, 1 / 2)
    low, high = 0.0, 1.0
    while beta_cdf(degrees / (degrees + high * high), degrees / 2, 0.5) > tail:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if beta_cdf(degrees / (degrees + middle * middle), degrees / 2, 0.5) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def clopper_pearson(seen: int, trials: int) -> tuple[float, float]:
    """The exact two-sided 95 % confidence interval of a rate; one-sided, with all of the error above, when nothing was seen.

    Example:
        >>> low, high = clopper_pearson(0, 300)
        >>> low, round(high * 300, 2)
        (0.0, 2.98)

    Source: Clopper and Pearson 1934, Biometrika 26.
    """
    error = 0.05
    if seen == 0:
        return (0.0, 1 - error ** (1 / trials))
    low = _beta_quantile(error / 2, seen, trials - seen + 1)
    return (low, 1.0 if seen == trials else _beta_quantile(1 - error / 2, seen + 1, trials - seen))


def _beta_quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2
