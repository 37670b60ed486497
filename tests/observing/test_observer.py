"""An observer hears what happens, in order, and changes nothing."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import httpx
import pytest
import trio

from seedbed import PrefixCache, TinyLM, connect, generate, open_generation
from seedbed.generation.bulk import generate_file
from seedbed.observing import (
    Event,
    GenerationBegan,
    GenerationEnded,
    QuestionTaken,
    RequestBegan,
    RequestEnded,
    RequestRepeated,
    SequenceBegan,
    SequenceEnded,
    TokensDrawn,
    observe,
    observers,
)
from seedbed.server.asgi import asgi_app
from seedbed.testing import ScriptedLLM


class Listening:
    def __init__(self) -> None:
        self.events = []

    def notice(self, event) -> None:
        self.events.append(event)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Refusing(httpx.ASGITransport):
    """TinyLM's server, which has too much to do for the first two questions."""

    def __init__(self) -> None:
        super().__init__(asgi_app(TinyLM()))
        self._refused = 2

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and self._refused:
            self._refused -= 1
            return httpx.Response(503, json={"error": {"type": "overloaded", "message": "later"}})
        return await super().handle_async_request(request)


async def test_what_is_told_of_a_generation_is_what_its_result_says(autojump_clock) -> None:
    heard = Listening()
    with observe(heard):
        result = await generate([[5], [6]], ScriptedLLM({}, default=[0.0, 1.0, 2.0], delay=0.25), 2, seed=7, max_new_tokens=4)
    drawn = {(s.prompt_index, s.index): () for s in result.sequences}
    for event in heard.of(TokensDrawn):
        drawn[event.prompt_index, event.index] += event.token_ids

    assert drawn == {(s.prompt_index, s.index): s.token_ids for s in result.sequences}
    assert heard.events[0] == GenerationBegan(4, 7)
    assert heard.events[-1] == GenerationEnded(4, result.stats.tokens, "")
    assert sorted((e.prompt_index, e.index) for e in heard.of(SequenceBegan)) == sorted(drawn)
    assert {(e.prompt_index, e.index): (e.tokens, e.finish_reason) for e in heard.of(SequenceEnded)} == {
        (s.prompt_index, s.index): (len(s.token_ids), s.finish_reason) for s in result.sequences
    }
    assert {e.waited for e in heard.of(TokensDrawn)} <= {0.0, 0.25}
    taken = Counter(event.outcome for event in heard.of(QuestionTaken))
    assert (taken["asked"], taken["known"] + taken["shared"]) == (result.stats.round_trips, result.stats.cache_hits)


async def test_nobody_hears_of_what_was_begun_outside_the_block() -> None:
    heard = Listening()
    async with open_generation([5], ScriptedLLM({}, default=[0.0, 1.0]), 2, seed=7) as generation:
        with observe(heard):
            await generation.wait()

    assert heard.events == []
    assert observers() == ()


async def test_two_generations_over_one_cache_are_told_each_to_its_own(autojump_clock) -> None:
    """They share every answer, so the second one's rows land in a task of the first one's."""
    ears = [Listening(), Listening()]
    async with PrefixCache(ScriptedLLM({}, default=[0.0, 1.0, 2.0], delay=1.0)) as model, trio.open_nursery() as nursery:

        async def listened_to(heard: Listening) -> None:
            with observe(heard):
                await generate([5], model, 1, seed=7, max_new_tokens=6)

        for heard in ears:
            nursery.start_soon(listened_to, heard)
    told = [[event for event in heard.events if not isinstance(event, QuestionTaken)] for heard in ears]

    assert told[0] == told[1]
    assert len(ears[0].of(TokensDrawn)) > 1
    assert {e.outcome for heard in ears for e in heard.of(QuestionTaken)} == {"asked", "shared"}


async def test_the_failure_of_one_is_told_with_the_ends_of_all() -> None:
    heard = Listening()
    llm = ScriptedLLM({(5,): [0.0, 9.0], (5, 1): ZeroDivisionError("broken")})
    with observe(heard), pytest.raises(ZeroDivisionError):
        await generate([5], llm, 3, seed=7)

    reasons = [event.finish_reason for event in heard.of(SequenceEnded)]

    assert sorted(event.index for event in heard.of(SequenceEnded)) == [0, 1, 2]
    assert set(reasons) <= {"error", "cancelled"}  # whether the others had the same error before they were cancelled is the schedule's
    assert heard.events[-1] == GenerationEnded(reasons.count("error"), heard.events[-1].tokens, "ZeroDivisionError")
    assert reasons.count("error") >= 1


async def test_requests_are_told_with_their_repetitions_and_never_a_secret(autojump_clock) -> None:
    heard = Listening()
    with observe(heard):
        async with connect("http://me:hunter22@model.invalid/?key=sekrit99", transport=Refusing()) as connected:
            await generate(list(b"The seed"), connected, seed=7, max_new_tokens=3)

    began, ended = heard.of(RequestBegan), heard.of(RequestEnded)
    assert len(began) == len(ended) == connected.counters()["requests"]
    assert len(heard.of(RequestRepeated)) == 2
    assert Counter(event.status for event in ended) == {200: len(ended) - 2, 503: 2}
    assert "hunter22" not in repr(heard.events)
    assert "sekrit99" not in repr(heard.events)


async def test_a_cancelled_request_is_told_as_ended(autojump_clock) -> None:
    heard = Listening()

    async def never(request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()

    with observe(heard), trio.move_on_after(3):
        async with connect("http://model.invalid", transport=httpx.MockTransport(never)):
            raise AssertionError("unreachable")

    (ended,) = heard.of(RequestEnded)
    assert (ended.status, ended.seconds, ended.error) == (None, 3.0, "Cancelled")


def modules_with(thing):
    """Where seedbed has it under its own name, apart from where it is defined."""
    name = thing.__name__
    return [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("seedbed.") and path != "seedbed.observing.observer" and getattr(module, name, None) is thing
    ]


async def test_while_nobody_listens_no_event_is_made_and_who_listens_is_asked_twice_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, autojump_clock
) -> None:
    """What "off costs nothing" is: per row drawn two looks at an empty tuple, per sequence and per generation two more."""
    looks = []

    def looking():
        looks.append(observers())
        return looks[-1]

    for event in get_args(Event):
        for module in modules_with(event):
            monkeypatch.setattr(module, event.__name__, None)  # which cannot be called
    for module in modules_with(observers):
        monkeypatch.setattr(module, "observers", looking)
    result = await generate([[5], [6]], ScriptedLLM({}, default=[0.0, 1.0, 2.0]), 2, seed=7, max_new_tokens=20)
    in_process = len(looks)
    (tmp_path / "prompts").write_text('"The seed"\n')
    report = await generate_file(tmp_path / "prompts", tmp_path / "rows.jsonl", TinyLM(), seed=7, max_new_tokens=5)
    async with connect("http://model.invalid", transport=Refusing()) as model:
        over_http = await generate(list(b"The seed"), model, seed=7, max_new_tokens=5)

    assert result.stats.tokens > 8
    assert in_process == 2 * result.stats.tokens + 2 * len(result.sequences) + 2
    assert (report.tokens, over_http.stats.tokens) == (5, 5)
    assert set(looks) == {()}
