"""The logits processors: small classes, each with its formula, its rule at the boundary and its source.

The list of them is the sampler's configuration. ``base`` says what one is; ``penalties``, ``bans``, ``temperature``, ``filters``,
``cutoffs`` and ``mirostat`` hold them by what they do; ``custom`` wraps a function of your own.
"""

from seedbed.sampling.processors.bans import AllowedTokenIds, BadWords, MinTokens, NoRepeatNgram
from seedbed.sampling.processors.base import History, Processor, Scope, StatefulProcessor
from seedbed.sampling.processors.custom import Custom
from seedbed.sampling.processors.cutoffs import EpsilonCutoff, EtaCutoff, TopH, TopNSigma, TypicalP, Xtc
from seedbed.sampling.processors.filters import MinP, TopK, TopP
from seedbed.sampling.processors.mirostat import Mirostat, MirostatV2
from seedbed.sampling.processors.penalties import Dry, FrequencyPenalty, LogitBias, PresencePenalty, RepetitionPenalty
from seedbed.sampling.processors.temperature import DynamicTemperature, Temperature

__all__ = [
    "AllowedTokenIds",
    "BadWords",
    "Custom",
    "Dry",
    "DynamicTemperature",
    "EpsilonCutoff",
    "EtaCutoff",
    "FrequencyPenalty",
    "History",
    "LogitBias",
    "MinP",
    "MinTokens",
    "Mirostat",
    "MirostatV2",
    "NoRepeatNgram",
    "PresencePenalty",
    "Processor",
    "RepetitionPenalty",
    "Scope",
    "StatefulProcessor",
    "Temperature",
    "TopH",
    "TopK",
    "TopNSigma",
    "TopP",
    "TypicalP",
    "Xtc",
]
