"""Self-consistency: many sequences vote on an answer, and the losers are cancelled as soon as they cannot win any more.

"Cannot win" is certain, whoever of the rest finishes first: so the winner is that of the full vote, though finishing order is
length-biased. Stopping at the first k votes instead would favour answers with short reasons.
Run it: ``python tests/examples/self_consistency.py``
"""

from collections import Counter

import trio

from seedbed import Sampler, TinyLM, open_generation

PROMPT = b"The rain is "
SAMPLER = Sampler(temperature=0.5)


async def vote(llm, prompt, n, answer, *, seed):
    """The answer most sequences give, the votes that decided, and how many sequences were cut short."""
    votes = Counter()
    async with open_generation(prompt, llm, n, seed=seed, sampler=SAMPLER, max_new_tokens=120) as generation:
        async for sequence in generation:
            votes[answer(sequence)] += 1
            (_, most), (_, next_most) = [*votes.most_common(2), (None, 0)][:2]
            if most > next_most + n - votes.total():
                break
    cut = sum(sequence.finish_reason == "cancelled" for sequence in generation.sequences)
    return min(votes, key=lambda answer: (-votes[answer], answer)), votes, cut  # a draw is not won by who finished first


def first_word(sequence):
    return bytes(token for token in sequence.token_ids if token < 256).split(b" ")[0].decode("utf-8", "replace")


async def main():
    winner, votes, cut = await vote(TinyLM(), list(PROMPT), 40, first_word, seed=7)
    assert votes.total() + cut <= 40
    print(f"{winner!r} wins the vote of 40, and the others could not have changed it")


if __name__ == "__main__":
    trio.run(main)
