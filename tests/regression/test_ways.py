"""Which recorded sequences the recording itself gives again, and which it does not."""

from __future__ import annotations

from tests.regression.conftest import model

from seedbed import RecordingLLM, Sampler, generate
from seedbed.recording import Run, open_recording
from seedbed.regression.ways import ways_of

PROMPTS = [list(b"The seed"), list(b"In")]


async def test_what_the_recording_itself_does_not_give_again_is_skipped(tmp_path):
    async with RecordingLLM(model(), tmp_path / "r") as recording:
        own = Sampler(processors=[lambda prefix, logits: logits], top_k=5)
        recording.note(await generate(PROMPTS[:1], model(), n=2, seed=7, sampler=own, max_new_tokens=4), "own function")
        recording.note(await generate([[1, 2]], model(), n=3, seed=7, max_new_tokens=4), "never recorded")
        recording.note(await generate(PROMPTS[1:2], recording, n=1, seed=7, sampler=Sampler(top_k=5), max_new_tokens=4), "good")
        recording.keep(Run("tokens only", ((1, 2),)))
    ways, skipped = ways_of(open_recording(tmp_path / "r"))

    assert ([way.run for way in ways], skipped) == (["good"], 6)
