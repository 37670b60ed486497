"""What a server's seeds do: whether one repeats its draws, whether others do, and whether neighbours overlap.

All of it compares draws with draws, so what is wrong with their distribution does not matter here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import BadRequest
from seedbed.llm.base import as_row
from seedbed.regression.conformance_report import Flaw, FlawName
from seedbed.regression.drawn import same_draws
from seedbed.server.draws import sampler_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.regression.server_draws import ServerDraws

__all__ = ["SeedQuestions"]

PAIRS = 16
"""Draws compared for each question."""
APART = (1 << 8, 1 << 16, 1 << 32)
"""Seeds this far apart are the same where only so many of their bits count."""


class SeedQuestions:
    """Questions about the seeds of a server's draws.

    Args:
        draws: those that were had.
        alpha: how often seeds that do as they should may be called flawed, by each question.

    Attributes:
        flaws: what was found.
        untold: what could not be told, with the reason.
    """

    def __init__(self, draws: ServerDraws, alpha: float) -> None:
        self._draws, self._alpha = draws, alpha
        self.flaws: list[Flaw] = []
        self.untold: list[str] = []

    async def ask_all(self) -> None:
        """Whether a seed repeats its draw, and whether others do."""
        known = [key for key in self._draws.by_seed if (key[0], key[1] + 1) in self._draws.by_seed][: 4 * PAIRS]
        if not known:
            self.untold.append("seeds: more draws are needed than there are prefixes")
            return
        if self._draws.is_constant:
            detail = "every draw after one prefix is the same token, and not the most probable one, whatever the seed"
            self.flaws.append(Flaw("seeds repeat", detail))
            return
        if self._says_nothing(known):
            self.untold.append("seeds: after these prefixes nearly every draw is the same token, whatever the seed")
            return
        if not await self._repeats(known[:PAIRS]):
            return
        if self._finds([(*self._pair(key, self._draws.by_seed[key[0], key[1] + 1]),) for key in known]):
            self.flaws.append(Flaw("seeds repeat", "different seeds give the same draws"))
            return
        await self._apart(known[:PAIRS])
        await self._of_one_request(known)
        await self._of_the_next_step(known[:PAIRS])

    def _pair(self, key: tuple[int, int], other: int) -> tuple[int, int, float]:
        one = self._draws.by_seed[key]
        return one, other, self._draws.chance(key[0], one)

    def _finds(self, pairs: Sequence[tuple[int, int, float]]) -> bool:
        return bool(pairs) and same_draws(pairs) >= math.log(1 / self._alpha)

    def _says_nothing(self, keys: Sequence[tuple[int, int]]) -> bool:
        """Whether even draws that are all equal would be no evidence that they are one."""
        return not self._finds([self._pair(key, self._draws.by_seed[key]) for key in keys[:PAIRS]])

    async def _repeats(self, keys: Sequence[tuple[int, int]]) -> bool:
        again = await self._draws.together([self._draws.sample(*key) for key in keys])
        equal = sum(self._draws.by_seed[key] == tokens for key, ((tokens, *_),) in zip(keys, again, strict=True))
        if equal == len(keys):
            return True
        by_chance = sum(self._draws.chance(key[0], self._draws.by_seed[key]) for key in keys)
        detail = f"asked again with the same seed, {equal} of {len(keys)} draws are the same; {by_chance:.1f} would be by chance"
        name: FlawName = "seed ignored" if equal < (len(keys) + by_chance) / 2 else "seeds do not always repeat"
        self.flaws.append(Flaw(name, detail))
        return name != "seed ignored"

    async def _apart(self, keys: Sequence[tuple[int, int]]) -> None:
        for distance in APART:
            try:
                others = await self._draws.together([self._draws.sample(place, after + distance) for place, after in keys])
            except BadRequest:
                self.untold.append(f"seeds: the server refuses seeds of {self._draws.asked.seed + distance} and more")
                return
            if self._finds([self._pair(key, tokens) for key, ((tokens, *_),) in zip(keys, others, strict=True)]):
                # Of seeds in 32 bits a user runs out only on purpose.
                text = f"seeds {distance} apart give the same draws: {distance.bit_length() - 1} bits of a seed count"
                self.flaws.append(Flaw("seeds repeat", text, is_fault=distance < 1 << 32))
                return

    async def _of_one_request(self, keys: Sequence[tuple[int, int]]) -> None:
        """Samples of one request: among themselves, and beside the draws of the seeds that follow."""
        chosen = [(place, after) for place, after in keys if (place, after + 3) in self._draws.by_seed][:PAIRS]
        try:
            answers = await self._draws.together([self._draws.sample(*key, n=4) for key in chosen])
        except BadRequest as error:
            self.untold.append(f"seeds: several samples in one request are refused ({error.message:.80})")
            return
        samples = [[tokens for tokens, *_ in answer] for answer in answers]
        if self._finds([(one[0], one[1], self._draws.chance(key[0], one[0])) for key, one in zip(chosen, samples, strict=True)]):
            self.flaws.append(Flaw("seeds repeat", "all samples of one request are the same"))
            return
        pairs = [self._pair((place, after + i), one[i]) for (place, after), one in zip(chosen, samples, strict=True) for i in range(1, 4)]
        if self._finds(pairs):
            detail = "sample i of a request is the draw of seed + i: requests with n samples need seeds n apart"
            self.flaws.append(Flaw("seeds overlap", detail, is_fault=False))

    async def _of_the_next_step(self, keys: Sequence[tuple[int, int]]) -> None:
        """The second token under a seed, beside the first one there under the next seed."""
        two = await self._draws.together([self._draws.sample(*key, tokens=2) for key in keys])
        ways = [(key, *answer[0]) for key, answer in zip(keys, two, strict=True) if len(answer[0]) == 2]
        here = [(*self._draws.contexts[key[0]].prefix, first) for key, first, _ in ways]
        nexts = await self._draws.together(
            [replace(self._draws.sample(key[0], key[1] + 1), token_ids=prefix) for (key, *_), prefix in zip(ways, here, strict=True)]
        )
        pairs = []
        for (_, _, second), prefix, ((token_id, *_),) in zip(ways, here, nexts, strict=True):
            row = as_row(await self._draws.model.next_token_logits(list(prefix)))
            p = np.exp(sampler_of(self._draws.asked, self._draws.order).process(row))
            pairs.append((second, token_id, float(p[second])))
        if self._finds(pairs):
            detail = "step t of a seed is step t - 1 of the next one: runs of neighbouring seeds share their draws"
            self.flaws.append(Flaw("seeds overlap", detail))
