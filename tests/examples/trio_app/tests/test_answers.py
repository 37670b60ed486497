"""Offline: every model here is a recording, or a script."""

import json
from pathlib import Path

import pytest
import trio
import trio.testing
from answers import Answer, best_answer, talk, tokens_of

from seedbed import ModelInfo, ReplayLLM
from seedbed.errors import Overloaded, RecordingMiss
from seedbed.recording import exact
from seedbed.testing import ScriptedLLM, cancel_at_each_step, check_llm, schedules

QUESTIONS = ["The seed", "A good gardener"]
ANSWERS = Path(__file__).parent / "recordings" / "answers"
recorded = pytest.mark.seedbed("tests/recordings/answers", top_k=8)


@pytest.mark.seedbed(top_k=8)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_the_answer_is_what_it_was(seedbed_llm, seedbed_check, question):
    answer = await best_answer(question, seedbed_llm)

    assert answer.of >= 1
    seedbed_check(tokens_of(answer.answer))


@recorded
def test_more_continuations_have_more_ends(seedbed_llm):
    """Counterfactual replay: 2 are sampled from what was recorded for 4."""
    few, many = (trio.run(lambda n=n: best_answer("The seed", seedbed_llm, n=n)) for n in (2, 4))

    assert few.of <= many.of


@pytest.mark.seedbed("tests/recordings/answers", top_k=8, protocol="llama.cpp")
async def test_through_http_the_answer_is_the_same(seedbed_llm):
    through_http = await best_answer("The seed", seedbed_llm, n=2)

    assert through_http == await best_answer("The seed", ReplayLLM(seedbed_llm.recording), n=2)


@recorded
def test_two_clients_at_once_get_what_one_alone_gets_in_any_order(seedbed_llm):
    async def alone():
        return await best_answer("The seed", seedbed_llm)

    async def together():
        said = []
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(conversation, seedbed_llm, [b"The se", b"ed\n\n"], said)
        return said

    want = trio.run(alone)
    for run in schedules(2):
        assert [Answer(**answer) for answer in run(together)] == [want, want]


@recorded
async def test_the_recording_knows_how_likely_a_comma_is(seedbed_llm):
    comma = exact.probability(
        seedbed_llm.recording,
        tokens_of("The seed"),
        lambda ids: ids[0] == ord(","),
        early=lambda ids: ids[0] == ord(","),
        max_new_tokens=48,
    )

    assert 0.1 < comma.low <= comma.high < 0.2


async def test_what_was_not_recorded_is_an_error_and_not_a_guess():
    with pytest.raises(RecordingMiss, match="knows no beginning of this prefix"):
        await best_answer("Why?", ReplayLLM(ANSWERS))


@recorded
async def test_the_recorded_model_is_a_model_like_any(seedbed_llm):
    await check_llm(seedbed_llm, [tokens_of("The seed"), [*tokens_of("The seed"), 32]])


async def test_a_slow_model_is_given_up_on(autojump_clock):
    llm = ScriptedLLM({}, default=[0.0], stop_token_id=1, delay=4.0)

    assert await best_answer("x", llm, patience=10.0) == Answer("x", None, 0)
    assert trio.current_time() == 10.0


async def test_a_model_server_that_fails_is_told_and_the_next_question_answered():
    answers = iter([Overloaded("busy", status=503)])
    llm = ScriptedLLM(lambda prefix: next(answers, [0.0, 9.0]), stop_token_id=1, info=ModelInfo(vocab_size=257, eos_token_ids=(1,)))
    said = []
    await conversation(llm, [b"x\n", b"y\n"], said)

    assert said[0] == {"question": "x", "error": "Overloaded"}


def test_a_client_that_hangs_up_at_any_moment_leaves_nothing_behind():
    llm = ScriptedLLM({}, default=[0.0, 9.0], stop_token_id=1, delay=0.1)

    assert cancel_at_each_step(lambda: conversation(llm, [b"x\n"], [])) > 5


async def conversation(llm, sent, said):
    """One client: sends in pieces, hangs up, reads what it was told."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, theirs, llm)
        for piece in sent:
            await ours.send_all(piece)
        await ours.send_eof()
        heard = b"".join([data async for data in ours])
    said += map(json.loads, heard.splitlines())


async def serve_one(stream, llm):
    async with stream:
        await talk(stream, llm)
