"""The draws of other engines, so that a seeded server's own tokens can be predicted from its logits.

They are here to be compared with, not to be preferred: their noise has 32 bits (vLLM, SGLang) or moves every later boundary when one
probability moves (inverse CDF), and they know a request's seed but not which of our sequences it is. So under ``draw="vllm"`` sequence
``index`` of a request takes seed + index, as vLLM's n > 1 does; under ``"sglang"`` and ``"llama.cpp"`` all sequences of one prompt are the
same sequence; and under all three, prompts share the seed. The default draw has none of that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from seedbed.errors import InvalidSeed
from seedbed.sampling import portable
from seedbed.sampling.draw import Winner, gumbel_argmax
from seedbed.sampling.randomness import Address, Purpose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seedbed.sampling.candidates import Candidates

__all__ = ["hash32", "inverse_cdf", "llamacpp", "sglang", "vllm"]

_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1


def vllm(candidates: Candidates, address: Address, position: int) -> Winner:
    """Gumbel-max with ``u = 1 - (hash32 + 1/2) / 2**32``, keyed by token id.

    Args:
        position: where the prefix's last token stands in the sequence, from 0.

    Raises:
        InvalidSeed: the seed has more than 64 bits.
    """
    left, z = _finite(candidates)
    ids = left if candidates.ids is None else candidates.ids[left]
    hashes = hash32((_seed64(address) + address.index) & _MASK64, position, ids)
    winner = gumbel_argmax(z, 1.0 - (hashes.astype(np.float64) + 0.5) / 2.0**32)
    return Winner(int(left[winner.position]), winner.margin)


def sglang(candidates: Candidates, address: Address, position: int, *, by_rank: bool) -> Winner:
    """Gumbel-max with ``u = hash32 / (2**32 - 1)`` and ``-ln u >= 2**-32``.

    Args:
        position: as in ``vllm``.
        by_rank: the noise belongs to a token's rank, not to its id: so it is there once top_k or top_p is on.

    Raises:
        InvalidSeed: the seed has more than 64 bits.
    """
    left, z = _finite(candidates)
    if by_rank:
        columns = np.empty(left.size, dtype=np.int64)
        columns[np.argsort(-z, kind="stable")] = np.arange(left.size)
    else:
        columns = left if candidates.ids is None else candidates.ids[left]
    hashes = hash32(_seed64(address), position, columns)
    winner = gumbel_argmax(z, hashes.astype(np.float64) / float(2**32 - 1), least_rate=2.0**-32)
    return Winner(int(left[winner.position]), winner.margin)


def inverse_cdf(candidates: Candidates, address: Address) -> Winner:
    """The first token, by id, at which the running sum of probabilities reaches the step's one uniform (purpose INVERSE_CDF)."""
    weights = portable.exp(candidates.logits - float(candidates.values.max()))
    return _first_reaching(weights, np.arange(weights.size), address.uniform(Purpose.INVERSE_CDF))


def llamacpp(candidates: Candidates, address: Address, *, descending: bool) -> Winner:
    """llama.cpp's own draw: the inverse CDF of float32 weights, by a number of the Mersenne twister (MT19937) seeded with the seed.

    The generator gives one number a token, so that of step s is its s-th; reached by running it from the start, 10 ns a step.

    Args:
        descending: whether a filter of the engine's had sorted its candidates; ties, unspecified there, are by lowest id here.

    Raises:
        InvalidSeed: the seed has more than 32 bits.
    """
    if address.seed > _MASK32:
        raise InvalidSeed(f"llama.cpp's seeds have 32 bits; {address.seed} has more")
    low, high = np.random.RandomState(address.seed).randint(0, 2**32, 2 * (address.step + 1), dtype=np.uint32)[-2:].tolist()
    u = min((low + high * 2.0**32) / 2.0**64, math.nextafter(1.0, 0.0))
    weights = portable.exp(candidates.logits - float(candidates.values.max())).astype(np.float32).astype(np.float64)
    order = np.argsort(-candidates.values, kind="stable") if descending else np.arange(weights.size)
    return _first_reaching(weights, order, u)


def hash32(seed: int, position: int, columns: NDArray[np.int64] | NDArray[np.intp]) -> NDArray[np.uint32]:
    """MurmurHash3 (x86, 32 bits) of seed, position and column, as vLLM's and SGLang's kernels take it.

    Args:
        seed: below 2**64.
        columns: what the noise belongs to, shape (k,).
    """
    h = np.zeros(columns.shape, dtype=np.uint32)
    for word in (seed & _MASK32, seed >> 32, position & _MASK32, columns.astype(np.uint32)):
        k = np.asarray(word, dtype=np.uint32).reshape(-1) * np.uint32(0xCC9E2D51)
        h = h ^ _rotated(k, 15) * np.uint32(0x1B873593)
        h = _rotated(h, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    h ^= np.uint32(16)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> np.uint32(shift)) * np.uint32(factor)
    return h ^ h >> np.uint32(16)


def _rotated(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return words << np.uint32(bits) | words >> np.uint32(32 - bits)


def _finite(candidates: Candidates) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    left = np.flatnonzero(candidates.values > -np.inf)
    return left, candidates.logits[left] - float(candidates.values.max())


def _seed64(address: Address) -> int:
    if address.seed > _MASK64:
        raise InvalidSeed(f"that engine's seeds have 64 bits; {address.seed} has more")
    return address.seed


def _first_reaching(weights: NDArray[np.float64], order: NDArray[np.intp], u: float) -> Winner:
    running = weights[order].cumsum()
    whole = float(running[-1])
    at = int(np.searchsorted(running, u * whole))  # a place there is, since u is below 1
    # A change of the logits by d in each entry moves the log odds of every boundary by at most 2 d, so this margin means what it does
    # for the other draws, as long as the order of the tokens stays.
    bounds = [float(running[at - 1]) / whole] if at else []
    bounds += [float(running[at]) / whole]
    gaps = [abs(_log_odds(u) - _log_odds(bound)) for bound in bounds if 0.0 < bound < 1.0]
    return Winner(int(order[at]), min(gaps, default=math.inf))


def _log_odds(p: float) -> float:
    return math.log(p) - math.log1p(-p)
