"""Sequential Monte Carlo: every few tokens, sequences that please multiply and the others die out.

A sequence is a value: a copy under another index goes on with noise of its own, so ``resume`` and ``dataclasses.replace`` are all that
resampling needs. Its randomness is addressed too, so a run can be repeated. Run it: ``python tests/examples/steering.py``
"""

from dataclasses import replace

import numpy as np
import trio

from seedbed import TinyLM, generate
from seedbed.sampling import Address, Purpose

PROMPT = b"In spring "
STRIDE = 8


async def steer(llm, prompt, n, pleases, *, seed, rounds):
    """``n`` sequences of the model's distribution weighed by ``pleases``: the weight of what a sequence got since the last round."""
    particles = ()
    for round_ in range(rounds):
        result = await generate(prompt, llm, n=n, seed=seed, max_new_tokens=(round_ + 1) * STRIDE, resume=particles)
        weights = np.array([pleases(sequence.token_ids[round_ * STRIDE :]) for sequence in result.sequences])
        parents = resampled(weights, Address(seed, step=round_).uniform(Purpose.YOURS))
        particles = [replace(result.sequences[parent], index=index) for index, parent in enumerate(parents)]
    return particles


def resampled(weights, uniform):
    """Systematic resampling: place i goes to whom the i-th of n evenly spaced points hits; one uniform shifts them all."""
    shares = np.cumsum(weights)
    return np.searchsorted(shares / shares[-1], (uniform + np.arange(len(weights))) / len(weights)).tolist()


def likes_e(token_ids):
    return np.exp(1.5 * sum(token_id == ord("e") for token_id in token_ids))


async def main():
    llm = TinyLM()
    steered = await steer(llm, list(PROMPT), 32, likes_e, seed=7, rounds=8)
    free = await generate(list(PROMPT), llm, n=32, seed=7, max_new_tokens=8 * STRIDE)
    for name, sequences in (("free", free.sequences), ("steered", steered)):
        es = sum(sequence.token_ids.count(ord("e")) for sequence in sequences)
        print(f"{name:8} {es:4} times e; {PROMPT.decode()}{await llm.detokenize(sequences[0].token_ids)}")


if __name__ == "__main__":
    trio.run(main)
