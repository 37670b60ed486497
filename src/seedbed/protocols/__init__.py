"""Question and answer as bytes, both directions: one file per protocol, no I/O anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from seedbed.errors import UsageError
from seedbed.protocols.kserve_v2 import KServeV2
from seedbed.protocols.llama_cpp import LlamaCpp
from seedbed.protocols.native import Native
from seedbed.protocols.sglang import SGLang
from seedbed.protocols.vllm import VLLM
from seedbed.protocols.vllm_generate import VLLMGenerate

if TYPE_CHECKING:
    from seedbed.protocols.base import Protocol

__all__ = ["PROTOCOLS", "protocol_named", "protocols_named"]

_SPOKEN: tuple[Protocol, ...] = (Native(), LlamaCpp(), VLLM(), VLLMGenerate(), SGLang(), KServeV2())

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _SPOKEN}
"""Every protocol by name, in the order discovery tries them."""


def protocol_named(name: str | Protocol) -> Protocol:
    """The protocol of that name; a protocol itself is returned as it is, for those that can be told more than their name.

    Raises:
        UsageError: there is none; the message lists those there are.

    Example:
        >>> protocol_named("llama.cpp").name
        'llama.cpp'
    """
    if not isinstance(name, str):
        return name
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise UsageError(f"unknown protocol {name!r}; known are {', '.join(PROTOCOLS)}") from None


def protocols_named(names: Iterable[str | Protocol]) -> list[Protocol]:
    """What a server speaks, given by name.

    Raises:
        UsageError: a name that is none, or no names at all.

    Example:
        >>> [protocol.name for protocol in protocols_named(["vllm", "native"])]
        ['vllm', 'native']
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UsageError(f"protocols must be a list of names, such as ['native'], not {names!r:.80}")
    speaks = [protocol_named(name) for name in names]
    if not speaks:
        raise UsageError("a server needs at least one protocol")
    return speaks
