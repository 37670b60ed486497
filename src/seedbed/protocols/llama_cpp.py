"""llama.cpp's server: ``POST /completion`` with ``n_predict`` 1 and ``n_probs`` k.

What it reports is a log of float32 *probabilities* of the untouched logits: temperature, bias, grammar and penalties change only the
token it would take itself. The normaliser is off by up to 2e-4, the same for all entries. There is no cap on k; a full row is some 95
octets an entry and costs the server far more than the model does, so the k best are the default.

Sent on purpose: ``cache_prompt: false`` (a reused prefix changes rows by up to 0.3 nats), ``samplers: ["temperature"]`` with temperature
0 (its own choice is then the best token), ``response_fields`` (less to parse), and a ``logit_bias`` that forces the end token as its
choice. The last one because the server withholds the row when the token it chose ends in the middle of a UTF-8 character; the bias does not
touch the row, bit for bit. Only the verifying probe goes without, to check its choice against the best listed token. Never sent: stop
strings, which make it drop the probabilities.

Asked for its own draws, it gets every parameter but the order of its filters. Its seeds have 32 bits, and sample i of a request takes
seed + i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    ContextOverflow,
    DishonestAnswer,
    FeatureOff,
    NotReady,
    RowWithheld,
    SeedbedError,
    Unauthorized,
    UnknownModel,
)
from seedbed.llm.base import ModelInfo, row_length
from seedbed.protocols.base import WORD, Discovery, Protocol, check_ids_below, entries_asked, known_vocab_size
from seedbed.protocols.exchange import (
    MAX_AHEAD,
    Answer,
    Ask,
    Describe,
    Detokenize,
    Health,
    HttpRequest,
    HttpResponse,
    Question,
    Sample,
    Tokenize,
)
from seedbed.protocols.fields import (
    as_count,
    as_facts,
    as_text,
    check_entries,
    check_prompt_tokens,
    facts_in,
    json_body,
    json_request,
    json_response,
    listed_model,
    model_of,
    parse_json,
    prompt_of,
    text_in,
    text_of,
    token_ids_in,
    token_ids_of,
    tokens_asked,
)
from seedbed.protocols.refusal import refusal, retry_after_header, status_for, told
from seedbed.protocols.rows import LOWEST, check_choice, logprob_of, numbers, row_of, token_id_array, top_logprobs
from seedbed.protocols.sampled import sample_of, sampled_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.llm.base import LLM, Ahead, Row

__all__ = ["LlamaCpp"]

ALWAYS = (("server", "llama.cpp"), ("access-control-allow-origin", ""))
KEPT = (*ALWAYS, ("keep-alive", "timeout=5, max=100"))
CLOSED = (*ALWAYS, ("connection", "close"))
CONTENT_TYPE = "application/json; charset=utf-8"
# "tokens_cached" is how many the slot holds afterwards; how many were reused is in the timings.
CACHED = "timings/cache_n"
FIELDS = ["tokens_evaluated", CACHED, "completion_probabilities"]
AHEAD_FIELDS = ["tokens", *FIELDS]
FORCING_BIAS = 1000.0
# What else may touch a draw, whatever the server was started with. The order of its own filters is not said: it is what is looked at.
OFF = {
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "xtc_probability": 0.0,
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
}
# A token's text comes as a JSON string and again as a list of octets; the longest tokens of known vocabularies are runs of 128 blanks.
OCTETS_AN_ENTRY = 1024


class LlamaCpp(Protocol):
    """See the module."""

    name = "llama.cpp"
    default_top_k = 50
    looks_ahead = True
    can_bypass_cache = True
    samples_as = "llama.cpp"

    def discover(self, model: str | None = None) -> Discovery:
        props = yield HttpRequest("GET", "/props")
        if props.header("server") == "llama.cpp" and props.status in (403, 503):  # whoever says 401 is heard below
            raise refusal(props)
        facts = facts_in(props)
        if not as_text(facts.get("build_info")):
            return None
        entry = listed_model((yield HttpRequest("GET", "/v1/models")), model)
        meta = as_facts(entry.get("meta"))
        eos_ids: object = None
        if eos := as_text(facts.get("eos_token")):
            eos_ids = facts_in((yield self.encode_tokenize(eos))).get("tokens")
        # An end-of-sequence text that is not one token was not understood as one.
        understood = isinstance(eos_ids, list) and len(eos_ids) == 1 and type(eos_ids[0]) is int and eos_ids[0] >= 0
        return self, ModelInfo(
            model=as_text(entry.get("id")) or as_text(facts.get("model_path")),
            server=f"llama.cpp {facts['build_info']}",
            fingerprint=" ".join(str(meta[key]) for key in ("n_params", "size", "ftype") if isinstance(meta.get(key), int | str)),
            vocab_size=as_count(meta.get("n_vocab")),
            eos_token_ids=(eos_ids[0],) if isinstance(eos_ids, list) and understood else (),
            context_length=as_count(as_facts(facts.get("default_generation_settings")).get("n_ctx")),
            protocol=self.name,
            max_top_k=as_count(meta.get("max_top_k")),  # a server in the box says so: a recording lists no more than it keeps
            kind="logprobs",
            notes=_notes(facts),
        )

    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        _check_ids(ask.token_ids)
        data: dict[str, object] = {
            "prompt": ask.token_ids,
            "n_predict": ask.ahead,
            "n_probs": entries_asked(ask, info),
            "temperature": 0,
            "samplers": ["temperature"],
            "cache_prompt": ask.reuse,
            "response_fields": FIELDS if ask.ahead == 1 else AHEAD_FIELDS,
        }
        if ask.ahead > 1:
            data["return_tokens"] = True
        if ask.force is not None:
            data["logit_bias"] = [[ask.force, FORCING_BIAS]]
        if ask.model is not None:
            data["model"] = ask.model
        return json_request("/completion", data)

    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        data = parse_json(response)
        if isinstance(data, list):
            if len(data) != 1:
                raise DishonestAnswer(f"one row was asked for, the answer has {len(data)}")
            data = data[0]
        try:
            steps = data["completion_probabilities"]
            tokens = data["tokens"] if ask.ahead > 1 else [steps[0]["id"]]
            rows = [_row_in(step, ask, info) for step in steps]
            prompt_tokens, cached = data.get("tokens_evaluated"), data.get(CACHED)
        except (TypeError, KeyError, IndexError) as error:
            if (
                isinstance(data, dict)
                and data.keys() <= {"tokens", "tokens_evaluated", "tokens_cached", CACHED}
                and "tokens_evaluated" in data
            ):
                raise RowWithheld("the server answered without a row: the token it chose ends in the middle of a character") from None
            raise BrokenAnswer("the answer has no completion_probabilities; was n_probs understood?") from error
        if len(steps) > ask.ahead:
            raise DishonestAnswer(f"{'one token was' if ask.ahead == 1 else f'{ask.ahead} were'} asked for, the answer has {len(steps)}")
        # The row of a token that ends in the middle of a character is left out, and those behind it then stand one place too early.
        if tokens != [chosen for _, chosen in rows]:
            raise RowWithheld("the server left out the row of a token that ends in the middle of a character")
        if not rows:
            raise BrokenAnswer("the answer has no token and no row")
        return Answer(
            row=rows[0][0],
            chosen=rows[0][1],
            prompt_tokens=check_prompt_tokens(ask, prompt_tokens),
            cached_tokens=as_count(cached, least=0),
            proposed=tuple(tokens) if ask.ahead > 1 else (),
            beyond=tuple(row for row, _ in rows[1:]),
        )

    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        return 65_536 + OCTETS_AN_ENTRY * entries_asked(ask, info) * ask.ahead

    def encode_sample(self, sample: Sample, info: ModelInfo) -> HttpRequest:
        _check_ids(sample.token_ids)
        data: dict[str, object] = {
            "prompt": sample.token_ids,
            "n_predict": sample.tokens,
            "temperature": sample.temperature,
            "top_k": sample.top_k,
            "top_p": sample.top_p,
            "min_p": sample.min_p,
            "seed": sample.seed,
            "cache_prompt": False,
            "return_tokens": True,
            "response_fields": ["tokens"],
            **OFF,
        }
        if sample.n > 1:
            data["n"] = sample.n
        if sample.model is not None:
            data["model"] = sample.model
        return json_request("/completion", data)

    def decode_samples(self, sample: Sample, info: ModelInfo, response: HttpResponse) -> tuple[tuple[int, ...], ...]:
        data = parse_json(response)
        answers = data if isinstance(data, list) else [data]
        return sampled_ids([as_facts(answer).get("tokens") for answer in answers], sample)

    def encode_tokenize(self, text: str) -> HttpRequest:
        return json_request("/tokenize", {"content": text, "add_special": False, "parse_special": True})

    def decode_tokens(self, response: HttpResponse) -> list[int]:
        return token_ids_in(response, "tokens")

    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        return json_request("/detokenize", {"tokens": token_ids})

    def decode_text(self, response: HttpResponse) -> str:
        return text_in(response, "content")

    def decode_request(self, request: HttpRequest) -> Question | None:
        match request.method, request.route:
            case "GET", "/props" | "/v1/models" | "/models":
                return Describe(request.route)
            case "GET", "/health" | "/v1/health":
                return Health()
            case "POST", "/completion" | "/completions":
                return _ask_from(json_body(request.body))
            case "POST", "/tokenize":
                data = json_body(request.body)
                if "content" not in data and "prompt" in data:
                    return None  # vLLM's and SGLang's way of asking
                return Tokenize(text_of(data.get("content"), '"content"'))
            case "POST", "/detokenize":
                return Detokenize(token_ids_of(json_body(request.body).get("tokens"), '"tokens"'))
        return None

    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        return _completion(ask, json_body(request.body), [_step(ask, row, llm)], llm)

    def encode_ahead(self, ask: Ask, request: HttpRequest, ahead: Ahead, llm: LLM) -> HttpResponse:
        return _completion(ask, json_body(request.body), [_step(ask, row, llm) for row in ahead.rows], llm)

    def encode_samples(self, sample: Sample, request: HttpRequest, drawn: Sequence[Sequence[int]], llm: LLM) -> HttpResponse:
        data = [
            {"index": index, "tokens": list(ids), "content": b"".join(map(llm.token_bytes, ids)).decode("utf-8", "replace"), "stop": True}
            for index, ids in enumerate(drawn)
        ]
        return json_response(data if sample.n > 1 else data[0], 200, *KEPT, content_type=CONTENT_TYPE)

    def encode_description(self, question: Describe, info: ModelInfo, llm: LLM) -> HttpResponse:
        if question.path == "/props":
            eos = b"".join(llm.token_bytes(token_id) for token_id in info.eos_token_ids[:1])
            data: dict[str, object] = {
                "default_generation_settings": {"params": {}, "n_ctx": info.context_length},
                "total_slots": 1,
                "model_alias": info.model,
                "model_path": info.model,
                "chat_template": "",
                "bos_token": "",
                "eos_token": eos.decode("utf-8", "replace"),
                "build_info": info.server.removeprefix("llama.cpp ") or "seedbed",
            }
        else:
            meta = {"n_vocab": info.vocab_size, "n_ctx": info.context_length, "ftype": info.fingerprint}
            if info.max_top_k is not None:
                meta["max_top_k"] = info.max_top_k
            models = [{"id": info.model, "object": "model", "created": 0, "owned_by": "llamacpp", "meta": meta}]
            data = {"object": "list", "data": models}
        return json_response(data, 200, *KEPT, content_type=CONTENT_TYPE)

    def encode_tokens(self, token_ids: list[int]) -> HttpResponse:
        return json_response({"tokens": token_ids}, 200, *KEPT, content_type=CONTENT_TYPE)

    def encode_text(self, text: str) -> HttpResponse:
        return json_response({"content": text}, 200, *KEPT, content_type=CONTENT_TYPE)

    def encode_health(self) -> HttpResponse:
        return json_response({"status": "ok"}, 200, *KEPT, content_type=CONTENT_TYPE)

    def encode_error(self, error: SeedbedError) -> HttpResponse:
        status = status_for(error)
        data = {"error": {"code": status, "message": told(error), "type": _type_of(error, status)}}
        return json_response(data, status, *CLOSED, *retry_after_header(error), content_type=CONTENT_TYPE)


def _check_ids(token_ids: tuple[int, ...]) -> None:
    # They are cast to 32 bits before they are compared with the vocabulary: 2**40 is read as 0, while 2**31 and -1 are refused.
    check_ids_below(WORD, token_ids, ": llama.cpp would read it as another one")


def _row_in(step: dict[str, Any], ask: Ask, info: ModelInfo) -> tuple[Row, int]:
    """One step's row, and the token the server took from it."""
    listed, chosen, chosen_value = step["top_logprobs"], step["id"], step["logprob"]
    ids = [entry["id"] for entry in listed]
    values = [entry["logprob"] for entry in listed]
    check_entries(len(ids), entries_asked(ask, info))
    row = row_of(token_id_array(ids), numbers(values), known_vocab_size(info), full=ask.top_k is None)
    chosen = check_choice(chosen, row, forced=ask.force)
    if chosen in ids and chosen_value != values[ids.index(chosen)]:
        raise DishonestAnswer(f"token {chosen} has logprob {chosen_value!r:.40} by itself and {values[ids.index(chosen)]} in the list")
    return row, chosen


def _step(ask: Ask, row: Row, llm: LLM) -> dict[str, Any]:
    top = top_logprobs(row, ask.top_k)
    entries = [_entry(token_id, value, llm) for token_id, value in zip(top.token_ids.tolist(), top.logprobs.tolist(), strict=True)]
    # A bias for a token that is none is passed over, as the real one does.
    chosen = entries[0] if ask.force is None or ask.force >= row_length(row) else _entry(ask.force, logprob_of(row, ask.force), llm)
    return {**chosen, "top_logprobs": entries}


def _completion(ask: Ask, asked: dict[str, Any], steps: list[dict[str, Any]], llm: LLM) -> HttpResponse:
    """The fields a real answer has, those that were asked for."""
    tokens, n = [step["id"] for step in steps], len(ask.token_ids)
    ended = tokens[-1] in llm.eos_token_ids
    content = "".join(step["token"] for step in (steps[:-1] if ended else steps))
    n_probs = len(steps[0]["top_logprobs"])
    data = {
        "index": 0,
        "content": content,
        "tokens": tokens if asked.get("return_tokens") else [],
        "id_slot": 0,
        "stop": True,
        "model": llm.info.model if llm.info else "",
        "tokens_predicted": len(steps),
        "tokens_evaluated": n,
        "generation_settings": {"temperature": 0.0, "n_predict": ask.ahead, "n_probs": n_probs, "stream": False, "samplers": []},
        "prompt": b"".join(map(llm.token_bytes, ask.token_ids)).decode("utf-8", "replace"),
        "has_new_line": "\n" in content,
        "truncated": False,
        "stop_type": "eos" if ended else "limit",
        "stopping_word": "",
        "tokens_cached": n + len(steps) - 1,
        "timings": {"cache_n": 0, "prompt_n": n, "predicted_n": len(steps)},
        "completion_probabilities": steps,
    }
    wanted = asked.get("response_fields")
    if isinstance(wanted, list) and wanted:
        data = _fields(data, wanted)
    return json_response(data, 200, *KEPT, content_type=CONTENT_TYPE)


def _notes(facts: dict[str, Any]) -> tuple[str, ...]:
    slots = as_count(facts.get("total_slots")) or 1
    if slots == 1:
        return ()
    return (f"it has {slots} slots: rows differ when requests run at the same time; start it with -np 1 for repeatable rows",)


def _forced(data: dict[str, Any]) -> int | None:
    """The one token a request's bias makes certain, if it has such a bias."""
    match data.get("logit_bias"):
        case [[token_id, float() | int() as bias]] if type(token_id) is int and token_id >= 0 and bias >= FORCING_BIAS:
            return token_id
    return None


def _ask_from(data: dict[str, Any]) -> Ask | Sample:
    prompt, n_probs = prompt_of(data.get("prompt")), data.get("n_probs", 0)
    if "return_tokens" in data and "n_probs" not in data:
        # A client that wants tokens and no probabilities.
        return sample_of(token_ids_of(prompt, '"prompt"'), data, tokens="n_predict", model=data.get("model"))
    ahead = tokens_asked(data, "n_predict", MAX_AHEAD)
    if type(n_probs) is not int:
        raise BadRequest(f"Field 'n_probs': type must be number, but is {orjson.dumps(n_probs).decode():.100}", status=400)
    if n_probs < 1 or data.get("post_sampling_probs"):
        raise BadRequest('this server answers with logprobs only: "n_probs" must be 1 or more, no "post_sampling_probs"', status=400)
    return Ask(token_ids_of(prompt, '"prompt"'), n_probs, model_of(data.get("model")), _forced(data), ahead)


def _entry(token_id: int, value: float, llm: LLM) -> dict[str, Any]:
    piece = llm.token_bytes(token_id)
    return {"id": token_id, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": max(value, LOWEST)}


def _fields(data: dict[str, Any], wanted: list[Any]) -> dict[str, Any]:
    """The fields asked for; a path such as "timings/cache_n" becomes a key of that name, and what is not there is left out."""
    found = {}
    for path in wanted:
        value: Any = data
        for key in path.split("/") if isinstance(path, str) else ():
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and value is not data:
            found[path] = value
    return found


def _type_of(error: SeedbedError, status: int) -> str:
    match error:
        case ContextOverflow():
            return "exceed_context_size_error"
        case NotReady():
            return "unavailable_error"
        case FeatureOff():
            return "not_supported_error"
        case UnknownModel():
            return "not_found_error"
        case Unauthorized():
            return "authentication_error"
    return "invalid_request_error" if status in (400, 422) else "server_error"
