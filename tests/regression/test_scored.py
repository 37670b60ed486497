"""Many positions in one request, as vLLM scores a prompt: recorded and checked as a condition of its own."""

from __future__ import annotations

import pytest
from tests.regression.test_cli_check import ran_command

from seedbed import HashLM, RecordingLLM, TinyLM, connect, generate, open_recording, serve
from seedbed.errors import UsageError
from seedbed.regression import Verdict, check
from seedbed.server.planted import AroundLLM, Noise, PlantedLLM, Scaled

PROMPT = list(b"The seed")


def served(llm):
    return serve(llm, protocols=["vllm"])


def connected(server, top_k=20):
    return connect(server.url, "vllm", top_k=top_k, eos_token_ids=[256])


class OtherwiseScored(AroundLLM):
    """Answers one row a request as the model does, and scores a sequence by another computation."""

    def __init__(self, llm, scorer):
        super().__init__(llm)
        self._scorer = scorer
        self.can_score, self.scored = True, 0

    async def score(self, token_ids):
        self.scored += 1
        return [await self._scorer.next_token_logits(token_ids[: length + 1]) for length in range(len(token_ids))]


async def recorded(llm, path, **arguments):
    async with RecordingLLM(llm, path, repeats=2, scored=True, **arguments) as recording:
        await generate([PROMPT], recording, n=3, seed=7, max_new_tokens=8)


async def test_a_model_that_cannot_score_is_not_recorded_so(tmp_path):
    with pytest.raises(UsageError, match="cannot score a whole sequence"):
        RecordingLLM(TinyLM(), tmp_path / "r", scored=True)


class TestCondition:
    async def test_it_is_recorded_with_its_tag_and_checked_over_http(self, tmp_path):
        async with served(TinyLM()) as server, connected(server) as model:
            await recorded(model, tmp_path / "r")
        async with served(TinyLM()) as server, connected(server) as model:
            report = await check(tmp_path / "r", model)
        steps = open_recording(tmp_path / "r").steps

        assert all(sum(one.asked.tags == ("scored",) for one in step.observations) == 2 for step in steps)
        assert report.verdict == Verdict.IDENTICAL
        assert report.conditions["scored"] == 2 * len(steps)

    async def test_a_sequence_takes_one_request_however_long_it_is(self, tmp_path):
        live = OtherwiseScored(HashLM(257), HashLM(257))
        await recorded(live, tmp_path / "r")
        live.scored = 0
        await check(tmp_path / "r", live, free_run=False)

        assert live.scored == 2 * (3 + 1)  # three sequences, and the end token alone, which every recording begins with

    async def test_scored_rows_that_always_differed_from_single_ones_are_no_drift(self, tmp_path):
        live = OtherwiseScored(HashLM(257), PlantedLLM(HashLM(257), Noise(0.3)))
        await recorded(live, tmp_path / "r", tier="full")

        assert (await check(tmp_path / "r", live)).verdict == Verdict.IDENTICAL

    async def test_a_server_whose_scoring_alone_changed_has_drifted(self, tmp_path):
        await recorded(OtherwiseScored(HashLM(257), HashLM(257)), tmp_path / "r", tier="full")
        report = await check(tmp_path / "r", OtherwiseScored(HashLM(257), PlantedLLM(HashLM(257), Scaled(1.3))))

        assert report.verdict not in (Verdict.IDENTICAL, Verdict.PASS)

    async def test_a_server_that_cannot_score_is_held_against_the_single_rows(self, tmp_path):
        await recorded(OtherwiseScored(HashLM(257), HashLM(257)), tmp_path / "r", tier="full")
        report = await check(tmp_path / "r", HashLM(257))

        assert report.verdict == Verdict.IDENTICAL
        assert "scored" not in report.conditions

    async def test_a_server_that_can_is_not_asked_to_where_nothing_was_recorded_so(self, tmp_path):
        live = OtherwiseScored(HashLM(257), HashLM(257))
        async with RecordingLLM(live, tmp_path / "r") as kept:
            await kept.next_token_logits(PROMPT)

        assert (await check(tmp_path / "r", live)).verdict == Verdict.IDENTICAL
        assert live.scored == 0

    async def test_the_command_records_it(self, tmp_path):
        words = ["record", "URL", tmp_path / "r", "--protocol", "vllm", "--eos-token-id", "256", "--prompt", "The seed", "-n", "2"]
        done = await ran_command(TinyLM(), *words, "--max-new-tokens", "4", "--seed", "7", "--scored")

        assert (done.code, done.err) == (0, "")
        assert all(step.asked_alone < len(step.observations) for step in open_recording(tmp_path / "r").steps)
