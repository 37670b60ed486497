"""vLLM's OpenAI-like server: ``POST /v1/completions`` with ``max_tokens`` 1 and ``logprobs`` k; or m, for m rows along its own choices.

What it reports is set by ``--logprobs-mode`` and not said in the answer: ``raw_logprobs`` (the default) or ``raw_logits``, both before
temperature, bias and penalties. Discovery finds out which; of logits only full rows are asked for, since nothing is known of the logits
that are not listed. A list has k entries, or k + 1 when the token taken is not among the k best; it comes first. Ids travel as
``"token_id:N"``, -inf as -9999, which is also what lower logits become. NaN is a 400.

k is at most 20, unless the server is started with ``--max-logprobs``; -1 there is the whole vocabulary. No route tells the vocabulary's
size or the end tokens: the size is in the refusal of a bias for a token that cannot be, the end tokens are for the caller to give.

Sent on purpose: temperature 0 (its own choice is then the best token, which checks ids against values at every step), no repetition
penalty (which it would take from the model's own defaults) and ``return_tokens_as_token_ids`` (keys are texts without it, and tokens of
equal text fall together). Never sent: stop strings, and the prompt is not asked back: its length is in the usage.

``prompt_logprobs`` k has the row at every place of the prompt in one answer, each with the token that stands there besides. It is another
computation than a prompt of that length alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    ContextOverflow,
    DishonestAnswer,
    FeatureOff,
    NonFiniteAtServer,
    SeedbedError,
    Unauthorized,
)
from seedbed.llm.base import NORMALISATION_TOLERANCE, ModelInfo, Row
from seedbed.protocols.base import Discovery, Protocol, check_ask, entries_asked, known_vocab_size
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
    Score,
    Tokenize,
)
from seedbed.protocols.fields import (
    as_count,
    as_facts,
    as_text,
    as_version,
    check_entries,
    check_prompt_tokens,
    count_in,
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
from seedbed.protocols.rows import check_choice, full_row, logprob_of, numbers, row_of, token_id_array, top_logprobs
from seedbed.protocols.sampled import UNTOUCHED, sample_of, sampled_ids
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray

    from seedbed.llm.base import LLM, Ahead

__all__ = [
    "ALWAYS",
    "VLLM",
    "answer_of",
    "check_limits",
    "entries_of",
    "finish_reason",
    "learn",
    "logprobs_asked",
    "logprobs_for",
    "sampling_of",
    "usage",
]

LogprobsMode = Literal["raw_logprobs", "raw_logits"]

ALWAYS = (("server", "uvicorn"),)
SENTINEL = -9999.0  # how -inf is spelled
AT_SENTINEL = -9998.5
KEY = "token_id:"
TOO_MANY = 1_000_000_000  # logprobs; no vocabulary has as many, so the refusal tells the cap and nothing is computed
NO_TOKEN = 2**31 - 1  # no vocabulary has it, so the refusal of a bias for it tells the size
REFUSES_BIAS = (0, 10, 0)  # before 0.9 such a bias is not refused but ends the engine
PROBE_LOGPROBS = 20  # what every server allows, unless told to allow less
OCTETS_AN_ENTRY = 64
# "llamacpp" is how a server in the box that speaks both answers the path they share.
OWNERS = ("vllm", "llamacpp")
_CAP = re.compile(r"greater than max allowed: (\d+)")
_VOCAB_SIZE = re.compile(r"[Vv]ocabulary size: (\d+)")


@dataclass(frozen=True)
class VLLM(Protocol):
    """See the module.

    Args:
        logprobs_mode: what the server's half reports; the client's half finds out.
    """

    name = "vllm"
    default_top_k = 50
    looks_ahead = True
    scores = True
    samples_as = "vllm"

    logprobs_mode: LogprobsMode = "raw_logprobs"

    def discover(self, model: str | None = None) -> Discovery:
        info = yield from learn(self.name, model, lambda data: json_request("/v1/completions", data))
        return None if info is None else (self, info)

    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        return json_request("/v1/completions", _request(ask.model or info.model, ask.token_ids, logprobs_for(ask, info), ask.ahead))

    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        data = parse_json(response)
        try:
            choices = data["choices"]
            logprobs = choices[0]["logprobs"]
            taken = logprobs["tokens"]
            steps = [_listed_in(listed, token) for listed, token in zip(logprobs["top_logprobs"], taken, strict=True)]
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            raise BrokenAnswer("the answer has no choices with top_logprobs; was logprobs understood?") from error
        return answer_of(ask, info, data, steps)

    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        return 65_536 + OCTETS_AN_ENTRY * entries_asked(ask, info) * ask.ahead

    def encode_score(self, score: Score, info: ModelInfo) -> HttpRequest:
        if not self.scores:
            return super().encode_score(score, info)
        count = logprobs_for(Ask(score.token_ids, score.top_k, score.model), info)
        data = _request(score.model or info.model, score.token_ids, count)
        return json_request("/v1/completions", data | {"prompt_logprobs": count})

    def decode_scores(self, score: Score, info: ModelInfo, response: HttpResponse) -> tuple[Row, ...]:
        ask = Ask(score.token_ids, score.top_k, score.model)
        last = self.decode_response(ask, info, response).row
        try:
            listed = parse_json(response)["choices"][0]["prompt_logprobs"]
            entries = [[(int(key), entry["logprob"]) for key, entry in place.items()] for place in listed[1:]]
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            raise BrokenAnswer("the answer has no prompt_logprobs; was that understood?") from error
        if len(listed) != len(score.token_ids):
            raise DishonestAnswer(f"{len(score.token_ids)} places were to be scored, the answer has {len(listed)}")
        if listed[0] is not None:
            raise DishonestAnswer("the answer has a row for the first token, before which nothing stands")
        follows = zip(entries, score.token_ids[1:], strict=True)
        return (*(_scored(ask, info, place, next_id) for place, next_id in follows), last)

    def encode_sample(self, sample: Sample, info: ModelInfo) -> HttpRequest:
        model = sample.model or info.model
        data = {"prompt": sample.token_ids, **sampling_of(sample), "return_token_ids": True}
        return json_request("/v1/completions", {"model": model, **data} if model else data)

    def decode_samples(self, sample: Sample, info: ModelInfo, response: HttpResponse) -> tuple[tuple[int, ...], ...]:
        choices = as_facts(parse_json(response)).get("choices")
        answers = [as_facts(choice) for choice in choices] if isinstance(choices, list) else []
        return sampled_ids([answer.get("token_ids") for answer in answers], sample)

    def encode_tokenize(self, text: str) -> HttpRequest:
        return json_request("/tokenize", {"prompt": text, "add_special_tokens": False})

    def decode_tokens(self, response: HttpResponse) -> list[int]:
        return token_ids_in(response, "tokens")

    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        return json_request("/detokenize", {"tokens": token_ids})

    def decode_text(self, response: HttpResponse) -> str:
        return text_in(response, "prompt", "content")  # the second is llama.cpp's, see OWNERS

    def decode_request(self, request: HttpRequest) -> Question | None:
        match request.method, request.route:
            case "GET", "/version" | "/v1/models":
                return Describe(request.route)
            case "GET", "/health" | "/ping":
                return Health()
            case "POST", "/v1/completions":
                return _ask_from(json_body(request.body))
            case "POST", "/tokenize":
                return Tokenize(text_of(json_body(request.body).get("prompt"), "prompt"))
            case "POST", "/detokenize":
                return Detokenize(token_ids_of(json_body(request.body).get("tokens"), "tokens"))
        return None

    def check_request(self, ask: Ask, request: HttpRequest, info: ModelInfo) -> None:
        check_ask(ask, info)
        check_limits(ask, json_body(request.body), info)

    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        return self.encode_completion(ask, json_body(request.body), (row,), llm)

    def encode_ahead(self, ask: Ask, request: HttpRequest, ahead: Ahead, llm: LLM) -> HttpResponse:
        return self.encode_completion(ask, json_body(request.body), ahead.rows, llm)

    def encode_completion(self, ask: Ask, asked: dict[str, Any], rows: tuple[Row, ...], llm: LLM) -> HttpResponse:
        """One completion as a response, of as many tokens as there are rows: what the two paths of vLLM say each in its way.

        Args:
            asked: the request's JSON.

        Raises:
            RowError: as ``encode_row``.
        """
        steps = [entries_of(row, ask.top_k, self.logprobs_mode) for row in rows]
        taken = [entries[0][0] for entries in steps]
        texts = [llm.token_bytes(token_id).decode("utf-8", "replace") for token_id in taken]
        ending = finish_reason(taken, llm)
        key = KEY + "{}" if asked.get("return_tokens_as_token_ids") else None
        listed = [
            {key.format(token_id) if key else llm.token_bytes(token_id).decode("utf-8", "replace"): value for token_id, value in entries}
            for entries in steps
        ]
        echo_ids = bool(asked.get("return_token_ids"))
        choice = {
            "index": 0,
            "text": "".join(texts[:-1] if ending == "stop" else texts),
            "logprobs": {
                "text_offset": [len("".join(texts[:place])) for place in range(len(texts))],
                "token_logprobs": [entries[0][1] for entries in steps],
                "tokens": [next(iter(entries)) for entries in listed],
                "top_logprobs": listed,
            },
            "finish_reason": ending,
            "stop_reason": None,
            "token_ids": taken if echo_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": ask.token_ids if echo_ids else None,
            "routed_experts": None,
        }
        info = llm.info or ModelInfo()
        data = {
            "id": "cmpl-seedbed",
            "object": "text_completion",
            "created": 0,
            "model": info.model,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": info.fingerprint,
            "usage": usage(ask, len(rows)),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
        return json_response(data, 200, *ALWAYS)

    def encode_place(self, score: Score, row: Row, next_id: int) -> bytes:
        entries = entries_of(row, score.top_k, self.logprobs_mode)
        if next_id not in (token_id for token_id, _ in entries):
            entries.append((next_id, _value_of(row, next_id, self.logprobs_mode)))
        return orjson.dumps({str(token_id): {"logprob": value, "rank": rank} for rank, (token_id, value) in enumerate(entries, 1)})

    def encode_scores(self, score: Score, request: HttpRequest, places: Sequence[bytes], last: Row, llm: LLM) -> HttpResponse:
        data = orjson.loads(bytes(self.encode_row(Ask(score.token_ids, score.top_k), request, last, llm).body))
        data["choices"][0]["prompt_logprobs"] = [None, *map(orjson.Fragment, places)]
        return json_response(data, 200, *ALWAYS)

    def encode_samples(self, sample: Sample, request: HttpRequest, drawn: Sequence[Sequence[int]], llm: LLM) -> HttpResponse:
        choices = [{"index": index, "token_ids": list(ids), "finish_reason": finish_reason(ids, llm)} for index, ids in enumerate(drawn)]
        info = llm.info or ModelInfo()
        return json_response({"object": "text_completion", "model": info.model, "choices": choices}, 200, *ALWAYS)

    def encode_description(self, question: Describe, info: ModelInfo, llm: LLM) -> HttpResponse:
        if question.path == "/version":
            # The release it behaves like; a client asks old ones for less.
            version = info.server.removeprefix("vLLM ") if info.server.startswith("vLLM ") else "0.33.0+seedbed"
            data = {"version": version, "logprobs_mode": self.logprobs_mode, "system_fingerprint": info.fingerprint}
            return json_response(data, 200, *ALWAYS)
        entry = {
            "id": info.model,
            "object": "model",
            "created": 0,
            "owned_by": "vllm",
            "root": info.model,
            "parent": None,
            "max_model_len": info.context_length,
            "permission": [],
        }
        return json_response({"object": "list", "data": [entry]}, 200, *ALWAYS)

    def encode_tokens(self, token_ids: list[int]) -> HttpResponse:
        return json_response({"count": len(token_ids), "max_model_len": 0, "tokens": token_ids, "token_strs": None}, 200, *ALWAYS)

    def encode_text(self, text: str) -> HttpResponse:
        return json_response({"prompt": text}, 200, *ALWAYS)

    def encode_health(self) -> HttpResponse:
        return HttpResponse(200, ALWAYS, b"")

    def encode_error(self, error: SeedbedError) -> HttpResponse:
        status = status_for(error)
        text, param = told(error), None
        if isinstance(error, Unauthorized):
            return json_response({"error": text}, status, *ALWAYS)
        if isinstance(error, ContextOverflow):
            text, param = f"This model's maximum context length is exceeded: {text} (parameter=input_tokens)", "input_tokens"
        kinds = {404: "NotFoundError", 503: "Service Unavailable"}
        data = {"message": text, "type": kinds.get(status, "BadRequestError" if status < 500 else "InternalServerError"), "param": param}
        return json_response({"error": {**data, "code": status}}, status, *ALWAYS, *retry_after_header(error))


# The client's half, shared by both of vLLM's protocols.


def learn(
    protocol: str, model: str | None, completion: Callable[[dict[str, Any]], HttpRequest]
) -> Generator[HttpRequest, HttpResponse, ModelInfo | None]:
    """What can be learnt of a vLLM server; None when it is none.

    Args:
        protocol: whose name goes into the result.
        model: which of the server's models; None is the first that is no adapter.
        completion: makes the request for one token out of the fields of ``/v1/completions``.

    Raises:
        RequestRefused: a key is missing, or a feature is off.
    """
    about = facts_in((yield HttpRequest("GET", "/version")))
    version = as_text(about.get("version"))
    if not version:
        return None
    models = yield HttpRequest("GET", "/v1/models")
    if models.status in (401, 403):
        raise refusal(models)
    entry = listed_model(models, model)
    name = as_text(entry.get("id"))
    if not name or entry.get("owned_by") not in OWNERS:
        return None
    meta = as_facts(entry.get("meta"))
    refused = yield completion(_request(name, (0,), TOO_MANY))
    if refused.status in (401, 403):
        raise refusal(refused)
    if refused.status == 404:  # it has the model, so what it has not is the path
        return None
    cap = _number_in(refused, _CAP)
    vocab_size = None
    if as_version(version) >= REFUSES_BIAS:
        vocab_size = _number_in((yield completion(_request(name, (0,), 1) | {"logit_bias": {str(NO_TOKEN): 1}})), _VOCAB_SIZE)
    mode, fingerprint = as_text(about.get("logprobs_mode")), as_text(about.get("system_fingerprint"))
    if mode:  # a server in the box says so, since a recording cannot be asked for any row
        are_logits = mode.endswith("logits")
    else:
        answer = yield completion(_request(name, (0,), min(k for k in (cap, vocab_size, PROBE_LOGPROBS) if k is not None)))
        are_logits, fingerprint = _lists_logits(answer, vocab_size), as_text(facts_in(answer).get("system_fingerprint"))
    return ModelInfo(
        model=name,
        server=f"vLLM {version}",
        fingerprint=fingerprint,
        vocab_size=vocab_size,
        context_length=as_count(entry.get("max_model_len")) or as_count(meta.get("n_ctx")),
        protocol=protocol,
        max_top_k=cap if cap != vocab_size else None,
        kind="logits" if are_logits else "logprobs",
        notes=("it reports raw logits: of these only full rows can be sampled from",) if are_logits else (),
    )


def logprobs_for(ask: Ask, info: ModelInfo) -> int:
    """What ``logprobs`` has to be: -1 for all of them, and never more than there are, which the server would refuse.

    Raises:
        FeatureOff: the server is not set to answer that in a way that can be sampled from; ``.flag`` lifts it.
        UsageError: the vocabulary's size is unknown.
    """
    entries, vocab_size = entries_asked(ask, info), known_vocab_size(info)
    if info.max_top_k is not None and entries > info.max_top_k:
        raise FeatureOff(
            f"{entries} tokens of each row were asked for, the server lists {info.max_top_k}: start it with --max-logprobs -1",
            status=400,
            flag="--max-logprobs -1",
        )
    if info.kind == "logits" and entries < vocab_size:
        raise FeatureOff(
            f"the server reports raw logits, and of the {vocab_size - entries} that are not listed nothing would be known: ask for full "
            'rows with top_k="all", or start it with --logprobs-mode raw_logprobs',
            status=400,
            flag="--logprobs-mode raw_logprobs",
        )
    return -1 if ask.top_k is None else entries


def answer_of(ask: Ask, info: ModelInfo, data: Any, steps: list[tuple[list[Any], list[Any], Any]]) -> Answer:
    """What an answer says, given what it lists at each step: ids, values, and the token it took.

    Raises:
        NonFiniteAtServer, DishonestAnswer, BrokenAnswer, RowError: no such answer can be.
    """
    if len(data["choices"]) != 1 or not 1 <= len(steps) <= ask.ahead:
        wanted, choices = "one token was" if ask.ahead == 1 else f"{ask.ahead} tokens were", counted(len(data["choices"]), "choice")
        raise DishonestAnswer(f"{wanted} asked for, the answer has {choices}, the first with {len(steps)}")
    prompt_tokens, cached_tokens = _usage_of(ask, data)
    rows, chosen = zip(*(_row_from(ask, info, *step) for step in steps), strict=True)
    return Answer(rows[0], chosen[0], prompt_tokens, cached_tokens, proposed=chosen if ask.ahead > 1 else (), beyond=rows[1:])


def _row_from(ask: Ask, info: ModelInfo, ids: list[Any], values: list[Any], taken: Any) -> tuple[Row, int]:
    """The row that a list of k or k + 1 entries is, and the token the server took.

    Raises:
        NonFiniteAtServer: the token taken is impossible: the model gave NaN.
        DishonestAnswer, BrokenAnswer, RowError: no such row can be.
    """
    asked = entries_asked(ask, info)
    logits = numbers(values, AT_SENTINEL)
    token_ids = token_id_array(ids)
    listed = type(taken) is int and taken in ids
    if listed and logits[ids.index(taken)] == -np.inf:
        raise NonFiniteAtServer("the token taken has no probability: the server's model gave NaN for this prefix", status=200)
    if listed and len(ids) == asked + 1:
        # Taken, and not among the k best: greedily that can only be one as good as the best of them.
        extra = ids.index(taken)
        if logits[extra] != logits.max():
            raise DishonestAnswer(f"the server's greedy choice, token {taken}, is not among the {asked} best it lists")
        logits, token_ids = np.delete(logits, extra), np.delete(token_ids, extra)
        chosen: int | None = taken
    else:
        chosen = None
    check_entries(len(token_ids), asked)
    row = row_of(token_ids, logits, known_vocab_size(info), full=ask.top_k is None, kind=info.kind)
    if chosen is None:
        chosen = check_choice(taken, row)
    return row, chosen


def _scored(ask: Ask, info: ModelInfo, entries: list[tuple[int, Any]], next_id: int) -> Row:
    """The row at one place of a prompt: the token that stands next is listed besides, where it is not among the best."""
    if len(entries) == entries_asked(ask, info) + 1:
        entries = [entry for entry in entries if entry[0] != next_id]
    check_entries(len(entries), entries_asked(ask, info))
    logits = numbers([value for _, value in entries], AT_SENTINEL)
    ids = token_id_array([token_id for token_id, _ in entries])
    return row_of(ids, logits, known_vocab_size(info), full=ask.top_k is None, kind=info.kind)


def sampling_of(sample: Sample) -> dict[str, Any]:
    """The sampling parameters of a question for the server's own draws."""
    filters = {"temperature": sample.temperature, "top_k": sample.top_k or -1, "top_p": sample.top_p, "min_p": sample.min_p}
    return {"max_tokens": sample.tokens, **filters, "seed": sample.seed, "n": sample.n, **UNTOUCHED}


def _usage_of(ask: Ask, data: Any) -> tuple[int | None, int | None]:
    """How many tokens the server read, and how many of them it had in its prefix cache; None where it does not say.

    Raises:
        DishonestAnswer: it did not read as many as were sent.
    """
    said = as_facts(data.get("usage"))
    cached = as_facts(said.get("prompt_tokens_details")).get("cached_tokens")
    return check_prompt_tokens(ask, said.get("prompt_tokens")), as_count(cached, least=0)


def _request(model: str, token_ids: tuple[int, ...], logprobs: int, ahead: int = 1) -> dict[str, Any]:
    data: dict[str, Any] = {
        "prompt": token_ids,
        "max_tokens": ahead,
        "temperature": 0,
        "repetition_penalty": 1,
        "logprobs": logprobs,
        "return_tokens_as_token_ids": True,
    }
    return {"model": model, **data} if model else data


def _listed_in(listed: dict[str, Any], taken: Any) -> tuple[list[Any], list[Any], Any]:
    """What one step lists: ids, values, and the token taken."""
    *ids, token_id = _ids_in([*listed, taken])
    return ids, list(listed.values()), token_id


def _ids_in(keys: list[Any]) -> list[int]:
    """The ids in "token_id:N", in that spelling only: two keys must not mean one token.

    Raises:
        FeatureOff: the keys are texts.
    """
    try:
        text = ",".join(keys)
        ids: list[int] = orjson.loads(f"[{text.replace(KEY, '')}]")
    except (TypeError, orjson.JSONDecodeError):
        ids, text = [], ""
    # Written again it must be the same: no blanks, no leading zeros, no comma of a text's own.
    if not ids or KEY + f",{KEY}".join(map(str, ids)) != text or len(ids) != len(keys):
        raise FeatureOff(
            "the server lists tokens by their texts, which several tokens can share: start it with --return-tokens-as-token-ids",
            status=200,
            flag="--return-tokens-as-token-ids",
        )
    return ids


def _number_in(response: HttpResponse, pattern: re.Pattern[str]) -> int | None:
    found = pattern.search(error_text(response)[1]) if response.status == 400 else None
    return count_in(found[1]) or None if found else None


def _values_in(answer: HttpResponse) -> NDArray[np.float32]:
    """The scores that an answer lists, whatever they are; none when there is no list of them."""
    try:
        logprobs = facts_in(answer)["choices"][0]["logprobs"]
        if "content" in logprobs:
            listed = [entry["logprob"] for entry in logprobs["content"][0]["top_logprobs"]]
        else:
            listed = list(logprobs["top_logprobs"][0].values())
        return numbers(listed, AT_SENTINEL)
    except (SeedbedError, TypeError, KeyError, IndexError, AttributeError):
        return np.empty(0, np.float32)


def _lists_logits(answer: HttpResponse, vocab_size: int | None) -> bool:
    """Which of its modes a server is in, by what it lists.

    Raises:
        FeatureOff: in one whose lists cannot be sampled from.
    """
    values = _values_in(answer)
    if values.size and values.max() > -np.inf == values.min():
        raise FeatureOff(
            "the server lists tokens as impossible among the best: it reports what its filters left; start it with --logprobs-mode "
            "raw_logprobs",
            status=200,
            flag="--logprobs-mode raw_logprobs",
        )
    return _are_logits(values, vocab_size)


def _are_logits(values: NDArray[np.float32], vocab_size: int | None) -> bool:
    """Whether what a list holds cannot be logprobs. When it could be, each later row is still held to it."""
    if not values.size:
        return False
    with np.errstate(over="ignore"):
        p = np.exp(values, dtype=np.float64)
    unlisted = np.inf if vocab_size is None else (vocab_size - values.size) * float(p.min())
    return bool(p.sum() > 1 + NORMALISATION_TOLERANCE or p.sum() + unlisted < 1 - NORMALISATION_TOLERANCE)


# The server's half, shared likewise.


def entries_of(row: Row, top_k: int | None, mode: LogprobsMode) -> list[tuple[int, float]]:
    """The k best as (id, value), best first; with -inf, and whatever is lower than it is spelled, as the sentinel.

    Raises:
        RowError: the row has not that many, or nothing can be drawn from it.
    """
    if mode == "raw_logprobs":
        top = top_logprobs(row, top_k)
        ids, values = top.token_ids, top.logprobs
    else:
        dense = full_row(row)
        top_logprobs(dense, 1)  # refuses NaN
        ids = np.argsort(-dense, kind="stable")[:top_k]
        values = dense[ids]
    return list(zip(ids.tolist(), np.maximum(values, np.float32(SENTINEL)).tolist(), strict=True))


def _value_of(row: Row, token_id: int, mode: LogprobsMode) -> float:
    """What ``entries_of`` would say of a token."""
    if mode == "raw_logprobs":
        value = logprob_of(row, token_id)
    else:
        dense = full_row(row)
        value = float(dense[token_id]) if token_id < dense.size else -np.inf
    return max(value, SENTINEL)


def check_limits(ask: Ask, data: dict[str, Any], info: ModelInfo) -> None:
    """What vLLM refuses, in its words: they are how a client learns the cap and the vocabulary's size.

    Raises:
        BadRequest: more logprobs than allowed, or a bias.
    """
    cap = info.max_top_k or info.vocab_size
    if ask.top_k is not None and cap is not None and ask.top_k > cap:
        raise BadRequest(
            f"Requested sample logprobs of {ask.top_k}, which is greater than max allowed: {cap} (parameter=logprobs, value={ask.top_k})",
            status=400,
        )
    if bias := data.get("logit_bias"):
        ids = [token_id for token_id in map(count_in, as_facts(bias)) if token_id is not None]
        if tokens := [str(token_id) for token_id in ids if info.vocab_size is not None and token_id >= info.vocab_size]:
            raise BadRequest(
                f"token_id(s) [{', '.join(tokens)}] in logit_bias contain out-of-vocab token ids. Vocabulary size: {info.vocab_size}",
                status=400,
            )
        raise BadRequest("this server has no logit_bias", status=400)


def finish_reason(token_ids: Sequence[int], llm: LLM) -> str:
    """Why a completion of these tokens ended."""
    return "stop" if token_ids and token_ids[-1] in llm.eos_token_ids else "length"


def usage(ask: Ask, tokens: int) -> dict[str, Any]:
    """What an answer of so many tokens says of its cost."""
    n = len(ask.token_ids)
    return {
        "prompt_tokens": n,
        "total_tokens": n + tokens,
        "completion_tokens": tokens,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def _ask_from(data: dict[str, Any]) -> Ask | Sample | Score:
    prompt, logprobs, model = prompt_of(data.get("prompt")), data.get("logprobs"), model_of(data.get("model"))
    if data.get("return_token_ids") and logprobs is None:
        return sample_of(token_ids_of(prompt, "prompt"), data, tokens="max_tokens", model=model)
    ahead = tokens_asked(data, "max_tokens", MAX_AHEAD)
    if data.get("prompt_logprobs") is not None:
        return Score(token_ids_of(prompt, "prompt"), logprobs_asked(data["prompt_logprobs"]), model)
    return Ask(token_ids_of(prompt, "prompt"), logprobs_asked(logprobs), model, ahead=ahead)


def logprobs_asked(logprobs: Any) -> int | None:
    """How many entries ``logprobs`` asks for; None is all of them.

    Raises:
        BadRequest: no number, or none that is allowed.
    """
    if type(logprobs) is not int or logprobs < -1:
        raise BadRequest("this server answers with logprobs only: logprobs must be an int of 0 or more, or -1 for all", status=400)
    return None if logprobs == -1 else max(logprobs, 1)  # 0 is the token taken, which is the best
