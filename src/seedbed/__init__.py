"""Sample from language models in the client, reproducibly: ask, draw, follow; over the wire, from disk, as a server.

Names are imported when they are first used, so that ``import seedbed`` costs nothing, and the pytest plugin with it.

Public are the names listed here and in ``seedbed.sampling``, ``seedbed.recording``, ``seedbed.regression``, ``seedbed.server``,
``seedbed.http``, ``seedbed.observing``, ``seedbed.testing`` and ``seedbed.errors``; for what fewer need, in ``seedbed.generation.bulk``,
``seedbed.recording.exact``, ``seedbed.regression.metrics``, ``seedbed.server.planted`` and ``seedbed.protocols.kserve_v2``. Deeper imports
work, and are at the caller's risk.
"""

import sys

# Type checkers take this name for true; importing it from typing would be most of what importing seedbed costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    __version__: str
    from seedbed.errors import DeadlineExceeded, SeedbedError
    from seedbed.generation import (
        GenerationResult,
        SampledSequence,
        generate,
        generate_token_ids,
        generate_token_ids_multiple,
        open_generation,
    )
    from seedbed.http import HTTPModel, Retry, connect
    from seedbed.llm import LLM, BlockingLLM, ModelInfo, PrefixCache, TopLogprobs, as_llm
    from seedbed.recording import RecordingLLM, ReplayLLM, open_recording, replay_transport
    from seedbed.regression import CheckReport, check, conformance, probe
    from seedbed.sampling import Sampler, softmax
    from seedbed.server import HashLM, TinyLM, serve

__all__ = [
    "LLM",
    "BlockingLLM",
    "CheckReport",
    "DeadlineExceeded",
    "GenerationResult",
    "HTTPModel",
    "HashLM",
    "ModelInfo",
    "PrefixCache",
    "RecordingLLM",
    "ReplayLLM",
    "Retry",
    "SampledSequence",
    "Sampler",
    "SeedbedError",
    "TinyLM",
    "TopLogprobs",
    "as_llm",
    "check",
    "conformance",
    "connect",
    "generate",
    "generate_token_ids",
    "generate_token_ids_multiple",
    "open_generation",
    "open_recording",
    "probe",
    "replay_transport",
    "serve",
    "softmax",
]

_ROOMS = {
    "seedbed.errors": ("DeadlineExceeded", "SeedbedError"),
    "seedbed.generation": (
        "GenerationResult",
        "SampledSequence",
        "generate",
        "generate_token_ids",
        "generate_token_ids_multiple",
        "open_generation",
    ),
    "seedbed.http": ("HTTPModel", "Retry", "connect"),
    "seedbed.llm": ("LLM", "BlockingLLM", "ModelInfo", "PrefixCache", "TopLogprobs", "as_llm"),
    "seedbed.recording": ("RecordingLLM", "ReplayLLM", "open_recording", "replay_transport"),
    "seedbed.regression": ("CheckReport", "check", "conformance", "probe"),
    "seedbed.sampling": ("Sampler", "softmax"),
    "seedbed.server": ("HashLM", "TinyLM", "serve"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("seedbed")
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'seedbed' has no attribute {name!r}")
    __import__(_ROOM_OF[name])
    value = getattr(sys.modules[_ROOM_OF[name]], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
