"""What happens, told while it happens: progress bars, telemetry and tests all listen in the same way.

``with observe(observer):`` around any call of seedbed; ``observer.notice(event)`` is then called at every event. ``Telemetry`` turns the
events into OpenTelemetry spans and metrics.
"""

from seedbed.observing.observer import (
    BulkBegan,
    Event,
    GenerationBegan,
    GenerationEnded,
    Observer,
    PromptFinished,
    QuestionTaken,
    RequestBegan,
    RequestEnded,
    RequestRepeated,
    SequenceBegan,
    SequenceEnded,
    TaskBegan,
    TaskEnded,
    TokensDrawn,
    observe,
    observers,
)
from seedbed.observing.telemetry import Telemetry

__all__ = [
    "BulkBegan",
    "Event",
    "GenerationBegan",
    "GenerationEnded",
    "Observer",
    "PromptFinished",
    "QuestionTaken",
    "RequestBegan",
    "RequestEnded",
    "RequestRepeated",
    "SequenceBegan",
    "SequenceEnded",
    "TaskBegan",
    "TaskEnded",
    "Telemetry",
    "TokensDrawn",
    "observe",
    "observers",
]
