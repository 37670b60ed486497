"""From numbers to a verdict: when a difference is none, when it is one that matters, and when nobody can tell yet."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seedbed.regression.estimates import Estimate

__all__ = ["EXIT_CODES", "Verdict", "judge"]


class Verdict(StrEnum):
    """What a check found."""

    IDENTICAL = "IDENTICAL"
    """Every live row equals the recorded one in every bit."""
    PASS = "PASS"  # noqa: S105 - no password
    """Rows differ as the server's own noise does, and a drift that matters is excluded."""
    CHANGED = "CHANGED"
    """The numerics changed for certain, by less than matters."""
    DRIFT = "DRIFT"
    """The model changed by more than the margin, or single rows are far off."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Too little data to say which."""


EXIT_CODES = {Verdict.IDENTICAL: 0, Verdict.PASS: 0, Verdict.CHANGED: 0, Verdict.DRIFT: 1, Verdict.INCONCLUSIVE: 4}
"""What ``seedbed check`` ends with."""


def judge(
    drift: Estimate, *, margin: float, alpha: float, is_identical: bool, is_exact: bool, is_changed: bool, is_corrupt: bool
) -> Verdict:
    """The verdict.

    ::

        every bit equal                                             IDENTICAL
        single rows far off                                         DRIFT
        both servers repeat themselves bit by bit                   DRIFT when D > margin, else CHANGED
        lower bound of D at 1 - alpha > margin                      DRIFT
        upper bound of D at 95 % < margin                           CHANGED when that is certain, else PASS
        otherwise                                                   INCONCLUSIVE

    Args:
        drift: mean of D over the prefixes, nats.
        margin: what matters, nats.
        alpha: how often DRIFT may be said of an unchanged server.
        is_identical: every live row equals its recorded one.
        is_exact: no answer to one question ever differed on either server, so that D has no error on these prefixes.
        is_changed: the e-process is beyond 1/alpha, or the recorded server repeats itself and the live one gives other rows.
        is_corrupt: the test for single rows fired.

    Example:
        >>> from seedbed.regression.estimates import Estimate
        >>> judge(Estimate(5e-5, 1e-5, 300, 30), margin=1e-4, alpha=0.01, is_identical=False, is_exact=False, is_changed=True,
        ...       is_corrupt=False).value
        'CHANGED'
    """
    if is_identical:
        return Verdict.IDENTICAL
    if is_corrupt:
        return Verdict.DRIFT
    if is_exact:
        return Verdict.DRIFT if drift.value > margin else Verdict.CHANGED
    if drift.bound(1 - alpha)[0] > margin:
        return Verdict.DRIFT
    if drift.bound(0.95)[1] < margin:
        return Verdict.CHANGED if is_changed else Verdict.PASS
    return Verdict.INCONCLUSIVE
