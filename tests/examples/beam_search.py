"""Beam search: no sampling at all, only rows. What is asked in one step is asked at once. Run: ``python tests/examples/beam_search.py``"""

import numpy as np
import trio

from seedbed import Sampler, TinyLM

PROMPT = b"When the "
MODEL_ITSELF = Sampler()  # its process() is the exact log-softmax of a row


async def beam_search(llm, prompt, *, width, max_new_tokens):
    """The ``width`` best continuations found, as (log-probability, token ids), best first; those that ended compete on as they are."""
    beams = [(0.0, ())]
    ends = frozenset(llm.eos_token_ids)
    for _ in range(max_new_tokens):
        ended = [beam for beam in beams if beam[1] and beam[1][-1] in ends]
        growing = [beam for beam in beams if beam not in ended]
        if not growing:
            break
        rows = await rows_after(llm, [[*prompt, *tokens] for _, tokens in growing])
        grown = [
            (total + logprobs[token], (*tokens, int(token)))
            for (total, tokens), logprobs in zip(growing, map(MODEL_ITSELF.process, rows), strict=True)
            for token in np.argsort(-logprobs, kind="stable")[:width]
        ]
        beams = sorted(ended + grown, key=lambda beam: (-beam[0], beam[1]))[:width]
    return beams


async def rows_after(llm, prefixes):
    rows = [None] * len(prefixes)

    async def ask(place):
        rows[place] = await llm.next_token_logits(prefixes[place])

    async with trio.open_nursery() as nursery:
        for place in range(len(prefixes)):
            nursery.start_soon(ask, place)
    return rows


async def main():
    llm = TinyLM()
    for total, tokens in await beam_search(llm, list(PROMPT), width=4, max_new_tokens=60):
        print(f"{total:8.3f}  {PROMPT.decode()}{await llm.detokenize(tokens)}")


if __name__ == "__main__":
    trio.run(main)
