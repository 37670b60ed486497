"""vLLM's token-in, token-out server: ``POST /inference/v1/generate``, off unless started with ``--enable-scale-out``.

The same numbers as ``vllm``, with integer ids, and a bypass of the prefix cache for each request, which is sent: a reused prefix may
change rows. Unknown sampling parameters are ignored without a word. NaN arrives as -9999 with status 200, so a row whose taken token
has no probability is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seedbed.errors import BadRequest, BrokenAnswer, DishonestAnswer
from seedbed.llm.base import ModelInfo, Row
from seedbed.protocols.base import Discovery, check_ask, entries_asked
from seedbed.protocols.exchange import MAX_AHEAD, Answer, Ask, HttpRequest, HttpResponse, Question, Sample
from seedbed.protocols.fields import (
    json_body,
    json_request,
    json_response,
    model_of,
    parse_json,
    token_ids_of,
    tokens_asked,
)
from seedbed.protocols.sampled import sample_of
from seedbed.protocols.vllm import (
    ALWAYS,
    VLLM,
    answer_of,
    check_limits,
    entries_of,
    finish_reason,
    learn,
    logprobs_asked,
    logprobs_for,
    sampling_of,
    usage,
)

if TYPE_CHECKING:
    from seedbed.llm.base import LLM

__all__ = ["VLLMGenerate"]

PATH = "/inference/v1/generate"
OCTETS_AN_ENTRY = 96


class VLLMGenerate(VLLM):
    """See the module; all that is not about this one path is as in ``vllm``."""

    name = "vllm-generate"
    can_bypass_cache = True
    scores = False

    def discover(self, model: str | None = None) -> Discovery:
        info = yield from learn(self.name, model, _from_completion)
        return None if info is None else (self, info)

    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        sampling = _sampling(logprobs_for(ask, info), ask.ahead, reuse=ask.reuse)
        model = ask.model or info.model
        return json_request(PATH, ({"model": model} if model else {}) | {"token_ids": ask.token_ids, "sampling_params": sampling})

    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        data = parse_json(response)
        try:
            choices = data["choices"]
            tokens, steps = choices[0]["token_ids"], [_listed_in(step) for step in choices[0]["logprobs"]["content"]]
        except (TypeError, KeyError, IndexError) as error:
            raise BrokenAnswer("the answer has no choices with logprobs; was logprobs understood?") from error
        if tokens != [taken for _, _, taken in steps]:
            raise DishonestAnswer(f"the answer has {len(steps)} rows in {len(choices)} choices, the first with tokens {tokens!r:.40}")
        return answer_of(ask, info, data, steps)

    def encode_sample(self, sample: Sample, info: ModelInfo) -> HttpRequest:
        model = sample.model or info.model
        sampling = sampling_of(sample) | {"detokenize": False, "skip_reading_prefix_cache": True}
        return json_request(PATH, ({"model": model} if model else {}) | {"token_ids": sample.token_ids, "sampling_params": sampling})

    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        return 65_536 + OCTETS_AN_ENTRY * entries_asked(ask, info) * ask.ahead

    def decode_request(self, request: HttpRequest) -> Question | None:
        match request.method, request.route:
            case "POST", "/inference/v1/generate":
                return _ask_from(json_body(request.body))
            case "POST", "/v1/completions":
                return None
        return super().decode_request(request)

    def check_request(self, ask: Ask, request: HttpRequest, info: ModelInfo) -> None:
        check_ask(ask, info)
        check_limits(ask, json_body(request.body)["sampling_params"], info)

    def encode_completion(self, ask: Ask, asked: dict[str, Any], rows: tuple[Row, ...], llm: LLM) -> HttpResponse:
        steps = [_step(entries_of(row, ask.top_k, self.logprobs_mode)) for row in rows]
        taken = [step["token_id"] for step in steps]
        info = llm.info or ModelInfo()
        choice = {
            "index": 0,
            "finish_reason": finish_reason(taken, llm),
            "stop_reason": None,
            "token_ids": taken,
            "routed_experts": None,
            "sampling_mask": None,
            "weight_versions": [{"version": "default", "start": 0, "end": len(taken)}],
            "logprobs": {"content": steps},
        }
        data = {
            "request_id": "generate-tokens-seedbed",
            "model": info.model,
            "created": 0,
            "usage": usage(ask, len(rows)),
            "prompt_logprobs": None,
            "prompt_token_id_logprobs": None,
            "prompt_token_ids": None,
            "mm_placeholders": None,
            "metrics": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "output_mode": "tokens",
            "choices": [choice],
        }
        return json_response(data, 200, *ALWAYS)


def _listed_in(step: dict[str, Any]) -> tuple[list[Any], list[Any], Any]:
    """What one step lists: ids, values, and the token taken."""
    listed = step["top_logprobs"]
    return [entry["token_id"] for entry in listed], [entry["logprob"] for entry in listed], step["token_id"]


def _step(entries: list[tuple[int, float]]) -> dict[str, Any]:
    listed = [{"token_id": token_id, "logprob": value, "rank": rank} for rank, (token_id, value) in enumerate(entries, 1)]
    return {**listed[0], "top_logprobs": listed}


def _sampling(logprobs: int, ahead: int = 1, *, reuse: bool = False) -> dict[str, Any]:
    return {"max_tokens": ahead, "temperature": 0, "logprobs": logprobs, "detokenize": False, "skip_reading_prefix_cache": not reuse}


def _from_completion(data: dict[str, Any]) -> HttpRequest:
    """The request that asks here what those fields ask of ``/v1/completions``."""
    sampling = _sampling(data["logprobs"]) | {key: data[key] for key in ("logit_bias",) if key in data}
    return json_request(PATH, {"model": data["model"], "token_ids": data["prompt"], "sampling_params": sampling})


def _ask_from(data: dict[str, Any]) -> Ask | Sample:
    sampling, model = data.get("sampling_params"), data.get("model")
    if not isinstance(sampling, dict):
        raise BadRequest("sampling_params must be an object", status=400)
    sampling = sampling | {"stream": data.get("stream")}
    if "seed" in sampling and sampling.get("logprobs") is None:
        return sample_of(token_ids_of(data.get("token_ids"), "token_ids"), sampling, tokens="max_tokens", model=model)
    ahead = tokens_asked(sampling, "max_tokens", MAX_AHEAD)
    return Ask(
        token_ids_of(data.get("token_ids"), "token_ids"),
        logprobs_asked(sampling.get("logprobs")),
        model_of(model),
        ahead=ahead,
    )
