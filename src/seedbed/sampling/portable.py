"""Exponentials and logarithms with the same bits on every CPU, for wherever a sum of them decides a token.

``numpy.exp`` differs between its dispatch levels in 5 % of float64 values by one unit in the last place, and ``math.log`` follows the
platform's libm. What is portable by argument: elementwise ``+ - * /``, ``rint`` and integer operations as *separate* ufunc calls (so
nothing can be fused into an FMA), the same operations of Python's on two floats, ``frexp`` and ``ldexp``, sequential ``cumsum``, and
``decimal``, which is correctly rounded by specification.

A ``Decimal``'s operators and methods, and the making of one from a float, obey the calling thread's context, whose digits and traps are
the caller's own: so all of it happens within ``localcontext(DIGITS)``.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, localcontext
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.float64)

__all__ = ["DIGITS", "LARGEST", "LN2", "chunks", "exp", "exp_scalar", "ln", "ln_scalar", "log_softmax", "power", "total"]

CHUNK = 16_384
FEW = 32  # up to so many numbers are sooner done by Python than by twenty calls of numpy's
# All of it said, since what is not comes from decimal.DefaultContext, which a program may change; what overflows is infinite.
DIGITS = Context(50, ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999, capitals=1, clamp=0, traps=[DivisionByZero, InvalidOperation])
LARGEST = float(np.finfo(np.float64).max)
LN2 = float.fromhex("0x1.62e42fefa39efp-1")

# ln(2)/32 in two parts: the high one has its low 24 bits zero, so k * high is exact for every k that occurs (|k| < 2**16).
_STEP_HIGH = float.fromhex("0x1.62e42ff000000p-6")
_STEP_LOW = -float.fromhex("0x1.718432a1b0e26p-40")
_STEPS_PER_UNIT = float.fromhex("0x1.71547652b82fep+5")  # 32/ln(2)
# 2**(j/32) for j in 0..31, correctly rounded.
with localcontext(DIGITS):
    _POWERS_OF_TWO = [float(Decimal(2) ** (Decimal(j) / 32)) for j in range(32)]
_POWERS = np.array(_POWERS_OF_TWO)
_TAYLOR = (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0)
# ln(2) in two parts likewise; and 2/3, 2/5, ..., until what is left out is below 2**-60 of ln(1 + f), as |s| <= 3 - sqrt(8).
_LN2_HIGH, _LN2_LOW = 32 * _STEP_HIGH, 32 * _STEP_LOW
_LN_TAYLOR = tuple(2 / n for n in range(23, 2, -2))
_ROOT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_LOWEST = -708.0  # exp of this is still a normal number, so flush-to-zero modes do not matter


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """e**x for x <= 0, within 1 ulp, bit-identical on every CPU. Below -708 (so also for -inf) the answer is exactly 0.

    Args:
        x: float64, any shape, no NaN, no value above 0; not modified.

    Example:
        >>> exp(np.array([0.0, -np.inf])).tolist()
        [1.0, 0.0]
    """
    if x.size <= FEW:
        return np.array([exp_scalar(one) if one >= _LOWEST else 0.0 for one in x.reshape(-1).tolist()]).reshape(x.shape)
    out = np.empty(x.shape, dtype=np.float64)
    # Chunks that stay in the second-level cache: twice as fast as whole passes over a vocabulary.
    scratch = np.empty((3, min(x.size, CHUNK)))
    for source, target in zip(chunks(x), chunks(out), strict=True):
        _exp_chunk(source, target, *scratch[:, : source.size])
    return out


def chunks(x: NDArray[Number]) -> list[NDArray[Number]]:
    """``x`` in pieces that fit the second-level cache."""
    flat = x.reshape(-1)
    return [flat[at : at + CHUNK] for at in range(0, flat.size, CHUNK)]


def _exp_chunk(
    x: NDArray[np.float64], p: NDArray[np.float64], r: NDArray[np.float64], k: NDArray[np.float64], product: NDArray[np.float64]
) -> None:
    """Write e**x to ``p``; the others are scratch."""
    np.maximum(x, _LOWEST, out=r)
    np.multiply(r, _STEPS_PER_UNIT, out=k)
    np.rint(k, out=k)
    r -= np.multiply(k, _STEP_HIGH, out=product)
    r -= np.multiply(k, _STEP_LOW, out=product)
    # Taylor to the sixth power: |r| <= ln(2)/64, so what is left out is below 2**-63.
    np.multiply(r, 1 / 720, out=p)
    for coefficient in _TAYLOR:
        p += coefficient
        p *= r
    # p is e**r - 1; added to the table's value last, where it costs the least precision.
    whole = k.astype(np.int64)
    step = _POWERS.take(whole & 31, out=product, mode="clip")
    p *= step
    p += step
    # Multiplying by 2**n, exactly, by building the float from its exponent bits.
    whole >>= 5
    whole += 1023
    whole <<= 52
    p *= whole.view(np.float64)
    if x.min() < _LOWEST:
        p[x < _LOWEST] = 0.0


def total(x: NDArray[np.float64]) -> float:
    """The sum from left to right, chunk by chunk. ``sum`` adds in blocks of its own choosing; a running sum can add only one way."""
    return math.fsum(float(chunk.cumsum()[-1]) for chunk in chunks(x))


def exp_scalar(x: float) -> float:
    """e**x of one number, within 1 ulp, bit-identical on every CPU; inf where float64 overflows, 0 where it underflows.

    The steps of ``exp``, each an operation of Python's own on two floats: a tenth of the time of fifty decimal digits.

    Example:
        >>> exp_scalar(0.0), exp_scalar(1e9), exp_scalar(-1e9)
        (1.0, inf, 0.0)
    """
    if not -746.0 < x < 710.0:
        return math.inf if x > 0 else 0.0
    k = round(x * _STEPS_PER_UNIT)
    r = x - k * _STEP_HIGH
    r -= k * _STEP_LOW
    p = r * (1 / 720)
    for coefficient in _TAYLOR:
        p += coefficient
        p *= r
    step = _POWERS_OF_TWO[k & 31]
    p *= step
    p += step
    try:
        return math.ldexp(p, k >> 5)
    except OverflowError:
        return math.inf


def ln_scalar(x: float) -> float:
    """The natural logarithm of one number in [0, inf], within 1 ulp, bit-identical on every CPU; a fiftieth of the time of ``ln``.

    With x = 2**k (1 + f), 1 + f between the roots of 1/2 and of 2, and s = f / (2 + f), it is k ln 2 + f - (f**2 / 2 - s (f**2 / 2 + r)),
    where r = 2 (s**2 / 3 + s**4 / 5 + ...): what is rounded is small beside f, which is exact.

    Example:
        >>> ln_scalar(1.0), ln_scalar(math.inf), ln_scalar(0.0)
        (0.0, inf, -inf)

    Source: the arrangement of fdlibm's ``e_log.c`` (Sun Microsystems 1993).
    """
    if x in (0.0, math.inf):
        return x or -math.inf
    m, k = math.frexp(x)
    if m < _ROOT_HALF:
        m, k = 2.0 * m, k - 1
    f = m - 1.0
    s = f / (2.0 + f)
    square, half = s * s, 0.5 * f * f
    r = 0.0
    for coefficient in _LN_TAYLOR:
        r = (r + coefficient) * square
    return k * _LN2_HIGH - ((half - (s * (half + r) + k * _LN2_LOW)) - f)


@lru_cache(maxsize=1024)
def ln(x: float) -> float:
    """The natural logarithm of a number in (0, inf), correctly rounded; tens of microseconds, but a parameter's is the same each step.

    Example:
        >>> ln(1.0)
        0.0
    """
    with localcontext(DIGITS):
        return float(Decimal(x).ln())


@lru_cache(maxsize=1024)
def power(x: float, exponent: float) -> float:
    """x**exponent for x >= 0, correctly rounded; 0**0 is 1, and what no float64 can hold is inf."""
    if x == 0.0:
        return 1.0 if exponent == 0.0 else 0.0
    with localcontext(DIGITS):
        return float(Decimal(x) ** Decimal(exponent))


def log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural-log probabilities of a row of logits with at least one finite entry; -inf stays -inf.

    Example:
        >>> log_softmax(np.array([1e300, -np.inf])).tolist()
        [0.0, -inf]
    """
    depth = x - x.max()  # first: beside a logit of 1e17 the logarithm of the sum would be lost
    values: NDArray[np.float64] = depth - ln_scalar(total(exp(depth)))
    return values
