"""Rejection sampling with a deadline: the first sequence that passes a test, as if they had been drawn one after the other.

They are drawn side by side, and short ones finish first; but a sequence is taken only when all of lower index have been rejected. So what
is returned is an exact sample of the model, given that it passes. Run it: ``python tests/examples/rejection.py``
"""

import math

import trio

from seedbed import TinyLM, open_generation

PROMPT = b"In winter "


async def first_accepted(llm, prompt, accepts, *, seed, n=64, timeout=math.inf):
    """The accepted sequence, or None when none of ``n`` passes, or time runs out before it is known which is the first."""
    async with open_generation(prompt, llm, n, seed=seed, max_new_tokens=120, timeout=timeout) as generation:
        async for _ in generation:
            for sequence in generation.sequences:  # in order
                if sequence.finish_reason not in ("stop", "length"):
                    break  # it may yet be the one
                if accepts(sequence):
                    return sequence
    return None


def is_long(sequence):
    return len(sequence.token_ids) > 80


async def main():
    llm = TinyLM()
    sequence = await first_accepted(llm, list(PROMPT), is_long, seed=7, n=16, timeout=60)
    if sequence is None:
        print("none was accepted in time")
    else:
        print(f"sequence {sequence.index}, {len(sequence.token_ids)} tokens: {PROMPT.decode()}{await llm.detokenize(sequence.token_ids)}")


if __name__ == "__main__":
    trio.run(main)
