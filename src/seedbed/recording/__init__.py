"""Kept on disk: what a model said, recorded while it is sampled from and replayed without it."""

from seedbed.recording.format import Recording, open_recording
from seedbed.recording.record import RecordingLLM
from seedbed.recording.replay import ReplayLLM, replay_transport

__all__ = ["Recording", "RecordingLLM", "ReplayLLM", "open_recording", "replay_transport"]
