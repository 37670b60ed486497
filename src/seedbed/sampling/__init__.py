"""Logits -> token: the chain of processors and the draw. Pure: no I/O, no clock, no global state."""

from seedbed.sampling.processors import Custom, History, MinP, Processor, Temperature, TopK, TopP
from seedbed.sampling.randomness import Address, Purpose, check_seed, fresh_seed
from seedbed.sampling.sampler import Draw, Sampler, softmax

__all__ = [
    "Address",
    "Custom",
    "Draw",
    "History",
    "MinP",
    "Processor",
    "Purpose",
    "Sampler",
    "Temperature",
    "TopK",
    "TopP",
    "check_seed",
    "fresh_seed",
    "softmax",
]
