"""Best of n: sample n, keep the one the model itself finds likeliest, per token. Run it: ``python tests/examples/best_of_n.py``"""

import trio

from seedbed import Sampler, TinyLM, generate

PROMPT = b"The gardener "


async def best_of(llm, prompt, n, *, seed):
    """The best of those that came to an end; its score is the raw model's, whatever the sampler did to the distribution drawn from."""
    result = await generate(prompt, llm, n=n, seed=seed, sampler=Sampler(temperature=1.2), max_new_tokens=120)
    ended = [sequence for sequence in result.sequences if sequence.finish_reason == "stop"]
    return max(ended, key=score), ended


def score(sequence):
    return sequence.logprob / len(sequence.token_ids)


async def main():
    llm = TinyLM()
    best, ended = await best_of(llm, list(PROMPT), 16, seed=7)
    for sequence in sorted(ended, key=score, reverse=True)[:3]:
        print(f"{score(sequence):7.3f}  {(PROMPT.decode() + await llm.detokenize(sequence.token_ids))}")
    print(f"sequence {best.index} is the best of {len(ended)} that ended")


if __name__ == "__main__":
    trio.run(main)
