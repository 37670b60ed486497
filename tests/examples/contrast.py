"""Contrast two models: prefer what a strong one knows and a weak one does not.

The logits are those of the strong model minus a share of the weak one's, among tokens the strong one finds plausible at all (contrastive
decoding; Li et al. 2022, arXiv:2210.15097). The weak model here sees one token of context, so it has one row a token: they are asked for
once, and the processor stays a plain function of the prefix. Run it: ``python tests/examples/contrast.py``
"""

import math

import numpy as np
import trio

from seedbed import Sampler, generate
from seedbed.server.models import TinyLM

PROMPT = b"The rain "
SHARE = 0.5
PLAUSIBLE = math.log(0.1)


def log_softmax(logits):
    depth = logits - logits.max()
    return depth - np.log(np.exp(depth).sum())


class Contrast:
    """(prefix, logits) -> logits - share x the weak model's, where the strong model is within a tenth of its best."""

    def __init__(self, weak_rows, share):
        self._weak, self._share = np.array([log_softmax(row) for row in weak_rows]), share

    def __call__(self, prefix, logits):
        strong = log_softmax(logits)
        contrasted = strong - self._share * self._weak[prefix[-1]]
        return np.where(strong >= strong.max() + PLAUSIBLE, contrasted, -np.inf)


def text_of(sequence):
    return bytes(token for token in sequence.token_ids if token < 256).decode("utf-8", "replace")


async def main():
    strong, weak = TinyLM(order=5), TinyLM(order=1)
    weak_rows = [np.asarray(await weak.next_token_logits([token])) for token in range(weak.vocab_size)]
    samplers = {"strong alone": Sampler(), "contrasted": Sampler(processors=[Contrast(weak_rows, SHARE)])}
    for name, sampler in samplers.items():
        result = await generate(list(PROMPT), strong, n=3, seed=7, sampler=sampler, max_new_tokens=60)
        print(f"{name}:")
        for sequence in result.sequences:
            print(f"  {PROMPT.decode()}{text_of(sequence)}")


if __name__ == "__main__":
    trio.run(main)
