"""llama.cpp's server: ``POST /completion`` with ``n_predict`` 1 and ``n_probs`` k.

What it reports is a log of float32 *probabilities* of the untouched logits: temperature, bias, grammar and penalties change only the
token it would take itself. The normaliser is off by up to 2e-4, the same for all entries. There is no cap on k; a full row is some 95
octets an entry and costs the server far more than the model does, so the k best are the default.

Sent on purpose: ``cache_prompt: false`` (a reused prefix changes rows by up to 0.3 nats), ``samplers: ["temperature"]`` with temperature
0 (its own choice is then the best token), ``response_fields`` (less to parse), and a ``logit_bias`` that forces the end token as its
choice. The last one because the server withholds the row when the token it chose ends in the middle of a UTF-8 character; the bias does not
touch the row, bit for bit. Only the verifying probe goes without, to check its choice against the best listed token. Never sent: stop
strings, which make it drop the probabilities.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    ContextOverflow,
    DishonestAnswer,
    NonFiniteLogits,
    NotReady,
    RequestRefused,
    RowWithheld,
    Unauthorized,
    UnknownModel,
    UsageError,
)
from seedbed.llm.base import ModelInfo, Row, TopLogprobs
from seedbed.protocols.base import JSON, Discovery, Protocol, field_of, json_body, json_response, known_vocab_size, parse_json, token_ids_of
from seedbed.protocols.exchange import Answer, Ask, Describe, Detokenize, Health, HttpRequest, HttpResponse, Question, Tokenize
from seedbed.protocols.refusal import refusal
from seedbed.protocols.rows import full_row, logprob_of, top_logprobs

if TYPE_CHECKING:
    from seedbed.errors import SeedbedError
    from seedbed.llm.base import LLM

__all__ = ["LlamaCpp"]

SERVER_HEADERS = (("server", "llama.cpp"), ("keep-alive", "timeout=5, max=100"))
FIELDS = ["tokens_evaluated", "tokens_cached", "completion_probabilities"]
FORCING_BIAS = 1000.0
LOWEST = float(np.finfo(np.float32).min)  # how -inf is spelled
# A token's text comes as a JSON string and again as a list of octets; the longest tokens of known vocabularies are runs of 128 blanks.
OCTETS_AN_ENTRY = 1024


class LlamaCpp(Protocol):
    """See the module."""

    name = "llama.cpp"
    default_top_k = 50

    def discover(self) -> Discovery:
        props = yield HttpRequest("GET", "/props")
        if props.header("server") == "llama.cpp" and props.status in (401, 403, 503):
            raise refusal(props)
        facts = _object(props)
        if facts is None or "build_info" not in facts:
            return None
        listed = _object((yield HttpRequest("GET", "/v1/models"))) or {}
        models = listed.get("data")
        model = _dict(models[0] if isinstance(models, list) and models else None)
        meta = _dict(model.get("meta"))
        eos = yield HttpRequest(
            "POST", "/tokenize", JSON, orjson.dumps({"content": facts.get("eos_token", ""), "add_special": False, "parse_special": True})
        )
        eos_ids = (_object(eos) or {}).get("tokens")
        return ModelInfo(
            model=str(model.get("id") or facts.get("model_path", "")),
            server=f"llama.cpp {facts['build_info']}",
            fingerprint=" ".join(str(meta[key]) for key in ("n_params", "size", "ftype") if key in meta),
            vocab_size=_int(meta.get("n_vocab")),
            # An end-of-sequence text that is not one token was not understood as one.
            eos_token_ids=(eos_ids[0],) if isinstance(eos_ids, list) and len(eos_ids) == 1 and type(eos_ids[0]) is int else (),
            context_length=_int(_dict(facts.get("default_generation_settings")).get("n_ctx")),
            protocol=self.name,
            kind="logprobs",
            notes=_notes(facts),
        )

    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        data: dict[str, object] = {
            "prompt": ask.token_ids,
            "n_predict": 1,
            "n_probs": _entries(ask, info),
            "temperature": 0,
            "samplers": ["temperature"],
            "cache_prompt": False,
            "response_fields": FIELDS,
        }
        if ask.force is not None:
            data["logit_bias"] = [[ask.force, FORCING_BIAS]]
        if ask.model is not None:
            data["model"] = ask.model
        return HttpRequest("POST", "/completion", JSON, orjson.dumps(data))

    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        if response.status != 200:
            raise refusal(response)
        data = parse_json(response, "the answer")
        if isinstance(data, list) and len(data) == 1:
            data = data[0]
        if isinstance(data, dict) and "tokens_evaluated" in data and "completion_probabilities" not in data:
            raise RowWithheld("the server answered without a row: the token it chose ends in the middle of a character")
        try:
            step = data["completion_probabilities"][0]
            listed, chosen = step["top_logprobs"], step["id"]
            ids = [entry["id"] for entry in listed]
            values = [entry["logprob"] for entry in listed]
            prompt_tokens = data.get("tokens_evaluated")
        except (TypeError, KeyError, IndexError) as error:
            raise BrokenAnswer("the answer has no completion_probabilities; was n_probs understood?") from error
        if prompt_tokens is not None and prompt_tokens != len(ask.token_ids):
            raise DishonestAnswer(
                f"{len(ask.token_ids)} tokens were sent, the server read {prompt_tokens}: it adds a BOS token or cuts the prompt"
            )
        if len(ids) != _entries(ask, info):
            raise DishonestAnswer(f"{_entries(ask, info)} tokens were asked for, {len(ids)} are listed")
        row = _row(ids, values, known_vocab_size(info))
        _check_choice(ask.force, chosen, step.get("logprob"), row)
        return Answer(full_row(row) if ask.top_k is None else row, chosen, prompt_tokens, data.get("tokens_cached"))

    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        return 65_536 + OCTETS_AN_ENTRY * _entries(ask, info)

    def encode_tokenize(self, text: str) -> HttpRequest:
        return HttpRequest("POST", "/tokenize", JSON, orjson.dumps({"content": text, "add_special": False, "parse_special": True}))

    def decode_tokens(self, response: HttpResponse) -> list[int]:
        return field_of(response, "tokens", list)

    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        return HttpRequest("POST", "/detokenize", JSON, orjson.dumps({"tokens": token_ids}))

    def decode_text(self, response: HttpResponse) -> str:
        return field_of(response, "content", str)

    def decode_request(self, request: HttpRequest) -> Question | None:
        match request.method, request.route:
            case "GET", "/props" | "/v1/models":
                return Describe(request.route)
            case "GET", "/health" | "/v1/health":
                return Health()
            case "POST", "/completion":
                return _ask_from(json_body(request.body))
            case "POST", "/tokenize":
                content = json_body(request.body).get("content")
                if not isinstance(content, str):
                    raise BadRequest('"content" must be a string', status=400)
                return Tokenize(content)
            case "POST", "/detokenize":
                return Detokenize(token_ids_of(json_body(request.body).get("tokens"), '"tokens"'))
        return None

    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        k = row.vocab_size if isinstance(row, TopLogprobs) else row.size
        top = top_logprobs(row, k if ask.top_k is None else ask.top_k)
        entries = [_entry(token_id, value, llm) for token_id, value in zip(top.token_ids.tolist(), top.logprobs.tolist(), strict=True)]
        chosen = entries[0] if ask.force is None else _entry(ask.force, logprob_of(row, ask.force), llm)
        data = {
            "index": 0,
            "content": chosen["token"],
            "tokens": [],
            "stop": True,
            "stop_type": "eos" if chosen["id"] in llm.eos_token_ids else "limit",
            "tokens_predicted": 1,
            "tokens_evaluated": len(ask.token_ids),
            "tokens_cached": len(ask.token_ids),
            "truncated": False,
            "completion_probabilities": [{**chosen, "top_logprobs": entries}],
        }
        wanted = json_body(request.body).get("response_fields")
        if isinstance(wanted, list) and wanted:
            data = {key: value for key, value in data.items() if key in wanted}
        return json_response(data, 200, *SERVER_HEADERS)

    def encode_description(self, question: Describe, info: ModelInfo, llm: LLM) -> HttpResponse:
        if question.path == "/props":
            eos = b"".join(llm.token_bytes(token_id) for token_id in info.eos_token_ids[:1])
            return json_response(
                {
                    "default_generation_settings": {"n_ctx": info.context_length},
                    "total_slots": 1,
                    "model_path": info.model,
                    "eos_token": eos.decode("utf-8", "replace"),
                    "build_info": info.server,
                },
                200,
                *SERVER_HEADERS,
            )
        meta = {"n_vocab": info.vocab_size, "n_ctx": info.context_length, "ftype": info.fingerprint}
        models = [{"id": info.model, "object": "model", "owned_by": "llamacpp", "meta": meta}]
        return json_response({"object": "list", "data": models}, 200, *SERVER_HEADERS)

    def encode_tokens(self, token_ids: list[int]) -> HttpResponse:
        return json_response({"tokens": token_ids}, 200, *SERVER_HEADERS)

    def encode_text(self, text: str) -> HttpResponse:
        return json_response({"content": text}, 200, *SERVER_HEADERS)

    def encode_health(self) -> HttpResponse:
        return json_response({"status": "ok"}, 200, *SERVER_HEADERS)

    def encode_error(self, error: SeedbedError) -> HttpResponse:
        kind, status = _envelope(error)
        data = {"error": {"code": status, "message": str(error), "type": kind}}
        return json_response(data, status, ("server", "llama.cpp"), ("connection", "close"))


def _notes(facts: dict[str, Any]) -> tuple[str, ...]:
    slots = _int(facts.get("total_slots")) or 1
    if slots == 1:
        return ()
    return (f"it has {slots} slots: rows differ when requests run at the same time; start it with -np 1 for repeatable rows",)


def _dict(value: object) -> dict[str, Any]:
    """What a server says is an object, if it is one."""
    return value if isinstance(value, dict) else {}


def _int(value: object) -> int | None:
    """What a server says is a number, if it is one."""
    return value if type(value) is int and value > 0 else None


def _entries(ask: Ask, info: ModelInfo) -> int:
    vocab_size = known_vocab_size(info)
    return vocab_size if ask.top_k is None else min(ask.top_k, vocab_size)


def _row(ids: list[Any], values: list[Any], vocab_size: int) -> TopLogprobs:
    if not all(type(token_id) is int for token_id in ids):
        raise BrokenAnswer("the token ids are no integers")
    if None in values:
        raise NonFiniteLogits(f"the server's logprob of token {ids[values.index(None)]} is null, which is how it writes NaN")
    try:
        logprobs = np.array(values, dtype=np.float64)
        token_ids = np.array(ids, dtype=np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BrokenAnswer(f"the logprobs are no numbers: {error}") from error
    logprobs[logprobs <= LOWEST] = -np.inf
    return TopLogprobs(token_ids, logprobs.astype(np.float32), vocab_size)


def _check_choice(forced: int | None, chosen: object, logprob: object, row: TopLogprobs) -> None:
    """The server's own choice must be the one we made for it, with the value it is listed with; or else the best one listed."""
    best = row.token_ids[row.logprobs == row.logprobs[0]].tolist()
    if forced is None and chosen not in best:
        raise DishonestAnswer(
            f"the server's greedy choice is token {chosen}, the best it lists is token {best[0]}: is a logit bias or grammar set on it?"
        )
    if forced is not None and chosen != forced:
        raise DishonestAnswer(f"the server was made to choose token {forced} and chose {chosen}: is a grammar set on it?")
    listed = row.logprobs[row.token_ids == chosen]
    if listed.size and isinstance(logprob, float) and np.float32(max(logprob, LOWEST)) != max(listed[0], np.float32(LOWEST)):
        raise DishonestAnswer(f"the server's choice, token {chosen}, has logprob {logprob}, and is listed with {listed[0]}")


def _entry(token_id: int, logprob: float, llm: LLM) -> dict[str, Any]:
    piece = llm.token_bytes(token_id)
    return {"id": token_id, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": max(logprob, LOWEST)}


def _forced(data: dict[str, Any]) -> int | None:
    """The one token a request's bias makes certain, if it has such a bias."""
    match data.get("logit_bias"):
        case [[int(token_id), float() | int() as bias]] if bias >= FORCING_BIAS and token_id >= 0:
            return token_id
    return None


def _ask_from(data: dict[str, Any]) -> Ask:
    prompt, n_probs = data.get("prompt"), data.get("n_probs", 0)
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], list):
        prompt = prompt[0]
    if type(n_probs) is not int:
        raise BadRequest(f"Field 'n_probs': type must be number, but is {json.dumps(n_probs)}", status=400)
    if n_probs < 1:
        raise BadRequest("this server answers with probabilities only: n_probs must be 1 or more", status=400)
    model = data.get("model")
    return Ask(token_ids_of(prompt, '"prompt"'), n_probs, model if isinstance(model, str) else None, _forced(data))


def _envelope(error: SeedbedError) -> tuple[str, int]:
    match error:
        case ContextOverflow():
            return "exceed_context_size_error", 400
        case UnknownModel():
            return "not_found_error", 404
        case NotReady():
            return "unavailable_error", 503
        case Unauthorized():
            return "authentication_error", 401
        case BadRequest() | UsageError():
            return "invalid_request_error", 400
        case RequestRefused():
            return "server_error", error.status
    return "server_error", 500


def _object(response: HttpResponse) -> dict[str, Any] | None:
    if response.status != 200:
        return None
    try:
        data = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None
