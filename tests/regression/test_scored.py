"""Many positions in one request, as vLLM scores a prompt: recorded and checked as a condition of its own."""

from __future__ import annotations

import numpy as np
import pytest
from tests.protocols import wire
from tests.regression.test_cli_check import ran_command

from seedbed import HashLM, RecordingLLM, TinyLM, connect, generate, open_recording, serve
from seedbed.errors import BrokenAnswer, RowError, UsageError
from seedbed.llm.base import ModelInfo, TopLogprobs
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import Score
from seedbed.protocols.vllm import VLLM
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


class TestCodec:
    INFO = ModelInfo(model="tiny", vocab_size=512, kind="logprobs")
    QUESTION = Score((10, 20, 30, 40), 2, None)

    def test_a_captured_answer_gives_the_row_after_each_beginning(self):
        """At places where the token that follows is not among the two best it is listed besides."""
        _, response = wire.captured("vllm-tiny512/completions-prompt-logprobs")
        rows = VLLM().decode_scores(self.QUESTION, self.INFO, response)

        assert len(rows) == 4
        assert all(len(row) == 2 for row in rows)
        assert rows[0].token_ids.tolist() == [246, 18]
        assert rows[0].logprobs.tolist() == np.float32([-2.396649122238159, -2.8643338680267334]).tolist()
        assert rows[-1].token_ids.tolist() == [476, 469]

    def test_the_question_is_the_one_captured(self):
        request, _ = wire.captured("vllm-tiny512/completions-prompt-logprobs")
        question = Score(self.QUESTION.token_ids, self.QUESTION.top_k, "tiny")

        assert VLLM().decode_request(request) == question == VLLM().decode_request(VLLM().encode_score(question, self.INFO))

    @pytest.mark.parametrize("top_k", [3, None])
    async def test_rows_arrive_as_the_model_gave_them(self, top_k):
        async with served(TinyLM()) as server, connected(server, top_k or "all") as model:
            rows = await model.score(PROMPT)
            single = [await model.next_token_logits(PROMPT[: length + 1]) for length in range(len(PROMPT))]

        assert all(row == one if isinstance(row, TopLogprobs) else np.array_equal(row, one) for row, one in zip(rows, single, strict=True))

    def test_what_is_not_what_was_asked_for_is_not_believed(self):
        _, response = wire.captured("vllm-tiny512/completions-prompt-logprobs")
        text = response.body.decode()
        for changed in (
            text.replace('"prompt_logprobs":[null,', '"prompt_logprobs":['),
            text.replace('"prompt_logprobs":', '"other":'),
            text.replace('"246":', '"x":'),
            text.replace('"246":{"logprob":-2.396649122238159,"rank":1,"decoded_token":""},', ""),
            text.replace("-2.396649122238159", "null"),
            text.replace("-2.396649122238159", "2.5"),
        ):
            assert changed != text
            with pytest.raises((BrokenAnswer, RowError)):
                VLLM().decode_scores(self.QUESTION, self.INFO, wire.HttpResponse(200, (), changed.encode()))

    @pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if not protocol.scores])
    async def test_the_others_say_that_they_cannot(self, name):
        with pytest.raises(UsageError, match="one row a request"):
            PROTOCOLS[name].encode_score(self.QUESTION, self.INFO)

    async def test_nor_can_a_recorder_of_them(self, tmp_path):
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
