"""Speculation with two models: a small one guesses on, the large one answers for all the guesses at once.

The small model decides only how often the large one is asked. Each token is drawn from the large model's own row, so the result is that
of the large model alone, to the last token. Run it: ``python tests/examples/speculative.py``
"""

import trio

from seedbed import LLM, Sampler, TinyLM, generate

PROMPT = b"The recording "


class Speculating(LLM):
    """``target``'s rows, along tokens that ``draft`` finds likeliest."""

    def __init__(self, target, draft):
        self.target, self.draft = target, draft

    async def next_token_logits(self, prev_token_ids):
        return await self.target.next_token_logits(prev_token_ids)

    async def logits_ahead(self, prev_token_ids, count):
        prefixes = [list(prev_token_ids)]
        for _ in range(count - 1):
            row = await self.draft.next_token_logits(prefixes[-1])
            prefixes.append([*prefixes[-1], int(row.argmax())])
        rows = [None] * count

        async def ask(place):
            rows[place] = await self.target.next_token_logits(prefixes[place])

        async with trio.open_nursery() as nursery:
            for place in range(count):
                nursery.start_soon(ask, place)
        return prefixes[-1][len(prev_token_ids) :], rows

    def get_stop_token_id(self):
        return self.target.get_stop_token_id()


async def main():
    target, draft = TinyLM(), TinyLM(order=3)
    arguments = {"n": 8, "seed": 7, "sampler": Sampler(temperature=0.7), "max_new_tokens": 80}
    alone = await generate(list(PROMPT), target, **arguments)
    together = await generate(list(PROMPT), Speculating(target, draft), lookahead="auto", **arguments)
    print(f"the same tokens: {together == alone}")
    print(f"{alone.stats.tokens} tokens in {together.stats.round_trips} round trips instead of {alone.stats.round_trips}")


if __name__ == "__main__":
    trio.run(main)
