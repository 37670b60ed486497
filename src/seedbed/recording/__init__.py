"""Kept on disk: what a model said, recorded while it is sampled from and replayed without it."""

from seedbed.recording.format import Recording, Step, open_recording
from seedbed.recording.manifest import Acceptance
from seedbed.recording.record import RecordingLLM
from seedbed.recording.replay import ReplayLLM, replay_transport
from seedbed.recording.runs import Run
from seedbed.recording.steps import Asked, Observation

__all__ = [
    "Acceptance",
    "Asked",
    "Observation",
    "Recording",
    "RecordingLLM",
    "ReplayLLM",
    "Run",
    "Step",
    "open_recording",
    "replay_transport",
]
