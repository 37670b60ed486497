"""How often two nearly equal rows give different tokens under the same randomness, by each way of drawing. ``make flips`` prints it.

The rows are families over 50,000 tokens in random id order; the rates are exact, so nothing is sampled. "Inverse CDF" is one uniform
against the running sum of probabilities, in id order or in descending order.
"""

import sys
from pathlib import Path

import numpy as np

from seedbed.regression.metrics import flip_rate, total_variation
from seedbed.sampling import Sampler, softmax

SIZE = 50_000
PAGE = Path(__file__).parents[2] / "src" / "seedbed" / "guide" / "why-gumbel.md"

# What is said of the rows, their exponent, the noise, top_p.
FAMILIES = [
    ("flat text", 1.5, 1e-3, 1.0),
    ("peaked text", 2.0, 1e-2, 1.0),
    ("flat text", 1.5, 1e-2, 1.0),
    ("very flat", 1.1, 1e-2, 1.0),
    ("peaked text", 2.0, 1e-1, 1.0),
    ("flat text", 1.5, 1e-1, 1.0),
    ("flat text", 1.5, 1e-2, 0.95),
]


def rates(exponent, noise, *, top_p=1.0, rows=3):
    """Means over rows of: total variation; flip rates of Gumbel by id, inverse CDF by id, inverse CDF sorted; entropy in nats."""
    generator = np.random.Generator(np.random.PCG64(1))
    found = []
    for _ in range(rows):
        row = -exponent * np.log(np.arange(1, SIZE + 1))[generator.permutation(SIZE)]
        sampler = Sampler(top_p=top_p)
        one, other = sampler.process(row), sampler.process(row + generator.normal(0, noise, SIZE))
        p, q = softmax(one), softmax(other)
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        found.append((total_variation(one, other), flip_rate(one, other), in_id_order(p, q), in_descending_order(p, q), entropy))
    return np.mean(found, axis=0)


def in_id_order(p, q):
    """1 - the measure of the uniforms that both running sums send to the same token."""
    upper_p, upper_q = p.cumsum(), q.cumsum()
    lower_p, lower_q = upper_p - p, upper_q - q
    return 1 - np.maximum(0.0, np.minimum(upper_p, upper_q) - np.maximum(lower_p, lower_q)).sum()


def in_descending_order(p, q):
    """The same, the most probable token first."""
    order_p, order_q = np.argsort(-p, kind="stable"), np.argsort(-q, kind="stable")
    upper_p, upper_q = p[order_p].cumsum(), q[order_q].cumsum()
    intervals_p, intervals_q = np.empty((2, SIZE)), np.empty((2, SIZE))
    intervals_p[:, order_p] = upper_p - p[order_p], upper_p
    intervals_q[:, order_q] = upper_q - q[order_q], upper_q
    overlap = np.minimum(intervals_p[1], intervals_q[1]) - np.maximum(intervals_p[0], intervals_q[0])
    return 1 - np.maximum(0.0, overlap).sum()


def table(rows=12):
    """The table, in Markdown."""
    lines = [
        "| rows (entropy, nats) | noise of a logit | TV: the least possible | Gumbel by id | inverse CDF, id order | inverse CDF, sorted |",
        "|---|---|---|---|---|---|",
    ]
    for what, exponent, noise, top_p in FAMILIES:
        tv, gumbel, by_id, by_rank, entropy = rates(exponent, noise, top_p=top_p, rows=rows)
        cut = f", top_p {top_p:g}" if top_p < 1 else ""
        flips = " | ".join(f"{rate:.2g} ({_times(rate / tv)})" for rate in (gumbel, by_id, by_rank))
        lines.append(f"| {what}{cut} ({entropy:.1f}) | {noise:g} | {tv:.2g} | {flips} |")
    return "\n".join(lines)


def _times(ratio):
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


if __name__ == "__main__":
    measured = table()
    print(measured)
    if "--write" in sys.argv:
        text = PAGE.read_text("utf-8")
        start = text.index("| rows (entropy")
        PAGE.write_text(text[:start] + measured + text[text.index("\n\n", start) :], "utf-8")
