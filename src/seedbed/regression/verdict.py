"""From numbers to a verdict: when a difference is none, when it is one that matters, and when nobody can tell yet.

How large a drift is, in nats a token; measured here (``make drift-table``: llama.cpp, SmolLM2-135M, 4-bit weights, 8 sequences of 8 tokens
after short prompts, two answers to each prefix; "tiny" is a Llama of two layers with random weights, its vLLM on the CPU) beside figures
that others published as mean KL::

    0                the same server again; with 2 threads for 1; with 8 slots; with
                     batches of 16, and of 4                                            here: IDENTICAL
    3.2e-7           tiny, float32: recorded on llama.cpp, held against vLLM            here: CHANGED, 8 of 8 sequences as recorded
    2.5e-5           bf16 against fp16 weights, Llama-3-8B                              [1]
    4.2e-5           tiny, float32 on llama.cpp, bfloat16 on vLLM                       here: CHANGED by 16-bit logits, 7 of 8
    1.4e-3           8-bit weights (q8_0), Llama-3-8B                                   [1]
    1e-3             decoded against prefilled again                                    [2]
    5.5e-3, 1.1e-2   6- and 5-bit weights (q6_K, q5_K_M), Llama-3-8B                    [1]
    7.0e-3           4-bit weights (Q4_1) written again in 8 bits (Q8_0)                here: DRIFT, 7 of 8
    7.4e-3           context stretched 1.1 times                                        here: DRIFT, 7 of 8
    2.4e-2, 3.5e-2   fp8 weights to AWQ-INT4, to NVFP4, Qwen3.5-397B                    [3]
    3.1e-2, 7.2e-2   4-bit weights (q4_K_M, q4_0), Llama-3-8B                           [1]
    0.10             Q4_1 written again in 5 bits (Q5_0)                                here: DRIFT, 2 of 8
    0.32             context stretched twice                                            here: DRIFT, none of 8
    0.33             Q4_1 written again in 4 other bits (Q4_0)                          here: DRIFT, none of 8
    0.45, 2.2        2- and 1-bit weights (q2_K, iq1_S), Llama-3-8B                     [1]

A small model moves further for the same change, and every drift grows with the entropy of what it predicts; so a report also gives KL
divided by entropy. A cached prompt of 64 tokens and more, which ``seedbed probe`` finds on the same server, moves a row by up to 2e-3.

Sources: [1] README of llama.cpp's perplexity tool; [2] SGLang's continuous integration, a median (pull request 19646); [3] KLD evaluation
of the voipmonitor/rtx6kpro benchmarks.
"""

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
        both servers repeat themselves bit by bit, and differ       DRIFT when D > margin, else CHANGED
        lower bound of D at 1 - alpha > margin                      DRIFT
        upper bound of D at 95 % < margin                           CHANGED when that is certain, else PASS
        otherwise                                                   INCONCLUSIVE

    Args:
        drift: mean of D over the prefixes, nats.
        margin: what matters, nats.
        alpha: how often DRIFT may be said of an unchanged server.
        is_identical: every live row equals its recorded one.
        is_exact: no answer to one question ever differed on either server, so that D has no error on these prefixes; and recorded and live
            ones differ for certain.
        is_changed: the e-process is beyond 1/alpha, or the answers part into recorded and live ones more often than by chance.
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
