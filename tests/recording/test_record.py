"""Recording while sampling: what is kept is what was sampled from, whoever asked, and whenever it was cut short."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from seedbed import ModelInfo, RecordingLLM, ReplayLLM, Sampler, TinyLM, generate, open_recording
from seedbed.errors import RecordingExists, UsageError
from seedbed.testing import ScriptedLLM, cancel_at_each_step, check_llm

INFO = ModelInfo(model="m", vocab_size=4, eos_token_ids=(0,))
PROMPT = list(b"The seed")


class Noisy(ScriptedLLM):
    """Every answer is another one, as from a server whose rows depend on its batch."""

    def __init__(self, delay: float = 0) -> None:
        self.answers = 0

        def next_row(prefix):
            self.answers += 1
            return [-2.0, self.answers / 10, 0.0, 1.0]

        super().__init__(next_row, info=INFO, delay=delay)


async def sampled(llm, **changes):
    arguments = {"n": 4, "seed": 7, "max_new_tokens": 12, "sampler": Sampler(temperature=0.9)} | changes
    return await generate(PROMPT, llm, **arguments)


async def test_it_keeps_the_contract(tmp_path: Path) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording") as recorded:
        await check_llm(recorded)


async def test_the_recorded_run_and_its_replay_are_the_same(tmp_path: Path) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording", top_k=5) as recorded:
        live = await sampled(recorded)

    assert await sampled(ReplayLLM(tmp_path / "recording")) == live
    assert all(mass >= 0 for s in live.sequences for mass in s.tail_masses)


async def test_a_prefix_has_one_row_whoever_asks_first(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with RecordingLLM(Noisy(delay=1), tmp_path / "recording", top_k=4) as recorded:
        rows = []

        async def ask() -> None:
            rows.append(await recorded.next_token_logits([1, 2]))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        rows.append(await recorded.next_token_logits([1, 2]))

    assert all(row == rows[0] for row in rows)
    assert (await ReplayLLM(tmp_path / "recording").next_token_logits([1, 2])) == rows[0]


async def test_what_is_recorded_is_not_asked_again(tmp_path: Path) -> None:
    llm = ScriptedLLM({}, default=[0.0, 1.0, 0.0, 0.0], info=INFO)
    async with RecordingLLM(llm, tmp_path / "recording", top_k=4) as recorded:
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await recorded.next_token_logits([1])

    assert llm.asked == [(0,), (1,)]  # the first is the row that lets connect() verify a replay


async def test_a_run_that_failed_is_resumed_by_running_it_again(tmp_path: Path) -> None:
    """Cut short after any number of answers, the rerun's recording holds the same steps as the undisturbed one's."""
    async with RecordingLLM(TinyLM(), tmp_path / "undisturbed") as recorded:
        undisturbed = await sampled(recorded)
    want = {step.prefix: step.row for step in open_recording(tmp_path / "undisturbed").steps}
    for survived in (1, 2, 17, len(want) - 1):

        class Dying(TinyLM):
            left = survived

            async def next_token_logits(self, prev_token_ids):
                if not self.left:
                    raise OSError("gone")
                self.left -= 1
                return await super().next_token_logits(prev_token_ids)

        path = tmp_path / str(survived)
        with pytest.raises(OSError, match="gone"):
            async with RecordingLLM(Dying(), path) as recorded:
                await sampled(recorded)
        assert 1 <= len(open_recording(path).steps) <= survived  # siblings may have asked the same
        async with RecordingLLM(TinyLM(), path) as recorded:
            assert await sampled(recorded) == undisturbed
        assert {step.prefix: step.row for step in open_recording(path).steps} == want


def test_cancelled_at_any_step_the_recording_is_valid_and_can_be_continued(tmp_path: Path) -> None:
    attempts = 0
    path = tmp_path / "0"

    async def main() -> None:
        async with RecordingLLM(TinyLM(), path) as recorded:
            await sampled(recorded, n=2, max_new_tokens=3)

    def check() -> None:
        nonlocal attempts, path
        if (path / "manifest.json").exists():
            recording = open_recording(path)
            assert not recording.is_sealed or len(recording.steps) == steps
        trio.run(main_again)
        assert {step.prefix: step.row for step in open_recording(path).steps} == want
        attempts += 1
        path = tmp_path / str(attempts)

    async def main_again() -> None:
        async with RecordingLLM(TinyLM(), path, extend=True) as recorded:
            await sampled(recorded, n=2, max_new_tokens=3)

    trio.run(main)
    want = {step.prefix: step.row for step in open_recording(path).steps}
    steps = len(want)
    path = tmp_path / "first"

    assert cancel_at_each_step(main, check) > 8


async def test_a_finished_recording_is_extended_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    async with RecordingLLM(TinyLM(), path) as recorded:
        await sampled(recorded, n=1)
    with pytest.raises(RecordingExists):
        async with RecordingLLM(TinyLM(), path):
            pass
    async with RecordingLLM(TinyLM(), path, extend=True) as recorded:
        more = await sampled(recorded)

    assert await sampled(ReplayLLM(path)) == more


async def test_it_cannot_be_used_before_it_is_entered(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="async with RecordingLLM"):
        await RecordingLLM(TinyLM(), tmp_path / "recording").next_token_logits([1])


@pytest.mark.parametrize(
    ("llm", "top_k"),
    [
        (ScriptedLLM({}), 1),
        (ScriptedLLM({}, info=ModelInfo()), 1),
        (TinyLM(), 0),
        (ScriptedLLM({}, info=ModelInfo(vocab_size=9, max_top_k=3)), 4),
    ],
)
def test_a_model_that_cannot_be_recorded_so_is_refused(tmp_path: Path, llm: object, top_k: int) -> None:
    with pytest.raises(UsageError):
        RecordingLLM(llm, tmp_path / "recording", top_k=top_k)
    assert not (tmp_path / "recording").exists()


async def test_it_passes_on_what_the_model_can(tmp_path: Path) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording", top_k=7) as recorded:
        assert await recorded.detokenize(await recorded.tokenize("The")) == "The"
        assert recorded.token_bytes(65) == b"A"
        assert recorded.eos_token_ids == (256,)
        assert recorded.info.max_top_k == 7
        assert repr(recorded) == "<RecordingLLM of TinyLM(order=6): 1 steps>"
