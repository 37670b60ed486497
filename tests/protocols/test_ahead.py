"""Rows ahead in one answer: the same rows as one by one, along the tokens the server would take itself, and believed no further."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from math import ceil, inf
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import trio
import trio.testing
from tests.protocols import wire

from seedbed import LLM, HashLM, HTTPModel, Sampler, TinyLM, TopLogprobs, connect, generate, serve
from seedbed.errors import BadRequest, BrokenAnswer, DishonestAnswer, NonFiniteAtServer, NonFiniteLogits, RecordingMiss, RowWithheld
from seedbed.llm.base import ModelInfo
from seedbed.protocols import PROTOCOLS, protocol_named
from seedbed.protocols.exchange import Ask, HttpRequest, HttpResponse
from seedbed.protocols.rows import full_row, top_logprobs
from seedbed.sampling import Address, Drawing
from seedbed.server.answer import answer as answer_of
from seedbed.server.asgi import asgi_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TINY = TinyLM()
SEED = tuple(b"The seed")
SMOL = ModelInfo(vocab_size=49152, eos_token_ids=(2,))
AHEAD = [name for name, protocol in PROTOCOLS.items() if protocol.looks_ahead]


async def greedily(prefix: tuple[int, ...], count: int) -> tuple[list[int], list[Any]]:
    """One by one, up to the end of a sequence."""
    tokens: list[int] = []
    rows = []
    while len(rows) < count and 256 not in tokens:
        rows.append(await TINY.next_token_logits([*prefix, *tokens]))
        tokens.append(int(rows[-1].argmax()))
    return tokens, rows


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("count", [2, 7, 64])
@pytest.mark.parametrize("name", AHEAD)
async def test_they_are_the_rows_had_one_by_one(name: str, count: int, top_k: int | None) -> None:
    """Octets, JSON of full rows, JSON of the k best; both halves."""
    protocol, info = protocol_named(name), replace(TINY.info, protocol=name, kind="logits" if name == "native" else "logprobs")
    ask = Ask(SEED, top_k, ahead=count)
    request = protocol.encode_request(ask, info)
    tokens, rows = await greedily(SEED, count)
    requests = {request, replace(request, headers=(("content-type", "application/json"),))}
    for sent in requests:
        answer = protocol.decode_response(ask, info, await answer_of(TINY, [protocol], sent))
        assert list(answer.proposed) == tokens
        assert len(answer.beyond) == len(rows) - 1
        assert answer.prompt_tokens in (None, len(SEED))
        for have, want in zip((answer.row, *answer.beyond), rows, strict=True):
            if top_k is not None:
                assert have == top_logprobs(want, top_k)
            elif name == "native":
                assert np.array_equal(have, want)
            else:  # probabilities are all it has; vLLM's lowest is -9999
                lowest = -9998.5 if name.startswith("vllm") else -np.inf
                listed = full_row(top_logprobs(want, 257))
                assert np.array_equal(have, np.where(listed <= lowest, np.float32(-np.inf), listed))


async def test_they_stop_where_the_context_is_full() -> None:
    model = TinyLM(context_length=len(SEED) + 3)
    answer = await answer_of(model, [NATIVE], NATIVE.encode_request(Ask(SEED, 2, ahead=9), model.info))

    assert len(json.loads(answer.body)["ahead"]["rows"]) == 3


CAPTURED = {
    "completion-ahead4": ((504, 3575, 282, 4649, 314), 4, [7042, 30, 198, 198]),
    "completion-ahead24-ends": (
        (1, 4093, 198, 36218, 15876, 2, 198, 1, 520, 9531, 198, 26843, 17),
        24,
        [339, 5248, 1535, 288, 724, 351, 750, 4119, 355, 2092, 29, 4235, 2029, 30, 1812, 416, 339, 724, 346, 351, 1834, 47, 2],
    ),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_a_real_servers_rows_ahead_are_understood(name: str) -> None:
    prefix, count, tokens = CAPTURED[name]
    _, response = wire.captured(f"llamacpp-smollm2/{name}")
    answer = protocol_named("llama.cpp").decode_response(Ask(prefix, 3, ahead=count), SMOL, response)

    assert list(answer.proposed) == tokens
    rows = (answer.row, *answer.beyond)
    assert [int(row.token_ids[0]) for row in rows] == tokens
    assert all(isinstance(row, TopLogprobs) and len(row) == 3 for row in rows)


def test_a_real_servers_rows_that_stand_one_place_too_early_are_not_believed() -> None:
    """It leaves out the row of a token that ends in the middle of a character, and moves the others up."""
    _, response = wire.captured("llamacpp-smollm2/completion-ahead4-row-withheld")
    with pytest.raises(RowWithheld, match="left out the row"):
        protocol_named("llama.cpp").decode_response(Ask((504,) * 20, 3, ahead=4), SMOL, response)


@pytest.mark.parametrize("name", ["vllm", "vllm-generate"])
async def test_full_rows_of_raw_logits_come_ahead_bit_by_bit(name: str) -> None:
    protocol = replace(protocol_named(name), logprobs_mode="raw_logits")
    info = replace(TINY.info, protocol=name)
    ask = Ask(SEED, ahead=5)
    answer = protocol.decode_response(ask, info, await answer_of(TINY, [protocol], protocol.encode_request(ask, info)))
    tokens, rows = await greedily(SEED, 5)

    assert list(answer.proposed) == tokens
    assert all(np.array_equal(have, want) for have, want in zip((answer.row, *answer.beyond), rows, strict=True))


def real_steps(count: int, *, tokens: int | None = None) -> HttpResponse:
    """What a real vLLM said of one step, said of ``count`` steps."""
    data = json.loads(wire.captured("vllm-tiny512/completions-top20-id-keys")[1].body)
    logprobs = data["choices"][0]["logprobs"]
    for name in logprobs:
        logprobs[name] *= count
    logprobs["tokens"] = logprobs["tokens"][: count if tokens is None else tokens]
    return wire.said(data)


VLLM, VLLM_INFO = protocol_named("vllm"), ModelInfo(vocab_size=512, kind="logprobs")


def test_a_real_vllm_step_is_understood_in_every_place() -> None:
    """The captured answers stream, or have one token; so one captured step stands for each of four."""
    answer = VLLM.decode_response(Ask((10, 20, 30, 40), 20, ahead=4), VLLM_INFO, real_steps(4))

    assert answer.proposed == (476,) * 4
    assert [*answer.beyond] == [answer.row] * 3


@pytest.mark.parametrize(
    ("response", "error"), [(real_steps(5), DishonestAnswer), (real_steps(0), DishonestAnswer), (real_steps(4, tokens=3), BrokenAnswer)]
)
def test_a_vllm_answer_of_another_number_of_rows_is_not_believed(response: HttpResponse, error: type[Exception]) -> None:
    with pytest.raises(error):
        VLLM.decode_response(Ask((10, 20, 30, 40), 20, ahead=4), VLLM_INFO, response)


NATIVE = protocol_named("native")
INFO = ModelInfo(vocab_size=3, eos_token_ids=(0,))
ROW = {"top": {"token_ids": [1, 2], "logprobs": [-0.5, -1.5]}}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"ahead": {"proposed": [1], "rows": [ROW] * 3}}, DishonestAnswer),
        ({"ahead": {"proposed": [], "rows": [ROW] * 2}}, DishonestAnswer),
        ({"ahead": {"proposed": [1], "rows": []}}, BrokenAnswer),
        ({"ahead": {"proposed": ["1"], "rows": [ROW]}}, BrokenAnswer),
        ({"ahead": {"proposed": [True], "rows": [ROW]}}, BrokenAnswer),
        ({"ahead": [ROW]}, BrokenAnswer),
        ({"ahead": {"proposed": [1], "rows": [ROW, {}]}}, BrokenAnswer),
    ],
)
def test_an_answer_that_is_not_what_was_asked_is_named(body: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        NATIVE.decode_response(Ask((1,), 2, ahead=2), INFO, HttpResponse(200, (), json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("headers", "octets", "error"),
    [
        ((("seedbed-rows", "3"), ("seedbed-proposed", "1,2,0")), 36, DishonestAnswer),
        ((("seedbed-rows", "2"), ("seedbed-proposed", "")), 24, DishonestAnswer),
        ((("seedbed-rows", "2"), ("seedbed-proposed", "1,x")), 24, BrokenAnswer),
        ((("seedbed-rows", "2"), ("seedbed-proposed", "1,,2")), 24, BrokenAnswer),
        ((("seedbed-rows", "2"), ("seedbed-proposed", "1")), 20, BrokenAnswer),
        ((("seedbed-rows", "2"), ("seedbed-proposed", "1")), 16, DishonestAnswer),
        ((("seedbed-rows", "0"), ("seedbed-proposed", "")), 0, DishonestAnswer),
        ((("seedbed-rows", "-1"), ("seedbed-proposed", "")), 12, DishonestAnswer),
    ],
)
def test_octets_that_are_not_what_was_asked_are_named(headers: tuple[tuple[str, str], ...], octets: int, error: type[Exception]) -> None:
    response = HttpResponse(200, (("content-type", "application/octet-stream"), ("seedbed-dtype", "float32"), *headers), bytes(octets))
    with pytest.raises(error):
        NATIVE.decode_response(Ask((1,), None, ahead=2), INFO, response)


@pytest.mark.parametrize("said", ["1" * 5000, "+1", "1, 2", "\u0661", "1,", "-1"])
def test_proposals_that_are_no_token_ids_are_named(said: str) -> None:
    headers = (("content-type", "application/octet-stream"), ("seedbed-dtype", "float32"), ("seedbed-proposed", said))
    with pytest.raises(BrokenAnswer, match="Seedbed-Proposed must be token ids"):
        NATIVE.decode_response(Ask((1,), None, ahead=2), INFO, HttpResponse(200, headers, bytes(400)))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"tokens": [], "completion_probabilities": [], "tokens_evaluated": 1}, BrokenAnswer),
        ({"tokens": [5], "completion_probabilities": [], "tokens_evaluated": 1}, RowWithheld),
        ({"tokens": [5], "tokens_evaluated": 1}, RowWithheld),
    ],
)
def test_an_answer_of_no_rows_is_named(data: dict[str, Any], kind: type[Exception]) -> None:
    """All of them may be those of tokens that end in the middle of a character."""
    with pytest.raises(kind) as caught:
        protocol_named("llama.cpp").decode_response(Ask((1,), 5, ahead=4), SMOL, HttpResponse(200, (), json.dumps(data).encode()))

    assert type(caught.value) is kind


@pytest.mark.parametrize("ahead", [0, -1, True, "2", 1.5])
def test_what_the_server_half_does_not_do_it_refuses(ahead: object) -> None:
    request = HttpRequest("POST", "/v1/next_token_logits", (), json.dumps({"token_ids": [1], "ahead": ahead}).encode())

    assert wire.respond(TINY, request, NATIVE).status == 400


@pytest.mark.parametrize("name", AHEAD)
async def test_more_rows_than_a_server_in_the_box_has_are_as_many_as_it_has(name: str) -> None:
    """Whoever asks gets what there is; and no client of ours asks for more than 64."""
    model = HashLM(40)
    async with serve(model) as server, connect(server.url, name, eos_token_ids=[0], vocab_size=40, top_k=3) as client:
        proposed, rows = await client.logits_ahead([1], 100)
        result = await generate([1], client, seed=7, lookahead=100, max_new_tokens=100)

    assert len(rows) <= 64 <= len(proposed) + 1 or 0 in proposed
    assert result.sequences[0].finish_reason in ("stop", "length")


def test_natively_no_number_of_rows_is_too_many() -> None:
    """It says how many at most; a hundred are no mistake."""
    request = HttpRequest("POST", "/v1/next_token_logits", (), b'{"token_ids": [1], "ahead": 100}')

    assert NATIVE.decode_request(request) == Ask((1,), ahead=64)


@pytest.mark.parametrize("name", AHEAD)
async def test_an_answer_of_many_long_rows_has_fewer_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of a few octets must not cost gigabytes."""
    monkeypatch.setattr("seedbed.server.ahead.MAX_VALUES", 100)
    protocol, info = protocol_named(name), replace(HashLM(40).info, protocol=name, kind="logits" if name == "native" else "logprobs")
    for top_k, count in ((None, 2), (30, 3), (1, 9)):
        ask = Ask((1,), top_k, ahead=9)
        answer = protocol.decode_response(ask, info, await answer_of(HashLM(40), [protocol], protocol.encode_request(ask, info)))
        assert 1 + len(answer.beyond) == count


def test_protocols_that_cannot_look_ahead_say_so() -> None:
    with pytest.raises(BadRequest, match="one row a request"):
        protocol_named("sglang").encode_ahead(Ask((1,)), HttpRequest("POST", "/"), None, TINY)


@pytest.mark.parametrize("lookahead", [3, "auto"])
@pytest.mark.parametrize(
    ("name", "top_k"), [("native", "all"), ("native", 20), ("llama.cpp", 20), ("vllm", 20), ("vllm-generate", 20), ("sglang", 20)]
)
async def test_asked_ahead_a_generation_has_the_same_tokens_in_fewer_requests(name: str, top_k: int | str, lookahead: int | str) -> None:
    arguments = {"n": 3, "seed": 7, "sampler": Sampler(temperature=0.6, top_k=10), "max_new_tokens": 20}
    transport = httpx.ASGITransport(asgi_app(TINY, protocols=[name]))
    told = {"eos_token_ids": [256], "vocab_size": 257}
    async with connect("http://tiny", name, transport=transport, top_k=top_k, **told) as model:
        one_by_one = await generate(list(SEED), model, **arguments)
        ahead = await generate(list(SEED), model, lookahead=lookahead, **arguments)

    assert ahead.sha256 == one_by_one.sha256
    if name == "sglang":
        assert ahead.stats.requests == one_by_one.stats.requests
    else:
        assert ahead.stats.requests < 0.8 * one_by_one.stats.requests


async def test_over_a_socket_full_rows_ahead_are_the_same_too() -> None:
    """Several rows in one body of octets, read in place."""
    llm = HashLM(5000)
    async with serve(llm) as server, connect(server.url) as model:
        proposed, rows = await model.logits_ahead([1, 2], 3)
        for place, row in enumerate(rows):
            assert np.array_equal(row, await llm.next_token_logits([1, 2, *proposed[:place]]))

    assert (len(proposed), len(rows)) == (3, 3)


# With the client's own noise.

DRAWING = Drawing(Sampler(), Address(7)).to_dict()
SAMPLERS = [
    Sampler(),
    Sampler(temperature=1.3, top_p=0.95),
    Sampler(order="llama.cpp", mirostat=2, mirostat_tau=4.0),
    Sampler(repetition_penalty=1.2, draw="vllm"),
]


@asynccontextmanager
async def told(llm: LLM, *, top_k: int | str = "all", lookahead_rows: str = "octets") -> AsyncIterator[tuple[HTTPModel, list[Ask]]]:
    """A model over the native protocol, and what its server was asked for."""
    asked: list[Ask] = []

    class Seeing(type(NATIVE)):
        def decode_request(self, request: HttpRequest) -> Any:
            question = super().decode_request(request)
            if isinstance(question, Ask):
                asked.append(question)
            return question

        def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
            request = super().encode_request(ask, info)
            return replace(request, headers=request.headers[:1]) if lookahead_rows == "json" else request

    transport = httpx.ASGITransport(asgi_app(llm, protocols=[Seeing()]))
    async with connect("http://tiny", Seeing(), transport=transport, top_k=top_k) as model:
        asked.clear()
        yield model, asked


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize(("top_k", "form"), [("all", "octets"), ("all", "json"), (257, "json")])
async def test_told_its_noise_a_native_server_proposes_what_will_be_drawn(sampler: Sampler, top_k: int | str, form: str) -> None:
    """At any temperature each proposal is accepted: m tokens a request, to the token what one by one gives."""
    seed = 7 if sampler.scheme == "vllm" else 2**100 + 7  # that engine's have 64 bits
    arguments = {"n": 3, "seed": seed, "sampler": sampler, "max_new_tokens": 24, "prefix_cache_bytes": 0}
    async with told(TINY, top_k=top_k, lookahead_rows=form) as (model, asked):
        one_by_one = await generate(list(SEED), model, **arguments)
        asked.clear()
        ahead = await generate(list(SEED), model, lookahead=6, **arguments)

    assert ahead == one_by_one
    assert ahead.stats.round_trips == len(asked) == sum(ceil(len(tokens) / 6) for tokens in ahead.token_ids)
    assert all(len(ask.token_ids) - len(SEED) == ask.drawing.address.step for ask in asked)


async def test_rows_of_the_k_best_are_drawn_from_as_the_client_sees_them() -> None:
    """The server draws from the list it sends, not from the row behind it."""
    arguments = {"seed": 7, "sampler": Sampler(temperature=2.5), "max_new_tokens": 32, "prefix_cache_bytes": 0}
    async with told(TINY, top_k=4) as (model, asked):
        ahead = await generate(list(SEED), model, lookahead=8, **arguments)

        assert len(asked) == ceil(ahead.stats.tokens / 8)
        assert ahead == await generate(list(SEED), model, **arguments)
    assert sum(ahead.sequences[0].tail_masses) > 1


async def test_a_sampler_with_a_function_of_ones_own_gets_greedy_proposals() -> None:
    arguments = {"seed": 7, "max_new_tokens": 24}
    mine, plain = Sampler(1.5, processors=[lambda prefix, logits: logits]), Sampler(1.5)
    async with told(TINY) as (model, asked):
        ahead = await generate(list(SEED), model, lookahead=6, sampler=mine, **arguments)
        assert all(ask.drawing is None for ask in asked)
        assert len(asked) > ceil(ahead.stats.tokens / 6)

        assert ahead.token_ids == (await generate(list(SEED), model, sampler=plain, **arguments)).token_ids


async def test_a_row_that_fails_beyond_the_first_is_left_for_who_gets_there() -> None:
    class Forgetful(TinyLM):
        async def next_token_logits(self, prev_token_ids):
            if len(prev_token_ids) > len(SEED) + 2:
                raise RecordingMiss("never recorded", prev_token_ids=prev_token_ids, known=0)
            return await super().next_token_logits(prev_token_ids)

    async with told(Forgetful()) as (model, _):
        proposed, rows = await model.logits_ahead(SEED, 5)
        assert len(rows) == 3
        assert len(proposed) >= 2
        with pytest.raises(BadRequest, match="never recorded"):
            await model.logits_ahead([*SEED, 1, 2, 3], 5)


@pytest.mark.parametrize("form", ["octets", "json"])
async def test_a_row_further_on_that_nobody_could_draw_from_spoils_none_before_it(form: str) -> None:
    class Broken(TinyLM):
        async def next_token_logits(self, prev_token_ids):
            row = await super().next_token_logits(prev_token_ids)
            return row if len(prev_token_ids) < len(SEED) + 2 else np.full_like(row, np.nan)

    async with told(Broken(), lookahead_rows=form) as (model, _):
        with pytest.raises((NonFiniteLogits, NonFiniteAtServer)) as caught:
            await generate(list(SEED), model, seed=7, lookahead=4)

    assert (caught.value.step, len(caught.value.result.token_ids[0])) == (2, 2)


@pytest.mark.parametrize("drawing", [7, {}, {"seed": "7"}, {**DRAWING, "step": 1}, {**DRAWING, "chain": [{"Custom": {}}]}], ids=str)
def test_a_drawing_that_is_none_is_refused(drawing: object) -> None:
    request = HttpRequest("POST", "/v1/next_token_logits", (), json.dumps({"token_ids": [1], "ahead": 2, "drawing": drawing}).encode())
    response = wire.respond(TINY, request, NATIVE)

    assert (response.status, "drawing" in json.loads(response.body)["error"]["message"]) == (400, True)


def test_a_drawing_arrives_with_the_question() -> None:
    ask = Ask((1, 2), 5, "m", ahead=3, drawing=Drawing(Sampler(0.7), Address(2**99, 1, 2, 1), 0.25))

    assert NATIVE.decode_request(NATIVE.encode_request(ask, INFO)) == ask


class Away(httpx.ASGITransport):
    """A server 20 ms away, on trio's clock."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep(0.02)
        return await super().handle_async_request(request)


@pytest.mark.parametrize(("name", "temperature"), [("native", 1.0), ("llama.cpp", 0.7), ("vllm", 0.7)])
async def test_where_latency_is_all_there_is_tokens_come_at_least_twice_as_fast(
    autojump_clock: trio.testing.MockClock, name: str, temperature: float
) -> None:
    """Arithmetic on a virtual clock: 20 ms a request, 4 sequences. Told the noise, three times as fast at least."""
    arguments = {"n": 4, "seed": 7, "sampler": Sampler(temperature), "max_new_tokens": 40, "prefix_cache_bytes": 0}
    told = {"eos_token_ids": [256], "vocab_size": 257, "decode_in_thread_above": inf, "top_k": "all" if name == "native" else 10}
    async with connect("http://tiny", name, transport=Away(asgi_app(TINY, protocols=[name])), **told) as model:
        seconds, results = [], []
        for lookahead in (1, "auto"):
            began = trio.current_time()
            results.append(await generate(list(SEED), model, lookahead=lookahead, **arguments))
            seconds.append(trio.current_time() - began)

    assert results[0] == results[1]
    assert results[0].stats.waited == pytest.approx(0.02 * results[0].stats.tokens)
    assert seconds[0] >= (3 if name == "native" else 2) * seconds[1]
    assert results[0].stats.waited >= (4 if name == "native" else 2) * results[1].stats.waited
