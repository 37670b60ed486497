"""The native protocol: the least a server must say for its logits to be sampled from, octets for full rows, JSON for the rest.

::

    GET  /v1/model                  -> {"model", "server", "vocab_size", "eos_token_ids", "context_length", "fingerprint",
                                        "max_top_k"?}
    POST /v1/next_token_logits      {"token_ids": [...], "top_k": k?, "model": name?, "ahead": m?, "drawing": {...}?}
         Accept: application/octet-stream and no top_k
                                    -> little-endian row; Seedbed-Dtype: float32 | float16 | bfloat16, Seedbed-Rows: 1
         no top_k                   -> {"logits": [...]}, null for -inf
         top_k                      -> {"top": {"token_ids": [...], "logprobs": [...]}}, null for -inf
         ahead: m            up to m rows (ours: 64 at most), along the tokens the server would take itself, greedily:
                                    -> octets row after row, Seedbed-Rows: r, Seedbed-Proposed: id,id,...
                                    or {"ahead": {"proposed": [...], "rows": [{"logits"} or {"top"}, ...]}}
         ahead and drawing: {"seed", "prompt_index", "index", "step", "state", "chain", "draw"}
                            as well, but along the tokens the client is going to draw itself
    POST /v1/tokenize               {"text"} -> {"token_ids"}
    POST /v1/detokenize             {"token_ids"} -> {"text"}
    GET  /health                    -> {"status": "ok"}
    errors                          -> {"error": {"type", "message", "flag"?}}, the type one of ours: "context_overflow", "not_ready", ...

A client's draw is a function of the row, its sampler and the address of its randomness (``sampling.randomness``). A client that tells the
last two has them drawn with by the server as well, from the same rows, so all it proposes is accepted. "seed" is a decimal string;
"index", "step" and "prompt_index" are the rest of the address, "step" being how many of ``token_ids``, at their end, were drawn by the
client; "state" is mirostat's number, or null; "chain" has the processors in order, each as ``{name: {parameter: value, ...}}``, "draw" is
"gumbel" or another of the sampler's schemes (``sampling.drawing``). A sampler with a function of the caller's own cannot be told, and the
server's choice is then greedy, as without "drawing"; so is that of a server that does not know the field. Nothing is trusted: the client
draws from each row itself, and drops the rows behind a token it did not draw.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from seedbed.errors import BadRequest, BrokenAnswer, DishonestAnswer, FeatureOff, UsageError
from seedbed.llm.base import ModelInfo, Row, TopLogprobs
from seedbed.protocols import bfloat16
from seedbed.protocols.base import Discovery, Protocol, entries_asked, known_vocab_size
from seedbed.protocols.exchange import MAX_AHEAD, Answer, Ask, Describe, Detokenize, Health, HttpRequest, HttpResponse, Question, Tokenize
from seedbed.protocols.fields import (
    as_count,
    as_text,
    check_entries,
    count_in,
    facts_in,
    json_body,
    json_request,
    json_response,
    parse_json,
    text_in,
    text_of,
    token_ids_in,
    token_ids_of,
)
from seedbed.protocols.refusal import error_type, refusal, retry_after_header, status_for
from seedbed.protocols.rows import full_row, numbers, row_of, token_id_array, top_logprobs
from seedbed.sampling.candidates import Candidates
from seedbed.sampling.drawing import Drawing
from seedbed.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seedbed.errors import SeedbedError
    from seedbed.llm.base import LLM, Ahead

__all__ = ["Native"]

OCTETS = "application/octet-stream"
ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
UNKNOWN_VOCAB_BOUND = 16_777_216  # a float32 row of 4 million tokens, octets


class Native(Protocol):
    """See the module."""

    name = "native"
    default_top_k = None
    looks_ahead = True

    def discover(self, model: str | None = None) -> Discovery:
        facts = facts_in((yield HttpRequest("GET", "/v1/model")))
        eos, vocab_size = facts.get("eos_token_ids"), as_count(facts.get("vocab_size"))
        if not isinstance(facts.get("model"), str) or vocab_size is None or not isinstance(eos, list):
            return None
        if not all(type(token_id) is int and token_id >= 0 for token_id in eos):
            return None
        return self, ModelInfo(
            model=as_text(facts.get("model")),
            server=as_text(facts.get("server")),
            fingerprint=as_text(facts.get("fingerprint")),
            vocab_size=vocab_size,
            eos_token_ids=tuple(eos),
            context_length=as_count(facts.get("context_length")),
            protocol=self.name,
            max_top_k=as_count(facts.get("max_top_k")),
            kind="logits",
        )

    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        data: dict[str, object] = {"token_ids": ask.token_ids}
        if ask.top_k is not None:
            data["top_k"] = ask.top_k
        if ask.model is not None:
            data["model"] = ask.model
        if ask.ahead > 1:
            data["ahead"] = ask.ahead
            if ask.drawing is not None and (drawing := ask.drawing.to_dict()) is not None:
                data["drawing"] = drawing
        accept = (("accept", OCTETS),) if ask.top_k is None else ()
        return json_request("/v1/next_token_logits", data, *accept)

    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        if response.status != 200:
            raise refusal(response)
        if (response.header("content-type") or "").startswith(OCTETS):
            proposed, rows = _proposed_in(response), _rows_from_octets(response, ask, info)
        else:
            proposed, rows = _rows_from_json(parse_json(response), ask, info)
        if len(rows) > ask.ahead or len(proposed) < len(rows) - 1:
            raise DishonestAnswer(f"{_wanted(ask)} asked for, the answer has {len(rows)} along {counted(len(proposed), 'token')}")
        for row in rows:
            if isinstance(row, TopLogprobs):
                continue
            if ask.top_k is not None:
                raise DishonestAnswer(f"the {ask.top_k} best were asked for, the answer is a full row")
            if info.vocab_size is not None and row.size != info.vocab_size:
                raise DishonestAnswer(f"the row has {row.size} entries, the model's vocabulary {info.vocab_size}")
        return Answer(rows[0], proposed=proposed, beyond=tuple(rows[1:]))

    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        entries = ask.top_k if ask.top_k is not None else info.vocab_size
        return (UNKNOWN_VOCAB_BOUND if entries is None else 4096 + 48 * entries) * ask.ahead

    def encode_tokenize(self, text: str) -> HttpRequest:
        return json_request("/v1/tokenize", {"text": text})

    def decode_tokens(self, response: HttpResponse) -> list[int]:
        return token_ids_in(response, "token_ids")

    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        return json_request("/v1/detokenize", {"token_ids": token_ids})

    def decode_text(self, response: HttpResponse) -> str:
        return text_in(response, "text")

    def decode_request(self, request: HttpRequest) -> Question | None:
        match request.method, request.route:
            case "GET", "/v1/model":
                return Describe(request.route)
            case "GET", "/health":
                return Health()
            case "POST", "/v1/next_token_logits":
                return _ask_from(json_body(request.body))
            case "POST", "/v1/tokenize":
                return Tokenize(text_of(json_body(request.body).get("text"), "text"))
            case "POST", "/v1/detokenize":
                return Detokenize(token_ids_of(json_body(request.body).get("token_ids"), "token_ids"))
        return None

    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        dense = _octets_wanted(ask, request)
        return _octets([full_row(row)]) if dense else json_response(_row_as_json(ask, row))

    def encode_ahead(self, ask: Ask, request: HttpRequest, ahead: Ahead, llm: LLM) -> HttpResponse:
        if _octets_wanted(ask, request):
            return _octets([full_row(row) for row in ahead.rows], ("seedbed-proposed", ",".join(map(str, ahead.proposed))))
        return json_response({"ahead": {"proposed": ahead.proposed, "rows": [_row_as_json(ask, row) for row in ahead.rows]}})

    def encode_description(self, question: Describe, info: ModelInfo, llm: LLM) -> HttpResponse:
        return json_response(
            {
                "model": info.model,
                "server": info.server,
                "vocab_size": info.vocab_size,
                "eos_token_ids": info.eos_token_ids,
                "context_length": info.context_length,
                "fingerprint": info.fingerprint,
                "max_top_k": info.max_top_k,
            }
        )

    def encode_tokens(self, token_ids: list[int]) -> HttpResponse:
        return json_response({"token_ids": token_ids})

    def encode_text(self, text: str) -> HttpResponse:
        return json_response({"text": text})

    def encode_health(self) -> HttpResponse:
        return json_response({"status": "ok"})

    def encode_error(self, error: SeedbedError) -> HttpResponse:
        data = {"type": error_type(error), "message": str(error)}
        if isinstance(error, FeatureOff):
            data["flag"] = error.flag
        return json_response({"error": data}, status_for(error), *retry_after_header(error))


def _ask_from(data: dict[str, Any]) -> Ask:
    top_k, model, ahead = data.get("top_k"), data.get("model"), data.get("ahead", 1)
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise BadRequest("top_k must be an int of 1 or more, or absent for the full row", status=400)
    if model is not None and not isinstance(model, str):
        raise BadRequest("model must be a string", status=400)
    if type(ahead) is not int or ahead < 1:
        raise BadRequest("ahead must be an int of 1 or more, or absent for one row", status=400)
    token_ids = token_ids_of(data.get("token_ids"), "token_ids")
    return Ask(token_ids, top_k, model, ahead=min(ahead, MAX_AHEAD), drawing=_drawing_of(data.get("drawing"), len(token_ids)))


def _drawing_of(data: Any, length: int) -> Drawing | None:
    if data is None:
        return None
    try:
        drawing = Drawing.from_dict(data)
    except UsageError as error:
        raise BadRequest(f"drawing: {error}", status=400) from error
    if drawing.address.step >= length:
        raise BadRequest(f"drawing: {drawing.address.step} tokens drawn of {length} leave no prompt", status=400)
    return drawing


def _octets_wanted(ask: Ask, request: HttpRequest) -> bool:
    return ask.top_k is None and OCTETS in (request.header("accept") or "")


def _octets(rows: list[NDArray[np.float32]], *headers: tuple[str, str]) -> HttpResponse:
    about = (("content-type", OCTETS), ("seedbed-dtype", "float32"), ("seedbed-rows", str(len(rows))), *headers)
    return HttpResponse(200, about, b"".join(row.astype("<f4", copy=False).tobytes() for row in rows))


def _row_as_json(ask: Ask, row: Row) -> dict[str, object]:
    if ask.top_k is not None:
        top = top_logprobs(row, ask.top_k)
        return {"top": {"token_ids": top.token_ids, "logprobs": top.logprobs}}
    dense = full_row(row)
    Candidates.of(dense)  # JSON has no NaN: it would arrive as null, which is -inf
    return {"logits": dense}


def _wanted(ask: Ask) -> str:
    return "one row was" if ask.ahead == 1 else f"{ask.ahead} rows were"


def _proposed_in(response: HttpResponse) -> tuple[int, ...]:
    said = response.header("seedbed-proposed")
    proposed = [count_in(part) for part in said.split(",")] if said else []
    if None in proposed:
        raise BrokenAnswer(f"Seedbed-Proposed must be token ids with commas between, not {said!r:.80}")
    return tuple(token_id for token_id in proposed if token_id is not None)


def _rows_from_octets(response: HttpResponse, ask: Ask, info: ModelInfo) -> list[Row]:
    dtype, said = response.header("seedbed-dtype") or "", response.header("seedbed-rows") or "1"
    count = count_in(said)
    if dtype not in ITEM_SIZES:
        raise BrokenAnswer(f"Seedbed-Dtype must be one of {', '.join(ITEM_SIZES)}, not {dtype!r}")
    if count is None or not 1 <= count <= ask.ahead:
        raise DishonestAnswer(f"{_wanted(ask)} asked for, Seedbed-Rows says {said!r:.40}")
    size = ITEM_SIZES[dtype]
    if not response.body or len(response.body) % (size * count):
        raise BrokenAnswer(f"{len(response.body)} octets are no {'row' if count == 1 else f'{count} rows'} of {dtype}")
    if dtype == "float32":
        values = np.frombuffer(response.body, "<f4")
    elif dtype == "float16":
        values = np.frombuffer(response.body, "<f2").astype(np.float32)
    else:
        values = bfloat16.widened(np.frombuffer(response.body, "<u2"))
    return list(values.reshape(count, -1))


def _rows_from_json(data: Any, ask: Ask, info: ModelInfo) -> tuple[tuple[int, ...], list[Row]]:
    ahead = data.get("ahead") if isinstance(data, dict) else None
    if ahead is None:
        return (), [_row_from_json(data, ask, info)]
    proposed, rows = (ahead.get("proposed"), ahead.get("rows")) if isinstance(ahead, dict) else (None, None)
    if not isinstance(proposed, list) or not all(type(token_id) is int for token_id in proposed) or not isinstance(rows, list) or not rows:
        raise BrokenAnswer("'ahead' in the answer is no {'proposed': [...], 'rows': [...]}")
    return tuple(proposed), [_row_from_json(row, ask, info) for row in rows]


def _row_from_json(data: Any, ask: Ask, info: ModelInfo) -> Row:
    if isinstance(data, dict):
        logits, top = data.get("logits"), data.get("top")
        if isinstance(logits, list) and logits:
            return _values(logits)
        if isinstance(top, dict) and isinstance(top.get("token_ids"), list) and isinstance(top.get("logprobs"), list):
            check_entries(len(top["token_ids"]), entries_asked(ask, info))
            ids, values = token_id_array(top["token_ids"]), _values(top["logprobs"])
            return row_of(ids, values, known_vocab_size(info), full=ask.top_k is None)
    raise BrokenAnswer("the answer is neither octets nor {'logits': [...]} nor {'top': {'token_ids': [...], 'logprobs': [...]}}")


def _values(values: list[Any]) -> NDArray[np.float32]:
    """JSON numbers as float32; null is -inf, since this protocol's servers send no NaN."""
    return numbers(values, lowest=-math.inf, null=-math.inf)
