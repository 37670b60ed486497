"""SGLang's own server: ``POST /generate`` with ``max_new_tokens`` 1 and ``top_logprobs_num`` k.

What it reports is a log-softmax in float32, before temperature as long as every request of the running batch is greedy: so all of ours
are, and a server shared with others needs ``--enable-deterministic-inference``. Bias, penalties and grammars do enter it, so none is
sent. -inf is float32's lowest, NaN is null, or NaN in the octets.

A list comes in one of three forms, of which the first is asked for and all are read: flat arrays in base64, flat lists, and nested
``[logprob, id, text]`` triples, which servers before the flat ones and rows of unequal length have.

There is no cap on k and no check either: a k above the vocabulary's size, and a prompt with an id outside it, end the scheduler. So
neither is sent. No route tells that size or the end tokens: recent servers name the size when they refuse an id that cannot be.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    ContextOverflow,
    DishonestAnswer,
    NonFiniteLogits,
    SeedbedError,
    Unauthorized,
)
from seedbed.llm.base import ModelInfo
from seedbed.protocols.base import Discovery, Protocol, check_ask, check_ids_below, entries_asked, known_vocab_size
from seedbed.protocols.exchange import Answer, Ask, Describe, Detokenize, Health, HttpRequest, HttpResponse, Question, Sample, Tokenize
from seedbed.protocols.fields import (
    as_count,
    as_facts,
    as_text,
    as_version,
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
from seedbed.protocols.refusal import error_text, refusal, retry_after_header, status_for, told
from seedbed.protocols.rows import LOWEST, check_choice, numbers, row_of, token_id_array, top_logprobs
from seedbed.protocols.sampled import UNTOUCHED, sample_of, sampled_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seedbed.llm.base import LLM, Row

__all__ = ["SGLang"]

ALWAYS = (("server", "uvicorn"),)
OCTETS_AN_ENTRY = 64
NO_TOKEN = 2**31 - 1
REFUSES_NO_TOKEN = (0, 5, 14)  # an id asked for that cannot be is refused since June 2026; before, it ends the scheduler
FLAT = "output_top_logprobs_{}_flat"
_VOCAB_SIZE = re.compile(r"valid range is \[0, (\d{1,18})\)")


class SGLang(Protocol):
    """See the module."""

    name = "sglang"
    default_top_k = 50
    samples_as = "sglang"

    def discover(self, model: str | None = None) -> Discovery:
        facts: dict[str, Any] = {}
        for path in ("/model_info", "/get_model_info"):  # the second is what it was called before
            facts = facts_in((yield HttpRequest("GET", path)))
            if as_text(facts.get("model_path")):
                break
        else:
            return None
        entry = listed_model((yield HttpRequest("GET", "/v1/models")), model)
        settings = facts_in((yield HttpRequest("GET", "/server_info")))
        version = as_text(settings.get("version"))
        vocab_size = None
        if as_version(version) >= REFUSES_NO_TOKEN:
            refused = yield json_request("/generate", _request((0,), 1) | {"token_ids_logprob": [NO_TOKEN]})
            found = _VOCAB_SIZE.search(error_text(refused)[1]) if refused.status == 400 else None
            vocab_size = as_count(int(found[1])) if found else None
        return self, ModelInfo(
            model=as_text(entry.get("id")) or as_text(facts.get("served_model_name")) or as_text(facts.get("model_path")),
            server=f"SGLang {version}" if version else "SGLang",
            fingerprint=as_text(facts.get("weight_version")),
            vocab_size=vocab_size,
            context_length=as_count(entry.get("max_model_len")) or as_count(as_facts(entry.get("meta")).get("n_ctx")),
            protocol=self.name,
            max_top_k=as_count(settings.get("max_top_k")),  # a server in the box says so: a recording lists no more than it keeps
            kind="logprobs",
            notes=_notes(settings),
        )

    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        _check_ids(ask.token_ids, info)
        return json_request("/generate", _request(ask.token_ids, entries_asked(ask, info)) | ({"model": ask.model} if ask.model else {}))

    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        data = parse_json(response)
        if isinstance(data, list):
            if len(data) != 1:
                raise DishonestAnswer(f"one row was asked for, the answer has {len(data)}")
            data = data[0]
        meta = as_facts(as_facts(data).get("meta_info"))
        _refuse_aborted(meta)
        prompt_tokens = check_prompt_tokens(ask, meta.get("prompt_tokens"))
        token_ids, logprobs = _listed(meta)
        check_entries(len(token_ids), entries_asked(ask, info))
        if np.isnan(logprobs).any():
            raise NonFiniteLogits(f"the server's logprob of token {token_ids[np.isnan(logprobs)][0]} is NaN")
        row = row_of(token_ids, logprobs, known_vocab_size(info), full=ask.top_k is None)
        value, chosen = _taken(data, meta)
        chosen = check_choice(chosen, row)
        if numbers([value]) != logprobs.max():
            raise DishonestAnswer(f"token {chosen} has logprob {value!r:.40} by itself and {logprobs.max()} in the list")
        cached = meta.get("cached_tokens")
        return Answer(row, chosen, prompt_tokens, as_count(cached, least=0))

    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        return 65_536 + OCTETS_AN_ENTRY * entries_asked(ask, info)

    def encode_sample(self, sample: Sample, info: ModelInfo) -> HttpRequest:
        _check_ids(sample.token_ids, info)
        sampling = {"max_new_tokens": sample.tokens, "sampling_seed": sample.seed, "n": sample.n, **UNTOUCHED}
        sampling |= {"temperature": sample.temperature, "top_k": sample.top_k or -1, "top_p": sample.top_p, "min_p": sample.min_p}
        data = {"input_ids": sample.token_ids, "sampling_params": sampling}
        return json_request("/generate", data | ({"model": sample.model} if sample.model else {}))

    def decode_samples(self, sample: Sample, info: ModelInfo, response: HttpResponse) -> tuple[tuple[int, ...], ...]:
        data = parse_json(response)
        answers = [as_facts(answer) for answer in (data if isinstance(data, list) else [data])]
        for answer in answers:
            _refuse_aborted(as_facts(answer.get("meta_info")))
        return sampled_ids([answer.get("output_ids") for answer in answers], sample)

    def encode_tokenize(self, text: str) -> HttpRequest:
        return json_request("/tokenize", {"prompt": text, "add_special_tokens": False})

    def decode_tokens(self, response: HttpResponse) -> list[int]:
        return token_ids_in(response, "tokens")

    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        return json_request("/detokenize", {"tokens": token_ids, "skip_special_tokens": False})

    def decode_text(self, response: HttpResponse) -> str:
        # The others are how a server in the box that speaks several protocols answers the path they share.
        return text_in(response, "text", "content", "prompt")

    def decode_request(self, request: HttpRequest) -> Question | None:
        match request.method, request.route:
            case "GET", "/model_info" | "/get_model_info" | "/server_info" | "/v1/models":
                return Describe(request.route)
            case "GET", "/health" | "/ready" | "/ping":
                return Health()
            case "POST", "/generate":
                return _ask_from(json_body(request.body))
            case "POST", "/tokenize":
                return Tokenize(text_of(json_body(request.body).get("prompt"), "prompt"))
            case "POST", "/detokenize":
                return Detokenize(token_ids_of(json_body(request.body).get("tokens"), "tokens"))
        return None

    def check_request(self, ask: Ask, request: HttpRequest, info: ModelInfo) -> None:
        check_ask(ask, info)
        wanted = json_body(request.body).get("token_ids_logprob")
        if not wanted:
            return
        for token_id in wanted if isinstance(wanted, list) else ():
            if type(token_id) is int and info.vocab_size is not None and not 0 <= token_id < info.vocab_size:
                text = f"token_ids_logprob contains out-of-vocabulary token id {token_id}; valid range is [0, {info.vocab_size})."
                raise BadRequest(text, status=400)
        raise BadRequest("this server has no token_ids_logprob", status=400)

    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        asked = json_body(request.body)
        top = top_logprobs(row, ask.top_k)
        values = np.maximum(top.logprobs, np.float32(LOWEST))
        best, n = int(top.token_ids[0]), len(ask.token_ids)
        meta: dict[str, Any] = {
            "id": "seedbed",
            "finish_reason": _ending([best], llm),
            "prompt_tokens": n,
            "completion_tokens": 1,
            "cached_tokens": 0,
            "weight_version": llm.info.fingerprint if llm.info else "",
            "output_token_logprobs": [[float(values[0]), best, None]],
            "output_token_logprobs_length": 1,
            "input_token_logprobs": [],
            "input_top_logprobs": [],
            **_lists(top.token_ids, values, asked),
        }
        text = "" if best in llm.eos_token_ids else llm.token_bytes(best).decode("utf-8", "replace")
        answer = {"text": text, "output_ids": [best], "meta_info": meta}
        prompt = asked.get("input_ids")
        nested = isinstance(prompt, list) and isinstance(prompt[0], list)
        return json_response([answer] if nested else answer, 200, *ALWAYS)

    def encode_samples(self, sample: Sample, request: HttpRequest, drawn: Sequence[Sequence[int]], llm: LLM) -> HttpResponse:
        data = [
            {"output_ids": list(ids), "meta_info": {"finish_reason": _ending(ids, llm), "completion_tokens": len(ids)}} for ids in drawn
        ]
        return json_response(data if sample.n > 1 else data[0], 200, *ALWAYS)

    def encode_description(self, question: Describe, info: ModelInfo, llm: LLM) -> HttpResponse:
        match question.path:
            case "/server_info":
                # The release it behaves like; a client asks old ones for less.
                version = info.server.removeprefix("SGLang ") if info.server.startswith("SGLang ") else "0.5.23+seedbed"
                data: dict[str, Any] = {
                    "version": version,
                    "model_path": info.model,
                    "enable_deterministic_inference": True,
                    "disable_radix_cache": True,
                }
                if info.max_top_k is not None:
                    data["max_top_k"] = info.max_top_k
            case "/v1/models":
                entry = {"id": info.model, "object": "model", "created": 0, "owned_by": "sglang", "max_model_len": info.context_length}
                data = {"object": "list", "data": [entry]}
            case _:
                data = {
                    "model_path": info.model,
                    "served_model_name": info.model,
                    "weight_version": info.fingerprint,
                    "is_generation": True,
                }
        return json_response(data, 200, *ALWAYS)

    def encode_tokens(self, token_ids: list[int]) -> HttpResponse:
        return json_response({"tokens": token_ids, "count": len(token_ids), "max_model_len": 0}, 200, *ALWAYS)

    def encode_text(self, text: str) -> HttpResponse:
        return json_response({"text": text}, 200, *ALWAYS)

    def encode_health(self) -> HttpResponse:
        return HttpResponse(200, ALWAYS, b"")

    def encode_error(self, error: SeedbedError) -> HttpResponse:
        status, text = status_for(error), told(error)
        if isinstance(error, ContextOverflow):
            text = f"The input is longer than the model's context length: {text}"
        data: dict[str, Any]
        if isinstance(error, Unauthorized):
            data = {"error": text}
        elif status == 400:
            data = {"error": {"message": text}}
        else:
            data = {"object": "error", "message": text, "type": _kind(status), "param": None, "code": status}
        return json_response(data, status, *ALWAYS, *retry_after_header(error))


# The client's half.


def _check_ids(token_ids: tuple[int, ...], info: ModelInfo) -> None:
    check_ids_below(known_vocab_size(info), token_ids, f" is outside the vocabulary of {info.vocab_size}, and would end the server")


def _request(token_ids: tuple[int, ...], k: int) -> dict[str, Any]:
    return {
        "input_ids": token_ids,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": -1,
        "top_logprobs_num": k,
        "return_flat_raw_output_top_logprobs": True,
        "return_flat_raw_top_logprobs_b64": True,
    }


def _notes(settings: dict[str, Any]) -> tuple[str, ...]:
    flags = [
        flag
        for field, flag in (
            ("enable_deterministic_inference", "--enable-deterministic-inference"),
            ("disable_radix_cache", "--disable-radix-cache"),
        )
        if settings.get(field) is False
    ]
    return (
        (f"rows may differ with what else runs and what is cached; start it with {' '.join(flags)} for repeatable rows",) if flags else ()
    )


def _refuse_aborted(meta: dict[str, Any]) -> None:
    """An abort is a refusal inside an answer with status 200."""
    ending = as_facts(meta.get("finish_reason"))
    if ending.get("type") == "abort":
        status = ending.get("status_code")
        said = orjson.dumps({"error": {"message": as_text(ending.get("message")) or "aborted", "type": as_text(ending.get("err_type"))}})
        raise refusal(HttpResponse(status if type(status) is int and 400 <= status < 600 else 500, (), said))


def _taken(data: Any, meta: dict[str, Any]) -> tuple[Any, Any]:
    """Logprob and id of the token the server took."""
    try:
        steps = meta["output_token_logprobs"]
        value, chosen = steps[0][0], steps[0][1]
    except (TypeError, KeyError, IndexError) as error:
        raise BrokenAnswer("the answer has no output_token_logprobs") from error
    if len(steps) != 1 or data.get("output_ids", [chosen]) != [chosen]:
        raise DishonestAnswer(f"one token was asked for, the answer has {len(steps)}, and output_ids {data.get('output_ids')!r:.40}")
    return value, chosen


def _listed(meta: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and logprobs of the one position, whichever of the three forms they came in."""
    ids, values = FLAT.format("idx"), FLAT.format("val")
    try:
        if f"{values}_b64" in meta:
            token_ids = _octets(meta, f"{ids}_b64", "int32").astype(np.int64)
            logprobs = _octets(meta, f"{values}_b64", "float32").astype(np.float32)
            logprobs[logprobs <= LOWEST] = -np.inf
        elif values in meta:
            token_ids, logprobs = token_id_array(list(meta[ids])), numbers(list(meta[values]))
        else:
            (triples,) = meta["output_top_logprobs"]
            return token_id_array([triple[1] for triple in triples]), numbers([triple[0] for triple in triples])
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise BrokenAnswer("the answer has no list of top logprobs for one token; was return_logprob understood?") from error
    shape, skipped = meta.get("output_top_logprobs_shape"), meta.get("output_top_logprobs_null_prefix", 0)
    if shape != [1, token_ids.size] or token_ids.shape != logprobs.shape or skipped != 0:
        behind = f" behind {skipped!r:.40} that are empty" if skipped != 0 else ""
        raise DishonestAnswer(
            f"the shape of the list is said to be {shape!r:.40}{behind}, it has {token_ids.size} ids and {logprobs.size} values"
        )
    return token_ids, logprobs


def _octets(meta: dict[str, Any], name: str, dtype: str) -> NDArray[Any]:
    if meta.get(f"{name}_dtype", dtype) != dtype:
        raise BrokenAnswer(f"{name} must be {dtype}, not {meta[f'{name}_dtype']!r:.40}")
    return np.frombuffer(base64.b64decode(meta[name], validate=True), np.dtype(dtype).newbyteorder("<"))


# The server's half.


def _lists(token_ids: NDArray[np.int64], values: NDArray[np.float32], asked: dict[str, Any]) -> dict[str, Any]:
    if not asked.get("return_flat_raw_output_top_logprobs"):
        return {
            "output_top_logprobs": [[[value, token_id, None] for value, token_id in zip(values.tolist(), token_ids.tolist(), strict=True)]]
        }
    shape = {"output_top_logprobs_shape": [1, token_ids.size], "output_top_logprobs_null_prefix": 0}
    ids, numbers_ = FLAT.format("idx"), FLAT.format("val")
    if not asked.get("return_flat_raw_top_logprobs_b64"):
        return {numbers_: values.tolist(), ids: token_ids.tolist(), **shape}
    return {
        f"{numbers_}_b64": base64.b64encode(values.astype("<f4").tobytes()).decode(),
        f"{numbers_}_b64_dtype": "float32",
        f"{ids}_b64": base64.b64encode(token_ids.astype("<i4").tobytes()).decode(),
        f"{ids}_b64_dtype": "int32",
        **shape,
    }


def _ending(token_ids: Sequence[int], llm: LLM) -> dict[str, Any]:
    if token_ids and token_ids[-1] in llm.eos_token_ids:
        return {"type": "stop", "matched": token_ids[-1]}
    return {"type": "length", "length": len(token_ids)}


def _ask_from(data: dict[str, Any]) -> Ask | Sample:
    prompt, model = prompt_of(data.get("input_ids")), model_of(data.get("model"))
    k, sampling = data.get("top_logprobs_num"), data.get("sampling_params")
    if not isinstance(sampling, dict):
        raise BadRequest("sampling_params must be an object", status=400)
    told = sampling | {"stream": data.get("stream")}
    if "sampling_seed" in sampling and not data.get("return_logprob"):
        ids = token_ids_of(prompt, "input_ids")
        return sample_of(ids, told, tokens="max_new_tokens", seed="sampling_seed", model=model)
    tokens_asked(told, "max_new_tokens")
    if type(k) is not int or k < 1 or not data.get("return_logprob"):
        raise BadRequest("this server answers with logprobs only: return_logprob, and top_logprobs_num an int of 1 or more", status=400)
    return Ask(token_ids_of(prompt, "input_ids"), k, model)


def _kind(status: int) -> str:
    return {404: "NotFoundError", 429: "RateLimitError", 503: "ServiceUnavailableError"}.get(
        status, "BadRequestError" if status < 500 else "InternalServerError"
    )
