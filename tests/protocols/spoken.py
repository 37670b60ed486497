"""What each protocol says, octet for octet, in both directions: the text of ``fixtures/wire/spoken``, and how it is made.

``python -m tests.protocols.spoken`` writes it anew, and nothing else does: ``make spoken``. Read the difference: other servers and clients
are what these words are meant for, and whoever wrote a change must know whether they still understand it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TypeVar

import numpy as np
import orjson
from tests.protocols import strangers, wire
from tests.protocols.test_kserve_v2 import TRTLLM

from seedbed import Sampler
from seedbed.errors import SeedbedError
from seedbed.llm.base import ModelInfo, Row
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.base import Protocol
from seedbed.protocols.exchange import Ask, Headers, HttpRequest, HttpResponse, Sample, Score
from seedbed.protocols.kserve_v2 import KServeV2, Layout
from seedbed.protocols.vllm import VLLM
from seedbed.sampling import Address, Drawing

T = TypeVar("T")

FOLDER = wire.FIXTURES / "spoken"
SPEAKERS: dict[str, Protocol] = {
    **PROTOCOLS,
    "vllm-raw-logits": VLLM(logprobs_mode="raw_logits"),
    "kserve-v2-json": KServeV2(model="m", layout=Layout(binary=False, batched=False)),
    "kserve-v2-tensorrt-llm": KServeV2(layout=TRTLLM),
}
INFO = ModelInfo("m", "a server 1.2.3", "f00d 2", vocab_size=5, eos_token_ids=(0, 4), context_length=8, max_top_k=5)
ROW = np.array([0.5, -1.0, 2.0, -np.inf, 0.25], dtype=np.float32)
ENDING = np.array([0.5, -1.0, -2.0, 2.5, 0.25], dtype=np.float32)
ASKS = {
    "the three best": Ask((1, 4), 3),
    "the whole row": Ask((1,)),
    "of a model by its name, its choice forced": Ask((1,), 2, "m", 4),
    "out of the server's cache": Ask((2, 2), 1, reuse=True),
    "rows ahead": Ask((1,), 2, ahead=3),
    "whole rows ahead": Ask((1,), ahead=2),
    "rows ahead along our own draws": Ask((1,), ahead=3, drawing=Drawing(Sampler(0.5, top_k=3), Address(7, 1, 2, 0))),
    "more than there are": Ask((1,), 9),
    "no such token": Ask((1, 5), 2),
    "no such model": Ask((1,), 2, "other"),
    "too long a prompt": Ask((1,) * 8, 2),
}
SAMPLES = {
    "one draw": Sample((1, 2)),
    "two draws of three tokens, every parameter said": Sample((1,), 0.5, 3, 0.75, 0.25, seed=2**31 - 1, tokens=3, n=2, model="m"),
}
SCORE = Score((1, 2, 4), 2)
WHOLE = Score((1, 2, 4), None)
ELSEWHERE = [
    HttpRequest("GET", "/nowhere"),
    HttpRequest("GET", "/health"),
    HttpRequest("GET", "/v1/health"),
    HttpRequest("POST", "/health_generate"),
]


class Told(wire.FixedLLM):
    """A model that tells of itself what it is given; its token 2 is a line's end, 3 is half a character, and 3 follows on 2."""

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> Row:
        return ENDING if prev_token_ids[-1] == 2 else await super().next_token_logits(prev_token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return {2: b"\n", 3: b"\xc3"}.get(token_id) or super().token_bytes(token_id)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self.info.eos_token_ids if self.info else (3,)


FULL, NAMELESS, BARE = Told(ROW, INFO), Told(ROW, ModelInfo(eos_token_ids=(3,))), Told(ENDING)
"""The second tells no more than its end, which comes as its second token, the third nothing at all, and its end comes at once."""


def transcript(name: str) -> str:
    """Everything one protocol says, as lines to be read."""
    protocol = SPEAKERS[name]
    lines = [*_exchanges(protocol), *_with_strangers(name, protocol)]
    return "\n".join([f"{protocol.name}: > what a client says, < what a server says, = how it is understood", *lines, ""])


def _exchanges(protocol: Protocol) -> Iterator[str]:
    heard: list[str] = []

    def ask(request: HttpRequest) -> HttpResponse:
        response = wire.respond(FULL, request, protocol)
        heard.extend([*_request(request), *_response(response)])
        return response

    found = wire.discovered(protocol, ask)
    assert found is not None, f"{protocol.name} does not know itself"
    yield from ("\nWho are you?", *heard, f"= {found[1]}")
    info = replace(found[1], vocab_size=5, eos_token_ids=(0, 4))
    for name, asked in ASKS.items():
        yield f"\nAn answer: at most {protocol.answer_bound(asked, info)} octets."
        yield from _exchange(protocol, name, partial(protocol.encode_request, asked, info), partial(_answer, protocol, asked, info))
    for name, sample in SAMPLES.items():
        yield from _exchange(protocol, name, partial(protocol.encode_sample, sample, info), partial(protocol.decode_samples, sample, info))
    for name, score in (("rows of all beginnings", SCORE), ("whole rows of all beginnings", WHOLE)):
        yield from _exchange(protocol, name, partial(protocol.encode_score, score, info), partial(_scores, protocol, score, info))
    yield from _exchange(protocol, "tokens of a text", partial(protocol.encode_tokenize, "aé\x00"), protocol.decode_tokens)
    yield from _exchange(protocol, "text of tokens", partial(protocol.encode_detokenize, [104, 105]), protocol.decode_text)
    for request in ELSEWHERE:
        name = f"{request.method} {request.path}"
        yield from _exchange(protocol, name, partial(replace, request), attrgetter("status"))
    for error, _ in wire.REFUSALS:
        yield f"\n{type(error).__name__}: {error}"
        yield from _response(protocol.encode_error(error))


def _exchange(protocol: Protocol, name: str, encode: Callable[[], HttpRequest], decode: Callable[[HttpResponse], object]) -> Iterator[str]:
    yield f"\nA question: {name}."
    try:
        request = encode()
    except SeedbedError as error:
        yield f"= {_name(error)}"
        return
    yield from _request(request)
    yield f"= {_said(protocol.decode_request, request)}"
    response = wire.respond(FULL, request, protocol)
    yield from _response(response)
    yield f"= {_said(decode, response)}"


def _with_strangers(name: str, protocol: Protocol) -> Iterator[str]:
    info = replace(INFO, kind="logits" if protocol.name in ("native", "kserve-v2") else "logprobs")
    for right, requests in ((True, strangers.RIGHT.get(name, [])), (False, strangers.WRONG.get(name, []))):
        for request in requests:
            yield "\nA stranger asks."
            yield from _request(request)
            yield f"= {_said(protocol.decode_request, request)}"
            for llm in (FULL, NAMELESS, BARE) if right else (FULL,):
                yield from _response(wire.respond(llm, request, protocol))
    asked = Ask((1, 4), None if protocol.whole_rows_only else 3)
    for answers, decode in (
        (strangers.ANSWERS, partial(_answer, protocol, asked, info)),
        (strangers.SAMPLED, partial(protocol.decode_samples, Sample((1, 2)), info)),
        (strangers.SCORED, partial(_scores, protocol, SCORE, info)),
    ):
        for response in answers.get(name, []):
            yield "\nA stranger answers."
            yield from _response(response)
            yield f"= {_said(decode, response)}"


def _said(decode: Callable[[T], object], message: T) -> object:
    try:
        return decode(message)
    except SeedbedError as error:
        return _name(error)


def _name(error: SeedbedError) -> str:
    return f"{type(error).__name__}: {error}"


def _answer(protocol: Protocol, asked: Ask, info: ModelInfo, response: HttpResponse) -> object:
    answer = protocol.decode_response(asked, info, response)
    rows = [wire.as_dict(row) for row in (answer.row, *answer.beyond)]
    return f"{rows}, chosen={answer.chosen}, read={answer.prompt_tokens}, cached={answer.cached_tokens}, proposed={answer.proposed}"


def _scores(protocol: Protocol, score: Score, info: ModelInfo, response: HttpResponse) -> object:
    return [wire.as_dict(row) for row in protocol.decode_scores(score, info, response)]


def _request(request: HttpRequest) -> Iterator[str]:
    yield f"> {request.method} {request.path}"
    yield from _message(">", request.headers, request.body)


def _response(response: HttpResponse) -> Iterator[str]:
    yield f"< {response.status}"
    yield from _message("<", response.headers, bytes(response.body))


def _message(mark: str, headers: Headers, body: bytes) -> Iterator[str]:
    yield from (f"{mark} {name}: {value}" for name, value in headers)
    try:
        orjson.loads(body)
        text = re.sub(r"(\d)e\+(\d)", r"\1e\2", body.decode())  # older versions of orjson write no plus; the number is one
    except orjson.JSONDecodeError:
        text = repr(body)[1:]
    if body:
        yield f"{mark} {text}"


def main() -> None:
    """Write all of it."""
    FOLDER.mkdir(exist_ok=True)
    for name in SPEAKERS:
        (FOLDER / f"{name}.txt").write_text(transcript(name), "utf-8")
    print(
        f"wrote what {len(SPEAKERS)} protocols say to {FOLDER.relative_to(FOLDER.parents[2])}; read the difference before it is kept",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
